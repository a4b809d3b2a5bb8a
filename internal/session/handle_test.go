package session

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
)

func adopt(t testing.TB, m *Manager, h wire.Handle) *Grant {
	t.Helper()
	g, err := m.Adopt(bg, h)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestReleaseByHandle(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", ttl)
		defer a.Close()
		defer b.Close()
		for _, from := range []*Manager{b, a} {
			for _, r := range []Request{of("k"), of("k", "l"), shared("k"), units(1, 2, "s")} {
				g := ask(t, a, r)
				h := g.Handle()
				forged := h
				forged.Proof[0]++
				wantErr(t, from.Release(bg, forged), lockerr.ErrNotHeld)
				if err := from.Release(bg, h); err != nil {
					t.Fatal(err)
				}
				if !isClosed(g.Done()) || g.Err() != lockerr.ErrUnlocked {
					t.Error("Done:", g.Err())
				}
				wantErr(t, g.Release(bg), lockerr.ErrNotHeld, lockerr.ErrUnlocked)
				if g.Handle() != h {
					t.Error("the handle changes with the end of the grant")
				}
				wantErr(t, from.Release(bg, h), lockerr.ErrNotHeld)
				_, err := from.Adopt(bg, h)
				wantErr(t, err, lockerr.ErrNotHeld)
			}
		}
		wantNothingLeft(t, c, a, b)
	})
}

func TestAdopt(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", ttl)
		defer a.Close()
		defer b.Close()
		for _, to := range []*Manager{b, a} {
			for _, r := range []Request{of("k"), of("k", "l"), shared("k"), units(2, 3, "s")} {
				r.TTL = ttl
				g := ask(t, a, r)
				time.Sleep(ttl / 2)
				h := adopt(t, to, g.Handle())
				began := time.Now()
				if rawErr(g) != lockerr.ErrMoved || h.Fence() != g.Fence() || h.Mode() != g.Mode() || h.Key() != g.Key() || len(h.Keys()) != len(g.Keys()) {
					t.Errorf("adopted: %v, %d, %v", rawErr(g), h.Fence(), h.Keys())
				}
				if h.Handle() != g.Handle() {
					t.Error("another handle")
				}
				wantErr(t, g.Release(bg), lockerr.ErrNotHeld, lockerr.ErrMoved)
				if r.Mode == wire.Exclusive {
					if err := h.Downgrade(bg); err != nil {
						t.Error(err)
					}
				}
				back := adopt(t, a, h.Handle()) // and back again
				if back.Handle() != g.Handle() || rawErr(h) != lockerr.ErrMoved {
					t.Error("moved back:", rawErr(h))
				}
				<-back.Done()
				if d := time.Since(began); d != ttl || back.Err() != lockerr.ErrExpired {
					t.Error("the time did not begin anew:", d, back.Err())
				}
			}
		}
		wantNothingLeft(t, c, a, b)
	})
}

// A holder that is paused keeps its grant until its session has ended; then it is gone, not moved.
func TestAdoptFromPausedHolder(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", 10*ttl)
		defer a.Close()
		defer b.Close()
		g := mustLock(t, a, "k")
		h := g.Handle()
		back := c.cutOff(a)
		began := time.Now()
		released := make(chan error, 1)
		go func() { released <- b.Release(bg, mustLock(t, b, "other").Handle()) }()
		n, err := b.Adopt(bg, h)
		if err != nil && !errors.Is(err, lockerr.ErrNotHeld) {
			t.Error(err)
		}
		if err == nil {
			n.Release(bg)
		}
		if d := time.Since(began); d < ttl/2 || rawErr(g) == nil {
			t.Error("after", d, "the holder's Done:", rawErr(g))
		}
		if err := <-released; err != nil {
			t.Error(err)
		}
		back()
		wantNothingLeft(t, c, a, b)
	})
}

// A wish that is withdrawn leaves nothing: neither the wish nor a grant that moved meanwhile.
func TestAdoptWithdrawn(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", 10*ttl)
		defer a.Close()
		defer b.Close()
		for _, wish := range []func(ctx context.Context, h wire.Handle) error{
			func(ctx context.Context, h wire.Handle) error { _, err := b.Adopt(ctx, h); return err },
			b.Release,
		} {
			g := mustLock(t, a, "k")
			back := c.cutOff(a)
			ctx, cancel := context.WithTimeout(bg, 10*time.Millisecond)
			wantErr(t, wish(ctx, g.Handle()), context.DeadlineExceeded)
			cancel()
			back()
			<-g.Done() // it was told to let go all the same
			mustLock(t, b, "k").Release(bg)
		}
		// The answer is here, the caller is not.
		g := mustLock(t, a, "k")
		for i := range 200 {
			ctx, cancel := context.WithCancel(bg)
			go func() {
				for range i {
					runtime.Gosched()
				}
				cancel()
			}()
			if h, err := b.Adopt(ctx, g.Handle()); err == nil {
				h.Release(bg)
			}
			cancel()
			g.Release(bg) // if the wish was not even sent
			g = mustLock(t, a, "k")
		}
		g.Release(bg)
		wantNothingLeft(t, c, a, b)
	})
}

// Revoked before its adopter saw it: it is not held, and the leader gets the confirmation it waits for.
func TestAdoptedAndRevokedBeforeTaken(t *testing.T) {
	m, link := openManual(t)
	h := wire.NewHandle(wire.NewUUID(), wire.Origin{Session: 7, Seq: 3}, 12)
	failed := make(chan error, 1)
	go func() {
		_, err := m.Adopt(bg, h)
		failed <- err
	}()
	if o := link.wait(t, wire.OpAdopt, 1); o.Ask.Handle != h {
		t.Error("handle:", o.Ask.Handle)
	}
	link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutRevoked, Seq: 1, Code: wire.CodeForced}})
	wantErr(t, <-failed, lockerr.ErrNotHeld, lockerr.ErrForced)
	link.wait(t, wire.OpConfirm, 1)
	link.wait(t, wire.OpFinish, 1)
	// Moved here although nobody wants it any more.
	link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutEnded, Seq: 1}, {Kind: wire.OutAdopted, Seq: 1, Fence: 12, Grant: &wire.Grant{Keys: []string{"k"}}}})
	link.wait(t, wire.OpFinish, 1)
}

// As with a force, the outcome of what was sent under a session that was lost is unknown.
func TestHandlesOfLostSession(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", 10*ttl)
		defer a.Close()
		defer b.Close()
		for _, wish := range []func(h wire.Handle) error{
			func(h wire.Handle) error { _, err := a.Adopt(bg, h); return err },
			func(h wire.Handle) error { return a.Release(bg, h) },
		} {
			g := mustLock(t, b, "k")
			c.depose(true)
			wantErr(t, wish(g.Handle()), lockerr.ErrSessionLost)
			c.elect()
			g.Release(bg)
		}
		wantNothingLeft(t, c, a, b)
	})
}
