package distlock

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"
)

// hookedHandler is a logger that is somebody else's code: for each record it does what they wrote.
type hookedHandler struct {
	slog.Handler
	hook *atomic.Pointer[func()]
}

func (h hookedHandler) Handle(ctx context.Context, r slog.Record) error {
	if f := h.hook.Load(); f != nil {
		(*f)()
	}
	return h.Handler.Handle(ctx, r)
}

func (h hookedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return hookedHandler{h.Handler.WithAttrs(attrs), h.hook}
}

// Loggers that block, as one does that writes to a pipe which nobody reads, and loggers that ask the very member that speaks: a holder that is cut
// off gives its locks up in time, also a detached one, its calls heed their contexts, the others elect, expire it and are granted what it had, and
// it can be closed. (A lock that is held while a logger is called hangs this test: virtual time stands still then.)
func TestVirtualLoggersThatBlockOrAskBack(t *testing.T) {
	for _, blocks := range []bool{true, false} {
		name := "asks back"
		if blocks {
			name = "blocks"
		}
		t.Run(name, func(t *testing.T) {
			virtual(t, 2, func(w *world) {
				var hook atomic.Pointer[func()]
				w.add(3, func(m *member) { m.cfg.Logger = slog.New(hookedHandler{m.cfg.Logger.Handler(), &hook}) })
				w.startVoters(3)
				holder := w.leader()
				l := holder.lock("k")
				d, err := holder.cluster().Lock(w.until(time.Second), "d", Detached(5*time.Second))
				if err != nil {
					w.fatalf("lock: %v", err)
				}
				end, called := make(chan struct{}), make(chan struct{}, 1)
				f := func() {
					select {
					case called <- struct{}{}:
					default:
					}
					if blocks {
						<-end
						return
					}
					for _, m := range w.members {
						if c := m.cluster(); c != nil {
							_ = c.Status()
						}
					}
					_, _ = l.Err(), d.Err()
				}
				hook.Store(&f)
				defer close(end)
				w.net.Isolate(holder.ip)
				began := time.Now()
				c := holder.cluster()
				<-l.Done()
				if took := time.Since(began); took > 2*time.Second || !errors.Is(l.Err(), ErrSessionLost) {
					w.errorf("the lock ended after %s with %v", took, l.Err())
				}
				<-called
				if _, err := c.Lock(w.until(time.Second), "other"); !errors.Is(err, context.DeadlineExceeded) {
					w.errorf("Lock of a member that is cut off: %v", err)
				}
				for _, key := range []string{"k", "d"} {
					next, err := w.others(holder)[0].cluster().Lock(w.until(20*time.Second), key)
					if err != nil {
						w.fatalf("%s is not granted again: %v", key, err)
					}
					if key == "d" && d.Err() == nil {
						w.errorf("the detached lock is held twice")
					}
					w.unlock(next)
				}
				if took := time.Since(began); took < 4*time.Second || !errors.Is(d.Err(), ErrExpired) {
					w.errorf("the detached lock ended with %v before %s", d.Err(), took)
				}
				began = time.Now()
				if err := d.Unlock(w.until(time.Second)); !errors.Is(err, ErrNotHeld) {
					w.errorf("Unlock of what has expired: %v", err)
				}
				for _, m := range w.members {
					m.cluster().Close()
				}
				if took := time.Since(began); took > 15*time.Second {
					w.errorf("to close all of them took %s", took)
				}
			})
		})
	}
}
