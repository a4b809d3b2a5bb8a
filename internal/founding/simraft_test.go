package founding

import (
	"slices"

	"github.com/godistlock/distlock/internal/wire"
)

func (s *sim) startRaft(p *proc, a StartRaft) {
	server := p.m.Server()
	g := s.groups[a.Cluster]
	l := p.logs[a.Cluster]
	if l == nil {
		l = &simLog{server: server}
		p.logs[a.Cluster] = l
		if g != nil && g.gone[server] {
			s.fail("%s acts in %s as %s, whose log is lost", p.name, short(a.Cluster), short(server))
		}
	}
	if l.server != server {
		s.fail("%s acts in %s with another's log", p.name, short(a.Cluster))
	}
	p.raft = a.Cluster
	s.logf("%s starts raft of %s as %s, bootstrap %v", p.name, short(a.Cluster), short(server), a.Bootstrap)
	if !a.Bootstrap || len(l.entries) > 0 {
		return
	}
	if g == nil {
		g = &simGroup{cluster: a.Cluster, voters: a.Voters, gone: make(map[wire.UUID]bool)}
		s.groups[a.Cluster] = g
		s.order = append(s.order, g)
		s.groupLoop(g)
	}
	if g.boots++; g.boots > 1 {
		s.fail("%s is bootstrapped twice", short(a.Cluster))
	}
	l.term, l.entries = 1, []simEntry{{term: 1, kind: 'c'}}
}

func (s *sim) groupLoop(g *simGroup) {
	s.after(s.plan.groupTicks/2+s.upTo(s.plan.groupTicks), func() {
		s.tickGroup(g)
		s.groupLoop(g)
	})
}

// voter finds the process that runs g's Raft as server v.
func (s *sim) voter(g *simGroup, v wire.UUID) *proc {
	for _, p := range s.procs {
		if p.runs() && p.raft == g.cluster && p.logs[g.cluster].server == v {
			return p
		}
	}
	return nil
}

// reach lists the voters that p can reach, itself among them.
func (s *sim) reach(g *simGroup, p *proc) []*proc {
	var out []*proc
	for _, v := range g.voters {
		if q := s.voter(g, v); q != nil && s.linked(p, q) {
			out = append(out, q)
		}
	}
	return out
}

// tickGroup elects, replicates, commits and tells, as Raft would within a tenth of a second or so.
func (s *sim) tickGroup(g *simGroup) {
	majority := len(g.voters)/2 + 1
	if l := g.leader; l != nil {
		near := s.reach(g, l)
		deposed := slices.ContainsFunc(near, func(q *proc) bool { return q.logs[g.cluster].term > g.term })
		if l.life != g.life || !l.runs() || l.raft != g.cluster || len(near) < majority || deposed {
			g.leader = nil
		}
	}
	var told []*proc
	if g.leader == nil {
		if s.elect(g, majority); g.leader != nil && !s.calm && s.chance(s.plan.commitFault) {
			told = s.reach(g, g.leader) // its first heartbeat is all that they hear of it
			s.strike(g.leader, "first heartbeat")
			s.tell(g, slices.DeleteFunc(told, func(p *proc) bool { return !p.runs() }))
			return
		}
	}
	if g.leader != nil {
		before := len(g.committed)
		told = s.replicate(g, majority)
		if len(g.committed) > before {
			s.coverCommit(g)
			step := stepOfEntry(g.committed[len(g.committed)-1])
			if s.hook != nil {
				s.hook(g.leader, step)
			}
			if !s.calm && s.chance(s.plan.commitFault) {
				s.strike(g.leader, step)
			}
			near := s.reach(g, g.leader)
			told = slices.DeleteFunc(told, func(p *proc) bool { return !slices.Contains(near, p) })
		}
	}
	if g.leader != nil && g.leader.runs() && g.leader.raft == g.cluster {
		lead := g.leader.logs[g.cluster]
		for _, q := range told { // of a commit the others hear with the next message
			if l := q.logs[g.cluster]; l != nil && l != lead && !s.lose() {
				l.commit = max(l.commit, min(lead.commit, len(l.entries)))
			}
		}
	}
	s.tell(g, told)
}

func (s *sim) elect(g *simGroup, majority int) {
	c := s.voter(g, g.voters[s.rng.IntN(len(g.voters))])
	if c == nil || len(c.logs[g.cluster].entries) == 0 {
		return // without a configuration nobody stands for election
	}
	mine := c.logs[g.cluster]
	mine.term++
	mine.voted = mine.server
	votes := 0
	for _, q := range s.reach(g, c) {
		l := q.logs[g.cluster]
		if q != c && s.lose() {
			continue
		}
		if l.term < mine.term {
			l.term, l.voted = mine.term, wire.UUID{}
		}
		n, k := len(l.entries), len(mine.entries)
		newer := n > 0 && (l.entries[n-1].term > mine.entries[k-1].term || l.entries[n-1].term == mine.entries[k-1].term && n > k)
		if l.term == mine.term && (l.voted.IsZero() || l.voted == mine.server) && !newer {
			l.voted = mine.server
			votes++
		}
	}
	if votes >= majority {
		g.leader, g.life, g.term = c, c.life, mine.term
		mine.entries = append(slices.Clip(mine.entries), simEntry{term: g.term, kind: 'n'})
		s.logf("%s leads %s in term %d", c.name, short(g.cluster), g.term)
	}
}

// replicate brings the leader's log to those it reaches, with luck, and commits what a majority has.
func (s *sim) replicate(g *simGroup, majority int) (told []*proc) {
	lead := g.leader.logs[g.cluster]
	have := 0
	for _, q := range s.reach(g, g.leader) {
		l := q.logs[g.cluster]
		if q != g.leader {
			if s.lose() || l.term > g.term {
				continue
			}
			l.term = g.term
			l.entries = slices.Clone(lead.entries)
		}
		have++
		told = append(told, q)
	}
	if have >= majority { // the last entry is always of this term: the leader's first was
		lead.commit = len(lead.entries)
		s.commit(g, lead.entries)
	}
	return told
}

// commit checks that what is committed stays, and notes the opening.
func (s *sim) commit(g *simGroup, entries []simEntry) {
	if len(entries) < len(g.committed) || !slices.Equal(entries[:len(g.committed)], g.committed) {
		s.fail("a committed entry of %s is gone", short(g.cluster))
	}
	g.committed = slices.Clone(entries)
	if _, open, _, _ := state(g.committed, wire.UUID{}); open && g.opened == 0 {
		g.opened = s.now
		g.expect = entries[slices.IndexFunc(entries, func(e simEntry) bool { return e.kind == 'f' })].expect
		s.logf("%s opens", short(g.cluster))
		s.checkOpen(g)
	}
}

// tell brings news to the voters, and by the leader to those of the cluster that run no Raft.
func (s *sim) tell(g *simGroup, told []*proc) {
	for _, p := range s.procs {
		if !p.runs() || p.m == nil || p.m.Cluster() != g.cluster || p.m.Open() {
			continue
		}
		ev := Led{Cluster: g.cluster}
		server := p.m.Server()
		switch {
		case p.raft == g.cluster:
			l := p.logs[g.cluster]
			ev.Leader = slices.Contains(told, p)
			ev.Leading = g.leader == p && l.commit == len(l.entries)
			ev.Founded, ev.Open, ev.Confirmed, ev.Dissolved = state(l.entries[:l.commit], server)
		case g.leader != nil && g.leader.raft == g.cluster && s.linked(p, g.leader) && !s.lose():
			l := g.leader.logs[g.cluster]
			ev.Leader = true
			ev.Founded, ev.Open, ev.Confirmed, ev.Dissolved = state(l.entries[:l.commit], server)
		}
		s.step(p, ev)
	}
}

// propose appends to the leader's log; the next tick replicates it.
func (s *sim) propose(p *proc, cluster wire.UUID, e simEntry) {
	g := s.groups[cluster]
	if g == nil || g.leader != p || p.life != g.life || !p.runs() || p.raft != cluster {
		return
	}
	l := p.logs[cluster]
	if e.kind == 'k' {
		if founded, _, confirmed, _ := state(l.entries, e.server); !founded || confirmed {
			return
		}
	}
	e.term = g.term
	l.entries = append(slices.Clip(l.entries), e)
}
