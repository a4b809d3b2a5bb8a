package founding

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// cutFromTheStart is a start of n processes of which the first on one side and the rest on the other can't reach each other for a while.
func cutFromTheStart(seed uint64, trace bool, n, expect, first int, heal time.Duration) *sim {
	s := newSim(seed, trace, func(p *plan) {
		*p = plan{sides: 2, n: n, expect: expect, voters: 3, durable: p.durable, late: time.Second, faults: heal, tick: p.tick, look: p.look,
			groupTicks: p.groupTicks, relayed: p.relayed, addresses: p.addresses, rates: p.rates}
	})
	for i := range s.side {
		if i >= first {
			s.side[i] = 1
		}
	}
	for i, name := range s.rng.Perm(n) {
		p := s.procs[i]
		p.name = string(rune('a' + name))
		s.after(s.upTo(s.plan.late), func() { s.start(p) })
	}
	s.after(heal, s.end)
	return s
}

// until lets time pass.
func (s *sim) until(at time.Duration) {
	s.after(at-s.now, func() {})
	for s.now < at {
		s.next()
	}
}

// Where only one side of a cut has as many as Expect, that side has the cluster, the other says whom it waits for, and joins when the cut heals.
func TestCutWithEnoughOnOneSide(t *testing.T) {
	for seed := range uint64(cutSeeds) {
		n := 3 + int(seed)%6
		expect := n/2 + 1
		heal := time.Duration(1+seed%4) * 20 * time.Second
		s := cutFromTheStart(seed+1, false, n, expect, expect, heal)
		s.until(heal - time.Millisecond)
		for i, p := range s.procs {
			text := p.m.Waiting()
			switch {
			case i < expect && !p.m.Open():
				t.Errorf("seed %d: of %d processes %s, on the side that has enough, says %q", seed, n, p.name, text)
			case i >= expect && !(strings.Contains(text, "(Expect)") && strings.Contains(text, "it waits for")):
				t.Errorf("seed %d: of %d processes %s, on the side that has too few, says %q", seed, n, p.name, text)
			}
		}
		s.finish()
		if len(s.broken) > 0 || !s.converged() || len(s.order) != 1 {
			t.Fatalf("%d clusters have begun: %s", len(s.order), s.report())
		}
	}
}

// Where Expect is at most half and both sides of a cut have it, nothing is promised but this: each side has its own cluster, and after the cut
// both go on as they are and tell of each other.
func TestExpectMetOnBothSidesOfACut(t *testing.T) {
	for seed := range uint64(cutSeeds) {
		n := 4 + int(seed)%5
		expect := n / 2
		heal := 20 * time.Second
		s := cutFromTheStart(seed+1, false, n, expect, expect, heal)
		s.until(heal - time.Millisecond)
		var before []string
		for _, p := range s.procs {
			if !p.m.Open() {
				t.Errorf("seed %d: %s says %q", seed, p.name, p.m.Waiting())
			}
			before = append(before, p.m.Cluster().String())
		}
		s.until(heal + 5*time.Second)
		var after []string
		for _, p := range s.procs {
			after = append(after, p.m.Cluster().String())
			if _, warned := p.m.logged["other"]; !warned {
				t.Errorf("seed %d: %s does not tell of the other open cluster", seed, p.name)
			}
		}
		if len(s.broken) > 0 || !slices.Equal(before, after) || before[0] == before[n-1] {
			t.Fatalf("of %v before the cut was over came %v: %s", before, after, s.report())
		}
	}
}

const cutSeeds = 60

// Two clusters that have both begun, are both led and have both too few confirmers meet: one ends itself, and the other one opens.
func TestTwoUnopenedClustersMeet(t *testing.T) {
	for seed := range uint64(cutSeeds) {
		s := newSim(seed+1, false, func(p *plan) {
			*p = plan{sides: 2, n: 5, expect: 3, voters: 1, durable: p.durable, late: time.Second, faults: 2 * time.Minute, tick: p.tick, look: p.look,
				groupTicks: p.groupTicks, relayed: p.relayed, addresses: p.addresses, rates: p.rates}
		})
		for i, p := range s.procs {
			p.name = string(rune('a' + i))
			s.after(s.upTo(s.plan.late), func() { s.start(p) })
		}
		founded := 0
		s.hook = func(_ *proc, step string) {
			if step != "the commit of the first entry" {
				return
			}
			switch founded++; founded {
			case 1: // a and b confirm; the others give up and begin again
				s.side = []int{0, 0, 1, 1, 1}
			case 2: // c and d confirm, and meet the first two
				s.side = []int{0, 0, 1, 1, 2}
				s.after(5*time.Second, func() { s.side = []int{0, 0, 0, 0, 2} })
				s.after(35*time.Second, s.end)
			}
		}
		s.finish()
		if len(s.broken) > 0 || !s.converged() {
			t.Fatal(s.report())
		}
		if s.cover.met["two unopened clusters are led"] == 0 || s.cover.met["left: its end is committed"] == 0 || len(s.order) != 2 {
			t.Errorf("seed %d: %d clusters have begun and did not meet: %v", seed, len(s.order), s.cover.met)
		}
		if first, second := s.order[0], s.order[1]; (first.opened > 0) == (second.opened > 0) {
			t.Errorf("seed %d: opened at %v and %v", seed, first.opened, second.opened)
		}
	}
}
