package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
)

const ttl = 2 * time.Second

var bg = context.Background()

// inBubble runs f in virtual time with a cluster that is open. The bubble itself fails the test when a goroutine is left.
func inBubble(t *testing.T, f func(t *testing.T, c *cluster)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		c := newCluster(t, 1).open()
		defer c.close()
		f(t, c)
	})
}

func mustLock(t testing.TB, m *Manager, key string) *Grant {
	t.Helper()
	g, err := m.Acquire(bg, key, false)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func wantErr(t testing.TB, err error, targets ...error) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that matches %v", targets)
	}
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("error %q does not match %q", err, target)
		}
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func TestLockAndUnlock(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", ttl)
		defer a.Close()
		defer b.Close()
		g := mustLock(t, a, "k")
		if g.Key() != "k" || g.Fence() == 0 || g.Err() != nil || isClosed(g.Done()) || a.Held() != 1 || !a.Ready() {
			t.Fatalf("a fresh grant: key %q, fence %d, err %v, held %d", g.Key(), g.Fence(), g.Err(), a.Held())
		}
		_, err := b.Acquire(bg, "k", true)
		wantErr(t, err, lockerr.ErrHeld)
		got := make(chan *Grant)
		go func() { got <- mustLock(t, b, "k") }()
		synctest.Wait()
		if err := g.Release(bg); err != nil {
			t.Fatal(err)
		}
		if !isClosed(g.Done()) || g.Err() != lockerr.ErrUnlocked {
			t.Error("Done of a released grant:", g.Err())
		}
		h := <-got
		if h.Fence() <= g.Fence() {
			t.Errorf("fence %d after %d", h.Fence(), g.Fence())
		}
		if err := g.Release(bg); err != nil {
			t.Error("second release:", err)
		}
		if err := h.Release(bg); err != nil {
			t.Fatal(err)
		}
		time.Sleep(ttl) // until the refusal above is forgotten, with a renewal
		if left := c.leftovers(); left != "" {
			t.Error("left over:", left)
		}
	})
}

func TestContextThatHasEndedSendsNothing(t *testing.T) {
	m, link := openInstant(t, ttl)
	ctx, cancel := context.WithCancel(bg)
	cancel()
	_, err := m.Acquire(ctx, "k", false)
	wantErr(t, err, context.Canceled)
	if errors.Is(err, lockerr.ErrNoQuorum) {
		t.Error("no quorum, with a leader:", err)
	}
	m.Close()
	if link.ops != 0 {
		t.Errorf("%d ops were sent", link.ops)
	}
}

func TestCancelLeavesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", ttl)
		defer a.Close()
		defer b.Close()
		g := mustLock(t, a, "k")
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		began := time.Now()
		_, err := b.Acquire(ctx, "k", false)
		wantErr(t, err, context.DeadlineExceeded)
		if errors.Is(err, lockerr.ErrNoQuorum) || time.Since(began) != time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		synctest.Wait()
		if left := c.leftovers(); strings.Contains(left, "1 waiters") {
			t.Error("left over:", left)
		}
		g.Release(bg)
	})
}

// Without a leader a wait that ends says so; one that began without a leader but waited for the holder most of the time does not.
func TestNoQuorumIsNamed(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a := c.member("a", 60*time.Second)
		defer a.Close()
		held := mustLock(t, a, "held")
		lock := func(key string, d time.Duration) error {
			ctx, cancel := context.WithTimeout(bg, d)
			defer cancel()
			_, err := a.Acquire(ctx, key, false)
			return err
		}
		c.depose(false)
		synctest.Wait()
		wantErr(t, lock("k", time.Second), context.DeadlineExceeded, lockerr.ErrNoQuorum)
		time.AfterFunc(time.Second, c.elect)
		if err := lock("held", 10*time.Second); errors.Is(err, lockerr.ErrNoQuorum) || !errors.Is(err, context.DeadlineExceeded) {
			t.Error("the leader was there for nine seconds of ten:", err)
		}
		// A leader that is silent is none.
		c.depose(true)
		a.mu.Lock()
		heard := a.deadline - a.lease
		a.mu.Unlock()
		time.Sleep(heard + a.ttl/4 - a.cfg.Clock.Now())
		if !a.Ready() {
			t.Fatal("the link was given up: this test looks at the time before")
		}
		wantErr(t, lock("k", time.Second), context.DeadlineExceeded, lockerr.ErrNoQuorum)
		c.elect()
		held.Release(bg)
	})
}

func TestRelease(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a := c.member("a", ttl)
		defer a.Close()
		g := mustLock(t, a, "k")
		c.depose(false)
		synctest.Wait()
		ended, cancel := context.WithCancel(bg)
		cancel()
		wantErr(t, g.Release(ended), context.Canceled)
		if !isClosed(g.Done()) || g.Err() != lockerr.ErrUnlocked {
			t.Error("Done must close even when ctx has ended:", g.Err())
		}
		// Any number may wait for the same release.
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				ctx := bg
				if i == 4 {
					var cancel func()
					ctx, cancel = context.WithTimeout(bg, 10*time.Millisecond)
					defer cancel()
				}
				err := g.Release(ctx)
				if i == 4 {
					wantErr(t, err, context.DeadlineExceeded)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(50 * time.Millisecond)
		c.elect()
		wg.Wait()
		if err := g.Release(ended); err != nil {
			t.Error("after a successful one:", err)
		}
		if left := c.leftovers(); left != "" {
			t.Error("left over:", left)
		}
	})
}

func TestReleaseOfLost(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a := c.member("a", ttl)
		defer a.Close()
		g, h := mustLock(t, a, "k"), mustLock(t, a, "l")
		c.depose(false)
		synctest.Wait()
		err := h.Release(bg) // in flight when the session is lost
		wantErr(t, err, lockerr.ErrNotHeld, lockerr.ErrSessionLost)
		wantErr(t, h.Release(bg), lockerr.ErrNotHeld, lockerr.ErrSessionLost)
		<-g.Done()
		wantErr(t, g.Release(bg), lockerr.ErrNotHeld, lockerr.ErrSessionLost, g.Err())
	})
}

func TestForce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", ttl)
		defer a.Close()
		defer b.Close()
		wantErr(t, b.Force(bg, "k"), lockerr.ErrNotHeld)
		g := mustLock(t, a, "k")
		c.mu.Lock()
		c.granting = func(string, uint64, uint64) {
			if rawErr(g) == nil {
				t.Error("granted to the next before the holder's Done was closed")
			}
		}
		c.mu.Unlock()
		next := make(chan *Grant)
		go func() { next <- mustLock(t, b, "k") }()
		synctest.Wait()
		if err := b.Force(bg, "k"); err != nil {
			t.Fatal(err)
		}
		if !isClosed(g.Done()) || g.Err() != lockerr.ErrForced {
			t.Error("forced:", g.Err())
		}
		wantErr(t, g.Release(bg), lockerr.ErrNotHeld, lockerr.ErrForced)
		h := <-next
		if err := b.Force(bg, "k"); err != nil { // its own
			t.Fatal(err)
		}
		wantErr(t, h.Release(bg), lockerr.ErrForced)
		time.Sleep(ttl)
		if left := c.leftovers(); left != "" {
			t.Error("left over:", left)
		}
	})
}

// rawErr is Err without the look at the clock that Err takes.
func rawErr(g *Grant) error {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	return g.err
}

// A force whose session was lost may have happened; one that could not be sent has not, and is sent under the next session.
func TestForceOfLostSession(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", 10*ttl)
		defer a.Close()
		defer b.Close()
		mustLock(t, b, "k")
		c.depose(true) // takes what is sent, and is silent
		unknown := make(chan error, 1)
		go func() { unknown <- a.Force(bg, "k") }()
		err := <-unknown
		wantErr(t, err, lockerr.ErrSessionLost)
		if !strings.Contains(err.Error(), "unknown") {
			t.Error("does not say that the outcome is unknown:", err)
		}
		c.elect()
		time.Sleep(ttl)
		c.depose(false) // nothing can be sent
		synctest.Wait()
		if a.Session() == 0 || a.Ready() {
			t.Fatal("want a session without a link")
		}
		mustLose := a.Losses() + 1
		waits := make(chan error, 1)
		go func() { waits <- a.Force(bg, "k") }()
		time.Sleep(ttl)
		if a.Losses() != mustLose {
			t.Fatal("the session was not lost")
		}
		h := make(chan *Grant, 1)
		go func() { h <- mustLock(t, b, "k") }()
		c.elect()
		if err := <-waits; err != nil && !errors.Is(err, lockerr.ErrNotHeld) {
			t.Error(err)
		}
		<-h
	})
}

// Forced before its caller saw the grant: for the caller it has just waited, and goes on.
func TestForcedBeforeTaken(t *testing.T) {
	m, link := openManual(t)
	got := make(chan *Grant, 1)
	go func() { got <- mustLock(t, m, "k") }()
	link.wait(t, wire.OpAcquire, 1)
	link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutRevoked, Seq: 1, Code: wire.CodeForced}})
	link.wait(t, wire.OpConfirm, 1)
	link.wait(t, wire.OpFinish, 1)
	link.wait(t, wire.OpAcquire, 2)
	link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutGranted, Seq: 1, Fence: 7}, {Kind: wire.OutEnded, Seq: 1}, {Kind: wire.OutGranted, Seq: 2, Fence: 9}})
	if g := <-got; g.Fence() != 9 {
		t.Error("fence", g.Fence())
	}
}

// A grant that nobody waits for is ended, and so is a revocation of what nobody has; nothing else makes work.
func TestStrangers(t *testing.T) {
	m, link := openManual(t)
	m.mu.Lock()
	m.next = 10
	m.mu.Unlock()
	link.sink.Outcomes(2, []wire.Outcome{{Kind: wire.OutGranted, Seq: 4, Fence: 1}}) // of another session
	for _, k := range []wire.OutcomeKind{wire.OutEnded, wire.OutFailed, wire.OutSettled} {
		link.sink.Outcomes(1, []wire.Outcome{{Kind: k, Seq: 5}})
	}
	link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutGranted, Seq: 10, Fence: 1}, {Kind: wire.OutGranted, Seq: 0}}) // never asked for
	for range 2 {
		link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutGranted, Seq: 6, Fence: 1}})
		link.wait(t, wire.OpFinish, 6)
		link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutEnded, Seq: 6}, {Kind: wire.OutRevoked, Seq: 7}})
		link.wait(t, wire.OpConfirm, 7)
		link.wait(t, wire.OpFinish, 7)
		link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutEnded, Seq: 7}})
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.reqs) != 0 {
		t.Error("requests left:", m.reqs)
	}
}

func TestFailures(t *testing.T) {
	m, link := openManual(t)
	for code, want := range map[wire.Code]error{
		wire.CodeHeld: lockerr.ErrHeld, wire.CodeLimit: lockerr.ErrLimit, wire.CodeInvalid: lockerr.ErrInvalid, wire.CodeNotHeld: lockerr.ErrNotHeld,
	} {
		failed := make(chan error, 1)
		go func() {
			_, err := m.Acquire(bg, "key", true)
			failed <- err
		}()
		o := link.wait(t, wire.OpAcquire, 0)
		if !o.Try || o.Key != "key" {
			t.Error("sent:", o)
		}
		link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutFailed, Seq: o.Seq, Code: code, Text: "the reason"}})
		err := <-failed
		wantErr(t, err, want)
		if !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), `"key"`) {
			t.Error(err)
		}
	}
}

// As many calls as may wait do, one more is told so at once, and locks that are held don't count.
func TestPendingIsBounded(t *testing.T) {
	const most = 3
	link := &manual{instant: instant{done: make(chan struct{})}, sent: make(chan wire.Op, 64)}
	cfg := instantConfig(link, &link.instant, time.Minute)
	cfg.MaxPending = most
	m, err := Open(bg, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	took := make(chan error, 2*most)
	lock := func() wire.Op {
		go func() {
			_, err := m.Acquire(bg, "k", false)
			took <- err
		}()
		return link.wait(t, wire.OpAcquire, 0)
	}
	refused := func() {
		t.Helper()
		_, err := m.Acquire(bg, "k", false)
		wantErr(t, err, lockerr.ErrLimit)
		if !strings.Contains(err.Error(), "3 calls of this process wait for an answer (Config.MaxPending)") {
			t.Error("does not name the bound:", err)
		}
	}
	var asked []wire.Op
	for range most {
		asked = append(asked, lock())
	}
	refused()
	for i, o := range asked {
		link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutGranted, Seq: o.Seq, Fence: uint64(i + 1)}})
		if err := <-took; err != nil {
			t.Fatal(err)
		}
	}
	for range most { // beside those that are held
		lock()
	}
	refused()
}

// A detached lock whose time is up is nobody's call: the leader ends it later, by its own clock, and the process needn't hear of it.
func TestPendingIsBoundedBesideDetached(t *testing.T) {
	const most = 3
	inBubble(t, func(t *testing.T, c *cluster) {
		cfg := c.config("a", ttl)
		cfg.MaxPending = most
		a, err := Open(bg, cfg)
		if err != nil {
			t.Fatal(err)
		}
		b := c.member("b", 100*ttl)
		defer a.Close()
		defer b.Close()
		for _, session := range []bool{true, false} {
			var detached []*Grant
			for i := range most {
				detached = append(detached, ask(t, a, detach(10*ttl, of(fmt.Sprint("k", i)))))
			}
			back := func() {}
			time.Sleep(7 * ttl)
			if !session {
				back = c.cutOff(a)
			}
			time.Sleep(2 * ttl)
			for _, g := range detached {
				if g.Err() != lockerr.ErrExpired {
					t.Fatal(g.Err())
				}
			}
			short, cancel := context.WithTimeout(bg, ttl/10)
			if g, err := a.Acquire(short, "free", false); session && err == nil {
				g.Release(bg)
			} else if session || !errors.Is(err, context.DeadlineExceeded) {
				t.Error(session, err)
			}
			cancel()
			if _, err := b.Acquire(bg, "k0", true); !errors.Is(err, lockerr.ErrHeld) {
				t.Error("the leader's time is not up:", err)
			}
			began := time.Now()
			if err := b.Force(bg, "k0"); err != nil || time.Since(began) > ttl/10 { // the process confirms what it has forgotten
				t.Error("force:", err, time.Since(began))
			}
			back()
			mustLock(t, b, "k1").Release(bg)
			mustLock(t, b, "k2").Release(bg)
		}
		wantNothingLeft(t, c, a, b)
	})
}

func TestPendingByDefault(t *testing.T) {
	m, _ := openManual(t)
	if m.cfg.MaxPending != MaxOutstanding {
		t.Error(m.cfg.MaxPending)
	}
}

// Go's maps keep what they once needed.
func TestMemoryOfManyRequestsIsGivenBack(t *testing.T) {
	m, _ := openManual(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	for range smallPeak + 1 {
		m.addLocked(&Grant{m: m, state: finishing})
	}
	for _, g := range m.reqs {
		m.finishedLocked(g, nil)
	}
	if m.peak != 0 || len(m.reqs) != 0 {
		t.Error("the map's memory is kept")
	}
}

// The refusals that a session has heard are forgotten by the leader, also when the word of it was lost.
func TestForgets(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", ttl)
		defer a.Close()
		defer b.Close()
		mustLock(t, a, "k")
		for i := range 30 {
			if _, err := b.Acquire(bg, "k", true); !errors.Is(err, lockerr.ErrHeld) {
				t.Fatal(err)
			}
			if i%10 == 9 {
				b.mu.Lock()
				b.flushForgetsLocked() // sent, but the link ends with it
				b.mu.Unlock()
				c.depose(false)
				c.elect()
			}
		}
		time.Sleep(ttl)
		s, _ := c.fsm.Session(b.Session())
		if s.Requests != 0 {
			t.Errorf("%d refusals are remembered", s.Requests)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.forget)+len(b.forgot) != 0 {
			t.Errorf("%d and %d forgets are kept", len(b.forget), len(b.forgot))
		}
	})
}

// manual is a link whose answers the test gives.
type manual struct {
	instant
	sent chan wire.Op
}

func (l *manual) Submit(_ uint64, ops []wire.Op) error {
	for _, o := range ops {
		l.sent <- o
	}
	return nil
}

func openManual(t *testing.T) (*Manager, *manual) {
	link := &manual{instant: instant{done: make(chan struct{})}, sent: make(chan wire.Op, 64)}
	m, err := Open(bg, instantConfig(link, &link.instant, time.Minute)) // real time: a busy machine must not lose it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m, link
}

// wait returns the next op but forgets, which must be of that kind, and of seq unless that is 0.
func (l *manual) wait(t *testing.T, kind wire.OpKind, seq uint64) wire.Op {
	t.Helper()
	for o := range l.sent {
		if o.Kind == wire.OpForget {
			continue
		}
		if o.Kind != kind || seq != 0 && o.Seq != seq {
			t.Fatalf("sent %+v, want kind %d of %d", o, kind, seq)
		}
		return o
	}
	panic("unreachable")
}

// What is withdrawn while there is no session was never asked for: it leaves no gap in the numbers of the next.
func TestWithdrawnWithoutSession(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a := c.member("a", ttl)
		defer a.Close()
		c.depose(false)
		time.Sleep(ttl)
		ctx, cancel := context.WithCancel(bg)
		for range 5 {
			go a.Acquire(ctx, "k", false)
		}
		synctest.Wait()
		got := make(chan *Grant, 1)
		go func() { got <- mustLock(t, a, "k") }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		c.elect()
		g := <-got
		if g.seq != 1 || a.Losses() != 1 {
			t.Errorf("number %d, %d sessions lost", g.seq, a.Losses())
		}
	})
}

// Waiters go on under the next session in the order in which they came.
func TestQueuedAgainInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", 20*ttl)
		defer a.Close()
		defer b.Close()
		held := mustLock(t, b, "k")
		const n = 50
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				ctx := bg
				if i%5 == 4 { // these end meanwhile
					var cancel func()
					ctx, cancel = context.WithTimeout(bg, 2*ttl)
					defer cancel()
				}
				g, err := a.Acquire(ctx, "k", false)
				if i%5 == 4 {
					wantErr(t, err, context.DeadlineExceeded)
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				if err := g.Release(bg); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		c.depose(true)
		time.Sleep(3 * ttl)
		c.elect()
		time.Sleep(ttl)
		if a.Losses() != 1 {
			t.Errorf("%d sessions were lost, want 1", a.Losses())
		}
		if err := held.Release(bg); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if !slices.IsSorted(order) || len(order) != n-n/5 {
			t.Error("order:", order)
		}
		if left := c.leftovers(); left != "" {
			t.Error("left over:", left)
		}
	})
}
