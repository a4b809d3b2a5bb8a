package raftfsm

import "github.com/godistlock/distlock/internal/wire"

// Timer is a time that runs: of a detached grant, or of the cooldown of one that was lost. Its grant's fence and first key name it.
type Timer struct {
	Key   string
	Fence uint64
	Armed uint64 // index of the entry that set it: what the leader saw
	Left  int64  // ms
}

// arm begins to count the time of r, a grant or a cooldown, which may be changed in place and whose more is its own.
func (m *machine) arm(r *request) {
	r.more.timer.armed = m.index
	m.timers.ReplaceOrInsert(place{r.key, r.fence, r.session, r.seq})
	m.res.Armed = append(m.res.Armed, r.timer())
}

// disarm stops counting.
func (m *machine) disarm(r *request) {
	if r.more != nil && r.more.timer.armed != 0 {
		m.timers.Delete(place{key: r.key, at: r.fence})
		m.res.Disarmed = append(m.res.Disarmed, r.fence)
	}
}

func (r *request) timer() Timer {
	t := r.more.timer
	return Timer{Key: r.key, Fence: r.fence, Armed: t.armed, Left: t.left}
}

// setTime sets what is left of a detached grant.
func (m *machine) setTime(ses *session, o *wire.Op) {
	r := m.request(ses.id, o.Seq)
	if r == nil || r.state != granted || r.more == nil || r.more.detached == 0 {
		m.tell(ses.id, wire.Outcome{Kind: wire.OutEnded, Seq: o.Seq})
		return
	}
	if o.Ask.Nth > r.more.timer.nth {
		r = m.ownRequest(r)
		r.more = r.extra()
		r.more.timer = timer{left: o.Ask.Time, nth: o.Ask.Nth}
		m.arm(r)
	}
	m.tell(ses.id, wire.Outcome{Kind: wire.OutNoted, Seq: o.Seq, Fence: r.more.timer.nth})
}

// time takes what the leader has measured.
func (m *machine) time(c Time) Reply {
	if c.Term != m.term {
		return Reply{Code: wire.CodeStale}
	}
	for _, t := range c.Timers {
		p, ok := m.timers.Get(place{key: t.Key, at: t.Fence})
		if !ok {
			continue
		}
		r := m.at(p)
		switch {
		case r.more.timer.armed != t.Armed:
		case t.Left > 0:
			r = m.ownRequest(r)
			r.more = r.extra()
			r.more.timer.left = min(r.more.timer.left, t.Left)
		case r.state == cooling:
			m.requests.Delete(r)
			m.disarm(r)
			for _, key := range r.keys() {
				m.vacate(key, r)
			}
		default:
			m.timeUp(r)
		}
	}
	m.serveDirty()
	return Reply{}
}

// timeUp ends a detached grant.
func (m *machine) timeUp(r *request) {
	m.requests.Delete(r)
	if ses := m.session(r.session); ses != nil {
		ses = m.ownSession(ses)
		ses.requests--
		if r.revoked {
			ses.revoked--
		}
		m.tell(ses.id, wire.Outcome{Kind: wire.OutEnded, Seq: r.seq})
	}
	m.drop(r, byExpiry, &m.expirations)
}

// detach makes r, a grant whose session ends and which is no longer among the requests, nobody's. Its time begins now if it did not before.
func (m *machine) detach(ses *session, r *request) {
	x := r.extra()
	if x.origin.IsZero() {
		x.origin, x.nonce = r.origin(), ses.who.Nonce
	}
	x.owner = 0
	running := x.timer.armed != 0
	if !running {
		x.timer.left = x.detached
	}
	r = m.rekey(r, nobody, m.ticket(), x)
	if !running {
		m.arm(r)
	}
}

// takeUp gives the detached grant g back to the process that took it, under its new session.
func (m *machine) takeUp(ses *session, o *wire.Op, g *request) {
	ses.requests++
	m.repeat(m.rekey(g, ses.id, o.Seq, g.extra()))
}
