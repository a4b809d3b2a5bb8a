package session

import (
	"errors"
	"fmt"
	"time"

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
		switch {
		case g.state == waiting && g.errand == toLock:
			g.state, g.fence, g.under = granted, o.Fence, m.epoch
			m.wakeLocked(g)
		case g.state == resuming:
			m.resumedLocked(g)
		}
	case wire.OutAdopted:
		if g.state == waiting && g.errand == toAdopt && o.Grant != nil {
			m.adoptedLocked(g, o)
		}
	case wire.OutQueued:
		if g.state == waiting && g.errand == toLock {
			x := g.extraLocked()
			x.text, x.since = o.Text, o.Since
		}
	case wire.OutNoted:
		m.notedLocked(g, o)
	case wire.OutFailed:
		switch {
		case o.Code == wire.CodeGone:
			m.goneLocked()
		case g.state == waiting:
			m.settledLocked(g, failure(g, o))
		case g.state == resuming:
			m.vanishedLocked(g, o)
		case o.Code == wire.CodeUnsupported:
			m.refusedLocked(g, o)
		}
	case wire.OutSettled:
		if g.state == waiting && (g.errand == toForce || g.errand == toRelease) {
			m.settledLocked(g, nil)
		}
	case wire.OutEnded:
		m.endedLocked(g)
	case wire.OutRevoked:
		m.revokedLocked(g, revocation(o.Code))
	}
}

func (m *Manager) adoptedLocked(g *Grant, o *wire.Outcome) {
	g.state, g.fence, g.key = granted, o.Fence, o.Grant.Keys[0]
	x := g.more
	x.keys, x.mode, x.ttl = o.Grant.Keys, o.Grant.Mode, time.Duration(o.Grant.TTL)*time.Millisecond
	m.wakeLocked(g)
}

// settledLocked: g is answered and holds nothing.
func (m *Manager) settledLocked(g *Grant, end error) {
	m.finishedLocked(g, end)
	m.forgetLocked(g.seq)
}

// forgetLocked: the answer to seq has come. The leader remembers it until it is told to forget.
func (m *Manager) forgetLocked(seq uint64) {
	m.forget = append(m.forget, seq)
	if len(m.forget) >= wire.MaxOps/2 {
		m.flushForgetsLocked()
	}
}

func (m *Manager) endedLocked(g *Grant) {
	switch g.state {
	case finishing:
		if g.isDetached() && g.more.detached.again {
			m.anewLocked(g)
			return
		}
		m.finishedLocked(g, nil)
	case lapsed:
		m.finishedLocked(g, nil)
	case held:
		if g.isDetached() { // its time is up already: the clocks differ
			m.overLocked(g, lockerr.ErrExpired)
			m.finishedLocked(g, nil)
			return
		}
		// Nobody asked for it; but what the leader calls over must not be relied on.
		m.cfg.Logger.Error("a grant ended that was not released", "key", g.key, "fence", g.fence)
		m.overLocked(g, lockerr.ErrForced)
		m.finishedLocked(g, nil)
	}
}

func (m *Manager) revokedLocked(g *Grant, why error) {
	if g.state == resuming {
		m.resumedLocked(g) // or it couldn't have been revoked
	}
	switch g.state {
	case held:
		m.overLocked(g, why) // closes Done; only then is it confirmed
		g.confirm = true
		m.enqueueLocked(g)
	case lapsed:
		g.state, g.confirm = finishing, true
		m.enqueueLocked(g)
	case over: // its time was up while it was asked for
		m.confirmLocked(g.seq)
	case waiting, granted:
		switch g.errand {
		case toForce, toRelease:
		case toAdopt:
			m.finishedLocked(g, g.notHeld("adopt", why)) // it came here, and was revoked before its caller saw it
			m.confirmLocked(g.seq)
		default:
			// It was granted and revoked before its caller saw it. For the caller it still waits, as all waiters of a forced key do: under a
			// new number, while the old one is confirmed.
			m.confirmLocked(g.seq)
			m.anewLocked(g)
		}
	}
}

// revocation is why a grant was revoked.
func revocation(code wire.Code) error {
	switch code {
	case wire.CodeMoved:
		return lockerr.ErrMoved
	case wire.CodeUnlocked:
		return lockerr.ErrUnlocked
	}
	return lockerr.ErrForced
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
	case wire.OutGranted, wire.OutAdopted:
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
	case wire.CodeDeadlock:
		why = lockerr.ErrDeadlock
	case wire.CodeUnsupported:
		why = errors.ErrUnsupported
	default:
		return fmt.Errorf("%s: refused with code %d: %s", g.what(), o.Code, o.Text)
	}
	if o.Text == "" {
		return fmt.Errorf("%s: %w", g.what(), why)
	}
	return fmt.Errorf("%s: %w: %s", g.what(), why, o.Text)
}

// wakeLocked leaves a token for whoever waits for g. Tokens mean "look again": the channel may have changed hands.
func (m *Manager) wakeLocked(g *Grant) {
	if g.wake != nil {
		signal(g.wake)
	}
}
