package hclogx

import (
	"context"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"time"
)

// Writer returns a writer for what logs lines that begin with their level, such as memberlist's "[WARN] memberlist: …"; each Write is a line
// (as log.Logger does it). Lines without a level are informational. nil logs nothing.
func Writer(l *slog.Logger) io.Writer {
	if l == nil {
		return io.Discard
	}
	to := l.Handler()
	return writer(func(line string) {
		level, text := parse(line)
		if slevel := slogLevel(level); to.Enabled(context.Background(), slevel) {
			write(to, slevel, text, nil)
		}
	})
}

// writer calls itself for every line that is not empty.
type writer func(line string)

func (w writer) Write(p []byte) (int, error) {
	if line := strings.TrimRight(string(p), " \t\r\n"); line != "" {
		w(line)
	}
	return len(p), nil
}

// write hands one record to the handler.
func write(to slog.Handler, level slog.Level, msg string, attrs []slog.Attr) {
	var pc [1]uintptr
	runtime.Callers(4, pc[:]) // Callers, write, Log, Info and the like
	r := slog.NewRecord(time.Now(), level, msg, pc[0])
	r.AddAttrs(attrs...)
	_ = to.Handle(context.Background(), r) // there is nobody to tell that logging failed
}
