package raftfsm

import (
	"runtime"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// TestMillionKeys takes 10^6 keys, 25,000 at a time, and frees them again: memory returns to where it was, and while they are held each
// costs at most maxHeldKey bytes.
func TestMillionKeys(t *testing.T) {
	const (
		maxHeldKey = 300
		sessions   = 100
		held       = 25_000
	)
	rounds := 40
	if raceEnabled {
		rounds = 5
	}
	f, index := opened(t, sessions)
	m := f.m // entries would cost as much again as their application
	seq := uint64(1)
	each := func(keys int, op func(i int, seq uint64) wire.Op) {
		for from := 0; from < keys; from += sessions {
			e := Entry{Commands: make([]Command, sessions)}
			for i := range sessions {
				e.Commands[i] = Ops{Session: uint64(i + 1), Ops: []wire.Op{op(from+i, seq+uint64(from/sessions))}}
			}
			index++
			m.apply(index, 1, e)
		}
	}
	round := func(n, keys int, meanwhile func()) {
		each(keys, func(i int, seq uint64) wire.Op { return acquire(seq, heldKey(n*keys+i)) })
		if m.holders != keys || m.locks.Len() != keys {
			t.Fatalf("%d holders, %d locks, want %d", m.holders, m.locks.Len(), keys)
		}
		meanwhile()
		each(keys, func(_ int, seq uint64) wire.Op { return finish(seq) })
		seq += uint64(keys / sessions)
	}
	round(0, 1000, func() {}) // the first nodes of the trees come and stay
	f.View()
	before := heapInUse()
	for n := range rounds {
		round(n, held, func() {
			if n > 0 {
				return
			}
			cost := float64(heapInUse()-before) / held
			t.Logf("%.0f bytes a held key", cost)
			if cost > maxHeldKey {
				t.Errorf("%.0f bytes a held key, at most %d", cost, maxHeldKey)
			}
		})
	}
	if n := m.requests.Len() + m.locks.Len() + m.queue.Len() + m.gaps.Len(); n != 0 {
		t.Fatalf("%d items are left", n)
	}
	after := heapInUse()
	t.Logf("%d KiB before, %d KiB after", before>>10, after>>10)
	if after > before+256<<10 {
		t.Errorf("the heap went from %d to %d bytes over %d keys", before, after, rounds*held)
	}
	runtime.KeepAlive(f)
}

// TestHeldKeyOfEachKind: what is not exclusive costs no more than that may.
func TestHeldKeyOfEachKind(t *testing.T) {
	const maxHeldKey, keys, sessions = 300, 50_000, 100
	for name, a := range map[string]wire.Ask{
		"exclusive": {},
		"shared":    {Mode: wire.Shared},
		"units":     {Mode: wire.Units, Limit: 5, Weight: 2},
	} {
		f, index := opened(t, sessions)
		before := heapInUse()
		for i := range keys {
			index++
			ask := a
			ask.Keys = []string{heldKey(i)}
			f.m.apply(index, 1, Entry{Version: Version, Commands: []Command{Ops{Session: uint64(i%sessions + 1), Ops: []wire.Op{
				{Kind: wire.OpRequest, Seq: uint64(i/sessions + 1), Ask: &ask},
			}}}})
		}
		if f.m.holders != keys {
			t.Fatalf("%s: %d holders", name, f.m.holders)
		}
		cost := float64(heapInUse()-before) / keys
		t.Logf("%s: %.0f bytes a held key", name, cost)
		if cost > maxHeldKey {
			t.Errorf("%s: %.0f bytes a held key", name, cost)
		}
		runtime.KeepAlive(f)
	}
}

// TestManyWaiters: with fifty times as many waiters of a key, the grant of the next, the cancel of any and a new one cost about the same.
func TestManyWaiters(t *testing.T) {
	for _, c := range []struct {
		name   string
		holder wire.Ask
		before []wire.Ask // wait before all others
		ask    wire.Ask
		next   bool // a release grants to one
	}{
		{"exclusive", wire.Ask{Keys: []string{"a"}}, nil, wire.Ask{Keys: []string{"a"}}, true},
		{"shared", wire.Ask{Keys: []string{"a"}}, nil, wire.Ask{Keys: []string{"a"}, Mode: wire.Shared}, false},
		{
			"units", wire.Ask{Keys: []string{"a"}, Mode: wire.Units, Limit: 5, Weight: 5}, nil,
			wire.Ask{Keys: []string{"a"}, Mode: wire.Units, Limit: 5, Weight: 5}, true,
		},
		{"several keys", wire.Ask{Keys: []string{"a", "b"}}, nil, wire.Ask{Keys: []string{"a", "b"}}, true},
		{"behind several", wire.Ask{Keys: []string{"z"}}, []wire.Ask{{Keys: []string{"a", "z"}}}, wire.Ask{Keys: []string{"a"}}, false},
		{"beside several", wire.Ask{Keys: []string{"a"}}, []wire.Ask{{Keys: []string{"a", "z"}}}, wire.Ask{Keys: []string{"a"}}, false},
	} {
		cost := func(waiters int) time.Duration {
			m, index, seq := openMachine(3), uint64(1), uint64(0)
			apply := func(session uint64, ops ...wire.Op) {
				index++
				m.apply(index, 1, Entry{Version: Version, Commands: []Command{Ops{Session: session, Ops: ops}}})
			}
			ask := func(session uint64, a wire.Ask) {
				seq++
				apply(session, asking(seq, a))
			}
			ask(2, c.holder)
			for _, a := range c.before {
				ask(3, a)
			}
			first := seq + 1
			for range waiters {
				ask(2, c.ask)
			}
			if n := m.queue.Len(); n < waiters {
				t.Fatalf("%s: %d wait, not %d", c.name, n, waiters)
			}
			holder, best := uint64(1), time.Hour
			for range 5 { // the best of some: others use the machine as well
				began := time.Now()
				for range uint64(40) {
					if c.next {
						apply(2, finish(holder))
						holder, first = first, first+1
						ask(2, c.ask)
					}
					apply(2, finish((first+seq)/2)) // it may be over, which costs less, but only now and then
					ask(2, c.ask)
				}
				best = min(best, time.Since(began))
			}
			return best
		}
		for attempt := range 5 { // a machine that is busy with something else says nothing
			few, many := cost(400), cost(20_000)
			t.Logf("%s: %s with 400 waiters, %s with 20000", c.name, few, many)
			if many < 10*few {
				break
			}
			if attempt == 4 {
				t.Errorf("%s: %s with 400 waiters, %s with 20000", c.name, few, many)
			}
		}
	}
}
