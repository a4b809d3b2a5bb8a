package session

import (
	"math/rand/v2"
	"time"
)

// renewAlong renews session over link: at once unless it is fresh, then every sixth of the TTL. It ends when the session is lost (true:
// the link may be good for the next one) or when the link is of no use any more.
func (m *Manager) renewAlong(link Link, s *sink, session uint64, fresh bool, vain int) bool {
	renew := time.NewTimer(m.renewAfter())
	defer renew.Stop()
	if !fresh && !m.renew(link, session) {
		return false
	}
	silence := time.NewTimer(m.silenceLeft(s, vain))
	defer silence.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return false
		case <-link.Done():
			return false
		case <-m.lost:
			if m.Session() != session {
				return true
			}
		case <-renew.C:
			renew.Reset(m.renewAfter())
			if !m.renew(link, session) {
				return false
			}
		case <-silence.C:
			left := m.silenceLeft(s, vain)
			if left <= 0 {
				m.cfg.Logger.Debug("the leader is silent; looking for it again", "session", session)
				return false
			}
			silence.Reset(left)
		}
	}
}

// renewAfter is a sixth of the TTL, less up to a tenth of that, so that processes that started together don't renew together.
func (m *Manager) renewAfter() time.Duration {
	d := m.ttl / 6
	return d - rand.N(d/10+1)
}

// renew sends another attempt. Several may be in flight.
func (m *Manager) renew(link Link, session uint64) bool {
	m.mu.Lock()
	now := m.cfg.Clock.Now() // before it is sent: the lease counts from here
	m.checkLocked(now)
	if m.session != session {
		m.mu.Unlock()
		return true // m.lost tells
	}
	m.attempt++
	number := m.attempt
	m.attempts = append(m.attempts, attempt{number, now})
	m.flushForgetsLocked()
	m.mu.Unlock()
	return link.Renew(session, number) == nil
}

// Renewed implements Sink: the session may be relied on until the lease after that attempt was sent, if that is later than so far.
func (s *sink) Renewed(session, number uint64, ok bool) {
	m := s.m
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Clock.Now()
	// First: an answer that lay in a buffer while the process was paused must not revive a session whose time is up.
	m.checkLocked(now)
	if m.session == 0 || session != m.session {
		return
	}
	if !ok {
		m.goneLocked()
		return
	}
	for i, a := range m.attempts {
		if a.number != number {
			continue
		}
		m.attempts = m.attempts[i+1:] // earlier ones can add nothing
		m.deadline = max(m.deadline, a.sent+m.lease)
		m.committedLocked(number)
		s.heard, s.proof = now, true
		return
	}
}

// answered notes that the link works.
func (s *sink) answered() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.heard, s.proof = s.m.cfg.Clock.Now(), true
}

// silenceLeft is how much longer the link may be silent.
func (m *Manager) silenceLeft(s *sink, vain int) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return s.heard + m.patience(s, vain) - m.cfg.Clock.Now()
}
