package node

import (
	"context"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/wire"
)

// Member is one process of the cluster as seen from here.
type Member struct {
	gossip.Member
	Self bool
}

// Members are the processes of this cluster (all that were seen, while none is known), this one included, sorted by name. What Raft says
// of roles counts before what gossip says.
func (n *Node) Members() []Member {
	cluster := n.clusterID()
	voters, known := n.voterSet()
	leader, _ := n.leaderHint()
	var out []Member
	for _, m := range n.gossip.Members() {
		self := m.Instance == n.cfg.Instance
		if !self && m.Cluster != cluster {
			continue
		}
		if known {
			m.Voter = voters[m.Server]
		}
		m.Leader = !leader.IsZero() && m.Server == leader
		out = append(out, Member{Member: m, Self: self})
	}
	return latestRuns(out)
}

// latestRuns keeps of each name the run that counts: this process itself, else a living one, else the latest. Gossip takes seconds to see
// that the one before has ended.
func latestRuns(all []Member) []Member {
	var out []Member
	for _, m := range all { // sorted by name
		if n := len(out); n > 0 && out[n-1].Name == m.Name {
			if supersedes(m, out[n-1]) {
				out[n-1] = m
			}
			continue
		}
		out = append(out, m)
	}
	return out
}

func supersedes(m, old Member) bool {
	alive := func(x Member) bool { return x.State == gossip.Alive || x.State == gossip.Suspect }
	switch {
	case m.Self != old.Self:
		return m.Self
	case alive(m) != alive(old):
		return alive(m)
	}
	return m.Since.After(old.Since)
}

// voterSet is who votes, by Raft's configuration as it stands here; false where this process runs no Raft.
func (n *Node) voterSet() (map[wire.UUID]bool, bool) {
	g := n.group.Load()
	if g == nil {
		return nil, false
	}
	conf, _, err := g.configuration()
	if err != nil || len(conf.Servers) == 0 {
		return nil, false
	}
	out := make(map[wire.UUID]bool)
	for _, s := range conf.Servers {
		if u, err := wire.ParseUUID(string(s.ID)); err == nil && s.Suffrage == raft.Voter {
			out[u] = true
		}
	}
	return out, true
}

// Cluster is the cluster that this process belongs to, zero when it knows none, and whether that is known to have opened.
func (n *Node) Cluster() (wire.UUID, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ident.Cluster, n.open
}

// Server is this process's Raft identity.
func (n *Node) Server() wire.UUID { return n.serverID() }

// Seen lists the names of the processes that gossip has found, this one included, and the addresses at which nobody answered.
func (n *Node) Seen() (seen, missing []string) {
	for _, m := range n.gossip.Members() {
		if m.State == gossip.Alive || m.State == gossip.Suspect {
			seen = append(seen, m.Name)
		}
	}
	return seen, n.gossip.KnownUnanswered()
}

// Waiting says in words what this process waits for before it can take locks; "" when for nothing.
func (n *Node) Waiting() string {
	cluster := n.clusterID()
	switch {
	case cluster.IsZero():
		return "no cluster is known and not enough processes were seen to form one"
	case !n.Open():
		return "the cluster has formed and waits for more processes to confirm it"
	}
	if leader, _ := n.leaderHint(); leader.IsZero() {
		return "the cluster is known and has no leader"
	}
	return ""
}

// meta is what this process tells everybody of itself.
func (n *Node) meta() gossip.Meta {
	leads := false
	if l := n.lead.Load(); l != nil {
		leads = l.isReady()
	}
	voters, _ := n.voterSet()
	var term uint64
	if g := n.group.Load(); g != nil {
		term = g.raft.CurrentTerm()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return gossip.Meta{
		Instance: n.cfg.Instance, Server: n.ident.Server, Cluster: n.ident.Cluster, Name: n.cfg.Name, Addr: n.cfg.Addr,
		Term: term, Expect: uint8(min(n.cfg.Expect, 255)), Voters: uint8(n.cfg.Voters), Format: n.ownFormat(),
		MayVote: n.cfg.MayVote, Durable: n.cfg.Dir != "", Open: n.open, Voter: voters[n.ident.Server], Leader: leads,
		Leaving: n.resigned.Load(),
	}
}

// addrOf resolves a server's UUID: what gossip says now, else what is remembered.
func (n *Node) addrOf(server wire.UUID) (string, bool) {
	n.mu.Lock()
	self := n.ident.Server
	n.mu.Unlock()
	if server == self {
		return n.cfg.SelfAddr, true
	}
	if addr, ok := latestAddr(n.gossip.Members(), server); ok {
		n.remember(server, addr)
		return addr, true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	addr, ok := n.addrs[server]
	return addr, ok
}

// latestAddr is where a server was heard of last: one that came back, with its log, elsewhere is listed twice until gossip forgets the run
// before.
func latestAddr(members []gossip.Member, server wire.UUID) (string, bool) {
	var latest Member
	for _, m := range members {
		if m.Server != server || m.State == gossip.Left {
			continue
		}
		if run := (Member{Member: m}); latest.Addr == "" || supersedes(run, latest) {
			latest = run
		}
	}
	return latest.Addr, latest.Addr != ""
}

// maxAddrs bounds the addresses that are remembered; a fleet has few servers that run Raft.
const maxAddrs = 256

func (n *Node) remember(server wire.UUID, addr string) {
	if server.IsZero() || addr == "" {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.addrs[server]; ok || len(n.addrs) < maxAddrs {
		n.addrs[server] = addr
	}
}

// seeds are the configured addresses and those remembered from before a restart. What can't be resolved comes as an error beside them.
func (n *Node) seeds(ctx context.Context) ([]string, error) {
	out, err := n.cfg.Seeds(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	var stored []string
	for _, addr := range n.addrs {
		if addr != n.cfg.Addr && !slices.Contains(out, addr) {
			stored = append(stored, addr)
		}
	}
	slices.Sort(stored)
	return append(out, stored...), err
}

func firstConfiguration(bootstrap bool, voters []wire.UUID) *raft.Configuration {
	if !bootstrap {
		return nil
	}
	conf := &raft.Configuration{}
	for _, u := range voters {
		conf.Servers = append(conf.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(u.String()), Address: raft.ServerAddress(u.String())})
	}
	return conf
}

// RunsRaft says whether this process takes part in the Raft group.
func (n *Node) RunsRaft() bool { return n.group.Load() != nil }

// Conflicts are processes of another open cluster of this group.
func (n *Node) Conflicts() []Member {
	var out []Member
	for _, m := range n.gossip.Conflicts() {
		out = append(out, Member{Member: m})
	}
	return out
}
