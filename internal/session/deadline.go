package session

import (
	"fmt"
	"time"

	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
)

// watch gives the session up when its deadline passes, and ends the grants whose time is up. Besides the timer for the next deadline it
// looks every twentieth of the TTL, since Go's timers stand still while the machine is suspended and the clock does not. It ends with m.ctx.
func (m *Manager) watch() {
	timer := time.NewTimer(m.ttl)
	defer timer.Stop()
	for {
		select {
		case <-m.rearm:
		case <-timer.C:
		case <-m.ctx.Done():
			return
		}
		m.mu.Lock()
		now := m.cfg.Clock.Now()
		m.checkLocked(now)
		left := m.ttl / 20
		if m.session != 0 {
			left = min(left, m.deadline-now)
		}
		if len(m.times) > 0 {
			left = min(left, m.times[0].more.deadline-now)
		}
		if m.session != 0 || len(m.times) > 0 {
			timer.Reset(left)
		} else {
			timer.Stop() // until a session rearms it
		}
		m.mu.Unlock()
	}
}

// checkLocked ends the grants whose time is up, and gives the session up if its deadline has passed. It stands before every use of an
// answer, of a grant and of the session.
func (m *Manager) checkLocked(now time.Duration) {
	if len(m.times) > 0 {
		m.expireLocked(now)
	}
	if m.session != 0 && now >= m.deadline {
		m.loseLocked(fmt.Sprintf("no renewal was answered that was sent in the last %s", m.lease))
	}
}

// silentLocked says that the leader has not answered for so long that a renewal must have been missed.
func (m *Manager) silentLocked(now time.Duration) bool {
	return now-(m.deadline-m.lease) > m.ttl/4
}

// goneLocked: the session does not stand in the committed state any more. If it was to be closed, that is done.
func (m *Manager) goneLocked() {
	if m.closed != nil {
		m.gone = true
		m.dropSessionLocked()
		return
	}
	m.loseLocked("the leader does not know it")
}

// loseLocked gives the session up for good. What waits goes on under the next session, in its old order, and so does what is detached;
// all else ends here: the creation of the next session ends this one and whatever it has.
func (m *Manager) loseLocked(why string) {
	for _, g := range m.reqs { // first, before anything else
		if g.state == held && !g.isDetached() {
			m.overLocked(g, lockerr.ErrSessionLost)
		}
	}
	lost, again := m.session, make([]*Grant, 0, len(m.reqs))
	for _, g := range m.inOrderLocked() {
		switch {
		case m.outlivesLocked(g, lost):
			again = append(again, g)
		case g.state == finishing:
			m.failLocked(g, fmt.Errorf("%s: %w", g.what(), lockerr.ErrSessionLost))
		case g.errand != toLock && g.sent:
			m.finishedLocked(g, fmt.Errorf("%s: %w before the answer came: the outcome is unknown", g.what(), lockerr.ErrSessionLost))
		default:
			again = append(again, g)
		}
	}
	m.losses++
	m.dropSessionLocked()
	m.previous, m.nonce = lost, wire.NewUUID()
	m.renumberLocked(again)
	m.cfg.Logger.Warn("session lost: all locks of this process but detached ones are gone", "session", lost, "why", why, "queued again", len(again))
}

// dropSessionLocked forgets the session, and the link with it.
func (m *Manager) dropSessionLocked() {
	m.session, m.deadline, m.attempts = 0, 0, nil
	m.unlinkLocked()
	signal(m.lost)
}

// clearLocked forgets all requests. The caller has seen to what they are at.
func (m *Manager) clearLocked() {
	m.reqs, m.peak, m.next = map[uint64]*Grant{}, 0, 1
	m.queue, m.forget, m.forgot = nil, nil, nil
}

// renumberLocked makes these, which wait or are to be resumed, in their order, the only requests. Nothing of them has been sent under
// the session to come.
func (m *Manager) renumberLocked(again []*Grant) {
	m.clearLocked()
	m.numbering++
	for _, g := range again {
		if g.state != resuming {
			g.state, g.fence, g.under = waiting, 0, nil
		}
		g.sent = false
		m.addLocked(g)
	}
}

// establish makes session the living one, by an answer to a creation that was sent at sent. It is false when that answer is too old
// already: the same creation is sent again then, which counts as a renewal.
func (m *Manager) establish(session uint64, sent time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cfg.Clock.Now() >= sent+m.lease {
		return false
	}
	m.session, m.deadline, m.creating = session, sent+m.lease, false
	m.epoch = &epoch{session, m.nonce}
	m.renumberLocked(m.inOrderLocked()) // those that were withdrawn meanwhile leave no gap
	signal(m.rearm)
	m.turnLocked()
	return true
}

// linkLocked attaches link to the session.
func (m *Manager) linkLocked(link Link) {
	m.link, m.linkedAt = link, m.cfg.Clock.Now()
	m.outstandingLocked()
	m.turnLocked()
}

// unlinkLocked takes the link away; what is queued for it is queued again from the requests' states.
func (m *Manager) unlinkLocked() {
	m.link, m.queue = nil, nil
	m.turnLocked()
}

// turnLocked tells those who wait for another link or session.
func (m *Manager) turnLocked() {
	close(m.linkGone)
	m.linkGone = make(chan struct{})
	signal(m.changed)
}
