package distlock

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// vclock is a host's clock: it can stand still while the process on it is paused, jump when that goes on, and run at another rate.
type vclock struct {
	mu      sync.Mutex // guards the fields below
	since   time.Time  // from here on
	at      time.Duration
	rate    float64
	stopped bool
}

func newClock() *vclock { return &vclock{since: time.Now(), at: time.Hour, rate: 1} }

func (c *vclock) Now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *vclock) now() time.Duration {
	if c.stopped {
		return c.at
	}
	return c.at + time.Duration(float64(time.Since(c.since))*c.rate)
}

// setRate makes the clock run at rate from now on.
func (c *vclock) setRate(rate float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.since, c.rate = c.now(), time.Now(), rate
}

// stop makes the clock stand still.
func (c *vclock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped {
		c.at, c.since, c.stopped = c.now(), time.Now(), true
	}
}

// jump lets it go on, where it would be if it had not stood still.
func (c *vclock) jump() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = false
}

// logRing keeps the last lines that members logged, to be shown when a test fails: a bubble has many, and most pass.
type logRing struct {
	began time.Time
	mu    sync.Mutex // guards the fields below
	lines []logLine
	next  int
}

type logLine struct {
	at     time.Duration
	member int // -1: the test
	text   string
	record *slog.Record
	attrs  []slog.Attr
}

const maxLogLines = 4000

func (r *logRing) put(l logLine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.at = time.Since(r.began)
	if len(r.lines) < maxLogLines {
		r.lines = append(r.lines, l)
		return
	}
	r.lines[r.next%maxLogLines] = l
	r.next++
}

func (r *logRing) add(member int, text string) { r.put(logLine{member: member, text: text}) }

func (r *logRing) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for i := range r.lines {
		l := r.lines[(r.next+i)%len(r.lines)]
		who := "test"
		if l.member >= 0 {
			who = fmt.Sprintf("m%d", l.member)
		}
		fmt.Fprintf(&b, "%12.6f %-4s ", l.at.Seconds(), who)
		if l.record == nil {
			b.WriteString(l.text + "\n")
			continue
		}
		fmt.Fprintf(&b, "%s %s", l.record.Level, l.record.Message)
		for _, a := range l.attrs {
			fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		}
		l.record.Attrs(func(a slog.Attr) bool {
			fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
			return true
		})
		b.WriteByte('\n')
	}
	return b.String()
}

// ringHandler is a member's way into the ring.
type ringHandler struct {
	ring   *logRing
	member int
	attrs  []slog.Attr
}

func (h *ringHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || os.Getenv("DISTLOCK_LOG") == "debug"
}

func (h *ringHandler) Handle(_ context.Context, r slog.Record) error {
	r = r.Clone()
	h.ring.put(logLine{member: h.member, record: &r, attrs: h.attrs})
	return nil
}

func (h *ringHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &ringHandler{ring: h.ring, member: h.member, attrs: append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)}
}

func (h *ringHandler) WithGroup(string) slog.Handler { return h }
