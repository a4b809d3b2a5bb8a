package session

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
)

// Done closes 0.8 TTL after the last answered attempt was sent: not before, hardly after, and never after the leader could have given
// the key to the next.
func TestDoneClosesBeforeTheNextGrant(t *testing.T) {
	for _, hang := range []bool{false, true} {
		inBubble(t, func(t *testing.T, c *cluster) {
			a, b := c.member("a", ttl), c.member("b", 10*ttl)
			defer a.Close()
			defer b.Close()
			g := mustLock(t, a, "k")
			c.mu.Lock()
			c.granting = func(string, uint64, uint64) {
				if rawErr(g) == nil {
					t.Error("granted to the next before Done was closed")
				}
			}
			last := c.leases[a.Session()] // messages take no time here: received when it was sent
			c.mu.Unlock()
			time.Sleep(10 * ttl) // renewals keep it
			if g.Err() != nil {
				t.Fatal("lost while the leader answers:", g.Err())
			}
			next := make(chan *Grant)
			go func() { next <- mustLock(t, b, "k") }()
			synctest.Wait()
			if hang {
				c.depose(true)
			} else { // a is cut off, the leader goes on
				c.mu.Lock()
				c.sinks[a.Session()].hung = true
				c.mu.Unlock()
				a.mu.Lock()
				a.cfg.Connect = func(ctx context.Context, _ Sink) (Link, error) { <-ctx.Done(); return nil, ctx.Err() }
				a.mu.Unlock()
			}
			sent := last.last
			<-g.Done()
			if d := time.Since(sent); d != ttl/5*4 {
				t.Errorf("closed %s after the last answered attempt was sent, want %s", d, ttl/5*4)
			}
			if g.Err() != lockerr.ErrSessionLost || a.Session() != 0 || a.Ready() {
				t.Error("after the deadline:", g.Err(), a.Session())
			}
			if hang {
				c.elect()
			}
			h := <-next
			if d := time.Since(sent); d < ttl {
				t.Errorf("the leader expired the session %s after it was renewed", d)
			}
			h.Release(bg)
		})
	}
}

// An answer counts by the time at which its own attempt was sent, however late it comes and in whatever order.
func TestAnswersCountBySendTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		link := &slowRenewals{manual: manual{instant: instant{done: make(chan struct{})}, sent: make(chan wire.Op, 64)}}
		m, err := Open(bg, instantConfig(link, &link.instant, ttl))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		began := m.cfg.Clock.Now()
		for range 2 {
			time.Sleep(ttl / 10)
			m.renew(link, 1)
		}
		m.mu.Lock()
		sent := append([]attempt(nil), m.attempts...)
		m.mu.Unlock()
		if len(sent) < 2 {
			t.Fatalf("%d renewals in flight", len(sent))
		}
		deadline := func() time.Duration {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.deadline
		}
		if deadline()-began > m.lease {
			t.Error("the deadline moved without an answer")
		}
		for _, i := range []int{1, 0, 1} { // the later one first, then the earlier one, then a copy
			link.sink.Renewed(1, sent[i].number, true)
			if deadline() != sent[1].sent+m.lease {
				t.Errorf("after answer %d the deadline is %s, want %s", i, deadline(), sent[1].sent+m.lease)
			}
		}
		link.sink.Renewed(1, sent[1].number+1000, true) // never sent
		link.sink.Renewed(2, sent[1].number, false)     // another session's
		if deadline() != sent[1].sent+m.lease || m.Session() != 1 {
			t.Error("an answer that means nothing changed the deadline")
		}
	})
}

// A leader that says that the session is gone is believed at once: there is nothing to wait for, and the next session comes soon.
func TestLeaderDoesNotKnowTheSession(t *testing.T) {
	for name, tell := range map[string]func(s Sink){
		"renewal": func(s Sink) { s.Renewed(1, 0, false) },
		"outcome": func(s Sink) { s.Outcomes(1, []wire.Outcome{{Kind: wire.OutFailed, Seq: 2, Code: wire.CodeGone}}) },
	} {
		t.Run(name, func(t *testing.T) {
			m, link := openManual(t)
			got := make(chan *Grant, 1)
			go func() { got <- mustLock(t, m, "k") }()
			link.wait(t, wire.OpAcquire, 1)
			link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutGranted, Seq: 1, Fence: 8}})
			g := <-got
			go m.Acquire(bg, "l", false)
			link.wait(t, wire.OpAcquire, 2)
			tell(link.sink)
			if !isClosed(g.Done()) || g.Err() != lockerr.ErrSessionLost {
				t.Error("Done is open")
			}
			link.wait(t, wire.OpAcquire, 1)
		})
	}
}

// The lease of a new session counts from when its creation was sent, and an answer that comes after that is no session: the same
// creation is sent again, and meets the first.
func TestSlowCreation(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		link := &slowCreation{instant: instant{done: make(chan struct{})}, answers: make(chan time.Duration, 8)}
		jump := newJumpy()
		cfg := instantConfig(link, &link.instant, ttl)
		cfg.Clock = jump
		link.answers <- ttl // a pause: longer than any patience
		link.answers <- ttl / 10
		link.pass = jump.jump
		m, err := Open(bg, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if len(link.nonces) != 2 || link.nonces[0] != link.nonces[1] {
			t.Error("nonces:", link.nonces)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if left := m.deadline - jump.Now(); left != m.lease-ttl/10 {
			t.Error("left of the lease:", left)
		}
	})
}

// slowCreation answers creations after a time that passes while the process doesn't see it.
type slowCreation struct {
	instant
	answers chan time.Duration
	pass    func(time.Duration)
	nonces  []wire.UUID
}

func (l *slowCreation) Create(_ context.Context, c wire.CreateSession) (wire.SessionReply, error) {
	l.nonces = append(l.nonces, c.Nonce)
	l.pass(<-l.answers)
	return wire.SessionReply{Session: 1}, nil
}

func (l *slowCreation) Renew(_, _ uint64) error { return nil }

// slowRenewals doesn't answer renewals.
type slowRenewals struct{ manual }

func (l *slowRenewals) Renew(_, _ uint64) error { return nil }

// A process that sleeps through its deadline finds answers from before in its buffers when it wakes. None of them revives the
// session, and no grant of it is returned, whoever looks first.
func TestPause(t *testing.T) {
	for name, look := range map[string]func(m *Manager, link *slowRenewals, held *Grant, renewal uint64){
		"renewal": func(m *Manager, link *slowRenewals, _ *Grant, n uint64) { link.sink.Renewed(1, n, true) },
		"grant": func(m *Manager, link *slowRenewals, _ *Grant, n uint64) {
			link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutGranted, Seq: 2, Fence: 9}})
		},
		"done":    func(m *Manager, _ *slowRenewals, g *Grant, n uint64) { _ = isClosed(g.Done()) },
		"err":     func(m *Manager, _ *slowRenewals, g *Grant, n uint64) { _ = g.Err() },
		"ready":   func(m *Manager, _ *slowRenewals, _ *Grant, n uint64) { m.Ready() },
		"release": func(m *Manager, _ *slowRenewals, g *Grant, n uint64) { g.Release(bg) },
		"nobody":  func(m *Manager, _ *slowRenewals, _ *Grant, n uint64) { time.Sleep(m.ttl / 20); synctest.Wait() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				jump := newJumpy()
				link := &slowRenewals{manual: manual{instant: instant{done: make(chan struct{})}, sent: make(chan wire.Op, 64)}}
				cfg := instantConfig(link, &link.instant, ttl)
				cfg.Clock = jump
				m, err := Open(bg, cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				got := make(chan *Grant, 1)
				lock := func(key string) { got <- mustLock(t, m, key) }
				go lock("held")
				link.wait(t, wire.OpAcquire, 1)
				link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutGranted, Seq: 1, Fence: 8}})
				g := <-got
				go lock("asked")
				link.wait(t, wire.OpAcquire, 2)
				time.Sleep(ttl / 5)
				synctest.Wait()
				m.mu.Lock()
				n := m.attempt
				revived := m.attempts[0].sent + m.lease
				m.mu.Unlock()
				jump.jump(ttl * 65 / 100)
				if n != 1 || jump.Now() >= revived {
					t.Fatal("the renewal in the buffer would revive nothing anyway")
				}
				look(m, link, g, n)
				if rawErr(g) != lockerr.ErrSessionLost {
					t.Fatal("looked at after the deadline, and Done is open:", rawErr(g))
				}
				link.sink.Renewed(1, n, true)
				link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutGranted, Seq: 2, Fence: 9}})
				o := link.wait(t, wire.OpAcquire, 1) // under the next session
				if m.Losses() != 1 || o.Key != "asked" {
					t.Error("not queued again:", o, m.Losses())
				}
				select {
				case h := <-got:
					t.Errorf("fence %d of the lost session was returned", h.Fence())
				default:
				}
				link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutGranted, Seq: 1, Fence: 10}})
				if h := <-got; h.Fence() != 10 {
					t.Error("fence", h.Fence())
				}
			})
		})
	}
}

// The next session ends the one before at once: nobody waits for it to run out.
func TestNextSessionEndsThePrevious(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		jump := newJumpy()
		cfg := c.config("a", ttl)
		cfg.Clock = jump
		a, err := Open(bg, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		b := c.member("b", ttl)
		defer b.Close()
		for range 3 {
			g := mustLock(t, a, "k")
			jump.jump(ttl)
			began := time.Now()
			h := mustLock(t, b, "k")
			if d := time.Since(began); d > ttl/10 || rawErr(g) != lockerr.ErrSessionLost {
				t.Error("granted to the next after", d, "the former one is", rawErr(g))
			}
			h.Release(bg)
		}
	})
}

// The answer is here, the caller is about to wake, and the process is paused just then.
func TestPauseBetweenAnswerAndReturn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		jump := newJumpy()
		link := &slowRenewals{manual: manual{instant: instant{done: make(chan struct{})}, sent: make(chan wire.Op, 64)}}
		cfg := instantConfig(link, &link.instant, ttl)
		cfg.Clock = jump
		m, err := Open(bg, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		g := &Grant{m: m, key: "k"}
		m.mu.Lock()
		m.addLocked(g)
		m.enqueueLocked(g)
		m.mu.Unlock()
		link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutGranted, Seq: 1, Fence: 8}})
		jump.jump(ttl)
		if taken, _ := m.take(g); taken {
			t.Error("a grant was taken after the deadline")
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if g.state != waiting || g.fence != 0 {
			t.Error("state", g.state)
		}
	})
}

// A new leader hears of the session at once, not at the next renewal.
func TestNewLeaderIsToldAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a := c.member("a", 60*time.Second)
		defer a.Close()
		time.Sleep(time.Minute)
		c.depose(false)
		c.elect()
		time.Sleep(2 * leastPause)
		c.mu.Lock()
		defer c.mu.Unlock()
		if n := c.leases[a.Session()].renewals; n != 1 {
			t.Errorf("%d renewals", n)
		}
	})
}

// A leader that is silent is left for another before the deadline.
func TestSilentLeaderIsLeft(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a := c.member("a", ttl)
		defer a.Close()
		g := mustLock(t, a, "k")
		for i := range 20 {
			c.depose(true)
			if i%2 == 1 {
				time.Sleep(ttl / 4) // an election
			}
			c.elect()
			time.Sleep(ttl)
		}
		if g.Err() != nil || a.Losses() != 0 {
			t.Error("lost:", g.Err())
		}
		if err := g.Release(bg); err != nil {
			t.Error(err)
		}
	})
}

func TestNameTaken(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a := c.member("a", ttl)
		_, err := Open(bg, c.config("a", ttl))
		wantErr(t, err, lockerr.ErrNameTaken)
		if !strings.Contains(err.Error(), `"a"`) {
			t.Error(err)
		}
		g := mustLock(t, a, "k")
		a.Close() // as a crash: the session runs out
		began := time.Now()
		b := c.member("a", ttl)
		defer b.Close()
		if d := time.Since(began); d < ttl*2/3 || d > 2*ttl || a.Session() == b.Session() {
			t.Error("the name was free after", d)
		}
		wantErr(t, g.Release(bg), lockerr.ErrNotHeld, lockerr.ErrClosed)
		mustLock(t, b, "k")

		ctx, cancel := context.WithTimeout(bg, ttl/10)
		defer cancel()
		_, err = Open(ctx, c.config("a", ttl))
		wantErr(t, err, context.DeadlineExceeded)
		if errors.Is(err, lockerr.ErrNoQuorum) {
			t.Error("it is the name, not the quorum:", err)
		}
	})
}

func TestOpenWaits(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		defer c.close()
		open := func() error {
			ctx, cancel := context.WithTimeout(bg, time.Second)
			defer cancel()
			_, err := Open(ctx, c.config("a", ttl))
			return err
		}
		err := open()
		wantErr(t, err, context.DeadlineExceeded, lockerr.ErrNoQuorum)
		if !strings.Contains(err.Error(), "not opened") {
			t.Error("does not say what it waits for:", err)
		}
		c.depose(false)
		err = open()
		wantErr(t, err, context.DeadlineExceeded, lockerr.ErrNoQuorum)
		c.elect()
		time.AfterFunc(time.Second, func() { c.open() })
		began := time.Now()
		m := c.member("a", ttl)
		if d := time.Since(began); d > 1200*time.Millisecond {
			t.Error("opened after", d)
		}
		m.Close()
		if _, err := Open(bg, Config{}); !errors.Is(err, lockerr.ErrInvalid) {
			t.Error(err)
		}
	})
}

func TestLeaving(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", ttl)
		defer b.Close()
		g, h := mustLock(t, a, "k"), mustLock(t, a, "l")
		waits := make(chan error, 1)
		go func() {
			_, err := b.Acquire(bg, "k", false)
			waits <- err
		}()
		a.Refuse()
		_, err := a.Acquire(bg, "m", false)
		wantErr(t, err, lockerr.ErrLeaving)
		short, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		wantErr(t, a.Drain(short), context.DeadlineExceeded)
		drained := make(chan error, 1)
		go func() { drained <- a.Drain(bg) }()
		h.Release(bg)
		synctest.Wait()
		if len(drained) > 0 {
			t.Error("drained with a lock held")
		}
		began := time.Now()
		if err := a.CloseSession(bg); err != nil {
			t.Error(err)
		}
		if g.Err() != lockerr.ErrClosed || <-drained != nil {
			t.Error("closed:", g.Err())
		}
		if err := <-waits; err != nil || time.Since(began) > 0 {
			t.Error("the lock was not free at once:", err, time.Since(began))
		}
		a.Stop(lockerr.ErrClosed)
		a.Stop(nil)
		if err := a.CloseSession(bg); err != nil {
			t.Error(err)
		}
		_, err = a.Acquire(bg, "m", false)
		wantErr(t, err, lockerr.ErrClosed)
		wantErr(t, a.Force(bg, "m"), lockerr.ErrClosed)
		wantErr(t, g.Release(bg), lockerr.ErrNotHeld, lockerr.ErrClosed)
		if err := h.Release(bg); err != nil {
			t.Error("unlocked before:", err)
		}
		if a.Ready() || a.Session() != 0 || a.Held() != 0 {
			t.Error("stopped, but ready")
		}
	})
}

// Leaving without a leader: nothing hangs longer than asked for.
func TestLeavingWithoutLeader(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a := c.member("a", ttl)
		b := c.member("b", ttl)
		defer b.Close()
		mustLock(t, a, "k")
		c.depose(true)
		ctx, cancel := context.WithTimeout(bg, ttl/4)
		defer cancel()
		wantErr(t, a.CloseSession(ctx), context.DeadlineExceeded)
		c.elect() // it comes in time for another try
		if err := a.CloseSession(bg); err != nil {
			t.Error(err)
		}
		a.Stop(nil)

		c.depose(false)
		wantErr(t, b.CloseSession(bg), lockerr.ErrSessionLost) // it ran out meanwhile
		c.elect()
	})
}

func TestStop(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", ttl)
		defer b.Close()
		reason := errors.New("the disk is broken")
		mustLock(t, b, "theirs")
		g, released := mustLock(t, a, "k"), mustLock(t, a, "l")
		c.depose(true)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := a.Acquire(bg, "theirs", false)
			wantErr(t, err, lockerr.ErrClosed, reason)
		})
		wg.Go(func() { wantErr(t, released.Release(bg), lockerr.ErrClosed, reason, lockerr.ErrNotHeld) })
		wg.Go(func() { wantErr(t, a.Force(bg, "theirs"), lockerr.ErrClosed, reason) })
		synctest.Wait()
		began := time.Now()
		a.Stop(reason)
		if time.Since(began) > 0 {
			t.Error("Stop took", time.Since(began))
		}
		wantErr(t, g.Err(), lockerr.ErrClosed, reason)
		wg.Wait()
		_, err := a.Acquire(bg, "k", false)
		wantErr(t, err, lockerr.ErrClosed, reason)
		c.elect()
	})
}
