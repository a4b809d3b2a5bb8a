package node

import (
	"log/slog"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/internal/wire"
)

// Who is let in: Raft's streams only from the cluster that Raft runs for here, and only when they want this very server. A process that is
// invited, or that took over its predecessor's port, answers nobody's votes.
func TestAdmit(t *testing.T) {
	self, other := wire.UUID{1}, wire.UUID{2}
	ours, theirs := wire.UUID{11}, wire.UUID{12}
	bound := &Node{cfg: Config{Group: "g"}, ident: raftlog.Identity{Server: self, Cluster: ours}, raftCluster: ours, open: true}
	noRaft := &Node{cfg: Config{Group: "g"}, ident: raftlog.Identity{Server: self, Cluster: ours}, open: true}
	newcomer := &Node{cfg: Config{Group: "g"}, ident: raftlog.Identity{Server: self}}
	for _, c := range []struct {
		name string
		n    *Node
		h    wire.Hello
		want wire.Refusal
	}{
		{"raft, all right", bound, wire.Hello{Kind: wire.KindRaft, Cluster: ours, Target: self}, 0},
		{"raft for the predecessor on this port", bound, wire.Hello{Kind: wire.KindRaft, Cluster: ours, Target: other}, wire.RefusedTarget},
		{"raft for whoever is here", bound, wire.Hello{Kind: wire.KindRaft, Cluster: ours}, wire.RefusedCluster},
		{"raft of another cluster", bound, wire.Hello{Kind: wire.KindRaft, Cluster: theirs, Target: self}, wire.RefusedCluster},
		{"raft of no cluster", bound, wire.Hello{Kind: wire.KindRaft, Target: self}, wire.RefusedCluster},
		{"raft to a client", noRaft, wire.Hello{Kind: wire.KindRaft, Cluster: ours, Target: self}, wire.RefusedMuted},
		{"raft to an invited process", newcomer, wire.Hello{Kind: wire.KindRaft, Cluster: theirs, Target: self}, wire.RefusedMuted},
		{"raft of none to a process that knows none", newcomer, wire.Hello{Kind: wire.KindRaft, Target: self}, wire.RefusedMuted},
		{"a call", bound, wire.Hello{Kind: wire.KindCall, Cluster: ours, Target: self}, 0},
		{"a call of a newcomer", bound, wire.Hello{Kind: wire.KindCall}, 0},
		{"a call of another cluster", bound, wire.Hello{Kind: wire.KindCall, Cluster: theirs}, wire.RefusedCluster},
		{"a call to the predecessor on this port", bound, wire.Hello{Kind: wire.KindCall, Cluster: ours, Target: other}, wire.RefusedTarget},
		{"a call of another cluster to one that has not opened", newcomer, wire.Hello{Kind: wire.KindCall, Cluster: theirs}, 0},
		{"gossip", bound, wire.Hello{Kind: wire.KindGossip}, 0},
	} {
		c.h.Version, c.h.Group = wire.ProtocolVersion, "g"
		if got := c.n.admit(c.h); got.Refusal != c.want {
			t.Errorf("%s: refusal %d (%s); want %d", c.name, got.Refusal, got.Text, c.want)
		}
		for _, kind := range []wire.Kind{wire.KindRaft, wire.KindCall, wire.KindGossip} {
			h := c.h
			h.Kind, h.Group = kind, "another"
			if got := c.n.admit(h); got.Refusal != wire.RefusedGroup {
				t.Errorf("%s of another group: refusal %d", c.name, got.Refusal)
			}
			h.Group, h.Version = "g", wire.ProtocolVersion+1
			if got := c.n.admit(h); got.Refusal != wire.RefusedVersion {
				t.Errorf("%s of another version: refusal %d", c.name, got.Refusal)
			}
		}
	}
}

// A Raft stream names the cluster that Raft runs for, its target and its sender.
func TestHelloOfARaftStream(t *testing.T) {
	self, target, ours := wire.UUID{1}, wire.UUID{2}, wire.UUID{11}
	n := &Node{cfg: Config{Group: "g", Name: "m", Instance: wire.UUID{3}}, ident: raftlog.Identity{Server: self, Cluster: wire.UUID{12}}, raftCluster: ours}
	h := n.hello(wire.KindRaft, target)
	if h.Cluster != ours || h.Target != target || h.Server != self || h.Group != "g" || h.Version != wire.ProtocolVersion || h.Instance != n.cfg.Instance {
		t.Errorf("hello %+v", h)
	}
}

// A leadership transfer can hang for ever in Raft (its #696): nobody waits that long.
func TestHandOverIsBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := &Node{logger: slog.New(slog.DiscardHandler)}
		never := make(chan struct{})
		defer close(never)
		began := time.Now()
		n.handOver(func() error {
			<-never
			return nil
		})
		if took := time.Since(began); took != transferPatience {
			t.Errorf("waited %s; the limit is %s", took, transferPatience)
		}
	})
}
