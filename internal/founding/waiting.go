package founding

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// Why there is no open cluster yet, for people: each text names who is waited for and what ends the wait.

// maxNamed bounds how many processes a text names.
const maxNamed = 7

// Waiting says what this process waits for before its cluster is open; "" once it is.
func (m *Machine) Waiting() string {
	var text string
	switch {
	case m.s.Open:
		return ""
	case m.s.Cluster.IsZero():
		text = m.waitingFree()
	case m.s.Charter.IsZero():
		text = m.waitingGuest()
	default:
		text = m.waitingBound()
	}
	if m.differs != "" && m.now-m.differsAt < time.Minute {
		text += "; " + m.differs + ": all members must be given the same"
	}
	return text
}

func (m *Machine) waitingFree() string {
	switch {
	case m.round != nil:
		var mute []string
		for _, p := range m.round.invited {
			if !m.round.accepted[p.Instance] {
				mute = append(mute, p.Name)
			}
		}
		return fmt.Sprintf("of the %d processes that it has invited to found a cluster, %s did not accept yet; it tries again after %v, "+
			"without those who do not answer where the others are enough", len(m.round.invited), quote(mute), m.t.Invite)
	case !m.s.Accepted.IsZero():
		return fmt.Sprintf("it has accepted the invitation of %q and waits for that cluster to begin; without news it turns to others after %v at most",
			m.s.Charter.Name, m.t.Withdraw)
	}
	if leader, ok := m.ledCluster(wire.UUID{}); ok {
		return fmt.Sprintf("cluster %v, which %q leads, has not opened yet: it asks to be one of those who confirm it", leader.Cluster, leader.Name)
	}
	return m.waitingIdle()
}

// waitingIdle is waitingFree of who neither invites nor is invited.
func (m *Machine) waitingIdle() string {
	c := m.census()
	var text string
	switch {
	case !m.begun || !m.viewed && !m.cfg.Alone:
		return "it has only begun, and listens for others"
	case len(c.free) < m.cfg.Expect:
		text = fmt.Sprintf("it sees %d of the %d processes (Expect) that found a cluster together: %s; it waits for %d more",
			len(c.free), m.cfg.Expect, quote(c.free), m.cfg.Expect-len(c.free))
	case c.willing == 0:
		text = fmt.Sprintf("of those who are seen nobody may vote (NoVote): %s; it waits for one who may", quote(c.free))
	case c.lowest != "":
		text = fmt.Sprintf("%q, the lowest name that may vote, has to invite and has not yet; if it does not the next one will", c.lowest)
	case m.unanswered:
		text = "it gives an address that has not answered yet a little more time before it founds a cluster"
	default:
		text = "it invites in a moment"
	}
	if len(c.bound) > 0 {
		text += fmt.Sprintf("; of a cluster that has begun and is neither open nor led: %s", quote(c.bound))
	}
	if m.failure != "" {
		text += "; the last attempt was given up: " + m.failure
	}
	return text
}

func (m *Machine) waitingGuest() string {
	cluster := m.s.Cluster
	text := fmt.Sprintf("cluster %v is open", cluster)
	leader, led := m.leaderOf(cluster)
	switch {
	case led:
		return text + fmt.Sprintf("; it waits for an answer of %q, who leads it", leader.Name)
	case m.seenOpen(cluster):
		return text + fmt.Sprintf(" and has no leader who is seen; of those who know it are seen: %s", quote(m.namesIn(cluster)))
	}
	return text + fmt.Sprintf(" or was, and nobody who knows it is seen any more; it is left after %v", m.t.Guest)
}

func (m *Machine) waitingBound() string {
	b, cluster := &m.bound, m.s.Cluster
	text := fmt.Sprintf("cluster %v has begun and not opened yet; ", cluster)
	switch {
	case b.dissolved >= 0:
		return text + "its end is committed, and this process is about to leave it"
	case b.stopping:
		return text + "it has had no leader for long: this process looks whether it may leave"
	case !m.hasLeader():
		return text + m.waitingLeader()
	case !b.news.Founded:
		return text + "its leader has not committed the first entry yet"
	}
	here := append(m.namesIn(cluster), m.cfg.Self.Name)
	text += fmt.Sprintf("%d processes (Expect) have to confirm it, and %d are here: %s", m.s.Charter.Expect, len(here), quote(here))
	if more := m.s.Charter.Expect - len(here); more > 0 {
		return text + fmt.Sprintf("; it waits for %d more", more)
	}
	if !b.news.Confirmed {
		return text + "; its leader has not committed this one's word yet"
	}
	return text + "; their words are on the way"
}

// waitingLeader says which of the founding voters are missing.
func (m *Machine) waitingLeader() string {
	voters := m.s.Charter.Voters
	var missing []string
	unknown := 0
	for _, v := range voters {
		here := v == m.s.Server || slices.ContainsFunc(m.peers, func(p Peer) bool { return p.Server == v && p.Cluster == m.s.Cluster })
		switch name, ok := m.names[v]; {
		case here:
		case ok:
			missing = append(missing, name)
		default:
			unknown++
		}
	}
	here, most := len(voters)-len(missing)-unknown, len(voters)/2+1
	if here >= most {
		return fmt.Sprintf("%d of its %d founding voters are here and have to elect a leader", here, len(voters))
	}
	who := quote(missing)
	switch {
	case unknown > 0 && len(missing) > 0:
		who += fmt.Sprintf(" and %d whose names are not known here", unknown)
	case unknown > 0:
		who = fmt.Sprintf("%d whose names are not known here", unknown)
	}
	return fmt.Sprintf("it has no leader: %d of its %d founding voters are here, %d are needed, missing are %s; it goes on when they return; "+
		"if they are lost for good, restart this process (with DataDir: on an empty one)", here, len(voters), most, who)
}

// census counts those who are seen, this process included.
type census struct {
	free, bound []string // names of those who know no cluster, and of those who are of one
	willing     int      // of free, those who may vote
	lower       int      // of these, those with a lower name than this process's; all, where it may not vote itself
	lowest      string   // of these, the first
}

func (m *Machine) census() census {
	c := census{free: []string{m.cfg.Self.Name}}
	if m.cfg.Self.MayVote {
		c.willing++
	}
	for _, p := range m.peers { // by name
		if !p.Cluster.IsZero() {
			c.bound = append(c.bound, p.Name)
			continue
		}
		c.free = append(c.free, p.Name)
		if !p.MayVote {
			continue
		}
		c.willing++
		if !m.cfg.Self.MayVote || p.before(m.self()) {
			if c.lower++; c.lower == 1 {
				c.lowest = p.Name
			}
		}
	}
	slices.Sort(c.free)
	return c
}

// namesIn are the names of the others who are seen and of cluster.
func (m *Machine) namesIn(cluster wire.UUID) []string {
	var out []string
	for _, p := range m.peers {
		if p.Cluster == cluster {
			out = append(out, p.Name)
		}
	}
	return out
}

// learnNames keeps the names of the charter's voters, for the time when they are gone.
func (m *Machine) learnNames() {
	c := m.s.Charter
	if len(m.names) >= len(c.Voters) {
		return
	}
	if m.names == nil {
		m.names = map[wire.UUID]string{}
	}
	if c.Has(m.s.Server) {
		m.names[m.s.Server] = m.cfg.Self.Name
	}
	m.names[c.Inviter] = c.Name
	for _, p := range m.peers {
		if c.Has(p.Server) {
			m.names[p.Server] = p.Name
		}
	}
}

// quote lists names, the first of many.
func quote(names []string) string {
	var b strings.Builder
	for i, name := range names {
		switch {
		case i == maxNamed && len(names) > maxNamed+1:
			fmt.Fprintf(&b, " and %d more", len(names)-i)
			return b.String()
		case i > 0:
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", name)
	}
	if len(names) == 0 {
		return "nobody"
	}
	return b.String()
}
