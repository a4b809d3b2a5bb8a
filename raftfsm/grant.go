package raftfsm

import "github.com/godistlock/distlock/internal/wire"

// How keys are given to requests and taken from them.

// A cause is why a grant ends.
type cause uint8

const (
	byRelease cause = iota // its holder let go, or somebody who has its handle
	byExpiry               // its time is up, or its session's
	byForce                // somebody forced it
)

// fits says that l's holders leave room for r, whoever waits.
func (l *lock) fits(r *request) bool {
	switch {
	case l.holders == 0:
		return true
	case r.mode == wire.Shared:
		return l.mode == wire.Shared
	case r.mode == wire.Units:
		return uint64(l.used)+uint64(r.weight) <= uint64(l.limit)
	}
	return false
}

// nextFence makes r a grant. It may be changed in place.
func (m *machine) nextFence(r *request) {
	m.fence++
	m.grants++
	r.state, r.fence, r.since, r.ticket = granted, m.fence, m.wall, 0
}

// hold notes that r holds l. l may be changed in place.
func (m *machine) hold(l *lock, r *request) {
	m.holders++
	l.holders++
	l.mode = r.mode
	if r.mode == wire.Exclusive {
		l.session, l.seq = r.session, r.seq
	} else {
		l.used += r.weight
		m.holds.ReplaceOrInsert(place{l.key, r.fence, r.session, r.seq})
	}
	if m.watched {
		m.eventAt(evGranted, l.key, r)
	}
}

// unhold is the opposite of hold.
func (m *machine) unhold(l *lock, r *request) {
	l.holders--
	if r.mode == wire.Exclusive {
		l.session, l.seq = 0, 0
	} else {
		l.used -= r.weight
		m.holds.Delete(place{key: l.key, at: r.fence})
	}
}

// grant gives r, which is in no queue and may be changed in place, its keys. They fit.
func (m *machine) grant(r *request) {
	m.nextFence(r)
	if r.more != nil && r.more.owner != 0 {
		m.owned.ReplaceOrInsert(wait{r.session, r.more.owner, r.seq})
	}
	if r.together() {
		for _, key := range r.more.keys {
			m.hold(m.lockFor(key, r.limit()), r)
		}
	} else {
		m.hold(m.lockFor(r.key, r.limit()), r)
	}
	m.repeat(r)
}

// limit is how many units r's semaphore has; 0 if it wants none.
func (r *request) limit() uint32 {
	if r.more == nil {
		return 0
	}
	return r.more.limit
}

// drop ends a grant, which is no longer among the requests, and counts it. Its keys are served when the operation is over.
func (m *machine) drop(r *request, why cause, count *uint64) {
	*count++
	if r.more != nil {
		m.disown(r)
		m.disarm(r)
		if !r.more.origin.IsZero() {
			m.moves.Delete(move{from: r.more.origin})
		}
	}
	if m.watched {
		m.event(endedBy(why), r)
	}
	if why != byRelease && r.more != nil && r.more.cooldown > 0 {
		m.cool(r)
		return
	}
	if !r.together() {
		m.vacate(r.key, r)
		return
	}
	for _, key := range r.more.keys {
		m.vacate(key, r)
	}
}

// disown takes the grant r off what its owner has.
func (m *machine) disown(r *request) {
	if r.more.owner != 0 {
		m.owned.Delete(wait{r.session, r.more.owner, r.seq})
	}
}

// vacate takes r off one of its keys.
func (m *machine) vacate(key string, r *request) {
	if r.state == granted {
		m.holders--
	}
	l := m.lock(key)
	if l.holders == 1 && l.waiters == 0 && l.forces == 0 {
		if r.mode != wire.Exclusive {
			m.holds.Delete(place{key: key, at: r.fence})
		}
		m.locks.Delete(l)
		return
	}
	l = m.ownLock(l)
	m.unhold(l, r)
	m.settleForces(l)
	m.dirty = append(m.dirty, key)
}

// cool makes r, which was lost, a cooldown of its keys.
func (m *machine) cool(r *request) {
	x := &more{keys: r.more.keys, limit: r.more.limit, cooldown: r.more.cooldown, timer: timer{left: r.more.cooldown, armed: m.index}}
	m.holders -= len(r.keys())
	c := m.rekey(r, nobody, m.ticket(), x)
	c.state, c.revoked, c.code = cooling, false, wire.CodeOK
	m.arm(c)
	for _, key := range c.keys() {
		m.settleForces(m.ownLock(m.lock(key)))
		m.dirty = append(m.dirty, key)
	}
}

// downgrade makes an exclusive grant a shared one.
func (m *machine) downgrade(ses *session, seq uint64) {
	r := m.request(ses.id, seq)
	if r == nil || r.state != granted || r.mode == wire.Units {
		m.tell(ses.id, wire.Outcome{Kind: wire.OutEnded, Seq: seq})
		return
	}
	if r.mode == wire.Exclusive {
		r = m.ownRequest(r)
		for _, key := range r.keys() {
			l := m.ownLock(m.lock(key))
			l.session, l.seq, l.mode = 0, 0, wire.Shared
			m.holds.ReplaceOrInsert(place{key, r.fence, r.session, r.seq})
			m.dirty = append(m.dirty, key)
		}
		r.mode = wire.Shared
	}
	m.tell(ses.id, wire.Outcome{Kind: wire.OutNoted, Seq: seq})
}

// rekey makes the grant r, or what is left of it, that of another session, with what x says, and returns it. It may be changed in place.
func (m *machine) rekey(r *request, session, seq uint64, x *more) *request {
	m.requests.Delete(r)
	if r.more != nil {
		m.disown(r)
	}
	c := *r
	c.gen, c.session, c.seq, c.more = m.gen, session, seq, x
	m.requests.ReplaceOrInsert(&c)
	for _, key := range c.keys() {
		if c.mode == wire.Exclusive {
			l := m.ownLock(m.lock(key))
			l.session, l.seq = session, seq
		} else {
			m.holds.ReplaceOrInsert(place{key, c.fence, session, seq})
		}
	}
	if x.timer.armed != 0 {
		m.timers.ReplaceOrInsert(place{c.key, c.fence, session, seq})
	}
	if !x.origin.IsZero() {
		m.moves.ReplaceOrInsert(move{x.origin, session, seq})
	}
	m.revisit(session)
	return &c
}

// ticket is the next one.
func (m *machine) ticket() uint64 {
	m.lastTicket++
	return m.lastTicket
}
