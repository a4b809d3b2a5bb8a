package raftfsm

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/godistlock/distlock/internal/wire"
)

// TestCancelAgainstGrant runs 10^5 random schedules of one race: waiters that cancel while the holder releases, with copies of all of
// it in any order. Whoever wins, in the end all is over, nothing is held, and no request was granted after its end.
func TestCancelAgainstGrant(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	m, index := newMachine(), uint64(1)
	m.apply(1, 1, Entry{Commands: []Command{Found{Cluster: id("C"), Expect: 1, Voters: 1}, Confirm{Cluster: id("C"), Server: id("s")}}})
	const sessions = 3
	for s := range sessions {
		word := fmt.Sprint("p", s)
		m.apply(1, 1, Entry{Commands: []Command{Create{wire.CreateSession{Nonce: id(word), Name: word, Instance: id(word), TTL: 1}}}})
	}
	var grantedFirst, cancelledFirst int
	schedules := uint64(100_000)
	if raceEnabled {
		schedules = 20_000
	}
	for schedule := range schedules {
		rng := rand.New(rand.NewPCG(seed, schedule))
		seq := 1 + 2*schedule // of each session's request; the next one is for a key that must be free in the end
		var ops []Ops
		for s := range uint64(sessions) {
			for range 1 + rng.IntN(2) {
				ops = append(ops, Ops{Session: s + 1, Ops: []wire.Op{acquire(seq, "a")}}, Ops{Session: s + 1, Ops: []wire.Op{finish(seq)}})
			}
		}
		rng.Shuffle(len(ops), func(i, j int) { ops[i], ops[j] = ops[j], ops[i] })
		var holder, over [sessions + 1]bool
		check := func(res *Result) {
			for _, o := range res.Outcomes {
				switch {
				case o.Seq != seq:
					t.Fatalf("schedule %d: an outcome of request %d", schedule, o.Seq)
				case o.Kind == wire.OutEnded:
					over[o.Session], holder[o.Session] = true, false
				case o.Kind == wire.OutGranted && over[o.Session]:
					t.Fatalf("schedule %d: session %d was granted after its cancel", schedule, o.Session)
				case o.Kind == wire.OutGranted:
					holder[o.Session] = true
				}
			}
			held := 0
			for _, h := range holder {
				if h {
					held++
				}
			}
			if held > 1 {
				t.Fatalf("schedule %d: %d holders", schedule, held)
			}
		}
		for len(ops) > 0 { // one to three ops an entry
			n := min(len(ops), 1+rng.IntN(3))
			e := Entry{Wall: int64(index)}
			for _, o := range ops[:n] {
				e.Commands = append(e.Commands, o)
				if o.Ops[0].Kind == wire.OpFinish {
					if holder[o.Session] {
						grantedFirst++
					} else if !over[o.Session] {
						cancelledFirst++
					}
				}
			}
			ops = ops[n:]
			index++
			check(m.apply(index, 1, e))
		}
		if l := m.lock("a"); l != nil || m.holders != 0 || m.requests.Len() != 0 {
			t.Fatalf("schedule %d: lock %+v, %d holders, %d requests are left", schedule, l, m.holders, m.requests.Len())
		}
		seq++
		index++
		var last Entry
		for s := range uint64(sessions) { // closes the gaps as well
			last.Commands = append(last.Commands, Ops{Session: s + 1, Ops: []wire.Op{{Kind: wire.OpForget, Seq: seq}}})
		}
		check(m.apply(index, 1, last))
	}
	if m.gaps.Len() != 0 {
		t.Errorf("%d gaps are left", m.gaps.Len())
	}
	if uint64(grantedFirst) < schedules/10 || uint64(cancelledFirst) < schedules/10 {
		t.Errorf("seed %d: the grant won %d times and the cancel %d times: this is no race", seed, grantedFirst, cancelledFirst)
	}
}
