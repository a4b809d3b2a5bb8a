package node

import (
	"context"
	"time"

	"github.com/godistlock/distlock/internal/founding"
	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/internal/wire"
)

// tellNews hands the machine what the Raft group here says, until the cluster is open. It answers whether that made the machine act, so that
// there may be news already.
func (f *life) tellNews() bool {
	g := f.group
	if g == nil || f.machine.Open() {
		return false
	}
	l := f.n.lead.Load()
	leading := l != nil && l.isReady()
	view := g.fsm.View()
	cluster := f.n.raftClusterID()
	led := !g.leader().IsZero()
	if led {
		f.ledAt = time.Now()
	}
	return f.step(founding.Led{
		Cluster: cluster, Leader: led, Leading: leading, Founded: view.Cluster() == cluster,
		Open: view.Open(), Confirmed: view.HasConfirmed(f.machine.Server()), Dissolved: view.Dissolved(),
	})
}

// askNews asks the leader of an unopened cluster how far it is, where this process runs no Raft, or one that no leader speaks to: it was asked
// to run it, and another was given the seat. One question is under way at a time.
func (f *life) askNews() {
	cluster := f.machine.Cluster()
	if f.group != nil && time.Since(f.ledAt) < seatDoubt || cluster.IsZero() || f.asking {
		return
	}
	f.asking = true
	f.n.wg.Go(func() { // ends with the calls, which have their limits
		led := founding.Led{Cluster: cluster}
		ctx, cancel := context.WithTimeout(f.n.ctx, callTimeout)
		defer cancel()
		if server, err := f.n.findLeader(ctx); err == nil {
			if body, err := f.n.call(ctx, server, callWho, nil); err == nil {
				if r, err := decodeLeadReply(body); err == nil && r.leads && r.cluster == cluster {
					led.Leader, led.Founded, led.Open, led.Dissolved = true, true, r.open, r.dissolved
				}
			}
		}
		f.answers <- led // cap 1, and only one question at a time
	})
}

// saveIdentity stores who this process is and what it has promised, and makes it known.
func (n *Node) saveIdentity(saved founding.Saved) error {
	n.mu.Lock()
	n.ident.Server, n.ident.Cluster = saved.Server, saved.Cluster
	w := wire.NewWriter()
	saved.Encode(w)
	n.ident.Founding = append([]byte(nil), w.Bytes()...)
	n.ident.Peers = n.addrs.byName()
	ident := n.ident
	n.mu.Unlock()
	if n.cfg.Dir == "" {
		return nil
	}
	return n.store(ident)
}

// settle makes the cluster that this process belongs to known to all who ask.
func (n *Node) settle(cluster wire.UUID, open bool) {
	n.mu.Lock()
	n.ident.Cluster, n.open = cluster, open
	n.mu.Unlock()
	n.announcer.announce()
	n.notify()
}

func (n *Node) setRaftCluster(cluster wire.UUID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.raftCluster = cluster
}

func (n *Node) raftClusterID() wire.UUID {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.raftCluster
}

// restoreIdentity takes up what was stored, or begins as a new server. Without a DataDir each start is a new server: one that came back
// under its old name without its log could vote twice in a term.
func (n *Node) restoreIdentity() (founding.Saved, error) {
	var saved founding.Saved
	if len(n.ident.Founding) > 0 {
		r := wire.NewReader(n.ident.Founding)
		saved = founding.DecodeSaved(r)
		if err := r.End(); err != nil {
			return saved, err
		}
	}
	if saved.Server.IsZero() {
		saved.Server = wire.NewUUID()
	}
	if n.cfg.Dir != "" && saved.Cluster.IsZero() && raftlog.HasLog(n.cfg.Dir) { // a wipe was cut short
		if err := raftlog.Wipe(n.cfg.Dir); err != nil {
			return saved, err
		}
	}
	n.ident.Server, n.ident.Cluster, n.open = saved.Server, saved.Cluster, saved.Open
	for id, addr := range n.ident.Peers {
		if server, err := wire.ParseUUID(id); err == nil {
			n.addrs.learn(server, addr)
		}
	}
	return saved, nil
}
