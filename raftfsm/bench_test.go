package raftfsm

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/hashicorp/raft"
)

// opened returns an FSM of an open cluster with n sessions, and the index of the last entry.
func opened(t testing.TB, sessions int) (*FSM, uint64) { return openedAt(t, Version, sessions) }

// openedAt is opened by an entry of a version.
func openedAt(t testing.TB, version uint64, sessions int) (*FSM, uint64) {
	f := New()
	cmds := []Command{
		Found{Cluster: id("C"), Expect: 1, Voters: 3},
		Confirm{Cluster: id("C"), Server: id("s"), Instance: id("i"), Name: "s", Clock: 1_700_000_000_000_000},
	}
	for i := range sessions {
		word := fmt.Sprintf("p%d", i+1)
		cmds = append(cmds, Create{wire.CreateSession{Nonce: id(word), Name: word, Server: id(word), Instance: id(word), TTL: 10_000}})
	}
	res := f.Apply(logAt(version, 1, cmds...)).(*Result)
	if res.Err != nil || len(res.Created) != sessions {
		t.Fatalf("%+v", res)
	}
	return f, 1
}

// submit applies commands as one entry of term 1.
func submit(f *FSM, index uint64, cmds ...Command) *Result {
	return f.Apply(logOf(index, cmds...)).(*Result)
}

func logOf(index uint64, cmds ...Command) *raft.Log { return logAt(Version, index, cmds...) }

func logAt(version, index uint64, cmds ...Command) *raft.Log {
	e := Entry{Version: version, Term: 1, Wall: int64(index) * 1000, Commands: cmds}
	return &raft.Log{Type: raft.LogCommand, Index: index, Term: 1, Data: e.Encode()}
}

func acquire(seq uint64, key string) wire.Op {
	return wire.Op{Kind: wire.OpAcquire, Seq: seq, Key: key}
}
func finish(seq uint64) wire.Op { return wire.Op{Kind: wire.OpFinish, Seq: seq} }

// BenchmarkPair is what an uncontended acquire and its release cost, decoding included, beside 100,000 held keys of 100 sessions:
// entries of 1,024 operations from 64 sessions, each of which releases what its last entry took.
func BenchmarkPair(b *testing.B) {
	for _, held := range []int{0, 100_000} {
		b.Run(fmt.Sprintf("held=%d", held), func(b *testing.B) {
			const sessions, perSession = 64, 8
			f, index := opened(b, sessions)
			hold(b, f, &index, sessions, held)
			var entries []*raft.Log
			seq := uint64(held/sessions + 1)
			for round := range uint64(max(1, b.N/(sessions*perSession))) {
				cmds := make([]Command, sessions)
				for s := range cmds {
					ops := make([]wire.Op, 0, 2*perSession)
					for k := range uint64(perSession) {
						if round > 0 {
							ops = append(ops, finish(seq+(round-1)*perSession+k))
						}
						ops = append(ops, acquire(seq+round*perSession+k, fmt.Sprintf("order/%d/%d", s, (round*perSession+k)%97)))
					}
					cmds[s] = Ops{Session: uint64(s + 1), Ops: ops}
				}
				index++
				entries = append(entries, logOf(index, cmds...))
			}
			b.ReportAllocs()
			b.ResetTimer()
			for _, l := range entries {
				if res := f.Apply(l).(*Result); res.Err != nil {
					b.Fatal(res.Err)
				}
			}
			b.StopTimer()
			if c := f.View().Counters(); int(c.Grants) < max(b.N-sessions*perSession, 1) {
				b.Fatalf("%+v", c)
			}
		})
	}
}

// hold makes sessions take n keys.
func hold(t testing.TB, f *FSM, index *uint64, sessions, n int) {
	for from := 0; from < n; from += 1000 {
		bySession := make([][]wire.Op, sessions)
		for i := from; i < min(from+1000, n); i++ {
			bySession[i%sessions] = append(bySession[i%sessions], acquire(uint64(i/sessions+1), heldKey(i)))
		}
		var cmds []Command
		for s, ops := range bySession {
			cmds = append(cmds, Ops{Session: uint64(s + 1), Ops: ops})
		}
		*index++
		if res := submit(f, *index, cmds...); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
}

// heldKey is a key of about 20 bytes; keys of neighbours in time are not neighbours in the tree.
func heldKey(i int) string { return fmt.Sprintf("stock/%08x", uint32(i)*2654435761) }

// BenchmarkContended is what a handoff costs: 64 sessions take turns at one key.
func BenchmarkContended(b *testing.B) {
	const sessions = 64
	f, index := opened(b, sessions)
	var cmds []Command
	for s := range sessions {
		cmds = append(cmds, Ops{Session: uint64(s + 1), Ops: []wire.Op{acquire(1, "a")}})
	}
	index++
	submit(f, index, cmds...)
	var entries []*raft.Log
	for i := range uint64(b.N/sessions + 1) {
		for s := range cmds {
			cmds[s] = Ops{Session: uint64(s + 1), Ops: []wire.Op{finish(i + 1), acquire(i+2, "a")}}
		}
		index++
		entries = append(entries, logOf(index, cmds...))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, l := range entries {
		f.Apply(l)
	}
}

// BenchmarkView is what a View costs, and what it makes the next pair cost.
func BenchmarkView(b *testing.B) {
	f, index := opened(b, 64)
	hold(b, f, &index, 64, 100_000)
	var entries []*raft.Log
	for i := range uint64(b.N) {
		index++
		seq := 2000 + 2*i
		entries = append(entries, logOf(index, Ops{Session: 1, Ops: []wire.Op{acquire(seq, "view"), finish(seq)}}))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, l := range entries {
		f.View()
		f.Apply(l)
	}
}

// BenchmarkHeldKeyBytes tells what a held key costs in memory (B/key), its own 14 bytes included.
func BenchmarkHeldKeyBytes(b *testing.B) {
	const keys = 200_000
	for b.Loop() {
		b.ReportMetric(heldKeyBytes(b, keys), "B/key")
	}
}

func heldKeyBytes(t testing.TB, keys int) float64 {
	f, index := opened(t, 100)
	before := heapInUse()
	hold(t, f, &index, 100, keys)
	after := heapInUse()
	runtime.KeepAlive(f)
	return float64(int64(after)-int64(before)) / float64(keys)
}

// heapInUse is what lives on the heap.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC() // what sync.Pools kept goes with the second
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	return ms.HeapAlloc
}
