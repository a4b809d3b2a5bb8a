// Package hclogx lets libraries that log by hashicorp's means write to a slog.Logger.
package hclogx

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
)

// LevelTrace is what hclog's Trace becomes; slog has no name for it.
const LevelTrace = slog.LevelDebug - 4

// New returns an hclog.Logger that writes to l; nil logs nothing. What l's handler does not take costs no formatting.
func New(l *slog.Logger) hclog.Logger {
	if l == nil {
		return hclog.NewNullLogger()
	}
	return &logger{to: l.Handler(), level: new(atomic.Int32)}
}

// logger is immutable but for its level, which it shares with the loggers made from it, as hclog's do.
type logger struct {
	to      slog.Handler
	name    string
	implied []any         // alternating keys and values
	level   *atomic.Int32 // an hclog.Level; NoLevel: the handler decides alone
}

var _ hclog.Logger = (*logger)(nil)

// slogLevel maps hclog's levels.
func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Trace:
		return LevelTrace
	case hclog.Debug:
		return slog.LevelDebug
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}

func (l *logger) enabled(level hclog.Level) bool {
	if least := hclog.Level(l.level.Load()); least == hclog.Off || least > level {
		return false
	}
	return l.to.Enabled(context.Background(), slogLevel(level))
}

func (l *logger) Log(level hclog.Level, msg string, args ...any) {
	if level == hclog.Off || !l.enabled(level) {
		return
	}
	if l.name != "" {
		msg = l.name + ": " + msg
	}
	write(l.to, slogLevel(level), msg, attrs(args))
}

func (l *logger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *logger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *logger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *logger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *logger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *logger) IsTrace() bool { return l.enabled(hclog.Trace) }
func (l *logger) IsDebug() bool { return l.enabled(hclog.Debug) }
func (l *logger) IsInfo() bool  { return l.enabled(hclog.Info) }
func (l *logger) IsWarn() bool  { return l.enabled(hclog.Warn) }
func (l *logger) IsError() bool { return l.enabled(hclog.Error) }

func (l *logger) ImpliedArgs() []any { return slices.Clone(l.implied) }

func (l *logger) With(args ...any) hclog.Logger {
	c := *l
	c.implied = append(slices.Clone(l.implied), args...)
	c.to = l.to.WithAttrs(attrs(args))
	return &c
}

func (l *logger) Name() string { return l.name }

func (l *logger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return l.ResetNamed(name)
}

func (l *logger) ResetNamed(name string) hclog.Logger {
	c := *l
	c.name = name
	return &c
}

func (l *logger) SetLevel(level hclog.Level) { l.level.Store(int32(level)) }

// GetLevel is the least level that is logged.
func (l *logger) GetLevel() hclog.Level {
	if level := hclog.Level(l.level.Load()); level != hclog.NoLevel {
		return level
	}
	for _, level := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn, hclog.Error} {
		if l.enabled(level) {
			return level
		}
	}
	return hclog.Off
}

func (l *logger) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(opts), "", 0)
}

func (l *logger) StandardWriter(opts *hclog.StandardLoggerOptions) io.Writer {
	if opts == nil {
		opts = &hclog.StandardLoggerOptions{}
	}
	infer := opts.InferLevels || opts.InferLevelsWithTimestamp
	return writer(func(line string) {
		level, text := hclog.Info, line
		if infer {
			level, text = parse(line)
		}
		if opts.ForceLevel != hclog.NoLevel {
			_, text = parse(line)
			level = opts.ForceLevel
		}
		l.Log(level, text)
	})
}

// attrs pairs hclog's alternating keys and values.
func attrs(args []any) []slog.Attr {
	out := make([]slog.Attr, 0, (len(args)+1)/2)
	for len(args) > 0 {
		if len(args) == 1 {
			out = append(out, slog.Any(hclog.MissingKey, value(args[0])))
			break
		}
		key, ok := args[0].(string)
		if !ok {
			key = fmt.Sprint(args[0])
		}
		out = append(out, slog.Any(key, value(args[1])))
		args = args[2:]
	}
	return out
}

// value turns hclog's own kinds of values into what slog prints.
func value(v any) any {
	switch v := v.(type) {
	case hclog.Format:
		if len(v) == 0 {
			return ""
		}
		return fmt.Sprintf(fmt.Sprint(v[0]), v[1:]...)
	case hclog.Hex:
		return fmt.Sprintf("0x%x", int(v))
	case hclog.Octal:
		return fmt.Sprintf("0%o", int(v))
	case hclog.Binary:
		return fmt.Sprintf("0b%b", int(v))
	case hclog.Quote:
		return fmt.Sprintf("%q", string(v))
	case error:
		return v.Error()
	case fmt.Stringer:
		return v.String()
	}
	return v
}

// parse splits a line such as "[WARN] memberlist: refuting" into its level and the rest. A time in front of the bracket is dropped, as slog
// has its own.
func parse(line string) (hclog.Level, string) {
	open := strings.IndexByte(line, '[')
	end := strings.IndexByte(line, ']')
	if open < 0 || end < open || strings.Trim(line[:open], "0123456789/:.-+TZ ") != "" {
		return hclog.Info, line
	}
	level := hclog.NoLevel
	switch strings.ToUpper(strings.TrimSpace(line[open+1 : end])) {
	case "TRACE":
		level = hclog.Trace
	case "DEBUG":
		level = hclog.Debug
	case "INFO":
		level = hclog.Info
	case "WARN", "WARNING":
		level = hclog.Warn
	case "ERR", "ERROR":
		level = hclog.Error
	}
	if level == hclog.NoLevel {
		return hclog.Info, line
	}
	return level, strings.TrimSpace(line[end+1:])
}
