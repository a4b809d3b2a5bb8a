package raftfsm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/godistlock/distlock/internal/wire"
)

// A thread of a program: it takes what its script says, one after the other, and then gives all back. Before it begins anew it may be told that it
// would wait for ever, and gives back what it has.
type thread struct {
	session, owner uint64 // owner: the number of its first request
	script         []wire.Ask
	step           int
	has            []*hasOrWants
	wants          *hasOrWants // nil while it goes on
	refused        int
}

type hasOrWants struct {
	of  *thread
	seq uint64
	ask wire.Ask
}

// threads is a world of them, with a wait-for graph of its own.
type threads struct {
	t       *testing.T
	rng     *rand.Rand
	what    string // for a failure
	m       *machine
	index   uint64
	next    []uint64 // by session
	all     []*thread
	waiting []*hasOrWants // in the order in which they began to
	owners  bool          // they say who they are
	grants  int
}

func newThreads(t *testing.T, m *machine, rng *rand.Rand, what string) *threads {
	w := &threads{t: t, rng: rng, what: what, m: m, index: m.index, next: make([]uint64, m.lastSession+1)}
	m.sessions.Ascend(func(ses *session) bool {
		w.next[ses.id] = ses.next
		return true
	})
	return w
}

func openMachine(sessions int) *machine {
	m := newMachine()
	e := Entry{Version: Version, Commands: []Command{Found{Cluster: id("C"), Expect: 1, Voters: 1}, Confirm{Cluster: id("C"), Server: id("s")}}}
	for s := range sessions {
		word := fmt.Sprint("p", s+1)
		e.Commands = append(e.Commands, Create{wire.CreateSession{Nonce: id(word), Name: word, Instance: id(word), TTL: 1}})
	}
	m.apply(1, 1, e)
	return m
}

func (w *threads) op(session uint64, o wire.Op) {
	w.index++
	res := w.m.apply(w.index, 1, Entry{Version: Version, Commands: []Command{Ops{Session: session, Ops: []wire.Op{o}}}})
	for _, o := range res.Outcomes {
		switch o.Kind {
		case wire.OutGranted:
			w.granted(o)
		case wire.OutFailed:
			w.refused(o)
		}
	}
}

func (w *threads) waiter(o Routed) *hasOrWants {
	i := slices.IndexFunc(w.waiting, func(r *hasOrWants) bool { return r.of.session == o.Session && r.seq == o.Seq })
	if i < 0 {
		w.t.Fatalf("%s: %+v of nobody who waits", w.what, o)
	}
	return w.waiting[i]
}

func (w *threads) granted(o Routed) {
	w.grants++
	r := w.waiter(o)
	w.waiting = slices.DeleteFunc(w.waiting, func(x *hasOrWants) bool { return x == r })
	r.of.wants, r.of.has = nil, append(r.of.has, r)
	r.of.step++
}

func (w *threads) refused(o Routed) {
	r := w.waiter(o)
	if o.Code != wire.CodeDeadlock {
		w.t.Fatalf("%s: %+v", w.what, o)
	}
	if w.comesTrue(r) {
		w.t.Fatalf("%s: request %d of session %d for %q would have been granted some time: %s\n%s", w.what, r.seq, o.Session, r.ask.Keys, o.Text, w.show())
	}
	w.waiting = slices.DeleteFunc(w.waiting, func(x *hasOrWants) bool { return x == r })
	r.of.wants = nil
	r.of.refused++
	w.index++
	w.m.apply(w.index, 1, Entry{Version: Version, Commands: []Command{Ops{Session: o.Session, Ops: []wire.Op{{Kind: wire.OpForget, Seq: o.Seq}}}}})
	w.giveBack(r.of)
}

func beside(a, b wire.Ask) bool { return a.Mode == wire.Shared && b.Mode == wire.Shared }

// room says that r has room at all its keys beside those of has for whom stays is true.
func (w *threads) room(r *hasOrWants, stays func(*thread) bool) bool {
	for _, key := range r.ask.Keys {
		used := r.ask.Weight
		for _, x := range w.all {
			if !stays(x) {
				continue
			}
			for _, h := range x.has {
				if slices.Contains(h.ask.Keys, key) && !beside(h.ask, r.ask) {
					if used += h.ask.Weight; r.ask.Mode != wire.Units {
						return false
					}
				}
			}
		}
		if used > r.ask.Limit && r.ask.Mode == wire.Units {
			return false
		}
	}
	return true
}

// comesTrue plays on, by the plain rules: who doesn't wait gives all back, who is granted what it waits for then does so too. It says whether r is granted.
func (w *threads) comesTrue(r *hasOrWants) bool {
	stuck := map[*thread]bool{}
	for _, x := range w.all {
		stuck[x] = x.wants != nil
	}
	for changed := true; changed; {
		changed = false
		for i, x := range w.waiting {
			if !stuck[x.of] || !w.room(x, func(t *thread) bool { return stuck[t] }) {
				continue
			}
			behind := slices.ContainsFunc(w.waiting[:i], func(p *hasOrWants) bool {
				return stuck[p.of] && !beside(p.ask, x.ask) && meet(p.ask, x.ask)
			})
			if !behind {
				stuck[x.of], changed = false, true
			}
		}
	}
	return !stuck[r.of]
}

// giveBack ends all that x has, and begins its script anew.
func (w *threads) giveBack(x *thread) {
	has := x.has
	x.has, x.step, x.owner = nil, 0, 0
	w.rng.Shuffle(len(has), func(i, j int) { has[i], has[j] = has[j], has[i] })
	for _, h := range has {
		w.op(x.session, finish(h.seq))
	}
}

// turn lets x do its next step; false when its script is at its end and all is given back.
func (w *threads) turn(x *thread) bool {
	if x.step == len(x.script) {
		w.giveBack(x)
		return false
	}
	r := &hasOrWants{of: x, seq: w.next[x.session], ask: x.script[x.step]}
	w.next[x.session]++
	if x.owner == 0 {
		x.owner = r.seq
	} else if w.owners {
		r.ask.Owner = x.owner
	}
	x.wants = r
	w.waiting = append(w.waiting, r)
	w.op(x.session, wire.Op{Kind: wire.OpRequest, Seq: r.seq, Ask: &r.ask})
	return true
}

// run lets all threads run to their ends, in any order.
func (w *threads) run() {
	done := map[*thread]bool{}
	for len(done) < len(w.all) {
		var may []*thread
		for _, x := range w.all {
			if x.wants == nil && !done[x] {
				may = append(may, x)
			}
		}
		if len(may) == 0 {
			w.t.Fatalf("%s: all are stuck, and nobody was told:\n%s", w.what, w.show())
		}
		if x := may[w.rng.IntN(len(may))]; !w.turn(x) {
			done[x] = true
		}
	}
	if n := w.m.requests.Len() + w.m.locks.Len() + w.m.queue.Len() + w.m.waits.Len() + w.m.owned.Len() + w.m.tied.Len() + w.m.holds.Len(); n > 0 {
		w.t.Fatalf("%s: %d items are left", w.what, n)
	}
}

func (w *threads) show() (text string) {
	for _, x := range w.all {
		text += fmt.Sprintf("owner %d of session %d has", x.owner, x.session)
		for _, h := range x.has {
			text += fmt.Sprintf(" %q mode %d", h.ask.Keys, h.ask.Mode)
		}
		if x.wants != nil {
			text += fmt.Sprintf(" and wants %q mode %d", x.wants.ask.Keys, x.wants.ask.Mode)
		}
		text += "\n"
	}
	return text
}

// anyAsk draws what a thread may want of keys: s is a semaphore.
func anyAsk(rng *rand.Rand, keys []string) wire.Ask {
	if rng.IntN(4) == 0 {
		return wire.Ask{Keys: []string{"s"}, Mode: wire.Units, Limit: 3, Weight: 1 + rng.Uint32N(2)}
	}
	a := wire.Ask{Mode: []wire.Mode{wire.Exclusive, wire.Exclusive, wire.Shared}[rng.IntN(3)]}
	n := []int{1, 1, 1, 2, 3}[rng.IntN(5)]
	for _, i := range rng.Perm(len(keys))[:min(n, len(keys))] {
		a.Keys = append(a.Keys, keys[i])
	}
	slices.Sort(a.Keys)
	return a
}

// TestDeadlocks: threads that say who they are take anything in any order. Nobody is left waiting for ever, and nobody is told that it would be
// who wouldn't.
func TestDeadlocks(t *testing.T) {
	seed := rand.Uint64()
	schedules := uint64(10_000)
	if raceEnabled {
		schedules = 1000
	}
	m := openMachine(3)
	refused := 0
	for schedule := range schedules {
		rng := rand.New(rand.NewPCG(seed, schedule))
		w := newThreads(t, m, rng, fmt.Sprintf("seed %d, schedule %d", seed, schedule))
		w.owners = true
		for range 2 + rng.IntN(5) {
			x := &thread{session: 1 + rng.Uint64N(3)}
			for range 2 + rng.IntN(2) {
				a := anyAsk(rng, []string{"a", "b", "c", "d"})
				if !slices.ContainsFunc(x.script, func(b wire.Ask) bool { return meet(a, b) }) { // who takes a key twice is refused each time it tries
					x.script = append(x.script, a)
				}
			}
			w.all = append(w.all, x)
		}
		w.run()
		for _, x := range w.all {
			refused += x.refused
		}
	}
	t.Logf("seed %d: %d deadlocks in %d schedules", seed, refused, schedules)
	if uint64(refused) < schedules/10 {
		t.Errorf("seed %d: %d deadlocks in %d schedules are too few for a test", seed, refused, schedules)
	}
}

func meet(a, b wire.Ask) bool {
	return slices.ContainsFunc(a.Keys, func(k string) bool { return slices.Contains(b.Keys, k) })
}

// TestTogetherIsNoDeadlock: threads that don't say who they are take keys in one order, alone or several together. No such program can
// be stuck if LockAll is not there, so it must not be with it: a waiting one passes those who have what it waits for.
func TestTogetherIsNoDeadlock(t *testing.T) {
	seed := rand.Uint64()
	schedules := uint64(10_000)
	if raceEnabled {
		schedules = 1000
	}
	m := openMachine(4)
	for schedule := range schedules {
		rng := rand.New(rand.NewPCG(seed, schedule))
		w := newThreads(t, m, rng, fmt.Sprintf("seed %d, schedule %d", seed, schedule))
		for range 2 + rng.IntN(7) {
			x := &thread{session: 1 + rng.Uint64N(4)}
			for from := 0; from < 6; { // pieces of a to f, ascending
				from += rng.IntN(3)
				n := min([]int{1, 1, 2, 3}[rng.IntN(4)], 6-from)
				if n <= 0 {
					break
				}
				a := wire.Ask{Mode: []wire.Mode{wire.Exclusive, wire.Shared}[rng.IntN(2)]}
				for i := range n {
					if n < 3 || i != 1 {
						a.Keys = append(a.Keys, string(rune('a'+from+i)))
					}
				}
				x.script = append(x.script, a)
				from += n
			}
			w.all = append(w.all, x)
		}
		w.run()
	}
	t.Logf("seed %d", seed)
}

// TestTogetherIsServed: processes that take one key after the other for ever don't keep a LockAll of these keys waiting: nobody who comes later is served before.
func TestTogetherIsServed(t *testing.T) {
	seed := rand.Uint64()
	const sessions = 8
	m := openMachine(sessions + 1)
	worst := 0
	for round := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, round))
		w := newThreads(t, m, rng, fmt.Sprintf("seed %d, round %d", seed, round))
		for s := range uint64(sessions) {
			w.all = append(w.all, &thread{session: s + 1})
		}
		busy := func() {
			var may []*thread
			for _, x := range w.all[:sessions] {
				if x.wants == nil {
					may = append(may, x)
				}
			}
			x := may[rng.IntN(len(may))]
			if x.step == len(x.script) {
				w.giveBack(x)
				x.script = []wire.Ask{{Keys: []string{string(rune('a' + rng.IntN(3)))}, Mode: wire.Mode(rng.IntN(2))}}
			}
			w.turn(x)
		}
		for range 50 {
			busy()
		}
		all := &thread{session: sessions + 1, script: []wire.Ask{{Keys: []string{"a", "b", "c"}}}}
		w.all = append(w.all, all)
		w.turn(all)
		before := w.grants
		for steps := 0; all.wants != nil; steps++ {
			if busy(); w.grants-before > sessions+1 || steps > 100*sessions {
				t.Fatalf("%s: %d grants to others while it waits\n%s", w.what, w.grants-before, w.show())
			}
		}
		worst = max(worst, w.grants-before)
		w.index++
		end := Entry{Version: Version}
		for s := range uint64(sessions + 1) {
			end.Commands = append(end.Commands, Ops{Session: s + 1, Ops: []wire.Op{}})
			for _, h := range append(slices.Clone(w.all[s].has), w.waiting...) {
				if h.of == w.all[s] {
					end.Commands = append(end.Commands, Ops{Session: s + 1, Ops: []wire.Op{finish(h.seq)}})
				}
			}
		}
		m.apply(w.index, 1, end)
	}
	t.Logf("seed %d: at most %d grants to others", seed, worst)
}
