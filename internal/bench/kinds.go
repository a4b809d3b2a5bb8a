package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/godistlock/distlock"
)

// kinds are the kinds of locks by the names that a load has for them. Callers take keys of their own, but for those whose name says otherwise.
var kinds = []struct {
	name string
	keys int // of one lock
	opts []distlock.LockOption
	one  bool // all callers take the same key
}{
	{name: "exclusive", keys: 1},
	{name: "shared", keys: 1, opts: []distlock.LockOption{distlock.Shared()}},
	{name: "2 of 4 units", keys: 1, opts: []distlock.LockOption{distlock.Limit(4), distlock.Weight(2)}},
	{name: "2 keys at once", keys: 2},
	{name: "TTL, value and caller", keys: 1, opts: []distlock.LockOption{
		distlock.TTL(time.Minute), distlock.Value(make([]byte, 64)), distlock.Caller(),
	}},
	{name: "detached", keys: 1, opts: []distlock.LockOption{distlock.Detached(time.Minute)}},
	{name: "one key, exclusive", keys: 1, one: true},
	{name: "one key, shared", keys: 1, opts: []distlock.LockOption{distlock.Shared()}, one: true},
	{name: "one key, 64 units", keys: 1, opts: []distlock.LockOption{distlock.Limit(64)}, one: true},
}

// lock takes the caller's lock number i, of its kind.
func (c *caller) lock(ctx context.Context, i int) (*distlock.Lock, error) {
	if c.kind == 0 {
		return c.cluster.Lock(ctx, c.key(i))
	}
	k := kinds[c.kind]
	key := c.key(i)
	if k.one {
		key = "one"
	}
	if k.keys == 1 {
		return c.cluster.Lock(ctx, key, k.opts...)
	}
	keys := make([]string, k.keys)
	for n := range keys {
		keys[n] = key + "-" + strconv.Itoa(n)
	}
	return c.cluster.LockAll(ctx, keys, k.opts...)
}

// kinds measures pairs of each kind of lock, in a cluster in memory: there what they cost is not hidden behind the disk.
func (b *bench) kinds(ctx context.Context) error {
	f, err := b.startFleet(ctx, storeMemory, partKinds)
	if err != nil {
		return err
	}
	rows := [][]string{{"kind", "callers", "pairs/s", "of exclusive", "Lock p50", "Lock p99"}}
	for _, callers := range b.callers {
		more, merr := b.kindsOf(ctx, f, callers)
		if err = merr; err != nil {
			break
		}
		rows = append(rows, more...)
	}
	if err := errors.Join(err, f.end()); err != nil {
		return err
	}
	writeTable(b.out, "Lock and Unlock of each kind, in memory, taken by a follower", rows)
	return nil
}

func (b *bench) kindsOf(ctx context.Context, f *fleet, callers int) (rows [][]string, err error) {
	plain := 0.0
	for i, k := range kinds {
		leader, err := f.whole(ctx)
		if err != nil {
			return nil, err
		}
		b.note("kinds: %s, %d callers", k.name, callers)
		l := &load{Callers: callers, Warm: b.warm, Measure: b.measure, Kind: i}
		a, err := f.procs[place(fromFollower, leader)].call(ctx, command{Do: doLoad, Load: l, Timeout: patience + l.Warm + l.Measure})
		if err != nil {
			return nil, err
		}
		if i == 0 {
			plain = a.Load.PerSecond
		}
		rows = append(rows, []string{
			k.name, fmt.Sprint(callers), grouped(int64(a.Load.PerSecond)), fmt.Sprintf("%.2f", a.Load.PerSecond/plain), short(a.Load.P50), short(a.Load.P99),
		})
	}
	return rows, nil
}
