package node

import (
	"errors"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/wire"
)

const (
	// missedContact is how long nothing was heard of a leader that nobody answers for before a follower stands for election: three
	// heartbeats, which Raft sends ten times per heartbeatTimeout.
	missedContact = 100 * time.Millisecond
	// electionStagger keeps the followers of a dead leader from standing all at once and splitting the votes: they go in the order of their
	// UUIDs.
	electionStagger = 150 * time.Millisecond
)

// provesGone says that the machine that was asked answered for itself that the server is not there: nobody listens, or another has the port.
func provesGone(err error) bool {
	var refused *mux.RefusedError
	return errors.Is(err, syscall.ECONNREFUSED) || errors.As(err, &refused) && refused.Welcome.Refusal == wire.RefusedTarget
}

// hasten lets this follower stand for election without waiting for heartbeats that can't come: its leader's process is gone. Raft keeps this
// as safe as any election, for a candidate needs its majority; what could be lost is a leader that still lives, so it must also have been
// silent. Without it followers wait a heartbeat time-out, and the first one to ask is often refused because the others' have not run out.
func (n *Node) hasten(server wire.UUID) {
	g := n.group.Load()
	if g == nil || g.leader() != server || n.hastening.Swap(true) {
		return
	}
	if !n.spawn(func() { // ends with the wait, or with Close
		defer n.hastening.Store(false)
		n.standFor(g, server)
	}) {
		n.hastening.Store(false)
	}
}

func (n *Node) standFor(g *group, gone wire.UUID) {
	rank, ok := n.rankWithout(gone)
	if !ok {
		return
	}
	t := time.NewTimer(time.Duration(rank)*electionStagger + max(0, missedContact-time.Since(g.raft.LastContact())))
	defer t.Stop()
	select {
	case <-t.C:
	case <-n.ctx.Done():
		return
	}
	if n.group.Load() != g || g.raft.State() != raft.Follower || g.leader() != gone || time.Since(g.raft.LastContact()) < missedContact {
		return
	}
	n.logger.Info("the leader's process is gone: standing for election", "leader", gone)
	if err := g.electNow(); err != nil {
		n.logger.Debug("the election waits for its time-out", "error", err)
	}
}

// rankWithout is this server's place among the voters but gone.
func (n *Node) rankWithout(gone wire.UUID) (int, bool) {
	voters, _ := n.voterSet()
	self := n.serverID()
	if !voters[self] {
		return 0, false
	}
	var rest []wire.UUID
	for v := range voters {
		if v != gone {
			rest = append(rest, v)
		}
	}
	slices.SortFunc(rest, func(a, b wire.UUID) int {
		if a.Less(b) {
			return -1
		}
		return 1
	})
	return slices.Index(rest, self), true
}
