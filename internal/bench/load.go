package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/godistlock/distlock"
)

// keysOfCaller is how many keys a caller goes round in: a key that was free for long is nothing special to the cluster.
const keysOfCaller = 1000

// caller is one goroutine that takes locks.
type caller struct {
	cluster *distlock.Cluster
	prefix  string
	kind    int       // of kinds
	from    time.Time // what ends from here on counts
	until   time.Time // what ends later does not
	pairs   int       // that counted
	locks   []time.Duration
	err     error
}

// load runs callers and tells what they got done.
func (m *member) load(ctx context.Context, l *load) (*rate, error) {
	from := time.Now().Add(l.Warm)
	until := from.Add(l.Measure)
	callers := make([]*caller, l.Callers)
	var home sync.WaitGroup
	for i := range callers {
		c := &caller{cluster: m.cluster, prefix: l.Prefix + "order-" + strconv.Itoa(i) + "-", kind: l.Kind, from: from, until: until}
		callers[i] = c
		if l.Pairs > 0 {
			home.Go(func() { c.err = c.makePairs(ctx, l.Pairs/l.Callers) })
		} else {
			home.Go(func() { c.err = c.run(ctx) })
		}
	}
	home.Wait()
	pairs, locks := 0, []time.Duration(nil)
	for _, c := range callers {
		if c.err != nil {
			return nil, c.err
		}
		pairs += c.pairs
		locks = append(locks, c.locks...)
	}
	if l.Pairs > 0 {
		return nil, nil
	}
	if len(locks) == 0 {
		return nil, errors.New("no lock was granted in the measured time")
	}
	slices.Sort(locks)
	return &rate{PerSecond: float64(pairs) / l.Measure.Seconds(), P50: quantile(locks, 0.5), P99: quantile(locks, 0.99)}, nil
}

// run locks and unlocks until its time is up. What counts is what ends in the measured time, whenever it began.
func (c *caller) run(ctx context.Context) error {
	for i := 0; ; i++ {
		asked := time.Now()
		if !asked.Before(c.until) {
			return nil
		}
		lock, err := c.lock(ctx, i)
		if err != nil {
			return err
		}
		if granted := time.Now(); c.counts(granted) {
			c.locks = append(c.locks, granted.Sub(asked))
		}
		if err := lock.Unlock(ctx); err != nil {
			return err
		}
		if c.counts(time.Now()) {
			c.pairs++
		}
	}
}

func (c *caller) counts(t time.Time) bool { return !t.Before(c.from) && t.Before(c.until) }

func (c *caller) key(i int) string { return c.prefix + strconv.Itoa(i%keysOfCaller) }

func (c *caller) makePairs(ctx context.Context, n int) error {
	for i := range n {
		lock, err := c.cluster.Lock(ctx, c.key(i))
		if err != nil {
			return err
		}
		if err := lock.Unlock(ctx); err != nil {
			return err
		}
	}
	return nil
}

// hold locks l.Pairs keys and keeps them.
func (m *member) hold(ctx context.Context, l *load) error {
	m.held = make([]held, l.Pairs)
	return share(l, func(i int) (err error) {
		all := m.everybody()
		m.held[i], err = all[i%len(all)].lock(ctx, l.Prefix+"held-"+strconv.Itoa(i))
		return err
	})
}

// free unlocks them.
func (m *member) free(ctx context.Context, l *load) error {
	defer func() { m.held = nil }()
	return share(l, func(i int) error { return m.held[i].Unlock(ctx) })
}

// share lets l.Callers callers do l.Pairs things.
func share(l *load, do func(i int) error) error {
	errs := make([]error, l.Callers)
	var home sync.WaitGroup
	for k := range errs {
		home.Go(func() {
			for i := k; i < l.Pairs && errs[k] == nil; i += l.Callers {
				errs[k] = do(i)
			}
		})
	}
	home.Wait()
	return errors.Join(errs...)
}

// quantile of sorted durations.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// median of durations in any order.
func median(all []time.Duration) time.Duration {
	return quantile(slices.Sorted(slices.Values(all)), 0.5)
}
