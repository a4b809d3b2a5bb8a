package raftfsm

import "github.com/godistlock/distlock/internal/wire"

// First come, first served: each key has a queue, a request for several keys stands in the queue of each of them with the same ticket.
//
// A request for several keys holds nothing while it waits, but it holds back who comes later, or it would never be served where there
// is always somebody. That must not lead to deadlocks of its own making: who has something that it waits for, be it by way of others,
// passes it. For this what a session has is all one: that its requests come from one thread of the program can't be excluded.

// enqueue makes r wait, unless it needn't (see above) or would wait for itself.
func (m *machine) enqueue(r *request) {
	r.ticket = m.ticket()
	for _, key := range r.keysTo(&m.oneKey) {
		at := place{key, r.ticket, r.session, r.seq}
		m.queue.ReplaceOrInsert(at)
		m.lockFor(key, r.limit()).waiters++
		if r.together() {
			m.tied.ReplaceOrInsert(at)
		}
	}
	m.waits.ReplaceOrInsert(wait{r.session, r.owner(), r.seq})
	if m.tied.Len() > 0 && m.granting() {
		if m.mayGo(r) {
			m.serveOne(r)
			return
		}
		if !m.addsNothing(r) {
			m.revisit(r.session)
			m.serveDirty()
		}
		if r.state != waiting {
			return
		}
	}
	if why := m.deadlock(r); why != "" {
		m.leaveQueue(r)
		m.fail(r, wire.CodeDeadlock, why)
		return
	}
	m.event(evQueued, r)
	m.repeat(r)
}

// dequeue takes a waiter out of its queues. Their locks stay, if idle.
func (m *machine) dequeue(r *request) {
	for _, key := range r.keysTo(&m.oneKey) {
		m.queue.Delete(place{key: key, at: r.ticket})
		m.ownLock(m.lock(key)).waiters--
		if r.together() {
			m.tied.Delete(place{key: key, at: r.ticket})
		}
	}
	m.waits.Delete(wait{r.session, r.owner(), r.seq})
}

// leaveQueue is dequeue for one that gets nothing.
func (m *machine) leaveQueue(r *request) {
	m.dequeue(r)
	for _, key := range r.keysTo(&m.oneKey) {
		if l := m.lock(key); l.idle() {
			m.locks.Delete(l)
		} else if l.waiters > 0 && l.session == 0 && m.wasInTheWay(l, r) {
			m.dirty = append(m.dirty, key)
		}
	}
}

// wasInTheWay says that others may have l now that r, which has left its queue, doesn't wait any more. If there is room for r it waited behind requests
// for several keys, as those do who came after it, but for shared ones that can share with these.
func (m *machine) wasInTheWay(l *lock, r *request) bool {
	if r.together() || !l.fits(r) {
		return true
	}
	p, ok := next(m.queue, l.key, r.ticket)
	return ok && r.mode == wire.Exclusive && m.at(p).mode == wire.Shared
}

// serveDirty serves the keys of which something has changed.
func (m *machine) serveDirty() {
	for i := 0; i < len(m.dirty); i++ {
		m.serve(m.dirty[i])
	}
	m.dirty = m.dirty[:0]
}

// serve grants a key to those who wait for it, in their order, as far as it goes; if nobody uses it, it is idle from now on.
func (m *machine) serve(key string) {
	l := m.lock(key)
	if l == nil {
		return
	}
	if l.idle() {
		m.locks.Delete(l)
		return
	}
	var passed heldBack
	for at := uint64(0); l.waiters > 0 && l.session == 0 && m.granting(); {
		p, ok := next(m.queue, key, at)
		if !ok {
			return
		}
		at = p.at + 1
		r := m.at(p)
		switch {
		case !l.fits(r) && !r.together():
			return // who comes later waits for it
		case !passed.before(r) && !r.together():
		case !l.fits(r), passed.before(r) && !passed.mayPass(m, r), !m.mayGo(r):
			passed.add(r)
			continue
		}
		m.serveOne(r)
		if l = m.lock(key); l == nil {
			return
		}
	}
}

// serveOne grants r, which waits and may have its keys.
func (m *machine) serveOne(r *request) {
	m.dequeue(r)
	r = m.ownRequest(r)
	if m.fence+1 >= fenceEnd {
		m.dirty = append(m.dirty, r.keys()...)
		m.event(evCancelled, r)
		m.fail(r, wire.CodeLimit, fencesUsedUp)
		return
	}
	m.grant(r)
	if r.together() && r.mode != wire.Exclusive { // those behind it elsewhere may share with it
		m.dirty = append(m.dirty, r.more.keys...)
	}
	m.revisit(r.session)
}

// mayGo says that r, which waits, can have its keys now: there is room at all of them, and nobody comes before it, or all who do are to be passed.
func (m *machine) mayGo(r *request) bool {
	behind := false
	for _, key := range r.keysTo(&m.oneKey) {
		if !m.lock(key).fits(r) {
			return false
		}
		behind = behind || m.before(key, r) != nil
	}
	if !behind {
		return true
	}
	if !m.waitsForItself(r) {
		return false
	}
	for _, key := range r.keys() {
		if m.behindOne(key, r) {
			return false
		}
	}
	return true
}

// before is the last waiter of key before r, which waits too, that r can't share with; nil if there is none.
func (m *machine) before(key string, r *request) (found *request) {
	m.eachBefore(key, r, func(p *request) bool {
		found = p
		return false
	})
	return found
}

// eachBefore calls f for waiters of key before r, which waits too, that r can't share with, until it answers false. They stand for all such: the
// others come before these, which can't share with them.
func (m *machine) eachBefore(key string, r *request, f func(*request) bool) {
	first := true
	m.queue.DescendLessOrEqual(place{key: key, at: r.ticket - 1}, func(p place) bool {
		if p.key != key {
			return false
		}
		q := m.at(p)
		switch {
		case r.mode == wire.Shared && q.mode == wire.Shared:
			return true
		case q.mode != wire.Shared:
			if first {
				f(q)
			}
			return false
		}
		first = false
		return f(q)
	})
}

// behindOne says that a waiter for key alone comes before r for which there is no room. Nobody passes it.
func (m *machine) behindOne(key string, r *request) (found bool) {
	l := m.lock(key)
	if l.holders == 0 {
		return false
	}
	m.queue.AscendRange(place{key: key}, place{key: key, at: r.ticket}, func(p place) bool {
		q := m.at(p)
		found = !q.together() && !l.fits(q)
		return !found
	})
	return found
}

// heldBack are waiters of a key that are passed over.
type heldBack struct {
	any, exclusive bool
	search         *search // from those of them who wait for several keys
}

func (h *heldBack) add(r *request) {
	h.any, h.exclusive = true, h.exclusive || r.mode != wire.Shared
	if r.together() && h.search != nil {
		h.search.from(r)
	}
}

// before says that r can't share with one of them.
func (h *heldBack) before(r *request) bool {
	return h.any && (h.exclusive || r.mode != wire.Shared)
}

// mayPass says whether it is worth a closer look at r.
func (h *heldBack) mayPass(m *machine, r *request) bool {
	if r.together() {
		return true
	}
	if h.search == nil {
		h.search = newSearch(m)
		h.search.ahead(r)
	}
	return h.search.finds(r.session)
}
