package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/roster"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

const (
	stewardTick   = 250 * time.Millisecond
	changeTimeout = 5 * time.Second // of one membership change
	caughtUpLag   = 256             // entries that a candidate may lack and still count as caught up
	standbys      = 2               // nonvoters that follow the log, ready for a seat

	// lostAfter is how long a voter must not have answered the leader, and gossip not have heard of it, before another takes its seat: longer
	// than a process takes to start again, and with the seconds that the change takes below half a minute.
	lostAfter = 20 * time.Second

	// silence is how long a cluster that may have had an earlier life grants nothing: the longest SessionTTL that is allowed, since
	// a holder of that life may still believe in its lock for so long.
	silence = 60 * time.Second
)

// steward keeps the Raft group in shape while l lasts: it asks the planner for the next change and makes it, and ends the silence of a
// cluster that began with one.
func (n *Node) steward(l *lead) {
	ctx, end := context.WithCancel(n.ctx) // what others are asked ends with the lead: who hands it over waits for this goroutine
	defer end()
	defer l.withdraw(&end)
	if !l.whenOver(&end, end) {
		return
	}
	began := time.Now()
	t := time.NewTicker(stewardTick)
	defer t.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-t.C:
		}
		if time.Since(began) >= silence && l.group.fsm.View().Silent() {
			pctx, cancel := context.WithTimeout(ctx, callTimeout)
			_, err := l.propose(pctx, raftfsm.EndSilence{Term: l.term})
			cancel()
			if err == nil {
				n.logger.Info("the cluster grants from now on: whatever an earlier one granted has run out")
			}
		}
		l.checkFormat()
		err := errors.Join(n.endStay(ctx, l), n.tendNames(ctx, l), n.tend(ctx, l), n.rouse(ctx, l))
		over := ctx.Err() != nil || errors.Is(err, raft.ErrNotLeader) || errors.Is(err, errNotLeading) // the next leader tries it
		if err != nil && !over {
			n.logger.Info("the Raft group is not changed yet; it is tried again", "error", err)
		}
	}
}

// tend makes one membership change, if one is due.
func (n *Node) tend(ctx context.Context, l *lead) error {
	if l.group.fsm.View().Cluster().IsZero() {
		return nil // the first entry, which says how many voters there are to be, is not applied yet
	}
	conf, index, err := l.group.configuration()
	if err != nil {
		return err
	}
	if index == 0 {
		return errors.New("the index of the Raft group's configuration is not known") // and with 0 Raft would not check the change
	}
	if index > l.group.raft.AppliedIndex() {
		return nil // the last change is not committed here yet
	}
	v := n.rosterView(l, conf, index)
	change, ok := roster.Next(v)
	if !ok {
		n.stepAside(l, v)
		return nil
	}
	l.setMoving(change.Server)
	defer l.setMoving(wire.UUID{})
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	id, addr := raft.ServerID(change.Server.String()), raft.ServerAddress(change.Server.String())
	var f raft.IndexFuture
	switch change.Kind {
	case roster.AddNonvoter:
		if err := n.enlistServer(ctx, l, change.Server); err != nil {
			l.shun(change.Server)
			return err
		}
		f = l.group.raft.AddNonvoter(id, addr, change.Index, changeTimeout)
	case roster.Promote:
		// With its vote it counts for the majority, dead or alive: what was heard a second ago is not enough.
		if err := n.askInTime(ctx, change.Server); err != nil {
			return fmt.Errorf("a standby gets no seat, since it does not answer: %w", err)
		}
		f = l.group.raft.AddVoter(id, addr, change.Index, changeTimeout)
	case roster.Remove:
		f = l.group.raft.RemoveServer(id, change.Index, changeTimeout)
	}
	n.logger.Info("the Raft group changes", "change", change.Kind, "server", change.Server, "why", change.Why)
	// Raft answers once the change is committed or the leadership lost; a lead that is over must not wait for the first.
	answered := make(chan error, 1)
	go func() { answered <- f.Error() }() // ends with Raft's answer
	select {
	case err := <-answered:
		if err == nil {
			n.announcer.announce()
			n.notify()
		}
		return err
	case <-l.done:
		return errNotLeading
	}
}

func (l *lead) setMoving(server wire.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.moving = server
}

// moves says that server's place in the Raft group is being changed: the change is decided and not yet committed.
func (l *lead) moves(server wire.UUID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !server.IsZero() && l.moving == server
}

// rouseAgain is how long a server that was asked to run Raft again has before the next time.
const rouseAgain = 5 * time.Second

// rouse asks one that lives, and has a place in the Raft group, and answers nothing there, to run Raft again. None should have stopped it, but a
// standby that had would look like one, and take no seat when a voter is lost.
func (n *Node) rouse(ctx context.Context, l *lead) error {
	conf, _, err := l.group.configuration()
	if err != nil {
		return err
	}
	now := time.Now()
	for _, m := range n.members() {
		// Before it knows that the cluster is open it is the first start that decides when Raft runs there.
		here := m.State == gossip.Alive && m.Cluster == n.clusterID() && m.Open && !m.Leaving && !m.Parting
		if !here || m.Server == n.serverID() || !inConfiguration(conf, m.Server) || l.silentFor(m.Server, now) < seatDoubt ||
			now.Sub(l.roused[m.Server]) < rouseAgain {
			continue
		}
		l.roused[m.Server] = now
		if err := n.askInTime(ctx, m.Server); err != nil {
			return fmt.Errorf("%q has a place in the Raft group and does not answer there: %w", m.Name, err)
		}
		return nil // one at a time
	}
	return nil
}

// askInTime asks a server with a place in the Raft group to run Raft, which it should do already.
func (n *Node) askInTime(ctx context.Context, server wire.UUID) error {
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	_, err := n.askToRunRaft(ctx, server)
	return err
}

// shunFor is how long a process that would not take a seat is passed over.
const shunFor = 5 * time.Second

func (l *lead) shun(server wire.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shunned[server] = time.Now().Add(shunFor)
}

// rosterView is what the planner decides on.
func (n *Node) rosterView(l *lead, conf raft.Configuration, index uint64) roster.View {
	state := l.group.fsm.View()
	v := roster.View{Index: index, Voters: state.Voters(), Standbys: standbys, Leader: n.serverID(), Dead: make(map[wire.UUID]bool)}
	seats := make(map[wire.UUID]roster.Suffrage)
	unnamed := make(map[wire.UUID]bool) // nonvoters that can't be given a vote yet
	for _, s := range conf.Servers {
		id, err := wire.ParseUUID(string(s.ID))
		if err != nil {
			continue
		}
		suffrage := roster.Nonvoter
		if s.Suffrage == raft.Voter {
			suffrage = roster.Voter
		}
		v.Config = append(v.Config, roster.Server{ID: id, Suffrage: suffrage})
		seats[id] = suffrage
		unnamed[id] = suffrage == roster.Nonvoter && n.unnamed(l, id)
	}
	for _, dead := range state.Dead() {
		v.Dead[dead] = true
	}
	now := time.Now()
	members := n.members()
	l.formatMu.Lock() // after the members were listed: a check of the format that is not over by now sees all of them
	v.Format = l.format()
	l.formatMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range members {
		if m.Cluster != state.Cluster() {
			continue
		}
		alive, silent := lives(m), l.silentFor(m.Server, now)
		// A nonvoter that others hear, and this leader does not, is of no use; it is taken in again when it answers.
		unreached := seats[m.Server] == roster.Nonvoter && silent >= lostAfter
		v.Members = append(v.Members, roster.Candidate{
			Server: m.Server, Name: m.Name,
			Alive:    alive,
			MayVote:  m.MayVote && !unreached && (seats[m.Server] != 0 || l.shunned[m.Server].Before(now)),
			Durable:  m.Durable,
			Leaving:  m.Leaving || l.isLeavingLocked(m),
			Lost:     !alive && seats[m.Server] != 0 && silent >= lostAfter,
			CaughtUp: silent <= heardWithin && l.hasLog(m.Server) && !unnamed[m.Server], // gossip hears of the dead for seconds
			Format:   max(m.Format, 1),
			Since:    seniority(m),
		})
	}
	for _, s := range v.Config { // one that gossip does not list (any more)
		if !listed(v.Members, s.ID) {
			run, leaving := l.leaving[s.ID]
			v.Members = append(v.Members, roster.Candidate{
				Server: s.ID, Leaving: leaving, Durable: run.Durable, Lost: l.silentFor(s.ID, now) >= lostAfter,
			})
		}
	}
	return v
}

// seniority orders processes by how long they have been up, by what they say themselves: all leaders see the same order. Those of a version that
// does not say count from when this process first heard of them.
func seniority(m gossip.Member) uint64 {
	if m.Started > 0 {
		return m.Started
	}
	return gossip.Millis(m.Since)
}

// silentFor is how long server has not answered this lead.
func (l *lead) silentFor(server wire.UUID, now time.Time) time.Duration {
	heard, _ := l.group.transport.contactWith(raft.ServerID(server.String()), l.term)
	if heard.Before(l.began) {
		heard = l.began
	}
	return now.Sub(heard)
}

// hasLog says that server's log is close to this lead's.
func (l *lead) hasLog(server wire.UUID) bool {
	heard, matched := l.group.transport.contactWith(raft.ServerID(server.String()), l.term)
	return !heard.IsZero() && matched > 0 && matched+caughtUpLag >= l.group.raft.LastIndex()
}

// isLeavingLocked says that m is the run of its server that asked to be taken out of the Raft group: one that came back has not.
func (l *lead) isLeavingLocked(m gossip.Member) bool {
	run, ok := l.leaving[m.Server]
	return ok && (run.Instance.IsZero() || run.Instance == m.Instance)
}

func listed(members []roster.Candidate, server wire.UUID) bool {
	for _, m := range members {
		if m.Server == server {
			return true
		}
	}
	return false
}
