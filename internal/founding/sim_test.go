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
	calm   bool                // faults have stopped
	side   []int               // of a cut, of each process
	deaf   map[[2]int]bool     // nothing passes from the one to the other
	broken []string            // what must not be
	lost   bool                // a process in memory has crashed, or a directory was lost: something was forgotten
	enough time.Duration       // when as many as Expect had started; 0: not yet
	struck bool                // there has been a fault
	owner  map[wire.UUID]*proc // of each server that there ever was
	cover  coverage
	hook   func(p *proc, step string) // called before each step of a process
}

// plan is what a seed chose.
type plan struct {
	n, expect, voters      int
	sides                  int // into which a cut divides
	durable                bool
	forgets                float64 // chance that a crash loses the directory too
	loss, dup, slow        float64 // of messages
	crashes, pauses, cuts  bool
	oneWay                 bool          // cuts in one direction
	relayed                bool          // gossip reaches whom it can by way of others
	addresses              bool          // all know all addresses, and which have not answered
	rates                  float64       // clocks may run faster or slower by this
	stepFault              float64       // chance of a fault at each action
	commitFault            float64       // chance of one between a commit and the news of it
	gap, length            time.Duration // between faults, and of a pause or cut, at most
	faults                 time.Duration // how long they go on
	late                   time.Duration // processes start within
	noVote                 int           // how many may not
	away                   int           // how many are not there once the faults have stopped, nor ever after
	odd                    int           // how many were given another Expect
	tick, look, groupTicks time.Duration
}

type proc struct {
	id       int
	name     string
	mayVote  bool
	expect   int
	up       bool
	gone     bool // for good
	rate     float64
	since    time.Duration // of its clock at the start of this life
	paused   bool
	m        *Machine
	instance wire.UUID
	server   wire.UUID // of its first life, or saved
	saved    *Saved
	raft     wire.UUID                // cluster whose Raft runs here
	logs     map[wire.UUID]*simLog    // on disk or in memory
	heard    map[wire.UUID]*heardPeer // gossip: by instance
	answered []bool                   // by process: whose address has answered this life
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
	expect    int
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

// way says that what a sends reaches b now.
func (s *sim) way(a, b *proc) bool {
	return a == b || s.side[a.id] == s.side[b.id] && !s.deaf[[2]int{a.id, b.id}]
}

// linked says that a and b can speak with each other now.
func (s *sim) linked(a, b *proc) bool { return s.way(a, b) && s.way(b, a) }

// time is p's own.
func (s *sim) time(p *proc) time.Duration {
	return p.since + time.Duration(float64(s.now)*p.rate)
}

func (p *proc) runs() bool { return p.up && !p.paused }

// start begins a life of p.
func (s *sim) start(p *proc) {
	if p.gone {
		return
	}
	s.coverStart(p)
	p.life++
	p.answered = make([]bool, len(s.procs))
	p.rate = 1 + s.plan.rates*(2*s.rng.Float64()-1)
	p.since = s.upTo(time.Hour)
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
	s.owner[p.server] = p
	for c := range p.logs {
		if c != saved.Cluster {
			s.wipe(p, c) // the rest of a wipe that was cut short
		}
	}
	p.m = New(Config{
		Self:   Process{Server: p.server, Instance: p.instance, Name: p.name, MayVote: p.mayVote},
		Expect: p.expect, Voters: s.plan.voters, Alone: s.plan.n == 1, Durable: s.plan.durable, Mint: s.mint,
	}, saved)
	s.logf("%s starts as %s", p.name, short(p.server))
	if s.enough == 0 && s.running() >= s.plan.expect {
		s.enough = max(s.now, 1)
	}
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

// mostDown is how long a process that crashed stays away, at most.
const mostDown = 8 * time.Second

func (s *sim) crash(p *proc) {
	if !p.up {
		return
	}
	s.logf("%s crashes", p.name)
	p.up = false
	p.life++
	if !s.plan.durable || s.chance(s.plan.forgets) {
		p.saved = nil
		for c := range p.logs {
			s.wipe(p, c)
		}
		s.lost = s.lost || !p.gone // who never comes back has not forgotten anything
	}
	p.raft = wire.UUID{}
	life := p.life
	s.after(s.upTo(mostDown), func() {
		if p.life == life {
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
	s.perform(p, p.m.Step(s.time(p), ev))
}

// perform does what a machine said. A fault may come before each action.
func (s *sim) perform(p *proc, acts []Action) {
	life := p.life
	for i, a := range acts {
		step := stepOf(a)
		if s.hook != nil {
			s.hook(p, step)
		}
		if !s.calm && s.chance(s.plan.stepFault*frequency(step)) {
			s.strike(p, step)
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
		s.owner[a.Saved.Server] = p
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
		s.confirm(p, a.Cluster)
	case Join:
		if l := p.logs[a.Cluster]; l != nil && l.server == p.m.Server() {
			p.raft = a.Cluster
		}
		s.logf("%s joins %s as %s", p.name, short(a.Cluster), short(p.m.Server()))
	case Log:
		s.logf("%s: %s", p.name, a.Text)
		s.coverLog(a.Text)
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
		s.after(s.delay(), func() { s.arrive(p, life, from, a) })
	}
}

// arrive brings a message to its end, or its sender the news that it did not come to one; at times that is wrong.
func (s *sim) arrive(p *proc, life int, from Process, a Send) {
	failed := s.chance(0.5) // else nothing is heard of what is lost
	for _, q := range s.procs {
		if q.instance != a.To || !q.up || !s.way(p, q) || s.lose() {
			continue
		}
		answers := s.way(q, p)
		if !answers && s.chance(0.5) {
			break // a stream that was not there before
		}
		s.logf("%s -> %s %s", p.name, q.name, describe(a.Message))
		late := q.paused
		s.step(q, Received{From: from, Message: a.Message})
		failed = failed && (!answers || late || s.lose()) // it has come all the same
		break
	}
	if failed {
		s.after(s.delay(), func() {
			if p.life == life {
				s.step(p, Unreached{Instance: a.To})
			}
		})
	}
}

// confirm asks who leads; the word is committed, or not, and the answer may come late or never.
func (s *sim) confirm(p *proc, cluster wire.UUID) {
	e, life := simEntry{kind: 'k', server: p.m.Server()}, p.life
	s.after(s.delay(), func() { // a copy may arrive whatever became of the sender
		g := s.groups[cluster]
		if g == nil || g.leader == nil || !s.linked(p, g.leader) || s.lose() {
			return
		}
		s.propose(g.leader, cluster, e)
		s.after(s.plan.groupTicks+s.delay(), func() {
			if _, open, confirmed, _ := state(g.committed, e.server); confirmed && p.life == life && g.leader != nil && s.linked(p, g.leader) && !s.lose() {
				s.step(p, Confirmed{Cluster: cluster, Open: open})
			}
		})
	})
}

// audible lists those whom p can hear: at first hand, or where gossip is relayed by way of others.
func (s *sim) audible(p *proc) []*proc {
	found := []*proc{p}
	for i := 0; i < len(found); i++ {
		for _, q := range s.procs {
			if q.runs() && s.way(q, found[i]) && !slices.Contains(found, q) {
				found = append(found, q)
			}
		}
		if !s.plan.relayed {
			break
		}
	}
	return found[1:]
}

// gossip lets p hear of those whom it can hear; who is silent for a while counts as dead.
func (s *sim) gossip(p *proc) {
	for _, q := range s.audible(p) {
		if s.lose() {
			continue
		}
		g := s.groups[q.m.Cluster()]
		p.answered[q.id] = true
		p.heard[q.instance] = &heardPeer{at: s.now, peer: Peer{
			Process: Process{Server: q.m.Server(), Instance: q.instance, Name: q.name, MayVote: q.mayVote}, Alive: true,
			Cluster: q.m.Cluster(), Open: q.m.Open(), Leads: g != nil && g.leader == q,
		}}
	}
	p.answered[p.id] = true
	v := View{Unanswered: s.plan.addresses && slices.Contains(p.answered, false)}
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
