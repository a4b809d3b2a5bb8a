package founding

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// sim runs real Machines over modelled gossip, messages and Raft groups, in virtual time, from one seed.
type sim struct {
	rng    *rand.Rand
	seed   uint64
	now    time.Duration
	queue  eventQueue
	seq    int
	procs  []*proc
	groups map[wire.UUID]*simGroup
	order  []*simGroup // in order of their bootstrap
	minted uint64
	trace  *strings.Builder // nil: none is kept

	plan   plan
	calm   bool // faults have stopped
	side   []int
	broken []string // what must not be
	lost   bool     // a process in memory has crashed: something was forgotten
}

// plan is what a seed chose.
type plan struct {
	n, expect, voters      int
	sides                  int // into which a cut divides
	durable                bool
	loss, dup, slow        float64 // of messages
	crashes, pauses, cuts  bool
	stepFault              float64       // chance of a fault at each action
	commitFault            float64       // chance of one between a commit and the news of it
	gap, length            time.Duration // between faults, and of a pause or cut, at most
	faults                 time.Duration // how long they go on
	late                   time.Duration // processes start within
	noVote                 int           // how many may not
	tick, look, groupTicks time.Duration
}

type proc struct {
	id       int
	name     string
	mayVote  bool
	up       bool
	paused   bool
	m        *Machine
	instance wire.UUID
	server   wire.UUID // of its first life, or saved
	saved    *Saved
	raft     wire.UUID                // cluster whose Raft runs here
	logs     map[wire.UUID]*simLog    // on disk or in memory
	heard    map[wire.UUID]*heardPeer // gossip: by instance
	inbox    []Event                  // while paused
	rest     []Action                 // of the step in which it was paused
	life     int                      // counts restarts, so that what was scheduled for an earlier life is dropped
}

type heardPeer struct {
	peer Peer
	at   time.Duration
}

type simLog struct {
	server  wire.UUID
	term    uint64
	voted   wire.UUID // in term
	entries []simEntry
	commit  int // known here
}

type simEntry struct {
	term   uint64
	kind   byte // 'c' configuration, 'n' noop, 'f' found, 'k' confirm, 'd' dissolve
	server wire.UUID
	expect int
}

// simGroup is the truth about one cluster's Raft group.
type simGroup struct {
	cluster   wire.UUID
	voters    []wire.UUID
	leader    *proc
	life      int // of the leader
	term      uint64
	committed []simEntry
	opened    time.Duration // 0: not yet
	boots     int
	gone      map[wire.UUID]bool // servers whose log was wiped or lost: they must never act again
}

// state applies a log's committed part.
func state(entries []simEntry, server wire.UUID) (founded, open, confirmed, dissolved bool) {
	expect := 0
	var servers []wire.UUID
	for _, e := range entries {
		switch e.kind {
		case 'f':
			if !founded {
				founded, expect = true, e.expect
			}
		case 'd':
			dissolved = dissolved || founded && !open
		case 'k':
			if founded && !dissolved && !slices.Contains(servers, e.server) {
				servers = append(servers, e.server)
				open = open || len(servers) >= expect
			}
		}
	}
	return founded, open, slices.Contains(servers, server), dissolved
}

type queued struct {
	at  time.Duration
	seq int
	do  func()
}
type eventQueue []queued

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(queued)) }
func (q *eventQueue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

func (s *sim) after(d time.Duration, do func()) {
	s.seq++
	heap.Push(&s.queue, queued{at: s.now + d, seq: s.seq, do: do})
}

func (s *sim) logf(format string, args ...any) {
	if s.trace != nil {
		fmt.Fprintf(s.trace, "%9.3fs "+format+"\n", append([]any{s.now.Seconds()}, args...)...)
	}
}

func (s *sim) fail(format string, args ...any) {
	s.logf("BROKEN "+format, args...)
	s.broken = append(s.broken, fmt.Sprintf(format, args...))
}

func (s *sim) mint() wire.UUID {
	s.minted++
	// Random first byte: the order of UUIDs must not follow the order of minting.
	return wire.UUID{byte(s.rng.UintN(256)), byte(s.minted >> 16), byte(s.minted >> 8), byte(s.minted)}
}

func (s *sim) chance(p float64) bool { return p > 0 && s.rng.Float64() < p }

func (s *sim) upTo(d time.Duration) time.Duration {
	return time.Duration(s.rng.Int64N(int64(d) + 1))
}

// linked says that a can reach b now.
func (s *sim) linked(a, b *proc) bool {
	return a == b || s.side[a.id] == s.side[b.id]
}

func (p *proc) runs() bool { return p.up && !p.paused }

// start begins a life of p.
func (s *sim) start(p *proc) {
	p.life++
	p.up, p.paused, p.inbox, p.rest = true, false, nil, nil
	p.instance = s.mint()
	p.heard = make(map[wire.UUID]*heardPeer)
	p.raft = wire.UUID{}
	var saved Saved
	if p.saved != nil {
		saved = *p.saved
	} else {
		p.server = s.mint()
		p.logs = make(map[wire.UUID]*simLog)
	}
	if !saved.Server.IsZero() {
		p.server = saved.Server
	}
	for c := range p.logs {
		if c != saved.Cluster {
			s.wipe(p, c) // the rest of a wipe that was cut short
		}
	}
	p.m = New(Config{
		Self:   Process{Server: p.server, Instance: p.instance, Name: p.name, MayVote: p.mayVote},
		Expect: s.plan.expect, Voters: s.plan.voters, Alone: s.plan.n == 1, Durable: s.plan.durable, Mint: s.mint,
	}, saved)
	s.logf("%s starts as %s", p.name, short(p.server))
	s.loop(p, p.life, s.plan.tick, func() { s.step(p, Tick{}) })
	s.loop(p, p.life, s.plan.look, func() { s.gossip(p) })
	s.step(p, Tick{})
}

func (s *sim) loop(p *proc, life int, every time.Duration, do func()) {
	s.after(s.upTo(every)+every/2, func() {
		if p.life != life || !p.up {
			return
		}
		if !p.paused {
			do()
		}
		s.loop(p, life, every, do)
	})
}

func (s *sim) crash(p *proc) {
	if !p.up {
		return
	}
	s.logf("%s crashes", p.name)
	p.up = false
	p.life++
	if !s.plan.durable {
		p.saved = nil
		for c := range p.logs {
			s.wipe(p, c)
		}
		s.lost = true
	}
	p.raft = wire.UUID{}
	s.after(s.upTo(8*time.Second), func() {
		if !p.up {
			s.start(p)
		}
	})
}

func (s *sim) wipe(p *proc, c wire.UUID) {
	if l := p.logs[c]; l != nil {
		if g := s.groups[c]; g != nil {
			g.gone[l.server] = true
		}
		delete(p.logs, c)
	}
}

// step gives p one event and does what the machine says; a crash may come between any two actions.
func (s *sim) step(p *proc, ev Event) {
	if !p.up {
		return
	}
	if p.paused {
		p.inbox = append(p.inbox, ev)
		return
	}
	s.perform(p, p.m.Step(s.now, ev))
}

// perform does what a machine said. A fault may come before each action.
func (s *sim) perform(p *proc, acts []Action) {
	life := p.life
	for i, a := range acts {
		if !s.calm && s.chance(s.plan.stepFault) {
			s.strike(p)
		}
		if p.life == life && p.paused {
			p.rest = append(p.rest, acts[i:]...)
			return
		}
		if p.life != life {
			return
		}
		s.do(p, a)
	}
}

func (s *sim) do(p *proc, a Action) {
	switch a := a.(type) {
	case Save:
		if s.plan.durable {
			saved := a.Saved
			p.saved = &saved
		}
	case Send:
		s.deliver(p, a)
	case StartRaft:
		s.startRaft(p, a)
	case StopRaft:
		p.raft = wire.UUID{}
		s.logf("%s stops raft of %s, wipe %v", p.name, short(a.Cluster), a.Wipe)
		if a.Wipe {
			for c := range p.logs {
				s.wipe(p, c)
			}
			return
		}
		l := p.logs[a.Cluster]
		empty := l == nil || !slices.ContainsFunc(l.entries, func(e simEntry) bool { return e.kind != 'c' }) &&
			(len(l.entries) == 0 || p.m.s.Bootstrap)
		life := p.life
		s.after(s.upTo(time.Second), func() {
			if p.life == life {
				s.step(p, Stopped{Cluster: a.Cluster, Empty: empty})
			}
		})
	case Found:
		s.propose(p, a.Charter.Cluster, simEntry{kind: 'f', expect: a.Charter.Expect})
	case Dissolve:
		s.propose(p, a.Cluster, simEntry{kind: 'd'})
	case Confirm:
		if !p.m.s.Confirmed || p.m.s.Cluster != a.Cluster {
			s.fail("%s confirms what it has not saved", p.name)
		}
		e := simEntry{kind: 'k', server: p.m.Server()}
		s.after(s.delay(), func() { // a copy may arrive whatever became of the sender
			if g := s.groups[a.Cluster]; g != nil && g.leader != nil && s.linked(p, g.leader) && !s.lose() {
				s.propose(g.leader, a.Cluster, e)
			}
		})
	case Join:
		if l := p.logs[a.Cluster]; l != nil && l.server == p.m.Server() {
			p.raft = a.Cluster
		}
		s.logf("%s joins %s as %s", p.name, short(a.Cluster), short(p.m.Server()))
	case Log:
		s.logf("%s: %s", p.name, a.Text)
	}
}

func (s *sim) lose() bool { return !s.calm && s.chance(s.plan.loss) }

func (s *sim) delay() time.Duration {
	d := time.Millisecond + s.upTo(40*time.Millisecond)
	if !s.calm && s.chance(s.plan.slow) {
		d += s.upTo(20 * time.Second)
	}
	return d
}

func (s *sim) deliver(p *proc, a Send) {
	copies := 1
	if !s.calm && s.chance(s.plan.dup) {
		copies = 2
	}
	from := Process{Server: p.m.Server(), Instance: p.instance, Name: p.name, MayVote: p.mayVote}
	life := p.life
	for range copies {
		s.after(s.delay(), func() {
			for _, q := range s.procs {
				if q.instance == a.To && q.up && s.linked(p, q) && !s.lose() {
					s.logf("%s -> %s %s", p.name, q.name, describe(a.Message))
					s.step(q, Received{From: from, Message: a.Message})
					return
				}
			}
			if p.life == life && s.chance(0.5) {
				s.step(p, Unreached{Instance: a.To})
			}
		})
	}
}

// gossip lets p hear of those whom it can reach; who is silent for a while counts as dead.
func (s *sim) gossip(p *proc) {
	for _, q := range s.procs {
		if q == p || !q.runs() || !s.linked(p, q) || s.lose() {
			continue
		}
		g := s.groups[q.m.Cluster()]
		p.heard[q.instance] = &heardPeer{at: s.now, peer: Peer{
			Process: Process{Server: q.m.Server(), Instance: q.instance, Name: q.name, MayVote: q.mayVote}, Alive: true,
			Cluster: q.m.Cluster(), Open: q.m.Open(), Leads: g != nil && g.leader == q,
		}}
	}
	var v View
	for inst, h := range p.heard {
		if s.now-h.at > 4*time.Second {
			delete(p.heard, inst)
			continue
		}
		v.Members = append(v.Members, h.peer) // in any order: the machine must not care
	}
	s.step(p, v)
}

func short(u wire.UUID) string { return u.String()[:8] }

func describe(m wire.Founding) string {
	kind := []string{"?", "invite", "answer", "release", "begun", "bound", "ask"}[m.Kind]
	verdict := []string{"", " accepted", " busy", " refused", " known"}[m.Verdict]
	return kind + " " + short(m.Cluster) + verdict
}
