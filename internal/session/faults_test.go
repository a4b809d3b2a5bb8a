package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/lockerr"
)

// Every message of a session's life is lost once, and after it any of the ones that mend that: each lock is granted once, each call
// answers as if nothing had happened, and nothing is left.
func TestEveryMessageIsLostOnce(t *testing.T) {
	const steps = 40 // more than the scenario has
	broke := 0
	for first := 1; first <= steps; first++ {
		for _, second := range []int{0, 1, 2, 3, 4, 5, 6} {
			if t.Failed() {
				return
			}
			t.Run(fmt.Sprintf("%d-%d", first, second), func(t *testing.T) {
				inBubble(t, func(t *testing.T, c *cluster) {
					b := c.member("b", 10*ttl)
					defer b.Close()
					c.mu.Lock()
					c.cuts = []int{first, second}
					c.mu.Unlock()
					began := time.Now()
					a := c.member("a", ttl)
					defer a.Close()
					if d := time.Since(began); d > ttl/4 {
						t.Error("the creation that was sent again did not meet its copy: it took", d)
					}
					allOfIt(t, c, a, b)
					c.mu.Lock()
					broke += 2 - len(c.cuts)
					c.mu.Unlock()
				})
			})
		}
	}
	if broke < steps {
		t.Errorf("only %d links broke: this test proves nothing", broke)
	}
}

// allOfIt takes a through all that a session does.
func allOfIt(t *testing.T, c *cluster, a, b *Manager) {
	theirs := mustLock(t, b, "theirs")
	g := mustLock(t, a, "k")
	if _, err := a.Acquire(bg, "theirs", true); !errors.Is(err, lockerr.ErrHeld) {
		t.Error("try:", err)
	}
	short, cancel := context.WithTimeout(bg, 100*time.Millisecond)
	defer cancel()
	if _, err := a.Acquire(short, "theirs", false); !errors.Is(err, context.DeadlineExceeded) {
		t.Error("wait:", err)
	}
	if err := a.Force(bg, "nobody's"); !errors.Is(err, lockerr.ErrNotHeld) {
		t.Error("force of nothing:", err)
	}
	if err := a.Force(bg, "theirs"); err != nil || rawErr(theirs) != lockerr.ErrForced {
		t.Error("force:", err, rawErr(theirs))
	}
	if err := b.Force(bg, "k"); err != nil || rawErr(g) != lockerr.ErrForced {
		t.Error("forced:", err, rawErr(g))
	}
	h := mustLock(t, b, "k")
	got := make(chan *Grant)
	go func() { got <- mustLock(t, a, "k") }()
	time.Sleep(10 * time.Millisecond)
	if err := h.Release(bg); err != nil {
		t.Error(err)
	}
	i := <-got
	if h.Fence() <= g.Fence() || i.Fence() <= h.Fence() {
		t.Error("fences:", g.Fence(), h.Fence(), i.Fence())
	}
	if err := i.Release(bg); err != nil {
		t.Error(err)
	}
	time.Sleep(2 * ttl)
	if left := c.leftovers(); left != "" {
		t.Error("left over:", left)
	}
	if n := c.granted(); n != 4 {
		t.Errorf("%d grants, want 4", n)
	}
	if err := a.CloseSession(bg); err != nil {
		t.Error(err)
	}
	if a.Losses()+b.Losses() > 0 {
		t.Error("a session was lost")
	}
}

// Cancels race grants: whoever wins, no grant is left that nobody has, and each that was given was given once.
func TestCancelAgainstGrant(t *testing.T) {
	rounds := 100_000
	if raceEnabled {
		rounds = 20_000 // 5 to 10 times slower
	}
	seed := rand.Uint64()
	t.Log("seed", seed)
	c := newCluster(t, seed).open()
	defer c.close()
	const callers, keys = 32, 24
	var won, lost atomic.Int64
	var mu sync.Mutex
	latest := map[string]uint64{}
	var wg sync.WaitGroup
	members := []*Manager{c.member("a", time.Minute), c.member("b", time.Minute)}
	for n := range callers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(n)))
			cancels := make(chan context.CancelFunc)
			defer close(cancels)
			wg.Go(func() { // ends with cancels
				rng := rand.New(rand.NewPCG(seed, uint64(n+callers)))
				for cancel := range cancels {
					for range rng.IntN(8) {
						runtime.Gosched()
					}
					cancel()
				}
			})
			for range rounds / callers {
				ctx, cancel := context.WithCancel(bg)
				key := fmt.Sprint("k", rng.IntN(keys))
				cancels <- cancel
				g, err := members[rng.IntN(2)].Acquire(ctx, key, false)
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					lost.Add(1)
					continue
				}
				won.Add(1)
				mu.Lock()
				if g.Fence() <= latest[key] {
					t.Errorf("fence %d of %s after %d", g.Fence(), key, latest[key])
				}
				latest[key] = g.Fence()
				mu.Unlock()
				if err := g.Release(bg); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, m := range members { // all finishes are answered once this is: it comes after them
		for i := range keys {
			if err := mustLock(t, m, fmt.Sprint("k", i)).Release(bg); err != nil {
				t.Error(err)
			}
		}
		m.mu.Lock()
		if len(m.reqs) != 0 {
			t.Errorf("%d requests are left", len(m.reqs))
		}
		m.mu.Unlock()
	}
	if left := c.leftovers(); left != "" {
		t.Error("left over:", left)
	}
	t.Logf("%d locks won, %d cancels won; the state machine granted %d", won.Load(), lost.Load(), c.granted())
	if won.Load() == 0 || lost.Load() == 0 {
		t.Error("no race at all")
	}
	for _, m := range members {
		m.Close()
	}
}

// Everything at once, in virtual time: links that delay, double, break and hang, leaders that change, processes that jump ahead in
// time. Whatever happens, a key is never granted while its last holder's Done is open, fences rise, and in the end nothing is left.
func TestChaos(t *testing.T) {
	seeds := 12
	if raceEnabled {
		seeds = 6
	}
	base := rand.Uint64()
	if s := os.Getenv("DISTLOCK_SEED"); s != "" { // run one again
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		base, seeds = n, 1
	}
	for i := range seeds {
		seed := base + uint64(i)
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) { chaos(t, seed) })
		})
	}
}

func chaos(t *testing.T, seed uint64) {
	const (
		members = 4
		callers = 6
		keys    = 5
		length  = 60 * time.Second
	)
	rng := rand.New(rand.NewPCG(seed, 0))
	c := newCluster(t, seed).open()
	defer c.close()
	var mu sync.Mutex
	holders := map[string]*Grant{}
	fences := map[string]uint64{}
	c.mu.Lock()
	c.granting = func(key string, _, fence uint64) {
		mu.Lock()
		defer mu.Unlock()
		if g := holders[key]; g != nil && rawErr(g) == nil {
			t.Errorf("seed %d: %s was granted with fence %d while the Done of fence %d is open", seed, key, fence, g.Fence())
		}
	}
	c.delay = 20 * time.Millisecond
	c.double = 0.05
	c.cutRate = 200
	c.mu.Unlock()

	ctx, stop := context.WithTimeout(bg, length)
	defer stop()
	var clocks []*jumpy
	var all []*Manager
	var wg sync.WaitGroup
	var locked, failed atomic.Int64
	for n := range members {
		cfg := c.config(fmt.Sprint("m", n), ttl)
		jump := newJumpy()
		cfg.Clock = jump
		m, err := Open(bg, cfg)
		if err != nil {
			t.Fatal(err)
		}
		clocks, all = append(clocks, jump), append(all, m)
		for k := range callers {
			rng := rand.New(rand.NewPCG(seed, uint64(n*callers+k+1)))
			wg.Go(func() {
				for ctx.Err() == nil {
					key := fmt.Sprint("k", rng.IntN(keys))
					wait, cancel := context.WithTimeout(ctx, time.Duration(rng.IntN(3000))*time.Millisecond)
					if rng.IntN(20) == 0 {
						m.Force(wait, key)
						cancel()
						continue
					}
					g, err := m.Acquire(wait, key, rng.IntN(4) == 0)
					if err != nil {
						failed.Add(1)
						cancel()
						continue
					}
					locked.Add(1)
					mu.Lock()
					if g.Fence() <= fences[key] && rawErr(g) == nil {
						t.Errorf("seed %d: fence %d of %s after %d", seed, g.Fence(), key, fences[key])
					}
					if g.Fence() > fences[key] {
						fences[key], holders[key] = g.Fence(), g
					}
					mu.Unlock()
					select {
					case <-g.Done():
					case <-time.After(time.Duration(rng.IntN(200)) * time.Millisecond):
					}
					g.Release(wait)
					cancel()
				}
			})
		}
	}
	for ctx.Err() == nil { // the faults
		time.Sleep(time.Duration(500+rng.IntN(3000)) * time.Millisecond)
		switch rng.IntN(5) {
		case 0, 1:
			c.depose(rng.IntN(2) == 0)
			time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
			if rng.IntN(4) == 0 {
				time.Sleep(2 * ttl)
			}
			c.elect()
		case 2:
			clocks[rng.IntN(members)].jump(time.Duration(rng.IntN(int(3 * ttl))))
		case 3: // one process's link hangs
			c.mu.Lock()
			for l := range c.links {
				l.hung = true
				break
			}
			c.mu.Unlock()
		}
	}
	wg.Wait()
	c.mu.Lock()
	c.delay, c.double, c.cutRate = 0, 0, 0
	for l := range c.links {
		l.endLocked()
	}
	c.mu.Unlock()
	time.Sleep(5 * ttl) // copies that are on their way, sessions that nobody knows of, forgets
	var losses uint64
	for _, m := range all {
		losses += m.Losses()
		m.mu.Lock()
		if len(m.reqs) != 0 || m.held != 0 || m.leaving != 0 {
			t.Errorf("seed %d: %d requests are left, %d held, %d releases", seed, len(m.reqs), m.held, m.leaving)
		}
		m.mu.Unlock()
		if !m.Ready() {
			t.Errorf("seed %d: not ready", seed)
		}
	}
	if left := c.leftovers(); left != "" {
		t.Errorf("seed %d: left over: %s", seed, left)
	}
	if locked.Load() < 100 || losses == 0 {
		t.Errorf("seed %d: %d locks, %d sessions lost: nothing was tested", seed, locked.Load(), losses)
	}
	t.Logf("seed %d: %d locks, %d failed, %d sessions lost", seed, locked.Load(), failed.Load(), losses)
	for _, m := range all {
		m.Close()
	}
}
