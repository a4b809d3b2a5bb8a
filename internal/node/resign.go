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
)

const (
	// transferPatience bounds a leadership transfer, which can hang (raft #696); after it an election does the same, only slower.
	transferPatience = 2 * time.Second
	// askPatience bounds one question to the leader for a seat to be given up.
	askPatience = 500 * time.Millisecond
	// gossipPatience bounds telling the others that this process goes.
	gossipPatience = time.Second
)

// TakeTurn is the first half of leaving: a voter waits until it is its turn to go. It serves the others meanwhile. When ctx ends first the
// error says whom it waited for; it may go on all the same.
func (n *Node) TakeTurn(ctx context.Context) (err error) {
	n.parting.Store(true)
	n.announcer.announce()
	if n.votes() {
		n.turn, err = n.takeTurn(ctx)
	}
	return err
}

// Resign gives up what this process is in the cluster, in an order that leaves a majority at each step, after TakeTurn: it hands over the
// leadership, then its seat (in memory another takes it, or the group gets smaller; with a DataDir it is kept for its return, unless a standby
// is there for it), then it leaves gossip. It returns an error when ctx cut it short; the others then find out by themselves.
func (n *Node) Resign(ctx context.Context) error {
	if n.resigned.Swap(true) {
		return nil
	}
	close(n.leaving)
	n.announcer.announce()
	err := n.giveUpSeat(ctx, n.turn.replace)
	if gerr := n.gossip.Leave(gossipPatience); gerr != nil {
		n.logger.Info("the others find out by themselves that this process left", "error", gerr)
	}
	return err
}

// votes says that this process has a seat.
func (n *Node) votes() bool {
	voters, known := n.voterSet()
	return known && voters[n.serverID()]
}

// giveUpSeat hands over the leadership and, where another takes it, the seat.
func (n *Node) giveUpSeat(ctx context.Context, replace bool) error {
	server := n.serverID()
	if !n.votes() {
		return nil
	}
	if n.othersStaying() == 0 {
		return nil // nobody is left to take it
	}
	n.transfer()
	if !replace {
		return nil
	}
	err := n.askToGo(ctx, server)
	if err != nil && n.cfg.Dir != "" {
		n.logger.Info("the seat is kept: no standby has taken it in time", "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("the seat of %q in the Raft group is not taken over: %w", n.cfg.Name, err)
	}
	return nil
}

// othersStaying counts the other processes that could vote and have not said that they leave, or want to.
func (n *Node) othersStaying() int {
	count := 0
	for _, m := range n.Members() {
		if !m.Self && m.State == gossip.Alive && m.MayVote && !m.Leaving && !m.Parting {
			count++
		}
	}
	return count
}

// transfer hands the leadership to whoever Raft finds most caught up. It stops proposing first; nil from Raft means only that the
// leadership was lost, which is all that is wanted.
func (n *Node) transfer() {
	g := n.group.Load()
	voters, _ := n.voterSet()
	if g == nil || g.raft.State() != raft.Leader || len(voters) < 2 {
		return
	}
	n.handing.Store(true)
	defer n.handing.Store(false) // if it comes back, because the others leave too, somebody must serve them
	if l := n.lead.Load(); l != nil {
		l.end()
	}
	n.handOver(func() error { return g.raft.LeadershipTransfer().Error() })
}

// stepAside hands the leadership over where this process leads and should not vote: nobody takes himself out. One that is leaving does so itself.
func (n *Node) stepAside(l *lead, v roster.View) {
	_, ok := roster.Successor(v) // there is one; Raft itself picks who has most of the log
	if !ok || n.resigned.Load() || !n.mayStep() {
		return
	}
	n.logger.Info("this process may not vote: another leads from now on", "member", n.cfg.Name)
	n.handing.Store(true)
	defer n.handing.Store(false)
	l.endAsync() // this is one of the goroutines that end would wait for
	n.handOver(func() error { return l.group.raft.LeadershipTransfer().Error() })
}

// mayStep says whether it is time to try, and notes that it is tried.
func (n *Node) mayStep() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.stepped) < stepAgain {
		return false
	}
	n.stepped = time.Now()
	return true
}

// stepAgain is how long a leader that should not lead goes on after it has failed to hand over.
const stepAgain = 10 * time.Second

// handOver waits for transfer, but not for ever.
func (n *Node) handOver(transfer func() error) {
	done := make(chan error, 1)
	go func() { done <- transfer() }() // ends with the transfer's own time-out, or with Raft
	t := time.NewTimer(transferPatience)
	defer t.Stop()
	select {
	case err := <-done:
		if err != nil {
			n.logger.Info("leadership not handed over; the others elect", "error", err)
		}
	case <-t.C:
		n.logger.Info("leadership not handed over in time; the others elect", "limit", transferPatience)
	}
}

// askToGo asks the leader, whoever that is by now, until it has taken server out of the Raft group.
func (n *Node) askToGo(ctx context.Context, server wire.UUID) error {
	for round := 0; ; round++ {
		was := n.situation()
		n.transfer()                                          // a leader can't take itself out; where it was the only voter, another has been made one meanwhile
		actx, cancel := context.WithTimeout(ctx, askPatience) // who else stays may change while the leader is at it
		_, err := n.askLeader(actx, func(ctx context.Context, l *lead) ([]byte, error) {
			return nil, n.letGo(ctx, l, server)
		}, callResign, encodeUUID(server))
		cancel()
		if err == nil || n.othersStaying() == 0 {
			return nil
		}
		if werr := n.waitRetry(ctx, was, retryPause(round, 0)); werr != nil {
			return errors.Join(werr, err)
		}
	}
}

// letGo has the steward take server out of the configuration, and waits until it is.
func (n *Node) letGo(ctx context.Context, l *lead, server wire.UUID) error {
	var who gossip.Meta
	if m, ok := latestRun(server, n.members()); ok && lives(m) {
		who = m.Meta
	}
	l.mu.Lock()
	l.leaving[server] = who
	l.mu.Unlock()
	tick := time.NewTicker(stewardTick)
	defer tick.Stop()
	for {
		conf, _, err := l.group.configuration()
		if err != nil {
			return err
		}
		if !inConfiguration(conf, server) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.done:
			return errNotLeading
		}
	}
}

func inConfiguration(conf raft.Configuration, server wire.UUID) bool {
	for _, s := range conf.Servers {
		if string(s.ID) == server.String() {
			return true
		}
	}
	return false
}
