package raftfsm

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// A world so small that everything meets: resends, cancels that overtake, revocations, sessions that end in the middle.
const worldSeqs = 9

var worldKeys = []string{"a", "b", "c"}

// drawSession draws one of the last sessions that were made; most of them live.
func drawSession(t *rapid.T, m *model) uint64 {
	return m.lastSession - min(m.lastSession, rapid.Uint64Range(0, 4).Draw(t, "session"))
}

func drawOps(t *rapid.T, m *model) Command {
	session := drawSession(t, m)
	ops := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) wire.Op {
		// Mostly acquires and finishes; the seqs are drawn, not counted, so that most ops are resends or come out of order.
		o := wire.Op{
			Kind: rapid.SampledFrom([]wire.OpKind{1, 1, 1, 1, 2, 2, 2, 3, 4, 5}).Draw(t, "kind"),
			Seq:  rapid.Uint64Range(1, worldSeqs).Draw(t, "seq"),
		}
		if o.Kind == wire.OpAcquire || o.Kind == wire.OpForce {
			o.Key = rapid.SampledFrom(worldKeys).Draw(t, "key")
		}
		if o.Kind == wire.OpAcquire {
			o.Try = rapid.IntRange(0, 3).Draw(t, "try") == 0
		}
		return o
	}), 1, 4).Draw(t, "ops")
	return Ops{Session: session, Ops: ops}
}

func drawCommand(m *model) func(t *rapid.T) Command {
	return func(t *rapid.T) Command {
		switch rapid.IntRange(0, 29).Draw(t, "command") {
		case 0, 1:
			n := rapid.IntRange(1, 3).Draw(t, "name")
			life := rapid.IntRange(1, 3).Draw(t, "life")
			word := fmt.Sprintf("%d.%d", n, life)
			return Create{wire.CreateSession{
				Nonce: id(fmt.Sprintf("%s.%d", word, rapid.IntRange(1, 2).Draw(t, "attempt"))), Name: fmt.Sprintf("web-%d", n),
				Server: id(fmt.Sprintf("s%d.%d", n, life/2)), Instance: id(word), TTL: 1000,
				Proof:    wire.Proof{Boot: "b", NetNS: "n", Bound: fmt.Sprint(n, rapid.IntRange(0, 1).Draw(t, "port")), Started: int64(life)},
				Previous: drawSession(t, m),
			}}
		case 3:
			return Close{Session: drawSession(t, m)}
		case 4:
			c := Expire{Session: drawSession(t, m), Term: rapid.Uint64Range(1, 2).Draw(t, "term")}
			if ses := m.sessions[c.Session]; ses != nil {
				c.Seen = ses.renewed - uint64(rapid.IntRange(0, 1).Draw(t, "late"))
			}
			return c
		case 5:
			return EndSilence{Term: rapid.Uint64Range(1, 2).Draw(t, "term")}
		case 6:
			return Noop{}
		default:
			return drawOps(t, m)
		}
	}
}

// TestAgainstModel applies random entries to the machine and to the model, and compares all that they say. On the way a second
// machine follows through snapshots and other batches, Views are kept, and what sessions are told is held against the promises.
func TestAgainstModel(t *testing.T) {
	rounds := 4 // of rapid's 100 worlds
	if raceEnabled {
		rounds = 1
	}
	for range rounds {
		rapid.Check(t, againstModel)
	}
}

func againstModel(t *rapid.T) {
	silent := rapid.IntRange(0, 4).Draw(t, "silent") == 0
	start := Entry{Version: Version, Commands: []Command{
		Found{Cluster: id("C"), Expect: 1, Voters: 3, Silent: silent},
		Confirm{Cluster: id("C"), Server: id("s"), Clock: 1000},
	}}
	leader, follower := New(), New()
	m, promises := newModel(silent, 1000), newPromises()
	var waiting []*raft.Log // entries that the follower has not applied yet
	kept := map[*View]string{}

	commit := func(index uint64, e Entry) *Result {
		l := &raft.Log{Type: raft.LogCommand, Index: index, Term: e.Term, Data: e.Encode()}
		waiting = append(waiting, l)
		return leader.Apply(l).(*Result)
	}
	start.Term = 1
	commit(1, start)
	for n := range 3 {
		e := Entry{Version: Version, Term: 1, Wall: 1, Commands: []Command{Create{wire.CreateSession{
			Nonce: id(fmt.Sprint("nonce", n)), Name: fmt.Sprintf("web-%d", n+1), Instance: id(fmt.Sprint(n)), Server: id(fmt.Sprint(n)), TTL: 1,
		}}}}
		commit(uint64(2+n), e)
		m.apply(uint64(2+n), 1, e)
	}
	term := uint64(1)
	for index := uint64(5); index < 60; index++ {
		if rapid.IntRange(0, 30).Draw(t, "election") == 0 {
			term = 2
		}
		e := Entry{Version: Version, Term: term, Wall: int64(index) * 1_000_000}
		e.Commands = rapid.SliceOfN(rapid.Custom(drawCommand(m)), 1, 4).Draw(t, "entry")
		got, want := commit(index, e), m.apply(index, term, e)
		if showResult(got) != showResult(want) || !reflect.DeepEqual(got.Replies, want.Replies) {
			t.Fatalf("entry %d %+v\nmachine:\n%smodel:\n%s", index, e.Commands, showResult(got), showResult(want))
		}
		promises.hold(t, e, got)
		switch rapid.IntRange(0, 9).Draw(t, "then") {
		case 0:
			v := leader.View()
			kept[v] = whole(t, v)
			if got, want := brief(v), m.dump(); got != want {
				t.Fatalf("after entry %d\nmachine:\n%smodel:\n%s", index, got, want)
			}
		case 1: // the follower catches up in one batch
			for _, a := range follower.ApplyBatch(waiting) {
				if res := a.(*Result); res.Err != nil {
					t.Fatal(res.Err)
				}
			}
			waiting = nil
		case 2: // the follower is sent a snapshot
			if err := follower.Restore(io.NopCloser(bytes.NewReader(snapshotOf(t, leader.View())))); err != nil {
				t.Fatalf("after entry %d: %v", index, err)
			}
			waiting = nil
		}
	}
	follower.ApplyBatch(waiting)
	if a, b := snapshotOf(t, leader.View()), snapshotOf(t, follower.View()); !bytes.Equal(a, b) {
		t.Fatalf("the same entries, other bytes\nleader:\n%sfollower:\n%s", dump(leader.View()), dump(follower.View()))
	}
	for v, before := range kept {
		if before != whole(t, v) {
			t.Fatalf("the View of entry %d has changed", v.Index())
		}
	}
	checkEmpty(t, leader, 60, term)
}

// whole is all there is in a View: locks and names aren't in its snapshot.
func whole(t rapid.TB, v *View) string {
	out := dump(v) + string(snapshotOf(t, v))
	v.s.locks.Ascend(func(l *lock) bool {
		out += fmt.Sprintf("%+v", *l)
		return true
	})
	v.s.names.Ascend(func(ses *session) bool {
		out += fmt.Sprintf("%+v", *ses)
		return true
	})
	return out
}

// brief is dump without its first and last line.
func brief(v *View) string {
	lines := strings.SplitAfter(dump(v), "\n")
	return strings.Join(lines[1:len(lines)-2], "")
}

// checkEmpty ends all sessions and checks that nothing is left.
func checkEmpty(t rapid.TB, f *FSM, index, term uint64) {
	e := Entry{Version: Version, Term: term}
	for _, s := range f.View().Sessions() {
		e.Commands = append(e.Commands, Close{Session: s.ID})
	}
	f.Apply(&raft.Log{Type: raft.LogCommand, Index: index, Term: term, Data: e.Encode()})
	s := &f.m.state
	if n := s.sessions.Len() + s.names.Len() + s.gaps.Len() + s.requests.Len() + s.locks.Len() + s.queue.Len() + s.forces.Len(); n != 0 {
		t.Fatalf("%d items are left when all sessions have ended:\n%s", n, dump(f.View()))
	}
	if s.holders != 0 || s.grants != s.releases+s.expirations {
		t.Fatalf("%d holders are left, of %d grants %d were released and %d expired", s.holders, s.grants, s.releases, s.expirations)
	}
}

// promises holds what sessions are told against what they were promised, and knows nothing of how it is decided.
type promises struct {
	lastFence uint64
	keyOf     map[[2]uint64]string // what a request is for, by its first copy that was not after its end
	over      map[[2]uint64]bool   // finished by its session
	revoked   map[[2]uint64]bool
	holder    map[string][2]uint64 // by key, as told
	fences    map[[2]uint64]uint64
}

func newPromises() *promises {
	return &promises{
		keyOf: map[[2]uint64]string{}, over: map[[2]uint64]bool{}, revoked: map[[2]uint64]bool{}, holder: map[string][2]uint64{}, fences: map[[2]uint64]uint64{},
	}
}

// hold checks an entry of which each command's outcomes are known only together: what an entry ends, it ends before what it grants.
func (p *promises) hold(t rapid.TB, e Entry, res *Result) {
	ended := func(r [2]uint64) bool { return slices.Contains(res.Ended, r[0]) }
	p.free(ended)
	defer p.free(ended)               // what they were granted and lost in the same entry
	confirmed := map[[2]uint64]bool{} // no outcome tells of a confirmed end
	defer p.free(func(r [2]uint64) bool { return confirmed[r] && p.revoked[r] })
	for i, c := range e.Commands {
		ops, ok := c.(Ops)
		if !ok || res.Replies[i].Code != wire.CodeOK {
			continue
		}
		for _, o := range ops.Ops {
			r := [2]uint64{ops.Session, o.Seq}
			switch o.Kind {
			case wire.OpAcquire, wire.OpForce:
				if _, known := p.keyOf[r]; !known {
					p.keyOf[r] = o.Key
				}
			case wire.OpFinish, wire.OpConfirm:
				confirmed[r] = true
			}
		}
	}
	for _, o := range res.Outcomes {
		r := [2]uint64{o.Session, o.Seq}
		switch o.Kind {
		case wire.OutEnded:
			p.over[r] = true
			p.free(func(h [2]uint64) bool { return h == r })
		case wire.OutRevoked:
			p.revoked[r] = true
		case wire.OutGranted:
			if p.over[r] {
				t.Fatalf("request %v was granted after its end", r)
			}
			if f, known := p.fences[r]; known {
				if f != o.Fence {
					t.Fatalf("request %v has fences %d and %d", r, f, o.Fence)
				}
				continue
			}
			if o.Fence <= p.lastFence {
				t.Fatalf("fence %d after %d", o.Fence, p.lastFence)
			}
			p.lastFence, p.fences[r] = o.Fence, o.Fence
			key := p.keyOf[r]
			if h, held := p.holder[key]; held && !confirmed[h] && !ended(h) {
				t.Fatalf("%q was granted to %v while %v holds it", key, r, h)
			}
			p.holder[key] = r
		}
	}
}

func (p *promises) free(match func([2]uint64) bool) {
	for key, r := range p.holder {
		if match(r) {
			delete(p.holder, key)
		}
	}
}
