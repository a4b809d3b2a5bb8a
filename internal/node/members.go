package node

import (
	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/roster"
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
	seats, known := n.seats()
	leader, _ := n.leaderHint()
	var out []Member
	for _, m := range n.gossip.Members() {
		self := m.Instance == n.cfg.Instance
		if !self && m.Cluster != cluster {
			continue
		}
		if known {
			m.Voter, m.Standby = seats[m.Server] == roster.Voter, seats[m.Server] == roster.Nonvoter
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
	switch {
	case m.Self != old.Self:
		return m.Self
	case lives(m.Member) != lives(old.Member):
		return lives(m.Member)
	}
	return m.Since.After(old.Since)
}

// seats is who has which place in Raft's configuration as it stands here; false where this process runs no Raft.
func (n *Node) seats() (map[wire.UUID]roster.Suffrage, bool) {
	g := n.group.Load()
	if g == nil {
		return nil, false
	}
	conf, _, err := g.configuration()
	if err != nil || len(conf.Servers) == 0 {
		return nil, false
	}
	out := make(map[wire.UUID]roster.Suffrage)
	for _, s := range conf.Servers {
		if u, err := wire.ParseUUID(string(s.ID)); err == nil {
			out[u] = roster.Nonvoter
			if s.Suffrage == raft.Voter {
				out[u] = roster.Voter
			}
		}
	}
	return out, true
}

// voterSet is who votes, as seats has it.
func (n *Node) voterSet() (map[wire.UUID]bool, bool) {
	seats, known := n.seats()
	out := make(map[wire.UUID]bool)
	for u, s := range seats {
		if s == roster.Voter {
			out[u] = true
		}
	}
	return out, known
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
	members, missing := n.gossip.Survey()
	for _, m := range members {
		if lives(m) {
			seen = append(seen, m.Name)
		}
	}
	return seen, missing
}

// meta is what this process tells everybody of itself.
func (n *Node) meta() gossip.Meta {
	leads := false
	if l := n.lead.Load(); l != nil {
		leads = l.isReady()
	}
	seats, _ := n.seats()
	var term uint64
	if g := n.group.Load(); g != nil {
		term = g.raft.CurrentTerm()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	server := n.ident.Server
	if !n.claimed.Load() {
		server = wire.UUID{}
	}
	return gossip.Meta{
		Instance: n.cfg.Instance, Server: server, Cluster: n.ident.Cluster, Name: n.cfg.Name, Addr: n.cfg.Addr,
		Term: term, Expect: uint8(min(n.cfg.Expect, 255)), Voters: uint8(n.cfg.Voters), Format: n.ownFormat(),
		MayVote: n.cfg.MayVote, Durable: n.cfg.Dir != "", Open: n.open, Leader: leads,
		Voter:   seats[n.ident.Server] == roster.Voter,
		Standby: seats[n.ident.Server] == roster.Nonvoter,
		Leaving: n.resigned.Load(), Parting: n.parting.Load(), Started: n.started,
	}
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

// Term is Raft's term as this process knows it; 0 where it runs no Raft.
func (n *Node) Term() uint64 {
	if g := n.group.Load(); g != nil {
		return g.raft.CurrentTerm()
	}
	return 0
}

// HasSlot says, where this process leads, that the log has the leaving slot: all members are new enough for it.
func (n *Node) HasSlot() bool {
	l := n.lead.Load()
	return l != nil && l.format() >= formatOfDepart
}
