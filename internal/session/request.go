package session

import (
	"context"
	"fmt"
	"time"

	"github.com/godistlock/distlock/internal/lockerr"
)

// Acquire waits until key is granted, in the order of asking, or ctx ends, or the Manager closes. With try it does not wait for the
// key (ErrHeld), but it does for a leader. A session that is lost meanwhile does not end the wait: the request is queued again under
// the next one, behind those who wait. When ctx ends Acquire returns at once, with an error that wraps ctx's, and ErrNoQuorum as well
// if there was no leader; its request is withdrawn, and a grant that won the race is released.
func (m *Manager) Acquire(ctx context.Context, key string, try bool) (*Grant, error) {
	g := &Grant{m: m, key: key, try: try}
	if err := m.await(ctx, g); err != nil {
		return nil, err
	}
	return g, nil
}

// Force revokes the grant of key, whoever has it, and returns once it has ended: its holder has closed Done, or its session is gone.
// Nobody holds key: ErrNotHeld. An error that wraps ctx's, or matches ErrSessionLost or ErrClosed, leaves the outcome unknown.
func (m *Manager) Force(ctx context.Context, key string) error {
	return m.await(ctx, &Grant{m: m, key: key, errand: toForce})
}

// await begins g and waits for its answer.
func (m *Manager) await(ctx context.Context, g *Grant) error {
	ended := ctx.Err()
	wake := m.wakes.Get().(chan struct{})
	defer m.wakes.Put(wake)
	m.mu.Lock()
	err := m.refusalLocked()
	switch {
	case err != nil:
	case ended != nil:
		err = ended // nothing was sent
	case len(m.reqs)-m.held >= m.cfg.MaxPending:
		err = fmt.Errorf("%w: %d calls of this process wait for an answer (Config.MaxPending); let fewer lock at a time", lockerr.ErrLimit, m.cfg.MaxPending)
	}
	if err != nil {
		m.mu.Unlock()
		return fmt.Errorf("%s: %w", g.what(), err)
	}
	g.wake = wake
	if m.link == nil { // kept to say in the end whether that was why it failed
		x := g.extraLocked()
		x.late, x.began = true, m.cfg.Clock.Now()
	}
	m.addLocked(g)
	m.enqueueLocked(g)
	m.mu.Unlock()

	for {
		select {
		case <-wake:
			if taken, err := m.take(g); taken {
				return err
			}
		case <-ctx.Done():
			return m.withdraw(g, ctx.Err())
		}
	}
}

// take hands g's answer over to its caller, if it is there: g may have been woken by a token that was meant for the channel's user
// before, or been queued again since.
func (m *Manager) take(g *Grant) (bool, error) {
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checkLocked(now) // a grant of a session that has just run out goes back to waiting
	switch g.state {
	case granted:
		g.state, g.wake = held, nil
		m.held++
		if g.more != nil {
			m.takenLocked(g, now)
		}
		return true, nil
	case over:
		return true, g.end
	}
	return false, nil
}

// takenLocked begins to count the time that g may have, now that its caller gets it.
func (m *Manager) takenLocked(g *Grant, now time.Duration) {
	x := g.more
	x.late, x.text = false, ""
	switch {
	case x.req == nil && x.owner == nil && x.handle == nil: // nothing but that it waited
		g.more = nil
	case x.detached != nil:
		m.detached++
		m.orderTimeLocked(g, x.detached.time, now)
	case x.ttl > 0:
		m.timeLocked(g, now+x.ttl)
	}
}

// withdraw ends g because its caller waits no longer.
func (m *Manager) withdraw(g *Grant, ended error) error {
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checkLocked(now)
	if g.state == over { // the last word was here first
		return g.end
	}
	err := m.waitEndedLocked(g, ended, now)
	g.wake = nil
	if g.isDetached() && (g.state == resuming || g.state == finishing) { // what an earlier session may have been granted for it is being ended
		g.more.detached.again = false
		if g.state == resuming {
			g.more.detached.then = finishing
		}
		return err
	}
	if m.session == 0 { // no copy of it is anywhere
		m.removeLocked(g)
		return err
	}
	g.state = finishing // whatever the leader made of it: a cancel and a release are the same
	m.enqueueLocked(g)
	return err
}

// refusalLocked says why nothing new is taken.
func (m *Manager) refusalLocked() error {
	if m.closed != nil {
		return m.closed
	}
	return m.refused
}

// addLocked gives g the next number.
func (m *Manager) addLocked(g *Grant) {
	g.seq = m.next
	m.next++
	m.reqs[g.seq] = g
	m.peak = max(m.peak, len(m.reqs))
	m.askLocked(g)
}

// removeLocked takes g out of the map for good.
func (m *Manager) removeLocked(g *Grant) {
	g.state = over
	delete(m.reqs, g.seq)
	m.forgetPeakLocked()
}

// smallPeak is how many requests a map may have had that is kept when it is empty.
const smallPeak = 1 << 12

// forgetPeakLocked gives the memory of a great many requests back, which Go's maps don't do.
func (m *Manager) forgetPeakLocked() {
	if len(m.reqs) == 0 && m.peak > smallPeak {
		m.reqs, m.peak = map[uint64]*Grant{}, 0
	}
}

// overLocked closes Done of a held grant. What is left is to tell the leader, or not.
func (m *Manager) overLocked(g *Grant, why error) {
	g.err = why
	if g.done != nil {
		close(g.done)
	}
	m.untimeLocked(g)
	if g.state == resuming {
		g.more.detached.then = finishing
	} else {
		g.state = finishing
	}
	m.held--
	if g.isDetached() {
		m.detached--
	}
	m.drainedLocked()
	g.turnLocked()
}

// finishedLocked: g is over, and came to end.
func (m *Manager) finishedLocked(g *Grant, end error) {
	m.removeLocked(g)
	g.end = end
	if g.release {
		m.leaving--
		m.drainedLocked()
	}
	if g.wake != nil {
		signal(g.wake)
		g.wake = nil
	}
	if g.ended != nil {
		close(g.ended)
	}
}

// failLocked is finishedLocked with an error; to a release it adds that the grant is not held.
func (m *Manager) failLocked(g *Grant, err error) {
	if g.release {
		err = fmt.Errorf("%w: the answer to the release did not come: %w", err, lockerr.ErrNotHeld)
	}
	m.finishedLocked(g, err)
}

func (m *Manager) drainedLocked() {
	if m.idle != nil && m.held-m.detached+m.leaving == 0 {
		close(m.idle)
		m.idle = nil
	}
}

// waitEnded is the error of a release whose caller waits no longer.
func (m *Manager) waitEnded(g *Grant, ended error) error {
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.waitEndedLocked(g, ended, now)
}

// waitEndedLocked wraps ctx's error, and ErrNoQuorum where the lack of a leader was the reason: there is none now, or it doesn't
// answer, or there was none for more than half of the wait.
func (m *Manager) waitEndedLocked(g *Grant, ended error, now time.Duration) error {
	none := m.link == nil || m.silentLocked(now)
	if x := g.more; x != nil && x.late && !none {
		none = m.linkedAt-x.began > (now-x.began)/2
	}
	if none {
		return fmt.Errorf("%s: %w: no leader answers: %w%s", g.what(), lockerr.ErrNoQuorum, ended, g.waitedFor())
	}
	return fmt.Errorf("%s: %w%s", g.what(), ended, g.waitedFor())
}

// waitedFor says whom g waits for, as far as the leader has told; for the end of an error.
func (g *Grant) waitedFor() string {
	x := g.more
	if x == nil || x.text == "" {
		return ""
	}
	since := ""
	if x.since != 0 {
		since = ", since " + time.UnixMicro(x.since).UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf(" (when it was asked: %s%s)", x.text, since)
}
