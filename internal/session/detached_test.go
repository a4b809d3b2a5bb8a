package session

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
)

func detach(d time.Duration, r Request) Request {
	r.Detached = d
	return r
}

// expectNext lets b wait for k and fails if it gets it before Done of g is closed. It returns where b's grant comes.
func expectNext(t *testing.T, c *cluster, b *Manager, g *Grant) chan *Grant {
	c.mu.Lock()
	c.granting = func(_ string, _, fence uint64) {
		if fence != g.Fence() && rawErr(g) == nil {
			t.Error("granted to the next before Done was closed")
		}
	}
	c.mu.Unlock()
	next := make(chan *Grant, 1)
	go func() { next <- mustLock(t, b, "k") }()
	synctest.Wait()
	return next
}

func TestDetached(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", ttl)
		defer a.Close()
		defer b.Close()
		r := detach(10*ttl, of("k"))
		r.Cooldown = ttl
		g := ask(t, a, r)
		if err := a.Drain(bg); err != nil || a.Held() != 1 {
			t.Error("drain:", err, a.Held())
		}
		began := time.Now()
		next := expectNext(t, c, b, g)
		<-g.Done()
		if d := time.Since(began); d != 8*ttl || g.Err() != lockerr.ErrExpired {
			t.Error("expired after", d, g.Err())
		}
		wantErr(t, g.Release(bg), lockerr.ErrNotHeld, lockerr.ErrExpired)
		h := <-next
		if d := time.Since(began); d < 11*ttl || d > 11*ttl+ttl/10 {
			t.Error("granted to the next after", d)
		}
		if err := h.Release(bg); err != nil {
			t.Error(err)
		}
		if err := ask(t, a, r).Release(bg); err != nil {
			t.Error(err)
		}
		// With a TTL the shorter of both counts.
		r.TTL = ttl
		g, began = ask(t, a, r), time.Now()
		<-g.Done()
		if d := time.Since(began); d != ttl/5*4 {
			t.Error("expired after", d)
		}
		wantNothingLeft(t, c, a, b)
	})
}

// A lost session does not close Done: under the next one it goes on, with its handle and what is ordered of it.
func TestDetachedOutlivesSessions(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", 30*ttl)
		defer a.Close()
		defer b.Close()
		plain := mustLock(t, a, "plain")
		g := ask(t, a, detach(20*ttl, of("k")))
		handle, began := g.Handle(), time.Now()
		next := expectNext(t, c, b, g)
		for range 3 {
			back := c.cutOff(a)
			time.Sleep(2 * ttl)
			if g.Err() != nil || a.Session() != 0 {
				t.Fatal("lost with the session:", g.Err())
			}
			back()
			time.Sleep(ttl / 2)
			if g.Handle() != handle {
				t.Error("another handle")
			}
		}
		if rawErr(plain) != lockerr.ErrSessionLost {
			t.Error("the plain one:", rawErr(plain))
		}
		<-g.Done()
		if d := time.Since(began); d != 16*ttl || g.Err() != lockerr.ErrExpired {
			t.Error("expired after", d, g.Err())
		}
		(<-next).Release(bg)
		if d := time.Since(began); d < 20*ttl {
			t.Error("free after", d)
		}
		for _, wish := range []func(g *Grant) error{
			func(g *Grant) error { return b.Release(bg, g.Handle()) },
			func(g *Grant) error { return adopt(t, b, g.Handle()).Release(bg) },
			func(g *Grant) error { return b.Force(bg, "k") },
			func(g *Grant) error { return g.Release(bg) },
			func(g *Grant) error {
				if err := g.Downgrade(bg); err != nil {
					return err
				}
				return g.Release(bg)
			},
		} {
			g := ask(t, a, detach(20*ttl, of("k")))
			back := c.cutOff(a)
			time.Sleep(2 * ttl)
			back()
			time.Sleep(ttl / 2)
			if err := wish(g); err != nil {
				t.Error(err)
			}
			if g.Err() == nil {
				t.Error("Done is open")
			}
		}
		wantNothingLeft(t, c, a, b)
	})
}

// What somebody ended while its process had no session is not there under the next.
func TestDetachedVanishes(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", 30*ttl)
		defer a.Close()
		defer b.Close()
		for _, unlock := range []bool{false, true} {
			g := ask(t, a, detach(20*ttl, of("k")))
			back := c.cutOff(a)
			time.Sleep(2 * ttl)
			if err := b.Release(bg, g.Handle()); err != nil {
				t.Error(err)
			}
			if rawErr(g) != nil {
				t.Error("nobody could tell:", rawErr(g))
			}
			released := make(chan error, 1)
			if unlock {
				go func() { released <- g.Release(bg) }()
				synctest.Wait()
				if rawErr(g) != lockerr.ErrUnlocked {
					t.Error("Done waits for a session:", rawErr(g))
				}
			}
			back()
			if unlock {
				wantErr(t, <-released, lockerr.ErrNotHeld, lockerr.ErrSessionLost)
				continue
			}
			<-g.Done()
			if g.Err() != lockerr.ErrSessionLost {
				t.Error(g.Err())
			}
			wantErr(t, g.Release(bg), lockerr.ErrNotHeld, lockerr.ErrSessionLost)
		}
		wantNothingLeft(t, c, a, b)
	})
}

// Unlocked while there is no session, or while the unlock was on its way when it was lost.
func TestDetachedUnlockWithoutSession(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", 30*ttl)
		defer a.Close()
		defer b.Close()
		for _, early := range []bool{false, true} {
			g := ask(t, a, detach(20*ttl, of("k")))
			back := c.cutOff(a)
			if !early {
				time.Sleep(2 * ttl)
			}
			ended, cancel := context.WithCancel(bg)
			cancel()
			wantErr(t, g.Release(ended), context.Canceled)
			if early {
				time.Sleep(2 * ttl)
			}
			back()
			if err := g.Release(bg); err != nil {
				t.Error(err)
			}
			if err := mustLock(t, b, "k").Release(bg); err != nil {
				t.Error(err)
			}
		}
		wantNothingLeft(t, c, a, b)
	})
}

func TestDetachedExtend(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", ttl)
		defer a.Close()
		defer b.Close()
		g := ask(t, a, detach(5*ttl, of("k")))
		began := time.Now()
		next := expectNext(t, c, b, g)
		for range 3 {
			time.Sleep(2 * ttl)
			if err := g.Extend(bg, 5*ttl); err != nil {
				t.Fatal(err)
			}
		}
		// While it is unanswered the shorter time counts.
		time.Sleep(ttl)
		c.depose(false)
		ctx, cancel := context.WithTimeout(bg, ttl/10)
		wantErr(t, g.Extend(ctx, 50*ttl), context.DeadlineExceeded, lockerr.ErrNoQuorum)
		cancel()
		g.m.mu.Lock()
		left := g.more.deadline - a.cfg.Clock.Now()
		g.m.mu.Unlock()
		if left > 3*ttl {
			t.Error("relies on a time that nobody knows of:", left)
		}
		c.elect()
		time.Sleep(ttl / 2)
		if err := g.Extend(bg, 5*ttl); err != nil {
			t.Fatal(err)
		}
		last := time.Now()
		<-g.Done()
		if d := time.Since(last); d != 4*ttl || time.Since(began) < 10*ttl {
			t.Error("expired after", d)
		}
		h := <-next
		if d := time.Since(last); d < 5*ttl || d > 5*ttl+ttl/10 {
			t.Error("granted to the next after", d)
		}
		wantErr(t, g.Extend(bg, ttl), lockerr.ErrNotHeld, lockerr.ErrExpired)
		h.Release(bg)
		wantNothingLeft(t, c, a, b)
	})
}

// Done closes before an Extend is answered, so its caller is told that the lock is lost: then the cluster keeps the key for what was left
// of the time before, not for the one that nobody relies on.
func TestLateExtendOfDetached(t *testing.T) {
	for _, when := range []struct {
		name    string
		deaf    bool          // the leader takes the order, and its answers don't arrive
		away    bool          // there is no leader, or no way to it
		session bool          // the session is lost meanwhile
		at      time.Duration // when Extend is called
		back    time.Duration // when all works again; 0: nobody sees to that
	}{
		{"no leader", false, true, false, 8*ttl - ttl/10, 8*ttl + ttl/10},
		{"no leader for long", false, true, false, 8*ttl - ttl/10, 8*ttl + ttl/2},
		{"answer lost", true, false, false, 8*ttl - ttl/10, 0},
		{"answer lost, and then the leader", true, true, false, 8*ttl - ttl/10, 8*ttl + ttl/2},
		{"session lost after the time", true, false, true, 8*ttl - ttl/10, 9*ttl + ttl/2},
		{"session lost before the time", true, false, true, 6 * ttl, 9*ttl + ttl/2},
		{"session lost, nothing sent", false, true, true, 6 * ttl, 9*ttl + ttl/2},
		{"back after all times", true, false, true, 6 * ttl, 11 * ttl},
	} {
		t.Run(when.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				a, b := c.member("a", ttl), c.member("b", 100*ttl)
				defer a.Close()
				defer b.Close()
				g := ask(t, a, detach(10*ttl, of("k")))
				began := time.Now()
				next := expectNext(t, c, b, g)
				time.Sleep(when.at)
				if when.deaf {
					c.mu.Lock()
					c.sinks[a.Session()].deaf = true
					c.mu.Unlock()
				} else if !when.session {
					c.depose(false)
				}
				back := func() {}
				if when.session && when.away {
					back = c.cutOff(a)
				}
				lost := make(chan error, 1)
				go func() { lost <- g.Extend(bg, 1000*ttl) }()
				synctest.Wait()
				switch {
				case when.deaf && when.away:
					c.depose(false)
				case when.deaf && when.session:
					back = c.cutOff(a)
				}
				if when.back > 0 {
					time.Sleep(when.back - time.Since(began))
					if when.session != (a.Losses() > 0) {
						t.Error("sessions lost:", a.Losses())
					}
					if when.away && !when.session {
						c.elect()
					}
					back()
				}
				wantErr(t, <-lost, lockerr.ErrNotHeld, lockerr.ErrExpired)
				(<-next).Release(bg)
				if d := time.Since(began); d < 10*ttl || d > max(11*ttl, when.back+ttl/2) {
					t.Error("granted to the next after", d)
				}
				wantNothingLeft(t, c, a, b)
			})
		})
	}
}

// The time of a grant is up while it is asked whether it is still there: what the answer says of it changes nothing, but it is confirmed if
// it was revoked.
func TestDetachedLapsesWhileResuming(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", 100*ttl)
		defer a.Close()
		defer b.Close()
		for _, revoked := range []bool{false, true} {
			g := ask(t, a, detach(10*ttl, of("k")))
			began := time.Now()
			time.Sleep(ttl)
			a.mu.Lock()
			g.state, g.more.detached.then = resuming, held // as if it had been sent, and taken up, and the answer were on its way
			a.mu.Unlock()
			<-g.Done()
			if n := g.m.Held(); n != 0 {
				t.Error("held:", n)
			}
			if revoked {
				if err := b.Force(bg, "k"); err != nil {
					t.Error(err)
				}
			} else {
				(&sink{m: a}).Outcomes(a.Session(), []wire.Outcome{{Kind: wire.OutGranted, Seq: g.seq, Fence: g.Fence()}})
			}
			a.mu.Lock()
			if g.state != over || len(a.reqs) > 0 && !revoked {
				t.Error("it is kept, in state", g.state)
			}
			a.mu.Unlock()
			mustLock(t, b, "k").Release(bg)
			if d := time.Since(began); revoked && d > 9*ttl || !revoked && d < 10*ttl {
				t.Error("granted to the next after", d)
			}
		}
		wantNothingLeft(t, c, a, b)
	})
}

// A TTL is told to the leader by the first order. When that is lost with the session the cluster would keep the key for all of Detached.
func TestFirstTimeOfDetachedIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", 100*ttl)
		defer a.Close()
		defer b.Close()
		held := mustLock(t, b, "k")
		got := make(chan *Grant, 1)
		r := detach(1000*ttl, of("k"))
		r.TTL = ttl / 2
		go func() { got <- ask(t, a, r) }()
		synctest.Wait()
		link := a.Session()
		c.mu.Lock()
		c.granting = func(_ string, session, _ uint64) {
			if session == link {
				c.sinks[link].hung = true // the grant arrives, the order does not
			}
		}
		c.mu.Unlock()
		held.Release(bg)
		g := <-got
		began := time.Now()
		next := expectNext(t, c, b, g)
		back := c.cutOff(a)
		time.Sleep(2 * ttl)
		if g.Err() != lockerr.ErrExpired || a.Losses() != 1 {
			t.Error(g.Err(), a.Losses())
		}
		back()
		(<-next).Release(bg)
		if d := time.Since(began); d > 3*ttl {
			t.Error("granted to the next after", d)
		}
		wantNothingLeft(t, c, a, b)
	})
}

// Leaving closes Done; the grant lives on by its handle, and the next process of that name may adopt it.
func TestDetachedOutlivesProcess(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		b := c.member("b", ttl)
		defer b.Close()
		for _, leave := range []bool{true, false} {
			a := c.member("a", ttl)
			g := ask(t, a, detach(10*ttl, of("k")))
			if leave {
				if err := a.CloseSession(bg); err != nil {
					t.Error(err)
				}
			}
			a.Close()
			wantErr(t, g.Err(), lockerr.ErrClosed)
			wantErr(t, g.Release(bg), lockerr.ErrNotHeld, lockerr.ErrClosed)
			if _, err := b.Acquire(bg, "k", true); !errors.Is(err, lockerr.ErrHeld) {
				t.Error("free:", err)
			}
			if err := adopt(t, b, g.Handle()).Release(bg); err != nil {
				t.Error(err)
			}
		}
		wantNothingLeft(t, c, b)
	})
}

// Each message of a detached lock's life is lost once, with and without the session: whatever calls say, Done is closed before
// anybody else is granted, and nothing is left when all times are up.
func TestEveryMessageOfDetachedIsLostOnce(t *testing.T) {
	for _, outage := range []time.Duration{0, 2 * ttl} {
		broke := 0
		for first := 1; first <= 30; first++ {
			for _, second := range []int{0, 1, 2, 3, 5, 8} {
				if t.Failed() {
					return
				}
				t.Run(fmt.Sprintf("%v-%d-%d", outage, first, second), func(t *testing.T) {
					inBubble(t, func(t *testing.T, c *cluster) {
						b := c.member("b", 100*ttl)
						defer b.Close()
						c.mu.Lock()
						c.cuts, c.outage = []int{first, second}, outage
						c.mu.Unlock()
						back := c.cutOff(b) // the cuts are a's
						a := c.member("a", ttl)
						defer a.Close()
						back()
						lifeOfDetached(t, c, a, b, outage > 0)
						c.mu.Lock()
						broke += 2 - len(c.cuts)
						c.mu.Unlock()
						wantNothingLeft(t, c, a, b)
					})
				})
			}
		}
		if broke < 30 {
			t.Errorf("only %d links broke: this test proves nothing", broke)
		}
	}
}

func lifeOfDetached(t *testing.T, c *cluster, a, b *Manager, losses bool) {
	life := detach(10*ttl, of("k"))
	fine := func(what string, err error) {
		t.Helper()
		if err != nil && (!losses || !errors.Is(err, lockerr.ErrNotHeld)) {
			t.Error(what, err)
		}
	}
	g := ask(t, a, life)
	c.mu.Lock()
	c.granting = func(_ string, _, fence uint64) {
		if fence > g.Fence() && rawErr(g) == nil {
			t.Error("granted to the next before Done was closed")
		}
	}
	c.mu.Unlock()
	fine("extend:", g.Extend(bg, 9*ttl))
	fine("downgrade:", g.Downgrade(bg))
	fine("unlock:", g.Release(bg))
	// A wait that ends, of one that may be granted meanwhile.
	held := mustLock(t, b, "k")
	ctx, cancel := context.WithTimeout(bg, ttl/10)
	_, err := a.Lock(ctx, life)
	cancel()
	wantErr(t, err, context.DeadlineExceeded)
	got := make(chan *Grant, 1)
	go func() { got <- ask(t, a, life) }()
	time.Sleep(ttl / 10)
	held.Release(bg)
	h := <-got
	if err := b.Release(bg, h.Handle()); err != nil && !(losses && errors.Is(err, lockerr.ErrNotHeld)) {
		t.Error("by handle:", err)
	}
	if !losses && (h.Err() != lockerr.ErrUnlocked || a.Losses() > 0) {
		t.Error("released by handle:", h.Err(), a.Losses())
	}
	h.Release(bg)
	i := ask(t, a, life)
	began := time.Now()
	<-i.Done()
	if d := time.Since(began); d != 8*ttl && !losses {
		t.Error("expired after", d)
	}
	if err := mustLock(t, b, "k").Release(bg); err != nil {
		t.Error(err)
	}
}

// A wait that ends while there is no session, or while what an earlier one was granted is being ended, leaves nothing behind; one that
// goes on is granted once.
func TestDetachedGrantedUnseen(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", 100*ttl)
		defer a.Close()
		defer b.Close()
		for _, when := range []string{"early", "no session", "resuming", "never", "try"} {
			held := mustLock(t, b, "k")
			ctx, cancel := context.WithCancel(bg)
			type result struct {
				g   *Grant
				err error
			}
			got := make(chan result, 1)
			if when == "try" {
				held.Release(bg)
				c.mu.Lock()
				c.sinks[a.Session()].deaf = true
				c.mu.Unlock()
			}
			r := detach(50*ttl, of("k"))
			r.Try = when == "try"
			go func() {
				g, err := a.Lock(ctx, r)
				got <- result{g, err}
			}()
			synctest.Wait()
			grants := c.granted()
			back := c.cutOff(a)
			if when != "try" {
				held.Release(bg) // a is granted, and does not hear of it
				synctest.Wait()
				if c.granted() != grants+1 {
					t.Fatal("not granted")
				}
			}
			if when == "early" {
				cancel()
			}
			time.Sleep(2 * ttl)
			if when == "no session" {
				cancel()
				synctest.Wait()
			}
			if when == "resuming" {
				c.mu.Lock()
				c.delay = ttl / 10
				c.mu.Unlock()
			}
			back()
			if when == "resuming" {
				time.Sleep(ttl / 5)
				cancel()
				c.mu.Lock()
				c.delay = 0
				c.mu.Unlock()
			}
			res := <-got
			if when == "never" || when == "try" {
				if res.err != nil {
					t.Fatal(when, res.err)
				}
				if err := res.g.Release(bg); err != nil {
					t.Error(when, err)
				}
			} else {
				wantErr(t, res.err, context.Canceled)
			}
			if err := mustLock(t, b, "k").Release(bg); err != nil {
				t.Error(err)
			}
			cancel()
		}
		wantNothingLeft(t, c, a, b)
	})
}

// The grant of an earlier session is taken up, the answer is lost, and its time is up before it is asked for again: whoever locks or unlocks
// it has an answer.
func TestDetachedTakenUpUnseen(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", 100*ttl)
		defer a.Close()
		defer b.Close()
		for _, unlock := range []bool{false, true} {
			var back func()
			ended := make(chan error, 1)
			if unlock {
				g := ask(t, a, detach(5*ttl, of("k")))
				back = c.cutOff(a)
				time.Sleep(2 * ttl)
				go func() { ended <- g.Release(bg) }()
			} else {
				held := mustLock(t, b, "k")
				go func() {
					g, err := a.Lock(bg, detach(5*ttl, of("k")))
					if err == nil {
						err = g.Release(bg)
					}
					ended <- err
				}()
				synctest.Wait()
				back = c.cutOff(a)
				held.Release(bg) // a is granted, and does not hear of it
				time.Sleep(2 * ttl)
			}
			var left time.Duration
			c.mu.Lock()
			for _, f := range c.timers {
				left = time.Until(f.end)
			}
			c.cuts = []int{5, 1, 1, 1, 1} // creation and answer, attachment, request, and instead of its answer; then none works until its time is up
			c.mu.Unlock()
			time.Sleep(left - ttl/10)
			back()
			synctest.Wait()
			if holders := c.holders("k"); len(holders) != 1 || holders[0].Session != a.Session() || holders[0].Session == 0 {
				t.Error("not taken up:", holders)
			}
			time.Sleep(ttl/10 + time.Millisecond)
			if holders := c.holders("k"); len(holders) > 0 || a.Session() == 0 || a.Ready() {
				t.Error("its time is not up, or it has been asked for again:", holders)
			}
			select {
			case err := <-ended:
				if unlock {
					wantErr(t, err, lockerr.ErrNotHeld, lockerr.ErrSessionLost)
				} else if err != nil {
					t.Error(err)
				}
			case <-time.After(10 * ttl):
				t.Fatal("no answer, unlock:", unlock)
			}
		}
		wantNothingLeft(t, c, a, b)
	})
}
