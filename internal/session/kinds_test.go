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

	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
)

func ask(t testing.TB, m *Manager, r Request) *Grant {
	t.Helper()
	g, err := m.Lock(bg, r)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func of(keys ...string) Request { return Request{Keys: keys} }

func shared(keys ...string) Request { return Request{Keys: keys, Mode: wire.Shared} }

func units(n, limit uint32, keys ...string) Request {
	return Request{Keys: keys, Mode: wire.Units, Limit: limit, Weight: n}
}

func try(r Request) Request {
	r.Try = true
	return r
}

func by(o *Owner, r Request) Request {
	r.Owner = o
	return r
}

func wantNothingLeft(t testing.TB, c *cluster, members ...*Manager) {
	t.Helper()
	time.Sleep(2 * ttl) // until refusals are forgotten, with a renewal
	if left := c.leftovers(); left != "" {
		t.Error("left over:", left)
	}
	for _, m := range members {
		m.mu.Lock()
		if len(m.reqs) != 0 || m.held != 0 || m.leaving != 0 || m.detached != 0 || len(m.times) != 0 {
			t.Errorf("%d requests are left, %d held, %d detached, %d releases, %d times", len(m.reqs), m.held, m.detached, m.leaving, len(m.times))
		}
		m.mu.Unlock()
	}
}

func TestKinds(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", ttl)
		defer a.Close()
		defer b.Close()
		release := func(gs ...*Grant) {
			t.Helper()
			for _, g := range gs {
				if err := g.Release(bg); err != nil || g.Err() != lockerr.ErrUnlocked {
					t.Error(err, g.Err())
				}
			}
		}
		held := func(m *Manager, r Request) {
			t.Helper()
			_, err := m.Lock(bg, try(r))
			wantErr(t, err, lockerr.ErrHeld)
		}

		g, h := ask(t, a, shared("k")), ask(t, b, shared("k"))
		if g.Fence() == h.Fence() || g.Mode() != wire.Shared {
			t.Error("two shared grants:", g.Fence(), h.Fence(), g.Mode())
		}
		held(b, of("k"))
		release(g, h)

		g, h = ask(t, a, units(2, 3, "s")), ask(t, a, units(1, 3, "s"))
		held(b, units(1, 3, "s"))
		_, err := b.Lock(bg, units(1, 4, "s"))
		wantErr(t, err, lockerr.ErrInvalid)
		_, err = b.Lock(bg, of("s"))
		wantErr(t, err, lockerr.ErrInvalid)
		wantErr(t, g.Downgrade(bg), lockerr.ErrInvalid)
		release(g, h)

		g = ask(t, a, of("x", "y", "z"))
		if !slices.Equal(g.Keys(), []string{"x", "y", "z"}) || g.Key() != "x" {
			t.Error("keys:", g.Keys())
		}
		_, err = b.Lock(bg, try(of("w", "y")))
		wantErr(t, err, lockerr.ErrHeld)
		if !strings.Contains(err.Error(), `"w" and 1 more`) {
			t.Error(err)
		}
		held(b, of("z"))
		release(g)

		valued := of("v")
		valued.Value, valued.Where = []byte("hello"), "main.go:7"
		g = ask(t, a, valued)
		if i, ok := c.fsm.View().Grant("v", 0); !ok || string(i.Value) != "hello" || i.Where != "main.go:7" {
			t.Errorf("value: %+v", i)
		}
		release(g)
		wantNothingLeft(t, c, a, b)
	})
}

// What the state machine would not read is not sent: it would end the link, again and again.
func TestNonsenseIsNotSent(t *testing.T) {
	m, link := openInstant(t, ttl)
	long := strings.Repeat("k", wire.MaxKey+1)
	many := make([]string, wire.MaxKeys+1)
	for i := range many {
		many[i] = fmt.Sprintf("%03d", i)
	}
	for _, r := range []struct {
		Request
		want error
	}{
		{of(), lockerr.ErrInvalid},
		{of(""), lockerr.ErrInvalid},
		{of("b", "a"), lockerr.ErrInvalid},
		{of("a", "a"), lockerr.ErrInvalid},
		{of(long), lockerr.ErrLimit},
		{of(many...), lockerr.ErrLimit},
		{Request{Keys: []string{"k"}, Mode: 3}, lockerr.ErrInvalid},
		{Request{Keys: []string{"k"}, Limit: 1}, lockerr.ErrInvalid},
		{units(2, 1, "k"), lockerr.ErrInvalid},
		{units(0, 1, "k"), lockerr.ErrInvalid},
		{Request{Keys: []string{"k"}, TTL: -1}, lockerr.ErrInvalid},
		{Request{Keys: []string{"k"}, Cooldown: 31 * 24 * time.Hour}, lockerr.ErrLimit},
		{Request{Keys: []string{"k"}, Value: make([]byte, wire.MaxValue+1)}, lockerr.ErrLimit},
		{Request{Keys: []string{"k"}, Where: strings.Repeat("w", wire.MaxWhere+1)}, lockerr.ErrLimit},
	} {
		_, err := m.Lock(bg, r.Request)
		wantErr(t, err, r.want)
	}
	m.Close()
	if link.ops != 0 {
		t.Errorf("%d ops were sent", link.ops)
	}
}

func TestTTL(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, jump := c.jumpyMember("a", 10*ttl)
		b := c.member("b", 10*ttl)
		defer a.Close()
		defer b.Close()
		r := of("k")
		r.TTL, r.Cooldown = time.Second, time.Second
		g := ask(t, a, r)
		began := time.Now()
		c.mu.Lock()
		c.granting = func(string, uint64, uint64) {
			if rawErr(g) == nil {
				t.Error("granted to the next before Done was closed")
			}
		}
		c.mu.Unlock()
		next := make(chan *Grant)
		go func() { next <- mustLock(t, b, "k") }()
		<-g.Done()
		if d := time.Since(began); d != time.Second || g.Err() != lockerr.ErrExpired {
			t.Error("expired after", d, g.Err())
		}
		wantErr(t, g.Release(bg), lockerr.ErrNotHeld, lockerr.ErrExpired)
		wantErr(t, g.Extend(bg, time.Second), lockerr.ErrNotHeld, lockerr.ErrExpired)
		wantErr(t, g.Downgrade(bg), lockerr.ErrNotHeld, lockerr.ErrExpired)
		h := <-next
		if d := time.Since(began); d < 2*time.Second || d > 2*time.Second+50*time.Millisecond {
			t.Error("the cooldown does not run: granted after", d)
		}
		if n := c.fsm.View().Counters().Expirations; n != 1 {
			t.Errorf("%d expirations", n)
		}
		h.Release(bg)

		// Extended, with a time from the first moment and without one. Shorter, too.
		for _, d := range []time.Duration{0, time.Second} {
			r := of("e")
			r.TTL = d
			g := ask(t, a, r)
			began := time.Now()
			for range 3 {
				time.Sleep(time.Second / 2)
				if err := g.Extend(bg, time.Second); err != nil {
					t.Fatal(err)
				}
			}
			if err := g.Extend(bg, time.Second/10); err != nil {
				t.Fatal(err)
			}
			<-g.Done()
			if d := time.Since(began); d != 1600*time.Millisecond {
				t.Error("expired after", d)
			}
		}
		wantErr(t, g.Extend(bg, 0), lockerr.ErrInvalid)
		wantErr(t, g.Extend(bg, -1), lockerr.ErrInvalid)
		wantErr(t, g.Extend(bg, 31*24*time.Hour), lockerr.ErrLimit)

		// After a pause, whoever looks first sees it.
		for name, look := range map[string]func(g *Grant) error{
			"err":     (*Grant).Err,
			"done":    func(g *Grant) error { _ = isClosed(g.Done()); return rawErr(g) },
			"release": func(g *Grant) error { return g.Release(bg) },
			"extend":  func(g *Grant) error { return g.Extend(bg, time.Hour) },
			"down":    func(g *Grant) error { return g.Downgrade(bg) },
			"nobody":  func(g *Grant) error { time.Sleep(a.ttl / 20); return rawErr(g) },
		} {
			r := of(name)
			r.TTL = time.Second
			g := ask(t, a, r)
			jump.jump(time.Second)
			if err := look(g); !errors.Is(err, lockerr.ErrExpired) {
				t.Errorf("%s: %v", name, err)
			}
		}
		wantNothingLeft(t, c, a, b)
	})
}

// An expiry that could not be told is told on the next link, and dropped with the session.
func TestExpiryWithoutLeader(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a := c.member("a", ttl)
		defer a.Close()
		r := of("k")
		r.TTL = ttl / 4
		for _, lose := range []bool{false, true} {
			g := ask(t, a, r)
			c.depose(false)
			<-g.Done()
			if lose {
				time.Sleep(ttl)
			}
			c.elect()
			wantErr(t, g.Err(), lockerr.ErrExpired)
			mustLock(t, a, "k").Release(bg)
		}
		if a.Losses() != 1 {
			t.Error("losses:", a.Losses())
		}
		wantNothingLeft(t, c, a)
	})
}

// Many times at once: each ends when it should, whatever the order in which they were set.
func TestManyTimes(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a := c.member("a", 60*time.Second)
		defer a.Close()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				d := time.Duration(1+(i*37)%100) * 100 * time.Millisecond
				r := of(fmt.Sprint(i))
				r.TTL = d
				g := ask(t, a, r)
				began := time.Now()
				switch i % 4 {
				case 1:
					g.Extend(bg, d/2)
					d /= 2
				case 2:
					g.Extend(bg, 2*d)
					d *= 2
				case 3:
					g.Release(bg)
					d = 0
				}
				<-g.Done()
				if got := time.Since(began); got != d {
					t.Errorf("%d: closed after %s, want %s", i, got, d)
				}
			})
		}
		wg.Wait()
		wantNothingLeft(t, c, a)
	})
}

func TestDowngrade(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("a", ttl), c.member("b", ttl)
		defer a.Close()
		defer b.Close()
		g := mustLock(t, a, "k")
		fence := g.Fence()
		waits := make(chan *Grant, 1)
		go func() { waits <- ask(t, b, shared("k")) }()
		synctest.Wait()
		c.depose(false) // it goes on when there is a leader again
		short, cancel := context.WithTimeout(bg, time.Millisecond)
		defer cancel()
		wantErr(t, g.Downgrade(short), context.DeadlineExceeded, lockerr.ErrNoQuorum)
		if g.Mode() != wire.Exclusive {
			t.Error("not yet")
		}
		c.elect()
		for range 2 {
			if err := g.Downgrade(bg); err != nil {
				t.Fatal(err)
			}
		}
		h := <-waits
		if g.Mode() != wire.Shared || g.Fence() != fence || g.Err() != nil {
			t.Error("downgraded:", g.Mode(), g.Fence(), g.Err())
		}
		h.Release(bg)
		g.Release(bg)
		wantErr(t, mustLose(t, a, b).Downgrade(bg), lockerr.ErrNotHeld, lockerr.ErrForced)
		wantNothingLeft(t, c, a, b)
	})
}

// While a process of the cluster is too old for it the leader refuses, and the grant goes on as it was.
func TestDowngradeThatIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a := c.member("a", ttl)
		defer a.Close()
		g := mustLock(t, a, "k")
		c.depose(false) // so that the order is not carried out
		refused := make(chan error, 1)
		go func() { refused <- g.Downgrade(bg) }() // ends with the answer below
		synctest.Wait()
		(&sink{m: a}).Outcomes(a.Session(), []wire.Outcome{{Kind: wire.OutFailed, Seq: g.seq, Code: wire.CodeUnsupported, Text: "web-2 is old"}})
		wantErr(t, <-refused, errors.ErrUnsupported)
		if g.Mode() != wire.Exclusive || g.Err() != nil {
			t.Error("refused:", g.Mode(), g.Err())
		}
		c.elect()
		if err := g.Downgrade(bg); err != nil { // it may be asked for again
			t.Fatal(err)
		}
		g.Release(bg)
		wantNothingLeft(t, c, a)
	})
}

// mustLose is a grant of a that b has forced.
func mustLose(t *testing.T, a, b *Manager) *Grant {
	t.Helper()
	g := mustLock(t, a, "forced")
	if err := b.Force(bg, "forced"); err != nil {
		t.Fatal(err)
	}
	return g
}

// Who waits for whom is seen by owners, before and after the loss of a session, which gives them new numbers.
func TestOwners(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a := c.member("a", ttl)
		defer a.Close()
		for range 2 {
			g := mustLock(t, a, "k")
			o := g.Owner()
			_, err := a.Lock(bg, by(o, of("k")))
			wantErr(t, err, lockerr.ErrDeadlock)
			_, err = a.Lock(bg, try(by(o, of("k"))))
			wantErr(t, err, lockerr.ErrHeld)
			// Two owners in a circle; the first began with a request of its own.
			p := &Owner{}
			h := ask(t, a, by(p, of("l")))
			if h.Owner() != p {
				t.Error("another owner")
			}
			got := make(chan *Grant, 1)
			go func() { got <- ask(t, a, by(p, of("k"))) }()
			synctest.Wait()
			_, err = a.Lock(bg, by(o, of("l")))
			wantErr(t, err, lockerr.ErrDeadlock)
			if err := g.Release(bg); err != nil {
				t.Fatal(err)
			}
			i := <-got
			_, err = a.Lock(bg, by(p, of("l")))
			wantErr(t, err, lockerr.ErrDeadlock)
			i.Release(bg)
			h.Release(bg)
			// Waits of an owner are queued again under its new number, and what it held is gone.
			theirs := mustLock(t, a, "theirs")
			_ = theirs
			held := ask(t, a, by(p, of("m")))
			go func() { got <- ask(t, a, by(p, of("theirs"))) }()
			synctest.Wait()
			c.depose(false)
			<-held.Done()
			c.elect()
			i = <-got
			for _, r := range []Request{of("theirs"), shared("theirs")} {
				_, err = a.Lock(bg, by(p, r))
				wantErr(t, err, lockerr.ErrDeadlock)
			}
			i.Release(bg)
			if err := ask(t, a, by(o, of("k"))).Release(bg); err != nil {
				t.Error(err)
			}
		}
		wantNothingLeft(t, c, a)
	})
}

// A wait that ends says for whom it waited.
func TestWaitNamesTheHolder(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.member("web-1", ttl), c.member("b", ttl)
		defer a.Close()
		mustLock(t, a, "k")
		mustLock(t, a, "y")
		for _, r := range []Request{of("k"), shared("k"), of("x", "y")} {
			ctx, cancel := context.WithTimeout(bg, 10*time.Millisecond)
			_, err := b.Lock(ctx, r)
			cancel()
			wantErr(t, err, context.DeadlineExceeded)
			for _, part := range []string{`held by "web-1" (fence `, "0 waiting before", "since 19"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v lacks %q", err, part)
				}
			}
		}
		closed := make(chan error, 1)
		go func() {
			_, err := b.Acquire(bg, "k", false)
			closed <- err
		}()
		synctest.Wait()
		b.Close()
		err := <-closed
		wantErr(t, err, lockerr.ErrClosed)
		if !strings.Contains(err.Error(), `held by "web-1"`) {
			t.Error(err)
		}
	})
}

func TestRefusalsOfKinds(t *testing.T) {
	m, link := openManual(t)
	for code, want := range map[wire.Code]error{wire.CodeDeadlock: lockerr.ErrDeadlock, wire.CodeUnsupported: errors.ErrUnsupported} {
		failed := make(chan error, 1)
		go func() {
			_, err := m.Lock(bg, shared("key"))
			failed <- err
		}()
		o := link.wait(t, wire.OpRequest, 0)
		link.sink.Outcomes(1, []wire.Outcome{{Kind: wire.OutFailed, Seq: o.Seq, Code: code, Text: "the reason"}})
		err := <-failed
		wantErr(t, err, want)
		if !strings.Contains(err.Error(), "the reason") {
			t.Error(err)
		}
	}
}

// What is plain goes as it always did.
func TestPlainIsAcquire(t *testing.T) {
	m, link := openManual(t)
	go m.Lock(bg, of("k"))
	link.wait(t, wire.OpAcquire, 1)
	o := &Owner{}
	go m.Lock(bg, by(o, of("k")))
	link.wait(t, wire.OpAcquire, 2)
	go m.Lock(bg, by(o, of("k")))
	if op := link.wait(t, wire.OpRequest, 3); op.Ask.Owner != 2 {
		t.Errorf("owner %d", op.Ask.Owner)
	}
}

// No message is larger than a frame.
func TestPartsAreBounded(t *testing.T) {
	big := &wire.Ask{Value: make([]byte, wire.MaxValue)}
	for i := range wire.MaxKeys {
		big.Keys = append(big.Keys, fmt.Sprintf("%03d", i)+strings.Repeat("k", wire.MaxKey-3))
	}
	var ops []wire.Op
	for i := range 3 * wire.MaxOps {
		o := wire.Op{Kind: wire.OpFinish, Seq: uint64(i + 1)}
		if i%7 == 0 && i < wire.MaxOps {
			o.Kind, o.Ask = wire.OpRequest, big
		}
		ops = append(ops, o)
	}
	n, count := uint64(0), 0
	for part := range parts(ops) {
		count++
		w := wire.NewWriter()
		wire.EncodeOps(w, part)
		if w.Len() > maxMessage || len(part) > wire.MaxOps || len(part) == 0 {
			t.Errorf("a part of %d ops and %d bytes", len(part), w.Len())
		}
		for _, o := range part {
			if n++; o.Seq != n {
				t.Fatalf("op %d in place %d", o.Seq, n)
			}
		}
	}
	if int(n) != len(ops) || count > 60 {
		t.Errorf("%d ops of %d in %d parts", n, len(ops), count)
	}
}
