package founding

import (
	"fmt"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// A process that knows no cluster joins one that it sees, or holds an invitation, or invites.

// round is one attempt to gather acceptances. Its cluster is m.s.Accepted.
type round struct {
	invited  []Process
	accepted map[wire.UUID]bool // by instance
	deadline time.Duration
	resend   time.Duration
}

// driveFree does what time and the view allow a process that belongs to no cluster.
func (m *Machine) driveFree() {
	if open, ok := m.openCluster(); ok {
		m.joinOpen(open)
		return
	}
	switch {
	case m.round != nil:
		m.driveRound()
	case !m.s.Accepted.IsZero():
		m.holdInvitation()
	default:
		m.idle()
	}
}

// holdInvitation waits for the accepted cluster to begin, or withdraws.
func (m *Machine) holdInvitation() {
	for _, p := range m.peers {
		if p.Cluster == m.s.Accepted {
			m.bind(m.s.Charter) // the message that says so may come later, or never
			return
		}
	}
	limit := m.t.Withdraw
	if !m.host.Instance.IsZero() && !m.sees(m.host.Instance) {
		limit = m.t.WithdrawDead
	}
	if m.now-m.since >= limit {
		m.log(false, "no news of cluster %v for %v: its invitation by %q is refused from now on", m.s.Accepted, limit, m.s.Charter.Name)
		m.refuse()
		m.save()
		m.eligible = -1
	}
}

// idle joins an unopened cluster that is led and needs confirmers, or begins a round when it is this process's turn.
func (m *Machine) idle() {
	if leader, ok := m.ledCluster(wire.UUID{}); ok {
		m.eligible = -1
		if m.now-m.asked >= m.t.Retry || m.asked == 0 {
			m.asked = m.now
			m.send(leader.Instance, wire.Founding{Kind: wire.FoundingAsk, Cluster: leader.Cluster})
		}
		return
	}
	if !m.cfg.Self.MayVote || m.cfg.Expect > 1 && !m.viewed || m.cfg.Expect == 1 && !m.cfg.Alone && !m.viewed {
		return
	}
	c := m.census()
	if len(c.free) < m.cfg.Expect {
		m.eligible = -1
		return
	}
	if m.eligible < 0 {
		m.eligible = m.now
	}
	// A lower name that is paused, or sees too few, must not hold up the rest for ever.
	wait := time.Duration(c.lower) * m.t.Patience
	if c.willing < m.cfg.Voters && m.cfg.Expect > 1 {
		wait = max(wait, m.t.Settle) // a configuration of three survives any one of them
	}
	// An address that answers a little late must not cost a minute of silence; nor must a process for whom one is enough found a cluster beside
	// the one that its peers have, or are about to open.
	if m.silent() || len(c.bound) > 0 || m.cfg.Expect == 1 && !m.cfg.Alone && m.unanswered {
		wait = max(wait, m.t.Patience)
	}
	if m.now >= m.nextTry && m.now-m.eligible >= wait {
		m.invite()
	}
}

// silent says that a cluster founded now would have to begin with a silence: an earlier one may live at an address that did not answer,
// or its holders may.
func (m *Machine) silent() bool { return m.cfg.Expect > 1 && !m.cfg.Durable && m.unanswered }

// invite begins a round with all who are free, but for those who lately did not answer if there are enough without them.
func (m *Machine) invite() {
	var invited []Process
	willing := 1
	for _, p := range m.peers {
		if _, shunned := m.shunned[p.Instance]; p.Cluster.IsZero() && !shunned {
			willing++
		}
	}
	for _, p := range m.peers {
		_, shunned := m.shunned[p.Instance]
		if p.Cluster.IsZero() && (!shunned || willing < m.cfg.Expect) && len(invited)+1 < max(MaxInvited, m.cfg.Expect) {
			invited = append(invited, p.Process)
		}
	}
	m.rounds++
	m.round = &round{invited: invited, accepted: make(map[wire.UUID]bool), deadline: m.now + m.t.Invite}
	m.s.Accepted = m.cfg.Mint()
	m.s.Charter = wire.Charter{
		Cluster: m.s.Accepted, Inviter: m.s.Server, Name: m.cfg.Self.Name, Expect: m.cfg.Expect, Size: m.cfg.Voters,
		Silent: m.silent(),
		Voters: m.configuration(invited),
	}
	m.save()
	if len(invited) > 0 {
		m.log(false, "inviting %d processes to found cluster %v", len(invited), m.s.Accepted)
	}
	m.driveRound()
}

// configuration is the first Voters of those who may vote, by name, and this process in any case.
func (m *Machine) configuration(invited []Process) []wire.UUID {
	var voters []wire.UUID
	placed := false
	add := func(server wire.UUID) {
		for _, v := range voters {
			if v == server {
				return // one server seen twice: the run before of a restarted process
			}
		}
		voters = append(voters, server)
	}
	for _, p := range invited { // peers are in order of name
		room := min(m.cfg.Voters, wire.MaxCharterVoters) - len(voters)
		if !placed && (m.self().before(p) || room == 1) {
			add(m.s.Server)
			placed = true
			room--
		}
		if p.MayVote && room > 0 {
			add(p.Server)
		}
	}
	if !placed {
		add(m.s.Server)
	}
	return voters
}

// driveRound repeats unanswered invitations, and ends the round when it is complete or hopeless.
func (m *Machine) driveRound() {
	r := m.round
	if _, led := m.ledCluster(wire.UUID{}); led {
		m.abort("a cluster has begun elsewhere", nil)
		return
	}
	if len(r.accepted) == len(r.invited) {
		m.bootstrap()
		return
	}
	if m.now >= r.deadline {
		var mute []string
		for _, p := range r.invited {
			if !r.accepted[p.Instance] {
				mute = append(mute, p.Name)
			}
		}
		m.abort(fmt.Sprintf("no answer in time of %s", quote(mute)), nil)
		return
	}
	for _, p := range r.invited {
		if !m.sees(p.Instance) {
			m.abort(fmt.Sprintf("%q, which was invited, is gone", p.Name), &p)
			return
		}
	}
	if m.now < r.resend {
		return
	}
	r.resend = m.now + m.t.Retry
	for _, p := range r.invited {
		if !r.accepted[p.Instance] {
			m.send(p.Instance, wire.Founding{
				Kind: wire.FoundingInvite, Cluster: m.s.Accepted, Charter: m.s.Charter, Target: p.Server, Round: m.rounds,
			})
		}
	}
}

// abort releases all who accepted. Those who did not answer, or blamed, are left out next time if possible.
func (m *Machine) abort(why string, blamed *Process) {
	r, cluster := m.round, m.s.Accepted
	m.round, m.failure = nil, why
	m.nextTry = m.now + m.t.Retry<<min(m.failures, 4)
	m.failures++
	m.refuse()
	m.save()
	m.log(false, "cluster %v is given up before its beginning: %s", cluster, why)
	for _, p := range r.invited {
		m.send(p.Instance, wire.Founding{Kind: wire.FoundingRelease, Cluster: cluster})
		if blamed == nil && m.now >= r.deadline && !r.accepted[p.Instance] || blamed != nil && blamed.Instance == p.Instance {
			m.shunned[p.Instance] = m.now + m.t.Shun
		}
	}
}

// bootstrap begins the cluster that all have accepted. What is saved first makes it this server's only one.
func (m *Machine) bootstrap() {
	r := m.round
	m.round = nil
	m.s.Cluster, m.s.Accepted, m.s.Bootstrap = m.s.Accepted, wire.UUID{}, true
	m.bound = newBound(m.now)
	m.save()
	m.enter(wire.UUID{})
	for _, p := range r.invited {
		m.send(p.Instance, wire.Founding{Kind: wire.FoundingBegun, Cluster: m.s.Cluster, Charter: m.s.Charter})
	}
	m.bound.announce = m.now + m.t.Retry
}

// bind makes this process one of charter's cluster, which has begun. A server that once refused it does not come back: another comes.
func (m *Machine) bind(charter wire.Charter) {
	var renounced wire.UUID
	if m.s.Accepted != charter.Cluster {
		if _, ok := m.s.refusal(charter.Cluster); ok || charter.Has(m.s.Server) {
			m.remember(charter.Cluster)
			renounced, m.s.Server = m.s.Server, m.cfg.Mint()
		}
	}
	m.s.Cluster, m.s.Accepted, m.s.Charter = charter.Cluster, wire.UUID{}, charter
	m.s.Bootstrap, m.s.Confirmed = false, false
	m.host, m.hostRound = Process{}, 0
	m.bound = newBound(m.now)
	m.save()
	m.enter(renounced)
}

// enter starts what a process that belongs to an unopened cluster runs.
func (m *Machine) enter(renounced wire.UUID) {
	if c := m.s.Charter; c.Has(m.s.Server) {
		m.act(StartRaft{Cluster: c.Cluster, Voters: c.Voters, Bootstrap: m.s.Bootstrap})
	} else {
		m.act(Join{Cluster: c.Cluster, Renounced: renounced})
	}
}

// joinOpen makes this process a guest of an open cluster; it becomes a member when the cluster itself says that it is open.
func (m *Machine) joinOpen(cluster wire.UUID) {
	if m.s.Accepted == cluster {
		m.bind(m.s.Charter)
		return
	}
	if m.round != nil {
		m.abort("an open cluster is seen", nil)
	} else if !m.s.Accepted.IsZero() {
		m.refuse()
	}
	var renounced wire.UUID
	if _, ok := m.s.refusal(cluster); ok {
		renounced, m.s.Server = m.s.Server, m.cfg.Mint()
	}
	m.s.Cluster = cluster
	m.bound = newBound(m.now)
	m.save()
	m.act(Join{Cluster: cluster, Renounced: renounced})
}
