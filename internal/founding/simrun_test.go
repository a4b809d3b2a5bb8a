package founding

import (
	"container/heap"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

var (
	flagSeed  = flag.Uint64("founding.seed", 0, "run this seed of the simulation only, with its trace")
	flagSeeds = flag.Int("founding.seeds", defaultSeeds, "how many seeds of the simulation to run")
)

// checkOpen holds the promise on safety at the moment when g opens.
func (s *sim) checkOpen(g *simGroup) {
	for _, o := range s.order {
		if o == g || o.opened == 0 {
			continue
		}
		majority := len(o.voters)/2 + 1
		if o.expect != g.expect || 2*g.expect <= s.plan.n {
			continue // nothing is promised
		}
		if !s.lost {
			s.fail("%s opens beside %s", short(g.cluster), short(o.cluster))
		} else if s.intact(o) >= majority && g.expect > s.plan.n-majority {
			s.fail("%s opens beside %s, which has its majority", short(g.cluster), short(o.cluster))
		}
	}
}

// there lists the processes that have not gone for good.
func (s *sim) there() []*proc {
	return slices.DeleteFunc(slices.Clone(s.procs), func(p *proc) bool { return p.gone })
}

// converged says that all who are there belong to one open cluster.
func (s *sim) converged() bool {
	var cluster wire.UUID
	for _, p := range s.procs {
		if p.gone {
			continue
		}
		if !p.runs() || !p.m.Open() || !cluster.IsZero() && p.m.Cluster() != cluster {
			return false
		}
		cluster = p.m.Cluster()
	}
	return true
}

// intact counts the voters of g that can still act: some process is that server, has not refused, and its log was not lost.
func (s *sim) intact(g *simGroup) int {
	n := 0
	for _, p := range s.procs {
		if s.acts(p, g) {
			n++
		}
	}
	return n
}

func (s *sim) acts(p *proc, g *simGroup) bool {
	if p.m == nil || !p.up && !s.plan.durable {
		return false
	}
	server := p.m.Server()
	_, refused := p.m.s.refusal(g.cluster)
	return !refused && slices.Contains(g.voters, server) && !g.gone[server]
}

// majority says that enough of g's voters are there.
func (s *sim) majority(g *simGroup) bool {
	n := 0
	for _, p := range s.there() {
		if s.acts(p, g) {
			n++
		}
	}
	return n >= len(g.voters)/2+1
}

// excuse is why those who are there need not come to one open cluster; "" when they must. Faults have stopped for a minute.
func (s *sim) excuse() string {
	there := s.there()
	opened, voters := 0, 0
	clusters := make(map[wire.UUID]bool)
	for _, p := range there {
		if p.m.Open() {
			opened++
			clusters[p.m.Cluster()] = true
		}
		if p.mayVote {
			voters++
		}
	}
	for _, p := range there {
		if g := s.groups[p.m.Cluster()]; g != nil && !s.majority(g) {
			return "without a majority of the founding voters"
		}
	}
	switch {
	case len(clusters) > 1 && opened == len(there):
		return "with two open clusters that tell of each other" // checkOpen has allowed them
	case opened > 0:
		return ""
	case len(there) < s.plan.expect:
		return "with fewer than Expect"
	case voters == 0:
		return "with nobody who may vote"
	case s.plan.odd > 0:
		return "with different Expect"
	}
	return ""
}

// unsaid finds a process that waits and does not say for what; "" when all do.
func (s *sim) unsaid(excuse string) string {
	there := s.there()
	free, willing := 0, 0
	for _, p := range there {
		if p.m.Cluster().IsZero() {
			free++
			if p.mayVote {
				willing++
			}
		}
	}
	differs := false
	for _, p := range there {
		text, g := p.m.Waiting(), s.groups[p.m.Cluster()]
		says := func(parts ...string) bool {
			return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(text, part) })
		}
		differs = differs || says("must be given the same")
		var ok bool
		switch {
		case p.m.Open():
			ok = text == ""
		case g == nil && free < p.expect:
			ok = says("(Expect)", fmt.Sprintf("waits for %d more", p.expect-free)) || says("invit") || says("asks to be one of those")
		case g == nil && willing == 0:
			ok = says("nobody may vote")
		case g == nil:
			ok = says("invit") || says("asks to be one of those")
		case p.m.s.Charter.IsZero():
			ok = says(p.m.Cluster().String(), "is open")
		case !s.majority(g):
			ok = says(p.m.Cluster().String(), "founding voters are here")
			for _, v := range g.voters {
				if q := s.owner[v]; q != p && !(q.up && q.m.Server() == v && q.m.Cluster() == g.cluster) {
					ok = ok && (says(fmt.Sprintf("%q", q.name)) || says("whose names are not known"))
				}
			}
		default:
			ok = says(p.m.Cluster().String())
		}
		if !ok {
			return fmt.Sprintf("%s ends %s and says %q", p.name, excuse, text)
		}
	}
	if excuse == "with different Expect" && !differs {
		return "nobody says that Expect differs"
	}
	return ""
}

// patience is how long after the last fault all must belong to one open cluster.
const patience = 3 * time.Minute

func (s *sim) run() {
	s.begin()
	s.finish()
}

// next lets the next thing happen. There always is one: a process or a group that looks again.
func (s *sim) next() {
	q := heap.Pop(&s.queue).(queued)
	s.now = q.at
	q.do()
}

// finish goes on until all belong to one open cluster, or can't and say why.
func (s *sim) finish() {
	calm := s.plan.faults + s.plan.late
	nextLook := calm + time.Minute
	unsaid := ""
	for len(s.broken) == 0 {
		if s.now > calm+patience {
			s.fail("no end: %s", unsaid)
			return
		}
		if s.now > nextLook {
			nextLook += time.Second
			if excuse := s.excuse(); excuse != "" {
				if unsaid = s.unsaid(excuse); unsaid == "" {
					s.ended(excuse)
					return
				}
			}
		}
		s.next()
		if s.calm && s.converged() {
			s.ended("with one open cluster")
			return
		}
	}
}

// ended counts how it ended.
func (s *sim) ended(how string) {
	first := time.Duration(0)
	for _, g := range s.order {
		if g.opened > 0 && (first == 0 || g.opened < first) {
			first = g.opened
		}
	}
	if s.lost {
		how += ", where something was forgotten"
	}
	s.cover.ends[how]++
	if first > 0 && s.enough > 0 && first >= s.enough {
		if !s.struck && s.plan.loss == 0 {
			s.cover.opened = append(s.cover.opened, first-s.enough)
		} else {
			s.cover.faulty = append(s.cover.faulty, first-s.enough)
		}
	}
	if s.converged() {
		s.cover.calm = append(s.cover.calm, max(0, s.now-s.plan.faults-s.plan.late))
	}
}

func TestSimulation(t *testing.T) {
	if *flagSeed != 0 {
		s := newSim(*flagSeed, true)
		s.run()
		t.Log(s.trace.String())
		if len(s.broken) > 0 {
			t.Fatal(s.report())
		}
		return
	}
	const shards = 4
	covers := make([]coverage, shards)
	t.Run("seeds", func(t *testing.T) {
		for shard := range shards {
			t.Run(fmt.Sprint(shard), func(t *testing.T) {
				t.Parallel()
				covers[shard] = newCoverage()
				failed := 0
				for i := shard; i < *flagSeeds; i += shards {
					s := newSim(uint64(i+1), false)
					s.run()
					covers[shard].add(s.cover)
					if len(s.broken) > 0 {
						t.Error(s.report())
						if failed++; failed == 3 {
							return
						}
					}
				}
			})
		}
	})
	all := newCoverage()
	for _, c := range covers {
		all.add(c)
	}
	t.Log(all.String())
	if *flagSeeds >= defaultSeeds && !raceDetector {
		all.enough(t, *flagSeeds)
	}
}

// The same events must give the same actions: a run is repeated from its seed alone, and no map's order shows.
func TestSameSeedSameRun(t *testing.T) {
	for seed := range uint64(20) {
		a, b := newSim(seed+1, true), newSim(seed+1, true)
		a.run()
		b.run()
		if a.trace.String() != b.trace.String() {
			t.Fatalf("seed %d ran in two ways", seed+1)
		}
	}
}
