package session

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/wire"
)

// As TestChaos, with every kind of lock: whatever happens, nothing is granted, and nothing moves, while a Done is open that it can't be
// beside.
func TestChaosOfKinds(t *testing.T) {
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
	var losses uint64
	for i := range seeds {
		seed := base + uint64(i)
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) { losses += chaosOfKinds(t, seed) })
		})
	}
	if losses == 0 && seeds > 1 {
		t.Error("no session was lost")
	}
}

// holdings are the grants that callers have.
type holdings struct {
	mu   sync.Mutex
	all  []*holding
	down map[uint64]bool // fences that may be shared by now: several callers may have had one of them, one after the other or at once
}

type holding struct {
	g *Grant
	r Request
}

func (h *holdings) add(g *Grant, r Request) *holding {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = slices.DeleteFunc(h.all, func(x *holding) bool { return rawErr(x.g) != nil })
	x := &holding{g: g, r: r}
	h.all = append(h.all, x)
	return x
}

func (h *holdings) some(rng *rand.Rand) *holding {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.all) == 0 {
		return nil
	}
	return h.all[rng.IntN(len(h.all))]
}

// against returns what is held of key and can't be beside a.
func (h *holdings) against(key string, a *wire.Ask, fence uint64) *holding {
	h.mu.Lock()
	defer h.mu.Unlock()
	used := a.Weight
	for _, x := range h.all {
		switch {
		case !slices.Contains(x.r.Keys, key) || x.g.Fence() == fence || rawErr(x.g) != nil || nobodys(x.g):
		case a.Mode == wire.Units:
			if used += x.r.Weight; used > a.Limit {
				return x
			}
		case a.Mode == wire.Shared && (x.r.Mode == wire.Shared || h.down[x.g.Fence()]):
		default:
			return x
		}
	}
	return nil
}

// nobodys says that g is detached and its session was lost: until the taker has taken it up again, others end or adopt it without waiting for a
// process that can't be told.
func nobodys(g *Grant) bool {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	return g.state == resuming
}

// request draws one of any kind.
func request(rng *rand.Rand) Request {
	r := of(fmt.Sprint("k", rng.IntN(4)))
	switch rng.IntN(5) {
	case 0:
		r.Mode = wire.Shared
	case 1:
		r = units(uint32(1+rng.IntN(3)), 3, fmt.Sprint("s", rng.IntN(2)))
	case 2:
		r.Keys = []string{"k0", "k1", "k3"}
	}
	switch rng.IntN(4) {
	case 0:
		r.TTL = time.Duration(1+rng.IntN(300)) * time.Millisecond
	case 1:
		r.Detached = time.Duration(1+rng.IntN(4000)) * time.Millisecond
	}
	if rng.IntN(4) == 0 {
		r.Cooldown = time.Duration(1+rng.IntN(200)) * time.Millisecond
	}
	r.Try = rng.IntN(4) == 0
	return r
}

// chaosOfKinds returns how many sessions were lost.
func chaosOfKinds(t *testing.T, seed uint64) (losses uint64) {
	const (
		members = 4
		callers = 6
		length  = 60 * time.Second
	)
	rng := rand.New(rand.NewPCG(seed, 0))
	c := newCluster(t, seed).open()
	defer c.close()
	h := holdings{down: map[uint64]bool{}}
	c.mu.Lock()
	c.granting = func(key string, _, fence uint64) {
		if x := h.against(key, c.asked, fence); x != nil {
			t.Errorf("seed %d: %s was granted with fence %d (%+v) while the Done of fence %d is open (%+v)", seed, key, fence, c.asked, x.g.Fence(), x.r)
		}
	}
	c.moving = func(fence uint64) {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, x := range h.all {
			if x.g.Fence() == fence && x.g.errand != toAdopt && rawErr(x.g) == nil && !nobodys(x.g) {
				t.Errorf("seed %d: fence %d moves while its Done is open", seed, fence)
			}
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
	var locked, failed, moved, orders atomic.Int64
	for n := range members {
		m, jump := c.jumpyMember(fmt.Sprint("m", n), ttl)
		clocks, all = append(clocks, jump), append(all, m)
		for k := range callers {
			rng := rand.New(rand.NewPCG(seed, uint64(n*callers+k+1)))
			wg.Go(func() {
				for ctx.Err() == nil {
					wait, cancel := context.WithTimeout(ctx, time.Duration(rng.IntN(3000))*time.Millisecond)
					caller(wait, rng, m, &h, &locked, &failed, &moved, &orders)
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
	time.Sleep(8 * ttl) // copies that are on their way, sessions that nobody knows of, forgets, detached grants
	for _, m := range all {
		losses += m.Losses()
	}
	wantNothingLeft(t, c, all...)
	if locked.Load() < 100 || moved.Load() == 0 || orders.Load() == 0 {
		t.Errorf("seed %d: %d locks, %d moved, %d orders, %d sessions lost: nothing was tested", seed, locked.Load(), moved.Load(), orders.Load(), losses)
	}
	t.Logf("seed %d: %d locks, %d failed, %d moved, %d orders, %d sessions lost", seed, locked.Load(), failed.Load(), moved.Load(), orders.Load(), losses)
	for _, m := range all {
		m.Close()
	}
	return losses
}

// caller does one thing that callers do.
func caller(ctx context.Context, rng *rand.Rand, m *Manager, h *holdings, locked, failed, moved, orders *atomic.Int64) {
	var x *holding
	switch rng.IntN(30) {
	case 0:
		m.Force(ctx, fmt.Sprint("k", rng.IntN(4)))
		return
	case 1:
		if x := h.some(rng); x != nil {
			m.Release(ctx, x.g.Handle())
		}
		return
	case 2:
		from := h.some(rng)
		if from == nil {
			return
		}
		g, err := m.Adopt(ctx, from.g.Handle())
		if err != nil {
			return
		}
		moved.Add(1)
		r := from.r
		r.Detached = 0
		x = h.add(g, r)
	default:
		r := request(rng)
		g, err := m.Lock(ctx, r)
		if err != nil {
			failed.Add(1)
			return
		}
		locked.Add(1)
		x = h.add(g, r)
	}
	switch rng.IntN(4) {
	case 0:
		if x.g.Extend(ctx, time.Duration(1+rng.IntN(3000))*time.Millisecond) == nil {
			orders.Add(1)
		}
	case 1:
		h.mu.Lock()
		h.down[x.g.Fence()] = true
		h.mu.Unlock()
		if x.g.Downgrade(ctx) == nil {
			orders.Add(1)
		}
	}
	select {
	case <-x.g.Done():
	case <-time.After(time.Duration(rng.IntN(200)) * time.Millisecond):
	}
	if rng.IntN(10) > 0 || x.r.Detached == 0 {
		x.g.Release(ctx)
	}
}
