package aside

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
)

// gate is a writer that waits until it is open.
type gate struct {
	open chan struct{}
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.Write(p)
}

func (g *gate) lines() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Split(strings.TrimSuffix(g.text.String(), "\n"), "\n")
}

// plain leaves the time out.
func plain(w io.Writer) slog.Handler {
	return slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
}

// Nobody waits for a handler that blocks; when it goes on it is told all that there was room for, in order, and how much there was not.
func TestNobodyWaits(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := newGate()
		l := New(plain(g))
		log := l.Logger()
		const more = 7
		for i := range 1 + MaxKept { // the first is in the handler, which blocks
			log.Info("said", "i", i)
			synctest.Wait()
		}
		for range more {
			log.Info("dropped")
		}
		close(g.open)
		synctest.Wait()
		log.With("a", 1).WithGroup("g").Info("after", "b", 2)
		l.Close(time.Second)
		got := g.lines()
		if len(got) != MaxKept+3 {
			t.Fatalf("%d lines", len(got))
		}
		for i := range 1 + MaxKept {
			if want := fmt.Sprintf("level=INFO msg=said i=%d", i); got[i] != want {
				t.Fatalf("line %d is %q, want %q", i, got[i], want)
			}
		}
		if last := got[1+MaxKept]; !strings.Contains(last, "level=WARN") || !strings.HasSuffix(last, fmt.Sprintf(" missing=%d", more)) {
			t.Errorf("of what was dropped it says %q", last)
		}
		if last := got[2+MaxKept]; last != "level=INFO msg=after a=1 g.b=2" {
			t.Errorf("with attributes and a group: %q", last)
		}
		log.Info("later")
		synctest.Wait()
		if n := len(g.lines()); n != MaxKept+3 {
			t.Error("what came after Close was said")
		}
	})
}

// Close waits for a handler that works and, for as long as it was told, for one that does not. Whoever closes a second time waits no longer.
func TestClose(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := newGate()
		l := New(plain(g))
		for i := range 3 {
			l.Logger().Info("said", "i", i)
		}
		time.AfterFunc(time.Second, func() { close(g.open) })
		began := time.Now()
		l.Close(time.Minute)
		if took := time.Since(began); took != time.Second || len(g.lines()) != 3 {
			t.Errorf("after %s there are the lines %q", took, g.lines())
		}
		l.Close(time.Minute)

		g = newGate()
		l = New(plain(g))
		for i := range 3 {
			l.Logger().Info("said", "i", i)
		}
		began = time.Now()
		l.Close(time.Second)
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %s", took)
		}
		close(g.open)
		synctest.Wait()
		if got := g.lines(); len(got) != 1 {
			t.Errorf("of what was given up it says %q", got)
		}
	})
}

// askingHandler logs and closes from within a record, as no handler should.
type askingHandler struct {
	slog.Handler
	log **Log
}

func (h askingHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "ask" {
		(*h.log).Logger().Info("asked")
		(*h.log).Close(time.Second)
	}
	return h.Handler.Handle(ctx, r)
}

// A handler may log itself, and even close.
func TestHandlerThatComesBack(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := newGate()
		close(g.open)
		var l *Log
		l = New(askingHandler{plain(g), &l})
		l.Logger().Info("ask")
		synctest.Wait()
		time.Sleep(2 * time.Second)
		if got := g.lines(); len(got) != 1 || !strings.Contains(got[0], "ask") {
			t.Errorf("it says %q", got)
		}
		l.Close(time.Second)
	})
}

func TestAsSlogWantsIt(t *testing.T) {
	var b bytes.Buffer
	l := New(slog.NewTextHandler(&b, nil))
	err := slogtest.TestHandler(l.Logger().Handler(), func() []map[string]any {
		l.Close(time.Minute)
		var all []map[string]any
		for line := range strings.Lines(b.String()) {
			all = append(all, parse(strings.TrimSuffix(line, "\n")))
		}
		return all
	})
	if err != nil {
		t.Error(err)
	}
}

// parse takes a line of a TextHandler apart, whose keys have dots for groups.
func parse(line string) map[string]any {
	top := map[string]any{}
	for _, field := range strings.Fields(line) {
		key, value, _ := strings.Cut(field, "=")
		m := top
		for {
			group, rest, ok := strings.Cut(key, ".")
			if !ok {
				break
			}
			if _, ok := m[group].(map[string]any); !ok {
				m[group] = map[string]any{}
			}
			m, key = m[group].(map[string]any), rest
		}
		m[key] = value
	}
	return top
}
