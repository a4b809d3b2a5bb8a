package gossip

import (
	"fmt"
	"time"

	"github.com/hashicorp/memberlist"
)

// memberlist calls all of these, the most under its node lock: they take the table's lock only and never call memberlist.
var (
	_ memberlist.Delegate      = (*Gossip)(nil)
	_ memberlist.EventDelegate = (*Gossip)(nil)
	_ memberlist.AliveDelegate = (*Gossip)(nil)
	_ memberlist.MergeDelegate = (*Gossip)(nil)
	_ memberlist.PingDelegate  = (*Gossip)(nil)
)

// NodeMeta is memberlist's: what we say of ourselves.
func (g *Gossip) NodeMeta(int) []byte { return g.members.selfMeta().encode() }

// NotifyMsg is memberlist's; we send no messages of our own.
func (g *Gossip) NotifyMsg([]byte) {}

// GetBroadcasts is memberlist's; we have none.
func (g *Gossip) GetBroadcasts(_, _ int) [][]byte { return nil }

// LocalState is memberlist's; the members are all there is.
func (g *Gossip) LocalState(bool) []byte { return nil }

// MergeRemoteState is memberlist's.
func (g *Gossip) MergeRemoteState([]byte, bool) {}

// AckPayload is memberlist's.
func (g *Gossip) AckPayload() []byte { return nil }

// NotifyPingComplete is memberlist's: a direct probe was answered.
func (g *Gossip) NotifyPingComplete(n *memberlist.Node, _ time.Duration, _ []byte) {
	g.members.heard(n.Name)
}

// NotifyAlive is memberlist's: an error keeps a process out.
func (g *Gossip) NotifyAlive(n *memberlist.Node) error {
	if n.Name == g.node {
		return nil
	}
	if err := g.members.admit(n); err != nil {
		g.told()
		return err
	}
	return nil
}

// NotifyMerge is memberlist's: an error keeps all of a stranger's list out. Each process in it is judged by NotifyAlive anyway; a list with
// nobody in it that could be of our cluster is refused whole, so that a join with another cluster counts as failed.
func (g *Gossip) NotifyMerge(peers []*memberlist.Node) error {
	foreign := 0
	for _, n := range peers {
		if n.State != memberlist.StateAlive {
			continue
		}
		if n.Name == g.node || !g.members.foreign(n) {
			return nil
		}
		foreign++
	}
	if foreign > 0 {
		g.told()
		return fmt.Errorf("all %d processes there are of another open cluster", foreign)
	}
	return nil
}

// NotifyJoin is memberlist's.
func (g *Gossip) NotifyJoin(n *memberlist.Node) { g.put(n, Alive) }

// NotifyUpdate is memberlist's.
func (g *Gossip) NotifyUpdate(n *memberlist.Node) { g.put(n, Alive) }

// NotifyLeave is memberlist's: n has left or has failed.
func (g *Gossip) NotifyLeave(n *memberlist.Node) { g.put(n, Failed) }

func (g *Gossip) put(n *memberlist.Node, s State) {
	if n.Name != g.node && g.members.put(n, s) {
		g.told()
	}
}

func (g *Gossip) told() {
	hint(g.changed)
	hint(g.wake)
}
