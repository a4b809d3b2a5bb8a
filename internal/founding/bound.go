package founding

import (
	"slices"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// A process that belongs to an unopened cluster helps it to open, or finds out that it never can.

// bound is what is known while belonging to a cluster; none of it need survive.
type bound struct {
	at       time.Duration // since when
	news     Led           // the last
	ledAt    time.Duration // when there last was a leader, at first the same as at
	openAt   time.Duration // when another was last seen that has known it open
	refused  []wire.UUID   // founding voters that will never act in it
	kept     bool          // the log has entries: it is too late to give up
	stopping bool          // StopRaft is under way

	announce, confirm, found, dissolve time.Duration // not again before

	tie       time.Duration // since when another led cluster goes before; -1: none does
	dissolved time.Duration // since when the end is known; -1: it isn't
}

func newBound(now time.Duration) bound {
	return bound{at: now, ledAt: now, openAt: now, tie: -1, dissolved: -1}
}

// led takes news from the Raft group.
func (m *Machine) led(ev Led) {
	b := &m.bound
	if ev.Cluster != m.s.Cluster || m.s.Open || b.stopping {
		return // while Raft stops here, what others tell must wait: it decides whether Raft starts again
	}
	b.news = ev
	if ev.Leader {
		b.ledAt = m.now
	}
	if ev.Dissolved && b.dissolved < 0 {
		b.dissolved = m.now
	}
	if ev.Open {
		m.s.Open, m.s.Confirmed, m.s.Bootstrap, m.s.Charter = true, true, false, wire.Charter{}
		m.save()
		m.log(false, "cluster %v is open", m.s.Cluster)
	}
}

// hasLeader says that the cluster is led: Raft tells, or, where none runs here, gossip.
func (m *Machine) hasLeader() bool {
	if m.bound.news.Leader || m.s.Charter.Has(m.s.Server) {
		return m.bound.news.Leader
	}
	_, ok := m.leaderOf(m.s.Cluster)
	return ok
}

// seenOpen says that a living process has known cluster open.
func (m *Machine) seenOpen(cluster wire.UUID) bool {
	return slices.ContainsFunc(m.peers, func(p Peer) bool { return p.Open && p.Cluster == cluster })
}

// driveGuest leaves an open cluster that nobody who lives has known open: it died with those who had.
func (m *Machine) driveGuest() {
	if m.seenOpen(m.s.Cluster) {
		m.bound.openAt = m.now
	}
	if m.bound.news.Leader || m.now-max(m.bound.openAt, m.bound.ledAt) < m.t.Guest {
		return
	}
	m.leave("nobody who is seen has known it open")
}

// driveBound does what a member of an unopened cluster has to do now.
func (m *Machine) driveBound() {
	b, cluster := &m.bound, m.s.Cluster
	if m.hasLeader() {
		b.ledAt = m.now
	}
	if open, ok := m.openCluster(); ok && open != cluster && !m.seenOpen(cluster) {
		m.leave("another has opened")
		m.joinOpen(open)
		return
	}
	if b.dissolved >= 0 {
		if !b.news.Leading || m.now-b.dissolved >= m.t.Retry { // a leader lets the others hear of it first
			m.leave("its end is committed")
		}
		return
	}
	if m.dead() {
		m.leave("so many of its voters refuse it that it never had a majority and never will")
		return
	}
	m.foundAndConfirm()
	m.announce()
	m.breakTie()
	m.giveUp()
}

// dead says that the voters that have not refused are no majority. None of those who refused ever stored an entry of this cluster, or
// else it had ended; so nothing of it was or will be committed.
func (m *Machine) dead() bool {
	v := len(m.s.Charter.Voters)
	return v-len(m.bound.refused) < v/2+1
}

// foundAndConfirm proposes the first entry where this process leads, and its own confirmation once there is a leader.
func (m *Machine) foundAndConfirm() {
	b := &m.bound
	if b.news.Leading && !b.news.Founded && m.now >= b.found {
		b.found = m.now + m.t.Retry
		m.act(Found{Charter: m.s.Charter})
	}
	if !b.news.Leader || !b.news.Founded || b.stopping || b.news.Confirmed || m.now < b.confirm {
		return // what is committed outlives any one voter of three: only then is it worth a promise
	}
	b.confirm = m.now + m.t.Retry
	if !m.s.Confirmed {
		m.s.Confirmed = true
		m.save()
	}
	m.act(Confirm{Cluster: m.s.Cluster})
}

// announce tells those who are not seen to belong here that the cluster has begun; those who refuse it say so in their answers.
func (m *Machine) announce() {
	b := &m.bound
	leaderless := m.now-b.ledAt >= m.t.Leaderless
	if m.now < b.announce || !(m.s.Bootstrap || b.news.Leading || leaderless) {
		return
	}
	b.announce = m.now + 4*m.t.Retry
	told := 0
	for i := range m.peers { // a window that moves on, so that a large fleet is not flooded
		p := m.peers[(i+int(m.now/b.period(m.t)))%len(m.peers)]
		if p.Cluster == m.s.Cluster || told >= MaxInvited {
			continue
		}
		told++
		m.send(p.Instance, wire.Founding{Kind: wire.FoundingBegun, Cluster: m.s.Cluster, Charter: m.s.Charter})
	}
	if leaderless && m.now-b.at >= 2*m.t.GiveUp {
		m.remind("leaderless", "%s", m.waitingBound())
	}
}

func (b *bound) period(t Timeouts) time.Duration { return 4 * t.Retry }

// boundAnswer counts the voters that will never act.
func (m *Machine) boundAnswer(msg wire.Founding) {
	b := &m.bound
	if msg.Cluster == m.s.Cluster && msg.Verdict == wire.VerdictRefused && m.s.Charter.Has(msg.Target) &&
		!slices.Contains(b.refused, msg.Target) {
		b.refused = append(b.refused, msg.Target)
	}
}

// breakTie ends this cluster, if this process leads it, when another one is led too and goes before. Both may be short of confirmers
// for ever otherwise.
func (m *Machine) breakTie() {
	b := &m.bound
	other, ok := m.ledCluster(m.s.Cluster)
	if !ok || !b.news.Leading || !b.news.Founded || !other.Cluster.Less(m.s.Cluster) {
		b.tie = -1
		return
	}
	if b.tie < 0 {
		b.tie = m.now
	}
	if m.now-b.tie >= m.t.Tie && m.now >= b.dissolve {
		b.dissolve = m.now + m.t.Retry
		m.log(false, "cluster %v has not opened and gives way to %v", m.s.Cluster, other.Cluster)
		m.act(Dissolve{Cluster: m.s.Cluster})
	}
}

// giveUp looks whether a cluster may be left that this process has not confirmed. It may when nobody leads it and Raft has stored nothing of it
// here: then no entry of it ever counted on this server, not even if it once had a leader, which may have died before it sent the first.
func (m *Machine) giveUp() {
	b := &m.bound
	if !m.s.Confirmed && !b.stopping && m.deserted() {
		m.leave("it lost its leader, and of all who are seen nobody else belongs to it")
		return
	}
	if b.kept || b.stopping || m.s.Confirmed || m.now-b.ledAt < m.t.GiveUp {
		return
	}
	for _, p := range m.peers {
		if p.Cluster == m.s.Cluster && (p.Open || p.Leads) {
			return
		}
	}
	b.stopping = true
	m.act(StopRaft{Cluster: m.s.Cluster})
}

// deserted says, in memory, where the dead do not come back, that as many as Expect are seen and nobody but this process belongs to its
// cluster. Had it opened, Expect processes would belong to it; as Expect is more than half of all, one of them would be among those seen.
func (m *Machine) deserted() bool {
	if m.cfg.Durable || m.now-m.bound.ledAt < 2*m.t.GiveUp || len(m.peers)+1 < m.cfg.Expect {
		return false
	}
	return !slices.ContainsFunc(m.peers, func(p Peer) bool { return p.Cluster == m.s.Cluster })
}

// stopped ends or takes back the giving up.
func (m *Machine) stopped(ev Stopped) {
	b := &m.bound
	if ev.Cluster != m.s.Cluster || !b.stopping {
		return
	}
	b.stopping = false
	if ev.Empty && !m.seenOpen(ev.Cluster) {
		m.leave("nobody leads it, and nothing of it was ever stored here")
		return
	}
	b.kept, b.ledAt = true, m.now // Raft has its time again to find a leader
	m.enter(wire.UUID{})
}

// leave wipes what there is of the cluster; the server that was in it is never seen again.
func (m *Machine) leave(why string) {
	cluster := m.s.Cluster
	m.refuse()
	m.s.Server = m.cfg.Mint()
	m.eligible, m.nextTry = -1, m.now+m.t.Retry
	m.save()
	m.act(StopRaft{Cluster: cluster, Wipe: true})
	m.log(true, "cluster %v is left: %s", cluster, why)
}

// warnOfOther tells of a second open cluster: they never merge.
func (m *Machine) warnOfOther() {
	for _, p := range m.peers {
		if p.Open && p.Cluster != m.s.Cluster {
			m.remind("other", "%q belongs to another open cluster (%v, not %v): two open clusters never merge; restart the processes of "+
				"one of them, without its DataDirs", p.Name, p.Cluster, m.s.Cluster)
			return
		}
	}
}
