// Package aside hands what is logged to its handler on a goroutine of its own. A handler is somebody else's code: it may block for as long as a
// pipe is full or a network is down, and may ask the very object that speaks. Whoever logs through here waits for neither, whatever locks it holds
// and whatever depends on it; so do the libraries below us, which log in the loops by which they live.
package aside

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// MaxKept is how many records are kept while the handler is busy. What comes then is dropped, and counted in a record of its own.
const MaxKept = 1024

// Log keeps records until its handler has taken them, in their order and with their own times.
type Log struct {
	handler slog.Handler
	wake    chan struct{} // cap 1: there is something to say, or it is over
	done    chan struct{} // closed when say has ended

	mu      sync.Mutex // guards the fields below; the handler is never called under it
	kept    []said
	dropped int // records since the last one that was kept
	over    bool
}

// said is a record and whom it is for: the handler, or one made from it with attributes or groups.
type said struct {
	to     slog.Handler
	record slog.Record
}

// New returns a Log for h. Close must follow.
func New(h slog.Handler) *Log {
	l := &Log{handler: h, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go l.say() // ends with Close, or when the call of the handler ends that Close has not waited for
	return l
}

// Logger returns a logger that never waits for the handler, but for the answer of its Enabled.
func (l *Log) Logger() *slog.Logger { return slog.New(handler{l, l.handler}) }

// Close has said what is kept, unless that takes longer than patience: then the rest is dropped, and the one call that the handler is in ends when
// it does. What is logged afterwards is dropped.
func (l *Log) Close(patience time.Duration) {
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.hint()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-l.done:
		return
	case <-t.C:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept, l.dropped = nil, 0
}

func (l *Log) keep(to slog.Handler, r slog.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.over:
	case len(l.kept) >= MaxKept:
		l.dropped++
	default:
		l.kept = append(l.kept, said{to, r})
		l.hint()
	}
}

func (l *Log) hint() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// say hands over what is kept, until it is over and nothing is left.
func (l *Log) say() {
	defer close(l.done)
	for range l.wake {
		for {
			s, ok, over := l.next()
			if !ok && over {
				return
			}
			if !ok {
				break
			}
			_ = s.to.Handle(context.Background(), s.record) // there is nobody to tell that logging failed
		}
	}
}

// next takes the oldest record, and the count of those that were dropped when there is no older one. ok is false when nothing is left.
func (l *Log) next() (s said, ok, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.kept) > 0 {
		s = l.kept[0]
		l.kept[0] = said{}
		if l.kept = l.kept[1:]; len(l.kept) == 0 {
			l.kept = nil
		}
		return s, true, l.over
	}
	if n := l.dropped; n > 0 {
		l.dropped = 0
		r := slog.NewRecord(time.Now(), slog.LevelWarn, "lines of this log are missing: its handler was too slow for them", 0)
		r.AddAttrs(slog.Int("missing", n))
		return said{l.handler, r}, true, l.over
	}
	return said{}, false, l.over
}

// handler is a way into log for to.
type handler struct {
	log *Log
	to  slog.Handler
}

var _ slog.Handler = handler{}

func (h handler) Enabled(ctx context.Context, level slog.Level) bool { return h.to.Enabled(ctx, level) }

func (h handler) Handle(_ context.Context, r slog.Record) error {
	h.log.keep(h.to, r.Clone())
	return nil
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.log, h.to.WithAttrs(attrs)}
}

func (h handler) WithGroup(name string) slog.Handler { return handler{h.log, h.to.WithGroup(name)} }
