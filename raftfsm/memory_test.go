package raftfsm

import (
	"runtime"
	"testing"

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
