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
const worldSeqs = 12

var worldKeys = []string{"a", "b", "c"}

// drawSession draws one of the last sessions that were made; most of them live.
func drawSession(t *rapid.T, m *model) uint64 {
	return m.lastSession - min(m.lastSession, rapid.Uint64Range(0, 4).Draw(t, "session"))
}

var worldOps = []wire.OpKind{
	wire.OpAcquire, wire.OpAcquire, wire.OpRequest, wire.OpRequest, wire.OpRequest, wire.OpRequest, wire.OpRequest, wire.OpFinish, wire.OpFinish,
	wire.OpFinish, wire.OpConfirm, wire.OpConfirm, wire.OpForce, wire.OpForget, wire.OpExpire, wire.OpTime, wire.OpDowngrade, wire.OpRelease,
	wire.OpAdopt,
}

func drawOps(t *rapid.T, m *model) Command {
	session := drawSession(t, m)
	ops := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) wire.Op {
		// The seqs are drawn, not counted, so that many ops are resends or come out of order.
		o := wire.Op{Kind: rapid.SampledFrom(worldOps).Draw(t, "kind"), Seq: rapid.Uint64Range(1, worldSeqs).Draw(t, "seq")}
		switch o.Kind {
		case wire.OpForce:
			o.Key = rapid.SampledFrom(worldKeys).Draw(t, "key")
		case wire.OpAcquire:
			o.Key = rapid.SampledFrom(worldKeys).Draw(t, "key")
			o.Try = rapid.IntRange(0, 5).Draw(t, "try") == 0
		case wire.OpRequest:
			o.Ask = drawAsk(t, m)
			o.Try = rapid.IntRange(0, 7).Draw(t, "try") == 0
		case wire.OpTime:
			o.Ask = &wire.Ask{Time: rapid.Int64Range(1, 9).Draw(t, "time"), Nth: rapid.Uint64Range(1, 3).Draw(t, "nth")}
		case wire.OpRelease, wire.OpAdopt:
			o.Ask = &wire.Ask{Handle: drawHandle(t, m)}
		}
		return o
	}), 1, 4).Draw(t, "ops")
	return Ops{Session: session, Ops: ops}
}

// drawAsk draws a request. Semaphores are rarely met by other kinds, or every other request would be refused.
func drawAsk(t *rapid.T, m *model) *wire.Ask {
	few := func(what string, n int) bool { return rapid.IntRange(0, n-1).Draw(t, what) == 0 }
	a := &wire.Ask{}
	from := 0
	if few("together", 3) {
		from = 1
	}
	for i, key := range worldKeys {
		if rapid.Bool().Draw(t, "one of its keys") || from > 0 && i > 0 {
			a.Keys = append(a.Keys, key)
			if from == 0 {
				break
			}
		}
	}
	if len(a.Keys) == 0 {
		a.Keys = []string{"c"}
	}
	switch units := rapid.SampledFrom([]string{"", "a", "c"}).Draw(t, "semaphore"); {
	case units == a.Keys[0] || few("as a semaphore", 8):
		a.Mode, a.Limit = wire.Units, 3
		a.Weight = rapid.Uint32Range(1, 3).Draw(t, "weight")
		if few("another limit", 8) {
			a.Limit = 4
		}
	case rapid.Bool().Draw(t, "shared"):
		a.Mode = wire.Shared
	}
	if rapid.Bool().Draw(t, "owned") {
		a.Owner = rapid.Uint64Range(1, 4).Draw(t, "owner")
	}
	if few("cooldown", 4) {
		a.Cooldown = rapid.Int64Range(1, 9).Draw(t, "ms")
	}
	if few("ttl", 4) {
		a.TTL = 5
	}
	if few("value", 4) {
		a.Value, a.Where = []byte("v"), "main.go:7"
	}
	if few("detached", 3) {
		a.Detached = rapid.Int64Range(1, 9).Draw(t, "ms")
		if few("again", 2) {
			a.Origin = wire.Origin{Session: drawSession(t, m) + 1, Seq: rapid.Uint64Range(1, worldSeqs).Draw(t, "origin")}
			for _, g := range m.held {
				if g.session == 0 && g.now == "granted" {
					a.Origin = g.from()
				}
			}
			a.Only = rapid.Bool().Draw(t, "only")
		}
	}
	return a
}

// drawHandle draws that of a grant, an old one of it, or one that somebody made up.
func drawHandle(t *rapid.T, m *model) wire.Handle {
	nonce, o, fence := id("nobody"), wire.Origin{Session: 1, Seq: 1}, uint64(1001)
	if n := len(m.held); n > 0 {
		g := m.held[rapid.IntRange(0, n-1).Draw(t, "grant")]
		if g.now == "granted" {
			nonce, o, fence = g.nonce, g.from(), g.fence
			if g.origin.IsZero() {
				nonce = m.sessions[g.session].who.Nonce
			}
		}
	}
	switch rapid.IntRange(0, 9).Draw(t, "handle") {
	case 0:
		fence--
	case 1:
		nonce[3]++
	}
	return wire.NewHandle(nonce, o, fence)
}

func drawTime(t *rapid.T, m *model) Command {
	c := Time{Term: rapid.Uint64Range(1, 2).Draw(t, "term")}
	if rapid.IntRange(0, 4).Draw(t, "now") > 0 {
		c.Term = m.term
	}
	for _, r := range m.held {
		if r.armed > 0 && rapid.Bool().Draw(t, "told") {
			c.Timers = append(c.Timers, Timer{
				Key: r.ask.Keys[0], Fence: r.fence, Armed: r.armed - uint64(rapid.IntRange(0, 5).Draw(t, "late")/5),
				Left: int64(rapid.IntRange(0, 3).Draw(t, "left")),
			})
		}
	}
	return c
}

// drawServer draws one of few.
func drawServer(t *rapid.T) wire.UUID {
	return id(fmt.Sprintf("s%d", rapid.IntRange(1, 3).Draw(t, "server")))
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
		case 2:
			server, name := drawServer(t), fmt.Sprintf("web-%d", rapid.IntRange(1, 2).Draw(t, "name"))
			if rapid.IntRange(0, 2).Draw(t, "leaves") == 0 {
				return Unbind{Server: server, Term: rapid.Uint64Range(1, 2).Draw(t, "term")}
			}
			return Bind{Server: server, Name: name}
		case 7, 8, 9:
			return drawTime(t, m)
		default:
			return drawOps(t, m)
		}
	}
}

// TestAgainstModel applies random entries to the machine and to the model, and compares all that they say. On the way a second
// machine follows through snapshots and other batches, Views are kept, and what sessions are told is held against the promises.
func TestAgainstModel(t *testing.T) {
	rounds := 6 // of rapid's 100 worlds
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
	m, promises, watcher := newModel(silent, 1000), newPromises(), watcher{}
	leader.Watch(true)      // the follower doesn't: it is no part of the state
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
		m.apply(uint64(2+n), 1, e, commit(uint64(2+n), e))
	}
	term := uint64(1)
	for index := uint64(5); index < 60; index++ {
		if rapid.IntRange(0, 30).Draw(t, "election") == 0 {
			term = 2
		}
		e := Entry{Version: Version, Term: term, Wall: int64(index) * 1_000_000}
		e.Commands = rapid.SliceOfN(rapid.Custom(drawCommand(m)), 1, 4).Draw(t, "entry")
		got := commit(index, e)
		if got.Err != nil {
			t.Fatal(got.Err)
		}
		want := m.apply(index, term, e, got)
		want.Events = got.Events // see watcher
		if showResult(got) != showResult(want) || !reflect.DeepEqual(got.Replies, want.Replies) {
			t.Fatalf("entry %d %+v\nmachine:\n%smodel:\n%s", index, e.Commands, showResult(got), showResult(want))
		}
		promises.hold(t, e, got, &View{leader.m.state})
		watcher.hear(t, got.Events, &View{leader.m.state})
		switch rapid.IntRange(0, 9).Draw(t, "then") {
		case 0:
			v := leader.View()
			kept[v] = whole(t, v)
			if _, got, _ := strings.Cut(dump(v), "\n"); got != m.dump() {
				want := m.dump()
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

// checkEmpty ends all sessions, lets all times run down, and checks that nothing is left.
func checkEmpty(t rapid.TB, f *FSM, index, term uint64) {
	apply := func(e Entry) {
		e.Version, e.Term = Version, term
		f.Apply(&raft.Log{Type: raft.LogCommand, Index: index, Term: term, Data: e.Encode()})
		index++
	}
	apply(Entry{Commands: []Command{EndSilence{Term: term}}})
	var e Entry
	for _, s := range f.View().Sessions() {
		e.Commands = append(e.Commands, Close{Session: s.ID})
	}
	apply(e)
	for range 2 { // a grant, and its cooldown
		runDown(f, index, term)
		index++
	}
	s := &f.m.state
	if n := itemsIn(s); n != 0 {
		t.Fatalf("%d items are left when all sessions and times have ended:\n%s", n, dump(f.View()))
	}
	if s.holders != 0 || s.grants != s.releases+s.expirations {
		t.Fatalf("%d holders are left, of %d grants %d were released and %d expired", s.holders, s.grants, s.releases, s.expirations)
	}
}

// runDown lets all times that run come to their end.
func runDown(f *FSM, index, term uint64) {
	timers := f.View().Timers()
	for i := range timers {
		timers[i].Left = 0
	}
	e := Entry{Version: Version, Term: term}
	for len(timers) > 0 {
		n := min(len(timers), MaxTimers)
		e.Commands, timers = append(e.Commands, Time{Term: term, Timers: timers[:n]}), timers[n:]
	}
	f.Apply(&raft.Log{Type: raft.LogCommand, Index: index, Term: term, Data: e.Encode()})
}

// itemsIn counts all that has a size.
func itemsIn(s *state) int {
	return s.sessions.Len() + s.names.Len() + s.gaps.Len() + s.requests.Len() + s.locks.Len() + s.queue.Len() + s.forces.Len() + s.holds.Len() +
		s.timers.Len() + s.tied.Len() + s.waits.Len() + s.owned.Len() + s.moves.Len()
}

// promises holds what sessions are told against what they were promised, and knows nothing of how it is decided. A grant is its fence.
type promises struct {
	lastFence uint64
	asks      map[[2]uint64]wire.Ask // what a request asks for, by its first copy
	over      map[[2]uint64]bool     // finished by its session
	fences    map[[2]uint64]uint64   // that a request was told
	grants    map[uint64]*promised   // by fence
	shares    map[[2]uint64]bool     // exclusive ones that were to be shared: be it before or after others were granted, it only allows more
}

type promised struct {
	holder  [2]uint64 // session 0: nobody's
	ask     wire.Ask
	revoked bool
	ended   bool // by an entry that is being looked at, perhaps: be it before or after what that grants
}

func newPromises() *promises {
	return &promises{
		asks: map[[2]uint64]wire.Ask{}, over: map[[2]uint64]bool{}, fences: map[[2]uint64]uint64{}, grants: map[uint64]*promised{},
		shares: map[[2]uint64]bool{},
	}
}

// hold checks an entry of which each command's outcomes are known only together: what an entry ends, it ends before what it grants.
func (p *promises) hold(t rapid.TB, e Entry, res *Result, after *View) {
	words := map[[2]uint64]bool{}                                 // finished or confirmed by who has it
	handled := map[uint64]bool{}                                  // nobody's grants end at once when somebody wants it
	finished, asked := map[[2]uint64]bool{}, map[[2]uint64]bool{} // asked: was answered, perhaps by "ended", for something else
	for i, c := range e.Commands {
		ops, ok := c.(Ops)
		if !ok || res.Replies[i].Code != wire.CodeOK {
			continue
		}
		for _, o := range ops.Ops {
			r := [2]uint64{ops.Session, o.Seq}
			switch o.Kind {
			case wire.OpAcquire:
				p.begin(r, wire.Ask{Keys: []string{o.Key}})
			case wire.OpRequest:
				p.begin(r, *o.Ask)
			case wire.OpFinish, wire.OpExpire:
				words[r], finished[r] = true, true
			case wire.OpConfirm:
				words[r] = true
			case wire.OpForce:
				for fence, g := range p.grants {
					handled[fence] = handled[fence] || slices.Contains(g.ask.Keys, o.Key)
				}
			case wire.OpRelease, wire.OpAdopt:
				handled[o.Ask.Handle.Fence] = true
			case wire.OpTime:
				asked[r] = true
			case wire.OpDowngrade:
				asked[r], p.shares[r] = true, true
			}
		}
	}
	timeUp := map[uint64]bool{}
	for i, c := range e.Commands {
		if c, ok := c.(Time); ok && res.Replies[i].Code == wire.CodeOK {
			for _, x := range c.Timers {
				timeUp[x.Fence] = timeUp[x.Fence] || x.Left == 0
			}
		}
	}
	for fence, g := range p.grants {
		g.ended = slices.Contains(res.Ended, g.holder[0]) || words[g.holder] || timeUp[fence] || g.holder[0] == 0 && handled[fence]
	}
	for _, o := range res.Outcomes {
		r := [2]uint64{o.Session, o.Seq}
		switch o.Kind {
		case wire.OutEnded:
			if finished[r] && !asked[r] {
				p.over[r] = true
			}
		case wire.OutRevoked:
			if g := p.grants[o.Fence]; g != nil {
				g.revoked = true
			}
		case wire.OutGranted, wire.OutAdopted:
			if p.over[r] {
				t.Fatalf("request %v was granted after its end", r)
			}
			if f, known := p.fences[r]; known {
				if f != o.Fence {
					t.Fatalf("request %v has fences %d and %d", r, f, o.Fence)
				}
				continue
			}
			p.fences[r] = o.Fence
			if g := p.grants[o.Fence]; g != nil { // it has moved
				if !g.ended && g.holder[0] != 0 && (o.Kind != wire.OutAdopted || !g.revoked) {
					t.Fatalf("%v got the grant of %v, who was not asked to let go", r, g.holder)
				}
				p.grants[o.Fence] = &promised{holder: r, ask: g.ask, ended: slices.Contains(res.Ended, r[0]) || words[r] || timeUp[o.Fence]}
				continue
			}
			if o.Kind == wire.OutAdopted {
				t.Fatalf("%v adopted what nobody has", r)
			}
			if o.Fence <= p.lastFence {
				t.Fatalf("fence %d after %d", o.Fence, p.lastFence)
			}
			p.lastFence = o.Fence
			g := &promised{holder: r, ask: p.asks[r], ended: slices.Contains(res.Ended, r[0]) || words[r]}
			p.fitsBeside(t, g)
			p.grants[o.Fence] = g
		}
	}
	for r := range finished {
		p.over[r] = true
	}
	// What has ended in truth, after all.
	left := map[uint64]*promised{}
	for _, x := range after.Timers() {
		if g := p.grants[x.Fence]; g != nil {
			left[x.Fence] = &promised{ask: g.ask} // nobody's, or a cooldown, as far as the next lines don't know better
		}
	}
	for _, l := range after.Locks("", "", 1000) {
		for _, h := range l.Holders {
			g := p.grants[h.Fence]
			if g == nil {
				t.Fatalf("fence %d holds %q, and nobody was told", h.Fence, l.Key)
			}
			left[h.Fence] = &promised{holder: [2]uint64{h.Session, h.Seq}, ask: g.ask, revoked: h.Revoked}
			left[h.Fence].ask.Mode = h.Mode
		}
	}
	for fence, g := range p.grants {
		if left[fence] == nil && !g.ended {
			t.Fatalf("the grant of %v with fence %d has ended, and nobody ended it", g.holder, fence)
		}
	}
	p.grants = left
}

func (p *promises) begin(r [2]uint64, a wire.Ask) {
	if _, known := p.asks[r]; !known {
		p.asks[r] = a
	}
}

// fitsBeside checks that g has something of its keys beside what has not ended.
func (p *promises) fitsBeside(t rapid.TB, g *promised) {
	for _, key := range g.ask.Keys {
		used := g.ask.Weight
		for fence, h := range p.grants {
			if h.ended || !slices.Contains(h.ask.Keys, key) {
				continue
			}
			used += h.ask.Weight
			shared := h.ask.Mode == wire.Shared || h.ask.Mode == wire.Exclusive && p.shares[h.holder]
			both := shared && g.ask.Mode == wire.Shared || h.ask.Mode == wire.Units && g.ask.Mode == wire.Units
			if !both || h.ask.Limit != g.ask.Limit || used > g.ask.Limit {
				if both && g.ask.Mode == wire.Shared {
					continue
				}
				t.Fatalf("%q was granted to %v (%v) beside %v (%v) with fence %d", key, g.holder, g.ask, h.holder, h.ask, fence)
			}
		}
	}
}

// watcher knows of each key what events tell: how many wait, and the fences that hold it.
type watcher map[string]*watchedKey

type watchedKey struct {
	waiters int
	fences  []uint64
}

func (w watcher) hear(t rapid.TB, events []Event, after *View) {
	granted := map[string]int{}
	for _, e := range events {
		k := w[e.Key]
		if k == nil {
			k = &watchedKey{}
			w[e.Key] = k
		}
		at := slices.Index(k.fences, e.Fence)
		switch e.Type {
		case evQueued:
			k.waiters++
		case evCancelled:
			k.waiters--
		case evGranted:
			granted[e.Key]++
			k.fences = append(k.fences, e.Fence)
		case evMoved:
			if at < 0 {
				t.Fatalf("%+v of nobody's grant", e)
			}
		default:
			if at < 0 {
				t.Fatalf("%+v of nobody's grant", e)
			}
			k.fences = slices.Delete(k.fences, at, at+1)
		}
	}
	locks := map[string]LockInfo{}
	for _, l := range after.Locks("", "", 1000) {
		locks[l.Key] = l
	}
	for key, k := range w {
		var fences []uint64
		for _, h := range locks[key].Holders {
			fences = append(fences, h.Fence)
		}
		slices.Sort(k.fences)
		if !slices.Equal(fences, k.fences) {
			t.Fatalf("events tell that %q is held with fences %d, it is with %d\n%+v", key, k.fences, fences, events)
		}
		n := len(locks[key].Waiters)
		if k.waiters < n || k.waiters-granted[key] > n {
			t.Fatalf("events tell of %d waiters of %q, there are %d\n%+v", k.waiters, key, n, events)
		}
		k.waiters = n
	}
}
