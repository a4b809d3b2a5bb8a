package node

import (
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/roster"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// raftProposal is an entry that was handed to Raft.
type raftProposal struct{ future raft.ApplyFuture }

func (p raftProposal) wait() (*raftfsm.Result, error) {
	if err := p.future.Error(); err != nil {
		return nil, err
	}
	switch r := p.future.Response().(type) {
	case *raftfsm.Result:
		return r, r.Err
	case error: // the store was poisoned meanwhile: whether it is applied is unknown
		return nil, r
	}
	return nil, errNotLeading
}

// leadPoll is how often the lead loop looks by itself: Raft's channels are hints, they merge and drop.
const leadPoll = 100 * time.Millisecond

// leadLoop keeps n.lead in step with Raft: each term that this process leads is one lead.
func (n *Node) leadLoop() {
	tick := time.NewTicker(leadPoll)
	defer tick.Stop()
	defer n.endLead()
	var known wire.UUID
	seat := roster.Suffrage(0)
	for {
		var hint <-chan bool
		var news <-chan raft.Observation
		g := n.group.Load()
		if g != nil {
			hint, news = g.raft.LeaderCh(), g.news
		}
		changed := n.Changed()
		select {
		case <-n.ctx.Done():
			return
		case <-hint:
		case <-news:
		case <-tick.C:
		case <-changed:
		}
		n.followRaft(n.group.Load())
		leader, _ := n.leaderHint()
		seats, _ := n.seats() // Raft tells nobody that it has become a voter, or is none any more
		if now := seats[n.serverID()]; leader != known || now != seat {
			known, seat = leader, now
			n.announcer.announce()
			n.notify()
		}
	}
}

// followRaft begins or ends a lead by what Raft says now.
func (n *Node) followRaft(g *group) {
	l := n.lead.Load()
	leads := g != nil && g.raft.State() == raft.Leader
	over := false
	if l != nil {
		select {
		case <-l.done:
			over = true
		default:
		}
	}
	if l != nil && (over || !leads || l.group != g || l.term != g.raft.CurrentTerm()) {
		n.endLead()
		l = nil
	}
	if l == nil && leads && !n.handing.Load() && !n.muted.Load() {
		n.beginLead(g)
	}
}

func (n *Node) endLead() {
	l := n.lead.Load()
	if l == nil {
		return
	}
	l.end()
	n.lead.Store(nil)
	n.announcer.announce()
	n.notify()
}

func (n *Node) beginLead(g *group) {
	propose := func(entry []byte) proposal { return raftProposal{g.raft.Apply(entry, enqueueTimeout)} }
	l := startLead(g, g.raft.CurrentTerm(), propose, func() (uint64, string) { return n.allowedFormat(g) }, n.logger)
	n.lead.Store(l)
	l.wg.Go(func() { // ends with the lead
		if err := l.begin(); err != nil {
			return
		}
		n.logger.Info("this process leads", "member", n.cfg.Name, "term", l.term)
		n.announcer.announce()
		n.notify()
		n.steward(l)
	})
}

// enqueueTimeout bounds the wait to hand an entry to Raft, whose queue is only full when its main loop is stuck.
const enqueueTimeout = 2 * time.Second
