package node

import (
	"maps"
	"slices"
	"time"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/internal/wire"
)

const (
	maxAddrs   = 64              // servers whose addresses are remembered: a fleet has few that run Raft at a time
	storeEvery = 5 * time.Second // at most so often are they stored
)

// addressBook remembers where servers were when last heard of: for the time in which gossip says nothing of them, and from one start of a
// process to the next. Of too many it forgets the one that was heard of the longest ago.
type addressBook struct {
	places map[wire.UUID]place
	heard  uint64
}

type place struct {
	addr string
	at   uint64 // of heard
}

func (b *addressBook) learn(server wire.UUID, addr string) {
	if server.IsZero() || addr == "" {
		return
	}
	b.heard++
	if b.places == nil {
		b.places = make(map[wire.UUID]place)
	}
	b.places[server] = place{addr, b.heard}
	if len(b.places) <= maxAddrs {
		return
	}
	oldest := server
	for u, p := range b.places {
		if p.at < b.places[oldest].at {
			oldest = u
		}
	}
	delete(b.places, oldest)
}

// byName is what raftlog stores.
func (b *addressBook) byName() map[string]string {
	out := make(map[string]string, len(b.places))
	for u, p := range b.places {
		out[u.String()] = p.addr
	}
	return out
}

// find is where server is: where it lives by what gossip says now, else what is remembered, else where gossip saw it last.
func (b *addressBook) find(server wire.UUID, members []gossip.Member) (string, bool) {
	m, seen := latestRun(server, members)
	if seen && lives(m) {
		b.learn(server, m.Addr)
		return m.Addr, true
	}
	if p, ok := b.places[server]; ok {
		return p.addr, true
	}
	return m.Addr, seen
}

// addrOf resolves a server's UUID.
func (n *Node) addrOf(server wire.UUID) (string, bool) {
	members := n.members()
	n.mu.Lock()
	defer n.mu.Unlock()
	if server == n.ident.Server {
		return n.cfg.SelfAddr, true
	}
	return n.addrs.find(server, members)
}

// latestRun is the process that is server now. With a DataDir one server has several in turn, and gossip takes seconds to see that the one
// before has ended: one that lives counts before one that does not answer, and that before one that is gone; among these the one that was
// heard of last.
func latestRun(server wire.UUID, all []gossip.Member) (latest gossip.Member, ok bool) {
	rank := map[gossip.State]int{gossip.Alive: 3, gossip.Suspect: 2, gossip.Failed: 1, gossip.Left: 1}
	for _, m := range all {
		if m.Server != server {
			continue
		}
		if better := rank[m.State] - rank[latest.State]; better > 0 || better == 0 && cameLater(m, latest) {
			latest, ok = m, true
		}
	}
	return latest, ok
}

// atOnce is how close together two runs must have been heard of first to have come with one exchange.
const atOnce = time.Second

// cameLater says that m was heard of after old; of two that came with one exchange their own clocks say which was started later.
func cameLater(m, old gossip.Member) bool {
	if m.Started != old.Started && m.Started > 0 && old.Started > 0 && m.Since.Sub(old.Since).Abs() < atOnce {
		return m.Started > old.Started
	}
	return m.Since.After(old.Since)
}

// lives says that gossip hears of m, be it with doubts.
func lives(m gossip.Member) bool { return m.State == gossip.Alive || m.State == gossip.Suspect }

func (n *Node) remember(server wire.UUID, addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addrs.learn(server, addr)
}

// remembered are the addresses to try beside those that are configured: after a restart, or a cut that gossip has not outlived, the servers may
// be where nobody told this process to look.
func (n *Node) remembered() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, p := range n.addrs.places {
		if p.addr != n.cfg.Addr && !slices.Contains(out, p.addr) {
			out = append(out, p.addr)
		}
	}
	slices.Sort(out)
	return out
}

// noteAddresses remembers where the servers of this process's cluster are that run Raft.
func (n *Node) noteAddresses() {
	members := n.members()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ident.Cluster.IsZero() {
		return
	}
	noted := map[wire.UUID]bool{n.ident.Server: true}
	for _, m := range members {
		if noted[m.Server] || m.Cluster != n.ident.Cluster || !(m.Voter || m.Leader || m.Standby) || !lives(m) {
			continue
		}
		noted[m.Server] = true
		latest, _ := latestRun(m.Server, members)
		n.addrs.learn(m.Server, latest.Addr)
	}
}

// storeAddresses stores what noteAddresses noted, if there is news: all the others may have moved when this process starts again. The life
// loop calls it.
func (n *Node) storeAddresses() {
	if n.cfg.Dir == "" || n.stored.Server.IsZero() || time.Since(n.storedAt) < storeEvery {
		return
	}
	n.mu.Lock()
	peers := n.addrs.byName()
	n.mu.Unlock()
	if maps.Equal(peers, n.stored.Peers) && n.stored.Name == n.cfg.Name {
		return
	}
	ident := n.stored // what it has promised stays as it was stored
	ident.Peers = peers
	n.storedAt = time.Now()
	if err := n.store(ident); err != nil { // nothing depends on it: the one that was stored before is still there
		n.logger.Warn("the addresses of the other servers can't be stored; it is tried again", "error", err)
		n.storedAt = time.Now().Add(time.Minute)
	}
}

// store writes the identity. The life loop calls it.
func (n *Node) store(ident raftlog.Identity) error {
	ident.Name = n.cfg.Name
	if err := raftlog.SaveIdentity(n.cfg.Dir, ident); err != nil {
		return err
	}
	n.stored, n.storedAt = ident, time.Now()
	return nil
}
