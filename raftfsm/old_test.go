package raftfsm

import (
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/hashicorp/raft"
)

// oldLog is a log that processes of version 1 might have written: everything in it meets everything else. The same seed gives the same log.
func oldLog(seed uint64, entries int) []Entry {
	rng := rand.New(rand.NewPCG(seed, 1))
	one := func(n uint64) uint64 { return 1 + rng.Uint64N(n) }
	var log []Entry
	add := func(cmds ...Command) {
		log = append(log, Entry{Version: 1, Term: 1 + uint64(len(log)/40), Wall: int64(len(log)) * 1_000_000, Commands: cmds})
	}
	add(Found{Cluster: id("C"), Expect: 1, Voters: 3, Silent: seed%4 == 0}, Confirm{Cluster: id("C"), Server: id("s"), Clock: 1000})
	create := func() Command {
		name, life := one(4), one(3)
		word := fmt.Sprint(name, ".", life)
		return Create{wire.CreateSession{
			Nonce: id(fmt.Sprint(word, ".", one(2))), Name: fmt.Sprint("web-", name), Server: id(fmt.Sprint("s", name, life/2)), Instance: id(word), TTL: 1000,
			Proof:    wire.Proof{Boot: "b", NetNS: "n", Bound: fmt.Sprint(name, one(2)), Started: int64(life)},
			Previous: rng.Uint64N(6),
		}}
	}
	add(create(), create(), create(), create(), create(), create())
	sessions := uint64(6)
	for len(log) < entries {
		var cmds []Command
		for range one(4) {
			switch rng.IntN(40) {
			case 0, 1:
				sessions++
				cmds = append(cmds, create())
			case 2:
				cmds = append(cmds, Close{Session: one(sessions)})
			case 3:
				cmds = append(cmds, Expire{Session: one(sessions), Term: one(4), Seen: one(uint64(len(log)))})
			case 4:
				cmds = append(cmds, EndSilence{Term: one(4)})
			default:
				var ops []wire.Op
				for range one(5) {
					kind := []wire.OpKind{wire.OpAcquire, wire.OpAcquire, wire.OpAcquire, wire.OpFinish, wire.OpFinish, wire.OpConfirm, wire.OpForce, wire.OpForget}[rng.IntN(8)]
					o := wire.Op{Kind: kind, Seq: one(14)}
					if kind == wire.OpAcquire || kind == wire.OpForce {
						o.Key = []string{"a", "b", "c", "d"}[rng.IntN(4)]
					}
					o.Try = kind == wire.OpAcquire && rng.IntN(4) == 0
					ops = append(ops, o)
				}
				cmds = append(cmds, Ops{Session: one(sessions), Ops: ops})
			}
		}
		add(cmds...)
	}
	return log
}

// oldStates applies a log and returns a sum over the snapshots after each of its entries.
func oldStates(t *testing.T, seed uint64) uint64 {
	f := New()
	sum := crc64.New(crcTable())
	for i, e := range oldLog(seed, 150) {
		l := &raft.Log{Type: raft.LogCommand, Index: uint64(i + 1), Term: e.Term, Data: e.Encode()}
		if res := f.Apply(l).(*Result); res.Err != nil {
			t.Fatal(res.Err)
		}
		sum.Write(snapshotOf(t, f.View()))
	}
	return sum.Sum64()
}

// TestOldStates: while all entries are of version 1, a state has the same bytes as in a process that knows nothing else: a cluster is upgraded one
// process after the other. testdata/states-v1.sums was written by the last commit before version 2.
func TestOldStates(t *testing.T) {
	file := filepath.Join("testdata", "states-v1.sums")
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for seed := range uint64(60) {
		fmt.Fprintf(&got, "%d %016x\n", seed, oldStates(t, seed))
	}
	if got.String() != string(want) {
		t.Errorf("states of version 1 have changed:\n%s", got.String())
	}
}
