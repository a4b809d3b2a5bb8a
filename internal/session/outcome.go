package session

import (
	"fmt"

	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
)

// Outcomes implements Sink. All of it is idempotent: an outcome means something only to a request in the state that expects it.
func (s *sink) Outcomes(session uint64, outs []wire.Outcome) {
	m := s.m
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checkLocked(m.cfg.Clock.Now()) // before anything is believed: these may have lain in a buffer while the process was paused
	for i := range outs {
		if m.session == 0 || session != m.session {
			return // of a session that is no more: its end ends all that it had
		}
		m.outcomeLocked(&outs[i])
	}
}

func (m *Manager) outcomeLocked(o *wire.Outcome) {
	g := m.reqs[o.Seq]
	if g == nil {
		m.strangerLocked(o)
		return
	}
	switch o.Kind {
	case wire.OutGranted:
		if g.state == waiting && !g.force {
			g.state, g.fence = granted, o.Fence
			m.wakeLocked(g)
		}
	case wire.OutFailed:
		switch {
		case o.Code == wire.CodeGone:
			m.goneLocked()
		case g.state == waiting:
			m.settledLocked(g, failure(g, o))
		}
	case wire.OutSettled:
		if g.state == waiting && g.force {
			m.settledLocked(g, nil)
		}
	case wire.OutEnded:
		m.endedLocked(g)
	case wire.OutRevoked:
		m.revokedLocked(g)
	}
}

// settledLocked: g is answered and holds nothing. The leader remembers the answer until it is told to forget.
func (m *Manager) settledLocked(g *Grant, end error) {
	m.forget = append(m.forget, g.seq)
	m.finishedLocked(g, end)
	if len(m.forget) >= wire.MaxOps/2 {
		m.flushForgetsLocked()
	}
}

func (m *Manager) endedLocked(g *Grant) {
	switch g.state {
	case finishing:
		m.finishedLocked(g, nil)
	case held: // nobody asked for it; but what the leader calls over must not be relied on
		m.cfg.Logger.Error("a grant ended that was not released", "key", g.key, "fence", g.fence)
		m.overLocked(g, lockerr.ErrForced)
		m.finishedLocked(g, nil)
	}
}

func (m *Manager) revokedLocked(g *Grant) {
	switch g.state {
	case held:
		m.overLocked(g, lockerr.ErrForced) // closes Done; only then is it confirmed
		g.confirm = true
		m.enqueueLocked(g)
	case waiting, granted:
		if g.force {
			return
		}
		// It was granted and forced before its caller saw it. For the caller it still waits, as all waiters of a forced key do: under a
		// new number, while the old one is confirmed.
		m.confirmLocked(g.seq)
		g.state, g.fence, g.sent = waiting, 0, false
		m.addLocked(g)
		m.enqueueLocked(g)
	}
}

// confirmLocked ends the revoked grant seq, which is nobody's. It takes the number over if another request has it.
func (m *Manager) confirmLocked(seq uint64) {
	g := &Grant{m: m, seq: seq, state: finishing, confirm: true}
	m.reqs[seq] = g
	m.enqueueLocked(g)
}

// strangerLocked handles what is told of a request that is over here: a copy that came late, or what it was about was never ended at
// the leader. Nothing may be held that nobody here knows of, so it is ended (again).
func (m *Manager) strangerLocked(o *wire.Outcome) {
	if o.Seq == 0 || o.Seq >= m.next || m.closed != nil {
		return
	}
	switch o.Kind {
	case wire.OutGranted:
		g := &Grant{m: m, seq: o.Seq, state: finishing}
		m.reqs[o.Seq] = g
		m.enqueueLocked(g)
	case wire.OutRevoked:
		m.confirmLocked(o.Seq)
	}
}

// failure is what a caller is told of a request that was refused.
func failure(g *Grant, o *wire.Outcome) error {
	var why error
	switch o.Code {
	case wire.CodeHeld:
		why = lockerr.ErrHeld
	case wire.CodeNotHeld:
		why = lockerr.ErrNotHeld
	case wire.CodeLimit:
		why = lockerr.ErrLimit
	case wire.CodeInvalid:
		why = lockerr.ErrInvalid
	default:
		return fmt.Errorf("%s %q: refused with code %d: %s", g.verb(), g.key, o.Code, o.Text)
	}
	if o.Text == "" {
		return fmt.Errorf("%s %q: %w", g.verb(), g.key, why)
	}
	return fmt.Errorf("%s %q: %w: %s", g.verb(), g.key, why, o.Text)
}

// wakeLocked leaves a token for whoever waits for g. Tokens mean "look again": the channel may have changed hands.
func (m *Manager) wakeLocked(g *Grant) {
	if g.wake != nil {
		signal(g.wake)
	}
}
