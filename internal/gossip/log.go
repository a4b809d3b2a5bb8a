package gossip

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"
)

// Lines that a peer can cause are limited: at most logBurst in logWindow, then a count of those left out.
const (
	logBurst  = 20
	logWindow = 10 * time.Second
)

// logWriter takes the lines of memberlist's log.Logger ("[LEVEL] text"). They go one level lower than memberlist has them: a peer that
// doesn't answer is an error to memberlist and an ordinary day to a cluster.
type logWriter struct {
	to *slog.Logger

	lines everyMinute

	mu      sync.Mutex // guards what follows
	since   time.Time
	count   int
	dropped int
}

func (w *logWriter) Write(p []byte) (int, error) {
	level, text := splitLevel(bytes.TrimSpace(p))
	if !w.to.Enabled(context.Background(), level) {
		return len(p), nil
	}
	if bytes.Contains(text, refusedText) { // strangers has said it
		return len(p), nil
	}
	if bytes.Contains(text, udpBlocked) && !w.lines.due("udp") {
		return len(p), nil
	}
	if ok, dropped := w.admit(); ok {
		if dropped > 0 {
			w.to.Log(context.Background(), level, "memberlist: lines left out of the log", "count", dropped)
		}
		w.to.Log(context.Background(), level, string(text))
	}
	return len(p), nil
}

// refusedText marks the error that memberlist gets instead of what a stranger has sent, and says in its log.
var refusedText = []byte("gossip: refused: ")

// udpBlocked is what memberlist says of each probe that only a stream got through with: where UDP is blocked, twice a second for ever.
var udpBlocked = []byte("UDP probes failed")

func (w *logWriter) admit() (ok bool, dropped int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); now.Sub(w.since) >= logWindow {
		dropped = w.dropped
		w.since, w.count, w.dropped = now, 0, 0
	}
	if w.count >= logBurst {
		w.dropped++
		return false, 0
	}
	w.count++
	return true, dropped
}

func splitLevel(p []byte) (slog.Level, []byte) {
	level := slog.LevelDebug
	for prefix, l := range map[string]slog.Level{"[ERR] ": slog.LevelInfo, "[ERROR] ": slog.LevelInfo, "[WARN] ": slog.LevelInfo, "[INFO] ": slog.LevelDebug, "[DEBUG] ": slog.LevelDebug} {
		if rest, ok := bytes.CutPrefix(p, []byte(prefix)); ok {
			level, p = l, rest
			break
		}
	}
	// We say these two ourselves, once a minute and in words of ours.
	if bytes.Contains(p, []byte("ignoring alive message")) || bytes.Contains(p, []byte("unexpected node")) {
		level = slog.LevelDebug
	}
	return level, p
}

// everyMinute lets one line of a kind through each minute.
type everyMinute struct {
	mu   sync.Mutex
	last map[string]time.Time // bounded by the number of kinds, which are constants
}

func (e *everyMinute) due(kind string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if t, ok := e.last[kind]; ok && now.Sub(t) < time.Minute {
		return false
	}
	if e.last == nil {
		e.last = map[string]time.Time{}
	}
	e.last[kind] = now
	return true
}
