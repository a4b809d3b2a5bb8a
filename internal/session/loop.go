package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
)

const (
	retryNotOpen = 100 * time.Millisecond // a cluster that has not opened yet is asked again
	leastRetry   = 200 * time.Millisecond // a name that is taken is asked for again after TTL/6, at least this
	leastPause   = 20 * time.Millisecond  // after a link that brought nothing
	mostPause    = 320 * time.Millisecond
)

// What Open may be waiting for when its time is up.
var (
	errNoLeader  = fmt.Errorf("%w: no leader is known", lockerr.ErrNoQuorum)
	errSilent    = fmt.Errorf("%w: the leader does not answer", lockerr.ErrNoQuorum)
	errNameInUse = errors.New("an earlier session of that name has not run out yet")
)

// sink is what one link reports to.
type sink struct {
	m     *Manager
	heard time.Duration // guarded by m.mu; when the link came, or its last answer
	proof bool          // guarded by m.mu; it has brought an answer
}

var _ Sink = (*sink)(nil)

// loop finds a leader, has a session there, renews it, and begins again when the link ends. It ends with m.ctx.
func (m *Manager) loop() {
	vain := 0 // links in a row that brought no answer
	for m.ctx.Err() == nil && m.wanted() {
		s, began := &sink{m: m}, time.Now()
		link, err := m.cfg.Connect(m.ctx, s)
		if err != nil {
			if m.ctx.Err() == nil {
				m.cfg.Logger.Debug("no way to the leader", "error", err)
			}
		} else {
			s.heard = m.cfg.Clock.Now()
			m.use(link, s, vain)
			m.mu.Lock()
			m.unlinkLocked()
			m.pending = errNoLeader
			m.mu.Unlock()
			link.Close()
		}
		m.mu.Lock()
		proof := s.proof
		m.mu.Unlock()
		switch {
		case !proof:
			m.sleep(min(leastPause<<min(vain, 10), mostPause), nil)
			vain++
		case time.Since(began) < mostPause: // it works, but it doesn't stay
			m.sleep(leastPause, nil)
			fallthrough
		default:
			vain = 0
		}
	}
}

// wanted says whether there is anything to do: a manager that is closed keeps its session until that is closed too.
func (m *Manager) wanted() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fatal == nil && (m.closed == nil || m.session != 0)
}

// sleep waits for d, or until m.ctx or link (if any) ends; false then.
func (m *Manager) sleep(d time.Duration, link Link) bool {
	var ended <-chan struct{}
	if link != nil {
		ended = link.Done()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-m.ctx.Done():
	case <-ended:
	}
	return false
}

// use has a session over link until link is of no use any more.
func (m *Manager) use(link Link, s *sink, vain int) {
	for m.ctx.Err() == nil && m.wanted() {
		fresh := false
		if m.Session() == 0 {
			m.setPending(errSilent)
			var ok bool
			if fresh, ok = m.create(link, s, vain); !ok {
				return
			}
		}
		session := m.Session()
		if session == 0 {
			continue // lost again already
		}
		if err := link.Attach(session); err != nil {
			m.cfg.Logger.Debug("the link to the leader failed", "error", err)
			return
		}
		m.mu.Lock()
		if m.session == session { // else it was lost on the way, which renewAlong sees
			m.linkLocked(link)
			if !m.isOpen() {
				close(m.opened)
			}
		}
		m.mu.Unlock()
		if !m.renewAlong(link, s, session, fresh, vain) {
			return
		}
	}
}

// isOpen says whether Open may return: there was a session once.
func (m *Manager) isOpen() bool {
	select {
	case <-m.opened:
		return true
	default:
		return false
	}
}

func (m *Manager) setPending(what error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending = what
}

// patience is how long a link may be silent before it is given up: the leader may be paused, and there may be another. A link that
// comes after others that were silent too is given more time, for then it is likely that all are slow.
func (m *Manager) patience(s *sink, vain int) time.Duration {
	if s.proof {
		return m.ttl / 3
	}
	return m.ttl / 8 * time.Duration(2+min(vain, 4))
}

// create asks for a session over link until it has one; ok is false when link is of no use, or the manager needs none. fresh says that
// the first copy of the request was answered: else the session may be older than that answer, and is renewed at once.
func (m *Manager) create(link Link, s *sink, vain int) (fresh, ok bool) {
	for m.beginCreate() {
		m.mu.Lock()
		nonce, previous := m.nonce, m.previous
		fresh = m.asked != nonce
		m.asked = nonce
		patience := m.patience(s, vain)
		m.mu.Unlock()
		sent := m.cfg.Clock.Now()
		ctx, cancel := context.WithTimeout(m.ctx, patience)
		reply, err := link.Create(ctx, m.cfg.Create(nonce, previous))
		cancel()
		if err != nil {
			m.endCreate()
			if m.ctx.Err() == nil {
				m.cfg.Logger.Debug("no answer to the creation of a session", "error", err)
			}
			return false, false
		}
		s.answered()
		pause := retryNotOpen
		switch reply.Code {
		case wire.CodeOK:
			if m.establish(reply.Session, sent) {
				m.cfg.Logger.Info("session opened", "session", reply.Session, "previous", previous)
				return fresh, true
			}
			continue
		case wire.CodeNotOpen:
			m.endCreate()
			m.setPending(fmt.Errorf("%w: %s", lockerr.ErrNoQuorum, reply.Text))
		case wire.CodeNameTaken:
			m.endCreate()
			if m.taken(reply) {
				return false, false
			}
			pause = max(m.ttl/6, leastRetry)
		case wire.CodeLimit:
			m.endCreate()
			m.setPending(fmt.Errorf("%w: %s", lockerr.ErrLimit, reply.Text))
			pause = max(m.ttl/6, leastRetry)
		default:
			m.endCreate()
			m.setPending(fmt.Errorf("%w: the leader answers code %d: %s", lockerr.ErrNoQuorum, reply.Code, reply.Text))
			pause = max(m.ttl/6, leastRetry)
		}
		if !m.sleep(pause, link) {
			return false, false
		}
	}
	return false, false
}

// rival is the session that has our name, as far as the answers to our creations tell.
type rival struct {
	last wire.SessionReply
	rose int // answers that told of more renewals than the one before
}

// livingAfter is how many times a rival's renewals must have risen: once may be a renewal of a dead process that was still on its way.
const livingAfter = 2

// taken judges an answer that the name is taken, and says whether Open has failed by it: the other process lives. After the first
// session a process has shown that the name is its own, so it just waits.
func (m *Manager) taken(reply wire.SessionReply) bool {
	r := &m.rival
	if r.last.Session == 0 {
		m.cfg.Logger.Info("waiting for the old session of this name to run out", "name", m.cfg.Name, "session", reply.Session)
	}
	switch {
	case reply.Session != r.last.Session || reply.Term != r.last.Term: // another count
		r.rose = 0
	case reply.Renewals > r.last.Renewals:
		r.rose++
	}
	r.last = reply
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending = errNameInUse
	if r.rose > 0 {
		m.pending = fmt.Errorf("%w, so it seems", lockerr.ErrNameTaken)
	}
	if m.isOpen() || r.rose < livingAfter {
		return false
	}
	m.fatal = fmt.Errorf("open a session for %q: %w: it renews its session; give each process a name of its own", m.cfg.Name, lockerr.ErrNameTaken)
	close(m.failed)
	return true
}

// beginCreate says whether a session is wanted, and that one may come to be from now on.
func (m *Manager) beginCreate() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.creating = m.closed == nil && m.fatal == nil
	if !m.creating {
		m.turnLocked()
	}
	return m.creating
}

// endCreate: no session came of it, as far as one can know.
func (m *Manager) endCreate() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.creating = false
	m.turnLocked()
}
