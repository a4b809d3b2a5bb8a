package founding

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// steps are those of every first start of several processes: what they store, send, start and commit until the cluster is open.
var steps = []string{
	"storing its own round", "sending an invitation", "storing an acceptance", "sending an answer: accepted",
	"storing that it bootstraps", "bootstrapping", "sending that it has begun", "storing that it is bound", "starting raft", "sending that it is bound: accepted",
	"proposing the first entry", "the commit of the first entry", "storing its confirmation", "asking to be confirmed",
	"the commit of a confirmation", "storing that it is open",
}

// latecomer is a name below all others.
const latecomer = "A"

// oneFault are the faults that come alone, at a step of p. They answer how long they last.
var oneFault = map[string]func(s *sim, p *proc) time.Duration{
	"crash":            func(s *sim, p *proc) time.Duration { s.crash(p); return mostDown },
	"crash of another": func(s *sim, p *proc) time.Duration { s.crash(s.another(p)); return mostDown },
	"pause":            func(s *sim, p *proc) time.Duration { d := s.while(); s.pause(p, d); return d },
	"pause of another": func(s *sim, p *proc) time.Duration { d := s.while(); s.pause(s.another(p), d); return d },
	"cut off":          func(s *sim, p *proc) time.Duration { s.side[p.id] = 1; return s.while() },
	"cut in two": func(s *sim, _ *proc) time.Duration {
		for i := range s.side {
			s.side[i] = s.rng.IntN(2)
		}
		return s.while()
	},
	"unheard": func(s *sim, p *proc) time.Duration { s.deafen(p, true); return s.while() },
	"deaf":    func(s *sim, p *proc) time.Duration { s.deafen(p, false); return s.while() },
	"losses":  func(s *sim, _ *proc) time.Duration { s.plan.loss = 0.7; return s.while() },
	"a lower name": func(s *sim, _ *proc) time.Duration {
		for _, q := range s.procs {
			if q.name == latecomer {
				s.start(q)
			}
		}
		return 0
	},
}

// while is longer than some of the machine's time-outs and shorter than others.
func (s *sim) while() time.Duration {
	return []time.Duration{time.Second, 4 * time.Second, 7 * time.Second, 13 * time.Second, 25 * time.Second, 50 * time.Second}[s.rng.IntN(6)]
}

// another is a process that runs, other than p if there is one.
func (s *sim) another(p *proc) *proc {
	others := slices.DeleteFunc(slices.Clone(s.procs), func(q *proc) bool { return q == p || !q.up })
	if len(others) == 0 {
		return p
	}
	return others[s.rng.IntN(len(others))]
}

// stepRun is a start of several processes with one fault.
type stepRun struct {
	plan plan // what matters of it: n, expect, voters, durable, noVote
	seed uint64
	kind string
	at   int   // step before which the fault comes; -1: none does
	side []int // who is where after "this cut"
}

// run answers the steps that there were, of which the fault's is one.
func (r stepRun) run(trace bool) (s *sim, met []string) {
	s = newSim(r.seed, trace, func(p *plan) {
		chosen := *p
		*p = r.plan
		p.sides, p.late, p.faults = 2, time.Second, time.Minute+20*time.Second
		p.tick, p.look, p.groupTicks, p.relayed, p.addresses = chosen.tick, chosen.look, chosen.groupTicks, chosen.relayed, chosen.addresses
	})
	for i, p := range s.procs {
		if p.name = string(rune('a' + i)); i == len(s.procs)-1 && r.kind == "a lower name" {
			p.name, p.gone = latecomer, r.at < 0
			continue
		}
		s.after(s.upTo(s.plan.late), func() { s.start(p) })
	}
	s.hook = func(p *proc, step string) {
		if !slices.Contains(steps, step) {
			return
		}
		if met = append(met, step); len(met)-1 == r.at {
			s.struck = true
			s.logf("%s at %s by %s", r.kind, step, p.name)
			lasts := longCut
			if r.side != nil {
				copy(s.side, r.side)
			} else {
				lasts = oneFault[r.kind](s, p)
			}
			s.after(lasts, func() { s.plan.loss = 0; s.end() })
		}
	}
	if r.at < 0 {
		s.end()
	}
	s.finish()
	return s, met
}

// Of several processes that start, one fault comes at each step in turn, of each kind: all come to one open cluster, and no other ever opens.
func TestOneFaultAtEachStep(t *testing.T) {
	plans := []plan{
		{n: 3, expect: 3, voters: 3, durable: true}, {n: 3, expect: 3, voters: 3}, {n: 3, expect: 2, voters: 3, durable: true}, {n: 3, expect: 2, voters: 3},
		{n: 4, expect: 3, voters: 3}, {n: 5, expect: 4, voters: 5, durable: true}, {n: 5, expect: 3, voters: 3, noVote: 1, durable: true},
	}
	if raceDetector {
		plans = plans[1:4]
	}
	met := make([]map[string]int, len(plans)) // runs, by kind and step
	t.Run("plans", func(t *testing.T) {
		for i, p := range plans {
			t.Run(fmt.Sprintf("%d of %d, %d voters, durable %v", p.expect, p.n, p.voters, p.durable), func(t *testing.T) {
				t.Parallel()
				met[i] = make(map[string]int)
				for round := range max(1, *flagSeeds/5000) {
					if faultAtEachStep(t, p, uint64(i+1+round*len(plans)), met[i]); t.Failed() {
						return
					}
				}
			})
		}
	})
	for kind := range oneFault {
		for _, step := range steps {
			n := 0
			for _, m := range met {
				n += m[kind+" at "+step]
			}
			if n < len(plans) {
				t.Errorf("%s at %s: %d runs only", kind, step, n)
			}
		}
	}
}

// faultAtEachStep counts in met.
func faultAtEachStep(t *testing.T, p plan, seed uint64, met map[string]int) {
	for _, kind := range slices.Sorted(maps.Keys(oneFault)) {
		r := stepRun{plan: p, seed: seed, kind: kind, at: -1}
		if kind == "a lower name" {
			r.plan.n++
			r.plan.expect = max(p.expect, r.plan.n/2+1)
			r.plan.expect = min(r.plan.expect, p.n)
		}
		_, all := r.run(false)
		for r.at = range all {
			s, got := r.run(false)
			if len(s.broken) == 0 && !s.struck {
				s.fail("no fault came")
			}
			if len(s.broken) == 0 && !s.converged() && (p.n <= 3 || !s.lost) {
				s.fail("no open cluster")
			}
			if len(s.broken) > 0 {
				s, _ = r.run(true)
				t.Errorf("%s at step %d: %s\n%s\n%s", kind, r.at, s.report(), s.trace, strings.Join(got, "\n"))
				return
			}
			met[kind+" at "+got[r.at]]++
		}
	}
}

// longCut is longer than a process that belongs to a cluster without a leader waits before it looks whether it may leave that, and than the others
// take to found another.
const longCut = 50 * time.Second

// At each commit of a start the network is cut in two in each way there is, before anybody hears of the commit, for so long that the side
// without a leader gives up what may be given up: what is open on the one side must not be founded again on the other.
func TestEachCutAtEachCommit(t *testing.T) {
	runs, apart := 0, 0
	for i, p := range []plan{
		{n: 3, expect: 2, voters: 1}, {n: 4, expect: 3, voters: 1, durable: true}, {n: 5, expect: 3, voters: 1}, {n: 5, expect: 3, voters: 1, durable: true},
		{n: 5, expect: 3, voters: 3},
	} {
		r := stepRun{plan: p, seed: uint64(i + 1), kind: "this cut", at: -1}
		_, all := r.run(false)
		for at, step := range all {
			if !strings.HasPrefix(step, "the commit") {
				continue
			}
			for sides := 1; sides < 1<<(p.n-1); sides++ {
				r.at, r.side = at, make([]int, p.n)
				for j := range r.side {
					r.side[j] = sides >> j & 1
				}
				s, _ := r.run(false)
				if runs++; s.cover.met["left: nobody leads it, and nothing of it was ever stored here"] > 0 {
					apart++
				}
				if len(s.broken) > 0 || !s.converged() {
					s, _ = r.run(true)
					t.Fatalf("cut %v at %s, step %d: %s\n%s", r.side, step, at, s.report(), s.trace)
				}
			}
		}
	}
	if apart < runs/4 {
		t.Errorf("in %d of %d runs somebody gave the cluster up", apart, runs)
	}
}
