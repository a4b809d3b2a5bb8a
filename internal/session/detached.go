package session

import (
	"fmt"
	"time"

	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
)

// detached is what a detached request has beyond others: its grant outlives the session. Under the next one an OpRequest with Only asks
// whether it is still there; nothing else is done about it until that is answered, so that at any time one request at most, that of
// origin, may have a grant that nobody here knows of.
type detached struct {
	origin wire.Origin // the request by which the grant came, or may have come, to be; zero: the present one
	then   state       // of one that is resuming: what it is when the grant is there: held, finishing or lapsed; waiting: finishing, with again
	again  bool        // finishing: its caller waits; it is asked for anew when this is over

	time  time.Duration // that the last OpTime sets, as its sender counts
	sent  time.Duration // on cfg.Clock, before the first copy of it was
	nth   uint64        // its Nth; 0: none was sent, since nobody has taken the grant
	noted uint64        // the greatest Nth that was answered
	until time.Duration // on cfg.Clock: to where the orders reach of which any may be the leader's. It keeps the grant so long, and may for longer
}

// lifetime is what a detached grant has from when it is taken.
func lifetime(r *Request) time.Duration {
	if r.TTL > 0 {
		return min(r.TTL, r.Detached)
	}
	return r.Detached
}

// reliable is how much of a time that the leader counts its taker may rely on.
func reliable(d time.Duration) time.Duration { return d / 5 * 4 }

// op is the last OpTime.
func (d *detached) op(seq uint64) wire.Op {
	return wire.Op{Kind: wire.OpTime, Seq: seq, Ask: &wire.Ask{Time: millis(d.time), Nth: d.nth}}
}

// orderTimeLocked sets a detached grant's time to ttl, and returns the order's number. Until it is answered either time may be the
// leader's.
func (m *Manager) orderTimeLocked(g *Grant, ttl, now time.Duration) uint64 {
	d, deadline, until := g.more.detached, now+reliable(ttl), now+ttl
	d.time, d.sent = ttl, now
	d.nth++
	if d.nth > 1 {
		deadline, until = min(deadline, g.more.deadline), min(until, d.until)
	}
	d.until = until
	m.timeLocked(g, deadline)
	if g.state == held && m.link != nil { // else it goes out later
		m.queueLocked(d.op(g.seq))
	}
	return d.nth
}

// notedTimeLocked: the leader counts the last time from some moment after it was sent.
func (m *Manager) notedTimeLocked(g *Grant) {
	d := g.more.detached
	switch {
	case g.isHeld():
		d.noted, d.until = d.nth, d.sent+d.time
		m.timeLocked(g, d.sent+reliable(d.time))
	case g.state == lapsed:
		m.finishedLocked(g, nil)
	}
}

// lapsedLocked: the time of g is up here. By the last order that was answered the leader ends it too, soon, and nothing more is to be done:
// hours may pass until then. It may have taken one that was not answered: then its caller was told that the grant is lost, and nobody would
// end it for as long as that order says. So it is replaced by one for what was left of the time before.
func (m *Manager) lapsedLocked(g *Grant, now time.Duration) {
	d := g.more.detached
	if d.noted == d.nth {
		m.finishedLocked(g, nil)
		return
	}
	g.state = lapsed
	d.time, d.sent = max(d.until-now, time.Millisecond), now
	d.nth++
	m.enqueueLocked(g)
}

// outlivesLocked: the session lost ends. It says whether g, or a grant that nobody here has heard of, may outlive it; then g is to be
// resumed.
func (m *Manager) outlivesLocked(g *Grant, lost uint64) bool {
	if g.more == nil || g.more.detached == nil {
		return false
	}
	d := g.more.detached
	switch {
	case g.state == resuming:
		return true
	case !g.sent, g.state == finishing && g.confirm: // what is revoked does end
		return false
	case g.state == lapsed:
		d.then = lapsed
	case g.state == held:
		d.then = held
	case g.state == finishing && !d.again:
		d.then = finishing
	default:
		d.then = waiting
	}
	if d.origin.IsZero() {
		d.origin = wire.Origin{Session: lost, Seq: g.seq}
	}
	d.again, g.state = false, resuming
	return true
}

// resumedLocked: the grant of an earlier session is there, and that of g now.
func (m *Manager) resumedLocked(g *Grant) {
	d := g.more.detached
	switch g.state = d.then; d.then {
	case waiting: // for its caller it was never granted
		g.state, d.again = finishing, true
	case lapsed:
		m.lapsedLocked(g, m.cfg.Clock.Now())
		return
	}
	m.enqueueLocked(g)
}

// vanishedLocked: the grant of an earlier session is not there any more.
func (m *Manager) vanishedLocked(g *Grant, o *wire.Outcome) {
	switch g.more.detached.then {
	case waiting:
		m.forgetLocked(g.seq)
		m.anewLocked(g)
	case held:
		m.overLocked(g, lockerr.ErrSessionLost)
		m.settledLocked(g, nil)
	default:
		m.settledLocked(g, fmt.Errorf("%w; its %w before", failure(g, o), lockerr.ErrSessionLost))
	}
}

// anewLocked asks for g under a new number: what the old one stood for is over, or another's.
func (m *Manager) anewLocked(g *Grant) {
	if m.reqs[g.seq] == g {
		delete(m.reqs, g.seq)
	}
	if g.more != nil && g.more.detached != nil {
		g.more.detached.origin, g.more.detached.again = wire.Origin{}, false
	}
	g.state, g.fence, g.under, g.sent = waiting, 0, nil, false
	m.addLocked(g)
	m.enqueueLocked(g)
}
