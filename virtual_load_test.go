package distlock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

func sortedFences(ops []porcupine.Operation) []Fence {
	var all []Fence
	for _, op := range ops {
		if e := op.Input.(virtualEvent); e.kind == evGrant {
			all = append(all, e.fence)
		}
	}
	slices.Sort(all)
	return all
}

// load is what workers do on every member until it is stopped. Everything that they get back is judged.
type load struct {
	w       *world
	workers int           // per member
	keys    int           // few, so that they meet
	hold    time.Duration // at most, most of the time
	calm    bool          // Lock and Unlock only, with time to wait

	stop chan struct{}
	wg   sync.WaitGroup
}

// begin starts the workers of all members that there are.
func (l *load) begin(w *world) *load {
	l.w, l.stop = w, make(chan struct{})
	for _, m := range w.members {
		for k := range l.workers {
			rng := w.rngFor(m.i, k)
			l.wg.Go(func() { l.work(m, rng) }) // ends with stop, and with the time-out of the call that is under way
		}
	}
	return l
}

// rngFor is the source of chance of one worker.
func (w *world) rngFor(member, worker int) *rand.Rand {
	return rand.New(rand.NewPCG(w.seed, uint64(1000*member+worker+1)))
}

func (l *load) end() {
	close(l.stop)
	l.wg.Wait()
}

func (l *load) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

func (l *load) work(m *member, rng *rand.Rand) {
	for !l.stopped() {
		c := m.cluster()
		if c == nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		key := fmt.Sprintf("k%d", rng.IntN(l.keys))
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rng.Int64N(int64(4*time.Second))))
		switch p := rng.IntN(100); {
		case l.calm || p < 60:
			l.lock(ctx, m, c, key, false, rng)
		case p < 75:
			l.lock(ctx, m, c, key, true, rng)
		case p < 85: // it is cancelled about when it is granted
			short, stop := context.WithTimeout(ctx, time.Duration(rng.Int64N(int64(5*time.Millisecond))))
			l.lock(short, m, c, key, false, rng)
			stop()
		case p < 91:
			l.checkFence(ctx, c, key)
		case p < 96:
			l.list(ctx, c, key)
		default:
			l.force(ctx, c, key)
		}
		cancel()
		pauseFor(rng, 30*time.Millisecond)
	}
}

func pauseFor(rng *rand.Rand, most time.Duration) { time.Sleep(time.Duration(rng.Int64N(int64(most)))) }

// lock locks, holds and unlocks.
func (l *load) lock(ctx context.Context, m *member, c *Cluster, key string, try bool, rng *rand.Rand) {
	w, a := l.w, l.w.history.ask()
	call := c.Lock
	if try {
		call = c.TryLock
	}
	lock, err := call(ctx, key)
	if err != nil {
		l.expect("lock", err, context.DeadlineExceeded, ErrClosed, ErrHeld)
		return
	}
	n := w.history.granted(m.i, a, lock)
	most := l.hold
	if most >= time.Millisecond && rng.IntN(12) == 0 {
		most = 3 * time.Second
	}
	t := time.NewTimer(time.Duration(rng.Int64N(int64(most))))
	defer t.Stop()
	select {
	case <-n.done:
		l.lostHold(lock)
		return
	case <-t.C:
	case <-l.stop:
	}
	w.history.releasing(n)
	rest, cancel := context.WithTimeout(context.Background(), time.Duration(rng.Int64N(int64(3*time.Second))))
	defer cancel()
	err = lock.Unlock(rest)
	if err != nil {
		l.expect("unlock", err, context.DeadlineExceeded, ErrNotHeld)
	}
	w.history.released(n, err)
	select {
	case <-n.done:
	default:
		w.errorf("Unlock of %q returned (%v) and Done is open", key, err)
	}
}

// lostHold checks what is said of a grant that ended by itself.
func (l *load) lostHold(lock *Lock) {
	reason := lock.Err()
	l.expect("a lock that was lost", reason, ErrSessionLost, ErrForced, ErrClosed)
	l.w.history.wasLost(errors.Is(reason, ErrSessionLost))
	if err := lock.Unlock(context.Background()); !errors.Is(err, ErrNotHeld) || !errors.Is(err, reason) {
		l.w.errorf("Unlock of %q, which was lost (%v): %v", lock.Key(), reason, err)
	}
}

func (l *load) checkFence(ctx context.Context, c *Cluster, key string) {
	h := l.w.history
	fence := h.known(key)
	if fence == 0 {
		return
	}
	a := h.ask()
	switch err := c.CheckFence(ctx, key, fence); {
	case err == nil:
		h.read(a, key, fence)
	case errors.Is(err, ErrStaleFence):
		h.stale(a, key, fence)
	default:
		l.expect("check fence", err, context.DeadlineExceeded, ErrClosed)
	}
}

func (l *load) list(ctx context.Context, c *Cluster, key string) {
	a := l.w.history.ask()
	infos, err := c.Locks(ctx, key)
	if err != nil {
		l.expect("locks", err, context.DeadlineExceeded, ErrClosed)
		return
	}
	var fence Fence
	for _, info := range infos {
		if info.Key == key && len(info.Holders) > 0 {
			fence = info.Holders[0].Fence
		}
	}
	l.w.history.read(a, key, fence)
}

func (l *load) force(ctx context.Context, c *Cluster, key string) {
	l.w.history.force(key)
	err := c.ForceUnlock(ctx, key)
	if err != nil {
		l.expect("force unlock", err, context.DeadlineExceeded, ErrClosed, ErrNotHeld, ErrSessionLost)
	}
	l.w.history.wasForced(key, err == nil || errors.Is(err, ErrNotHeld))
}

func (l *load) expect(what string, err error, allowed ...error) {
	if !slices.ContainsFunc(allowed, func(e error) bool { return errors.Is(err, e) }) {
		l.w.errorf("%s: %v", what, err)
	}
}
