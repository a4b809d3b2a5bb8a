package node

import (
	"fmt"
	"slices"
	"strings"

	"github.com/godistlock/distlock/internal/wire"
)

// Waiting says in words what this process waits for before it can take locks; "" when for nothing.
func (n *Node) Waiting() string {
	if !n.Open() {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.waiting
	}
	leader, _ := n.leaderHint()
	if !leader.IsZero() {
		return ""
	}
	text := fmt.Sprintf("cluster %s is open and has no leader", n.clusterID())
	if missing := n.missingVoters(); len(missing) > 0 {
		text += "; voters that are not seen: " + strings.Join(missing, ", ")
	}
	return text
}

// setWaiting keeps what the first start waits for. The life loop calls it.
func (n *Node) setWaiting(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiting = text
}

// missingVoters are those of Raft's voters, as far as they are known here, that gossip does not see alive: by name, else by address.
func (n *Node) missingVoters() []string {
	voters, _ := n.voterSet()
	missing := make(map[wire.UUID]string)
	for v := range voters {
		missing[v] = "server " + v.String()
		if addr, ok := n.addrOf(v); ok {
			missing[v] = addr
		}
	}
	delete(missing, n.serverID())
	for _, m := range n.members() {
		if _, ok := missing[m.Server]; !ok {
			continue
		}
		if lives(m) {
			delete(missing, m.Server)
		} else {
			missing[m.Server] = fmt.Sprintf("%q", m.Name)
		}
	}
	var out []string
	for _, text := range missing {
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}
