package node

import (
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// Ten thousand sessions that are created at once: every entry that carries them can be read.
func TestEntriesOfManyCreationsAreBounded(t *testing.T) {
	b := newBatcher(1, nil, time.Now, nil)
	const sessions = 10_000
	long := strings.Repeat("x", wire.MaxID)
	for range sessions {
		b.add(item{cmd: raftfsm.Create{CreateSession: wire.CreateSession{
			Nonce: wire.NewUUID(), Name: long[:wire.MaxName], Server: wire.NewUUID(), Instance: wire.NewUUID(), TTL: 10_000,
			Proof: wire.Proof{Boot: long, NetNS: long, Bound: long, Dir: long},
		}}})
	}
	for total := 0; total < sessions; {
		items := b.take()
		if len(items) == 0 || len(items) > maxBatchOps {
			t.Fatalf("an entry of %d creations", len(items))
		}
		if _, err := raftfsm.DecodeEntry(b.encode(items)); err != nil {
			t.Fatalf("%d creations: %v", len(items), err)
		}
		total += len(items)
	}
}

// Requests of the greatest size, in messages as large as can be: what goes into an entry can be read, in the order in which it came.
func TestEntriesOfLargeRequestsAreBounded(t *testing.T) {
	l := &lead{batch: newBatcher(1, nil, time.Now, nil), group: &group{fsm: raftfsm.New()}, bounds: defaultBounds}
	l.batch.format.Store(wire.Format)
	var sink fakeSink
	keys := make([]string, wire.MaxKeys)
	for i := range keys {
		keys[i] = strings.Repeat(string(rune('A'+i)), wire.MaxKey/2)
	}
	ask := &wire.Ask{Keys: keys, Value: make([]byte, wire.MaxValue), Where: strings.Repeat("w", wire.MaxWhere)}
	var large, long []wire.Op
	for range wire.MaxOps / 4 { // ten entries
		large = append(large, wire.Op{Kind: wire.OpRequest, Seq: uint64(len(large) + 1), Ask: ask})
	}
	for range wire.MaxOps {
		long = append(long, wire.Op{Kind: wire.OpAcquire, Seq: uint64(len(large) + len(long) + 1), Key: keys[0]})
	}
	last, entries := uint64(0), 0
	for _, ops := range [][]wire.Op{large, long} {
		l.give(1, ops, &sink)
		for items := l.batch.take(); len(items) > 0; items = l.batch.take() {
			entry := l.batch.encode(items)
			if entries++; len(entry) > raftfsm.MaxEntry/2 {
				t.Errorf("an entry of %d bytes", len(entry))
			}
			e, err := raftfsm.DecodeEntry(entry)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range e.Commands {
				for _, o := range c.(raftfsm.Ops).Ops {
					if last++; o.Seq != last {
						t.Fatalf("operation %d where %d belongs", o.Seq, last)
					}
				}
			}
		}
	}
	if all := uint64(len(large) + len(long)); last != all || entries < 10 {
		t.Errorf("%d operations of %d, in %d entries", last, all, entries)
	}
}

// Times of the longest keys, all due at once.
func TestEntriesOfManyTimesAreBounded(t *testing.T) {
	l := &lead{batch: newBatcher(1, nil, time.Now, nil)}
	l.batch.format.Store(wire.Format)
	l.times.began = time.Now().Add(-time.Hour)
	const n = 3 * raftfsm.MaxTimers
	key := strings.Repeat("k", wire.MaxKey)
	for i := range n {
		l.times.start(raftfsm.Timer{Key: key, Fence: uint64(i + 1), Armed: 1, Left: 1}, l.times.began)
	}
	l.reportTimes()
	total := 0
	for items := l.batch.take(); len(items) > 0; items = l.batch.take() {
		e, err := raftfsm.DecodeEntry(l.batch.encode(items))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range e.Commands {
			total += len(c.(raftfsm.Time).Timers)
		}
	}
	if total != n {
		t.Errorf("%d of %d", total, n)
	}
}
