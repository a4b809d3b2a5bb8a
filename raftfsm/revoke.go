package raftfsm

import "github.com/godistlock/distlock/internal/wire"

// How a grant is ended or moved from outside: it is revoked first, and nobody gets its keys until its holder has said that Done is
// closed, or its session has ended.

// byOrigin finds the grant that came to be by request o; nil if it has ended.
func (m *machine) byOrigin(o wire.Origin) *request {
	r := m.request(o.Session, o.Seq)
	if r == nil || r.state != granted || r.origin() != o {
		at, ok := m.moves.Get(move{from: o})
		if !ok {
			return nil
		}
		r = m.request(at.session, at.seq)
	}
	return r
}

// byHandle finds the grant that h names; nil if it has ended, or h was not made for it.
func (m *machine) byHandle(h wire.Handle) *request {
	r := m.byOrigin(h.Origin)
	if r == nil || r.state != granted || r.fence != h.Fence {
		return nil
	}
	nonce := wire.UUID{}
	if r.more != nil && !r.more.origin.IsZero() {
		nonce = r.more.nonce
	} else if ses := m.session(r.session); ses != nil {
		nonce = ses.who.Nonce
	}
	if !h.Fits(nonce) {
		return nil
	}
	return r
}

const handleGone = "no grant has this handle (any more)"

// force revokes all grants of a key.
func (m *machine) force(ses *session, o *wire.Op) {
	if !m.begin(ses, o) {
		return
	}
	l := m.lock(o.Key)
	switch {
	case ses.requests >= MaxRequests:
		m.refuse(ses, o, wire.CodeLimit, tooManyInUse)
		return
	case l == nil || m.firstHolder(l) == nil:
		m.refuse(ses, o, wire.CodeNotHeld, "nobody holds it")
		return
	case l.forces >= MaxWaiters:
		m.refuse(ses, o, wire.CodeLimit, tooManyForces)
		return
	}
	var holders []*request
	youngest := uint64(0)
	m.eachHolder(l, func(h *request) bool {
		if h.state != cooling {
			holders = append(holders, h)
			youngest = h.fence
		}
		return true
	})
	m.await(m.record(ses, o, o.Key, forcing), youngest)
	for _, h := range holders {
		m.revoke(h, wire.CodeForced)
	}
}

const tooManyForces = "100000 of those who want the end of its grants (MaxWaiters)"

// release revokes the grant that a handle names.
func (m *machine) release(ses *session, o *wire.Op) {
	m.byBearer(ses, o, releasing, wire.CodeUnlocked)
}

// adopt revokes the grant that a handle names, to move it here.
func (m *machine) adopt(ses *session, o *wire.Op) {
	m.byBearer(ses, o, adopting, wire.CodeMoved)
}

// byBearer revokes a grant for who has its handle.
func (m *machine) byBearer(ses *session, o *wire.Op, state requestState, code wire.Code) {
	if !m.begin(ses, o) {
		return
	}
	g := m.byHandle(o.Ask.Handle)
	switch {
	case ses.requests >= MaxRequests:
		m.refuse(ses, o, wire.CodeLimit, tooManyInUse)
		return
	case g == nil, state == adopting && g.revoked && g.code != wire.CodeMoved:
		m.refuse(ses, o, wire.CodeNotHeld, handleGone)
		return
	case m.lock(g.key).forces >= MaxWaiters:
		m.refuse(ses, o, wire.CodeLimit, tooManyForces)
		return
	}
	m.await(m.record(ses, o, g.key, state), g.fence)
	m.revoke(g, code)
}

// await puts r, which has just begun, among the forces of its key.
func (m *machine) await(r *request, fence uint64) {
	r.ticket, r.fence = m.ticket(), fence
	m.forces.ReplaceOrInsert(place{r.key, r.ticket, r.session, r.seq})
	m.ownLock(m.lock(r.key)).forces++
}

// revoke tells the holder of a grant to let go. The grant goes on until it says that it has, or its session ends; one that has no
// session ends at once. What ends a grant counts more than what moves it.
func (m *machine) revoke(r *request, code wire.Code) {
	if r.revoked {
		if r.code == wire.CodeMoved && code != wire.CodeMoved {
			m.ownRequest(r).code = code
		}
		return
	}
	r = m.ownRequest(r)
	r.revoked, r.code = true, code
	if r.session == nobody {
		m.requests.Delete(r)
		m.conclude(nil, r, &m.releases)
		return
	}
	m.ownSession(m.session(r.session)).revoked++
	m.tell(r.session, revocation(r))
}

// conclude ends a revoked grant that its holder has let go of: it moves to who wants it, or ends. It is no longer among the requests. ses is
// its session, nil if it has none.
func (m *machine) conclude(ses *session, r *request, count *uint64) {
	switch r.code {
	case wire.CodeMoved:
		if a := m.adopter(r); a != nil {
			m.moveTo(ses, r, a)
			return
		}
		m.drop(r, byRelease, count)
	case wire.CodeUnlocked:
		m.drop(r, byRelease, count)
	default:
		m.drop(r, byForce, count)
	}
}

// adopter is the first that wants to adopt r.
func (m *machine) adopter(r *request) *request {
	for at := uint64(0); ; {
		p, ok := next(m.forces, r.key, at)
		if !ok {
			return nil
		}
		if a := m.at(p); a.state == adopting && a.fence == r.fence {
			return a
		}
		at = p.at + 1
	}
}

// moveTo makes the grant r that of a, which wants to adopt it.
func (m *machine) moveTo(ses *session, r, a *request) {
	m.forces.Delete(place{key: a.key, at: a.ticket})
	m.ownLock(m.lock(a.key)).forces--
	m.disarm(r)
	x := r.extra()
	if x.origin.IsZero() {
		x.origin, x.nonce = r.origin(), ses.who.Nonce
	}
	x.adopted, x.detached, x.timer, x.owner = true, 0, timer{}, 0
	n := m.rekey(r, a.session, a.seq, x)
	n.revoked, n.code = false, wire.CodeOK
	m.event(evMoved, n)
	m.repeat(n)
	if m.adopter(n) != nil { // another wants it: it moves on
		m.revoke(n, wire.CodeMoved)
	}
}

// settleForces ends the waits of those who wanted the end of l's grants, as far as these have ended. l may be changed in place.
func (m *machine) settleForces(l *lock) {
	for at := uint64(0); l.forces > 0; {
		p, ok := next(m.forces, l.key, at)
		if !ok {
			return
		}
		at = p.at + 1
		r := m.at(p)
		if m.awaits(l, r) {
			continue
		}
		m.forces.Delete(p)
		l.forces--
		r = m.ownRequest(r)
		if r.state == adopting {
			m.fail(r, wire.CodeNotHeld, handleGone)
			continue
		}
		r.state, r.since, r.ticket, r.fence = settled, m.wall, 0, 0
		m.repeat(r)
	}
}

// awaits says that a grant of l that r waits for has not ended.
func (m *machine) awaits(l *lock, r *request) (found bool) {
	m.eachHolder(l, func(h *request) bool {
		found = h.state == granted && (h.fence == r.fence || r.state == forcing && h.fence < r.fence)
		return !found
	})
	return found
}
