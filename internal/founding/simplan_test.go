package founding

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// choose draws a plan.
func choose(r *rand.Rand) plan {
	p := plan{
		sides: 2,
		n:     1 + r.IntN(5), voters: []int{1, 3, 3, 3, 5}[r.IntN(5)], durable: r.IntN(2) == 0,
		faults: time.Duration(r.IntN(60)) * time.Second,
		tick:   250 * time.Millisecond, look: 400 * time.Millisecond, groupTicks: 250 * time.Millisecond,
	}
	if r.IntN(8) == 0 {
		p.n = 6 + r.IntN(3)
	}
	p.expect = p.n/2 + 1 + r.IntN(p.n-p.n/2)
	if r.IntN(2) == 0 {
		p.late = time.Duration(r.IntN(20)) * time.Second
	}
	if r.IntN(4) == 0 {
		p.noVote = r.IntN(p.n)
	}
	if r.IntN(2) == 0 {
		p.loss, p.dup, p.slow = r.Float64()*0.4, r.Float64()*0.4, r.Float64()*0.2
	}
	p.pauses, p.cuts, p.oneWay, p.crashes = r.IntN(2) == 0, r.IntN(2) == 0, r.IntN(3) == 0, r.IntN(2) == 0
	p.relayed, p.addresses = r.IntN(2) == 0, r.IntN(2) == 0
	p.stepFault = []float64{0, 0.01, 0.04}[r.IntN(3)]
	p.commitFault = []float64{0, 0.1, 0.3}[r.IntN(3)]
	p.gap = []time.Duration{3 * time.Second, 6 * time.Second, 40 * time.Second}[r.IntN(3)]
	p.length = []time.Duration{10 * time.Second, 25 * time.Second, 60 * time.Second}[r.IntN(3)]
	if r.IntN(4) == 0 {
		p.rates = 0.1 // of two clocks: a fifth apart
	}
	if r.IntN(10) == 0 {
		p.forgets = 0.3
	}
	if r.IntN(10) == 0 && p.n > 1 {
		p.away = 1 + r.IntN(p.n-1)
	}
	if r.IntN(30) == 0 {
		p.odd = r.IntN(p.n)
	}
	if r.IntN(30) == 0 { // many processes, one voter, long cuts: several clusters begin, none has enough confirmers
		p.n, p.voters, p.cuts, p.sides, p.crashes = 4+r.IntN(5), 1, true, 3, false
		p.expect = p.n/2 + 1 + r.IntN(2)
		p.noVote, p.odd, p.away = min(p.noVote, p.n-1), 0, 0
		p.faults += 40 * time.Second
		p.stepFault, p.commitFault, p.gap = 0.04, 0.3, 3*time.Second
	}
	return p
}

// newSim is a run of the plan that seed chooses, changed.
func newSim(seed uint64, trace bool, change ...func(*plan)) *sim {
	s := &sim{rng: rand.New(rand.NewPCG(seed, 7)), seed: seed, groups: make(map[wire.UUID]*simGroup), deaf: make(map[[2]int]bool), cover: newCoverage(),
		owner: make(map[wire.UUID]*proc)}
	if trace {
		s.trace = &strings.Builder{}
	}
	s.plan = choose(s.rng)
	for _, f := range change {
		f(&s.plan)
	}
	s.side = make([]int, s.plan.n)
	names := s.rng.Perm(s.plan.n)
	for i := range s.plan.n {
		p := &proc{id: i, name: string(rune('a' + names[i])), mayVote: i >= s.plan.noVote, expect: s.plan.expect, rate: 1}
		if s.chance(0.05) {
			p.name = "a" // names can tie
		}
		if i < s.plan.odd {
			p.expect = 1 + s.rng.IntN(s.plan.n)
		}
		s.procs = append(s.procs, p)
	}
	s.logf("plan %+v", s.plan)
	return s
}

// begin schedules what the plan has.
func (s *sim) begin() {
	for _, p := range s.procs {
		s.after(s.upTo(s.plan.late), func() { s.start(p) })
	}
	for _, i := range s.rng.Perm(s.plan.n)[:s.plan.away] {
		s.after(s.upTo(s.plan.late+s.plan.faults), func() { s.remove(s.procs[i]) })
	}
	if s.plan.faults > 0 {
		s.fault()
	}
	s.after(s.plan.faults, s.end)
}

// fault brings one fault, and the next.
func (s *sim) fault() {
	s.after(s.upTo(s.plan.gap), func() {
		if !s.calm {
			s.strike(s.procs[s.rng.IntN(len(s.procs))], "")
			s.fault()
		}
	})
}

// strike brings a fault of a kind that the plan allows. step is what p was about to do, or had just done.
func (s *sim) strike(p *proc, step string) {
	switch kind := s.rng.IntN(4); {
	case kind == 0 && s.plan.crashes && p.up:
		s.coverFault(s.crashKind(), step)
		s.crash(p)
	case kind == 1 && s.plan.pauses && p.runs():
		s.coverFault("pause", step)
		s.pause(p, s.upTo(s.plan.length))
	case kind == 2 && s.plan.cuts:
		s.coverFault("cut", step)
		for i := range s.side {
			s.side[i] = s.rng.IntN(s.plan.sides)
		}
		s.logf("cut %v", s.side)
		s.after(s.upTo(s.plan.length), s.heal)
	case kind == 3 && s.plan.oneWay:
		s.coverFault("one-way cut", step)
		s.deafen(p, s.rng.IntN(2) == 0)
		s.after(s.upTo(s.plan.length), s.heal)
	}
}

func (s *sim) crashKind() string {
	if s.plan.durable {
		return "crash"
	}
	return "crash in memory"
}

// pause stops p for so long: what comes waits, and what it was about to do.
func (s *sim) pause(p *proc, length time.Duration) {
	if !p.runs() {
		return
	}
	p.paused = true
	s.logf("%s pauses", p.name)
	life := p.life
	s.after(length, func() { s.resume(p, life) })
}

// deafen lets nothing pass in one direction between p and some of the others.
func (s *sim) deafen(p *proc, out bool) {
	for i := range s.procs {
		if i != p.id && s.rng.IntN(3) > 0 {
			if out {
				s.deaf[[2]int{p.id, i}] = true
			} else {
				s.deaf[[2]int{i, p.id}] = true
			}
		}
	}
	s.logf("deaf %v", s.deaf)
}

func (s *sim) heal() {
	clear(s.side)
	clear(s.deaf)
}

func (s *sim) resume(p *proc, life int) {
	if p.life != life || !p.paused {
		return
	}
	s.logf("%s goes on", p.name)
	p.paused = false
	inbox, rest := p.inbox, p.rest
	p.inbox, p.rest = nil, nil
	s.perform(p, rest)
	s.rng.Shuffle(len(inbox), func(i, j int) { inbox[i], inbox[j] = inbox[j], inbox[i] })
	for _, ev := range inbox {
		if p.life == life {
			s.step(p, ev) // which may pause it again
		}
	}
}

// remove ends p for good.
func (s *sim) remove(p *proc) {
	s.logf("%s goes for good", p.name)
	p.gone = true
	s.crash(p)
}

// end stops the faults: all run, all reach all.
func (s *sim) end() {
	s.calm = true
	s.heal()
	s.logf("calm")
	for _, p := range s.procs {
		s.resume(p, p.life)
	}
}

func (s *sim) report() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d (rerun it with -founding.seed=%d): %s\nplan %+v\n", s.seed, s.seed, strings.Join(s.broken, "; "), s.plan)
	for _, p := range s.procs {
		if p.m == nil {
			fmt.Fprintf(&b, "%s never began\n", p.name)
			continue
		}
		fmt.Fprintf(&b, "%s up %v open %v saved %+v news %+v refused %v says %q\n", p.name, p.up, p.m.Open(), p.m.s, p.m.bound.news, p.m.bound.refused, p.m.Waiting())
	}
	return b.String()
}
