package founding

import (
	"fmt"

	"github.com/godistlock/distlock/internal/wire"
)

// receive takes a message of another process.
func (m *Machine) receive(from Process, msg wire.Founding) {
	switch msg.Kind {
	case wire.FoundingInvite:
		m.invited(from, msg)
	case wire.FoundingAnswer:
		m.answered(from, msg)
	case wire.FoundingRelease:
		m.released(from, msg.Cluster)
	case wire.FoundingBegun:
		m.hasBegun(from, msg.Charter)
	case wire.FoundingBound:
		m.boundAnswer(msg)
	case wire.FoundingAsk:
		if msg.Cluster == m.s.Cluster && !m.s.Charter.IsZero() {
			m.send(from.Instance, wire.Founding{Kind: wire.FoundingBegun, Cluster: msg.Cluster, Charter: m.s.Charter})
		}
	}
}

// invited answers an invitation. Only what is stored is ever answered.
func (m *Machine) invited(from Process, msg wire.Founding) {
	c := msg.Charter
	if msg.Target != m.s.Server || from.Server != c.Inviter || !c.Has(c.Inviter) {
		return // meant for a server of before, or of another's cluster
	}
	answer := wire.Founding{Kind: wire.FoundingAnswer, Cluster: c.Cluster, Verdict: wire.VerdictAccepted}
	_, refused := m.s.refusal(c.Cluster)
	switch {
	case m.s.Cluster == c.Cluster || m.s.Accepted == c.Cluster:
	case !m.s.Cluster.IsZero():
		answer.Verdict, answer.Known = wire.VerdictKnown, m.s.Cluster
	case refused:
		answer.Verdict = wire.VerdictRefused
	case c.Expect != m.cfg.Expect:
		answer.Verdict = wire.VerdictRefused
		answer.Text = fmt.Sprintf("%q has Expect %d, the inviting %q has %d", m.cfg.Self.Name, m.cfg.Expect, from.Name, c.Expect)
		m.differs, m.differsAt = answer.Text, m.now
		m.remind("expect", "an invitation is refused: %s; all members must be given the same", answer.Text)
	case !m.free(from, msg.Round):
		answer.Verdict = wire.VerdictBusy
	case !m.s.Accepted.IsZero() && m.host.Instance == from.Instance && msg.Round < m.hostRound:
		answer.Verdict = wire.VerdictRefused // older than the one that is held
	default:
		if m.round != nil {
			m.abort(fmt.Sprintf("the lower name %q invites", from.Name), nil)
		} else if !m.s.Accepted.IsZero() {
			m.refuse()
		}
		if msg.Target != m.s.Server { // turning from the other has changed this server
			m.save()
			return
		}
		m.s.Accepted, m.s.Charter = c.Cluster, c
		m.host, m.hostRound, m.since = from, msg.Round, m.now
		m.save()
	}
	m.send(from.Instance, answer)
}

// free says that an invitation by from may be accepted: nothing is held, or an earlier one of the same inviter, or a round of this
// process's own that gives way to a lower name.
func (m *Machine) free(from Process, round uint64) bool {
	if m.s.Accepted.IsZero() {
		return true
	}
	if m.round != nil {
		return from.before(m.self())
	}
	return m.s.Charter.Inviter == from.Server // a second cluster of one inviter: the first was given up, or its process has ended
}

// answered counts an acceptance.
func (m *Machine) answered(from Process, msg wire.Founding) {
	if m.round == nil || msg.Cluster != m.s.Accepted {
		if msg.Verdict != wire.VerdictAccepted {
			return
		}
		if msg.Cluster == m.s.Cluster && m.s.Bootstrap { // a late copy
			m.send(from.Instance, wire.Founding{Kind: wire.FoundingBegun, Cluster: m.s.Cluster, Charter: m.s.Charter})
		} else if f, ok := m.s.refusal(msg.Cluster); ok && f.Server == m.s.Server {
			m.send(from.Instance, wire.Founding{Kind: wire.FoundingRelease, Cluster: msg.Cluster})
		}
		return
	}
	for _, p := range m.round.invited {
		if p.Instance != from.Instance {
			continue
		}
		switch msg.Verdict {
		case wire.VerdictAccepted:
			if m.now < m.round.deadline { // after a pause the others may have withdrawn
				m.round.accepted[p.Instance] = true
			}
		case wire.VerdictRefused, wire.VerdictKnown:
			if msg.Text != "" {
				m.differs, m.differsAt = msg.Text, m.now
				m.remind("expect", "an invitation was refused: %s; all members must be given the same", msg.Text)
			}
			m.abort(fmt.Sprintf("%q refused", p.Name), &p)
		}
		return
	}
}

// released withdraws from a cluster that was given up before it began. The message may overtake its invitation.
func (m *Machine) released(from Process, cluster wire.UUID) {
	_, refused := m.s.refusal(cluster)
	switch {
	case m.s.Accepted == cluster && m.round == nil && m.s.Charter.Inviter == from.Server:
		m.refuse()
		m.save()
		m.eligible = -1
	case m.s.Accepted.IsZero() && m.s.Cluster.IsZero() && !refused:
		m.remember(cluster)
		m.save()
	}
}

// unreached counts as a missing answer at once.
func (m *Machine) unreached(instance wire.UUID) {
	if m.round == nil || m.round.accepted[instance] {
		return
	}
	for _, p := range m.round.invited {
		if p.Instance == instance {
			m.abort(fmt.Sprintf("%q can't be reached", p.Name), &p)
			return
		}
	}
}

// hasBegun learns that a cluster was bootstrapped, and answers whether this process is, or ever will be, of it.
func (m *Machine) hasBegun(from Process, c wire.Charter) {
	answer := wire.Founding{Kind: wire.FoundingBound, Cluster: c.Cluster, Target: m.s.Server, Verdict: wire.VerdictAccepted}
	if m.s.Accepted == c.Cluster && m.round == nil {
		m.bind(m.s.Charter)
	}
	if m.s.Cluster.IsZero() && m.s.Accepted.IsZero() {
		if _, led := m.leaderOf(c.Cluster); led && c.Expect == m.cfg.Expect {
			// What is led has begun, whatever was refused: it may need this process to open. The server that refused stays away.
			m.bind(c)
		}
	}
	if m.s.Cluster == c.Cluster {
		answer.Target = m.s.Server
		m.send(from.Instance, answer)
		return
	}
	f, ok := m.s.refusal(c.Cluster)
	if !ok {
		if !c.Has(m.s.Server) || len(m.s.Refused) >= MaxRefused && (!m.s.Accepted.IsZero() || !m.s.Cluster.IsZero()) {
			return // nothing to say, or no room to remember having said it
		}
		f = Refusal{Cluster: c.Cluster, Server: m.s.Server}
		m.remember(c.Cluster)
		m.save()
	}
	answer.Target, answer.Verdict = f.Server, wire.VerdictRefused
	m.send(from.Instance, answer)
}
