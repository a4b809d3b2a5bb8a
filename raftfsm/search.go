package raftfsm

import (
	"cmp"
	"strings"

	"github.com/google/btree"
)

// Who waits for whom, by sessions: a request waits for the sessions that hold its keys (also where it could share with them: then it waits for somebody
// who can't), for the requests for several keys that come before it, and for what these wait for; a session waits for what its requests wait for.
// Those who come before it and want one key only add nothing: they wait for the same holders and the same requests.

// maxSearch bounds a search for who waits for whom. What it doesn't reach is not found: a waiter stays where it is, a deadlock lasts
// until one of its waits is given up.
const maxSearch = 1 << 17

// search finds the sessions that requests wait for.
type search struct {
	m        *machine
	sessions *btree.BTreeG[uint64]
	order    []uint64 // of sessions, as they were found
	keys     *btree.BTreeG[*searchedKey]
	todo     []*request
	steps    int
}

// searchedKey is what a search has seen of a key.
type searchedKey struct {
	key     string
	holders bool
	to      uint64 // the ticket before which it knows who waits for several keys
}

func newSearch(m *machine) *search {
	return &search{
		m: m, sessions: btree.NewG(treeDegree, cmp.Less[uint64]),
		keys: btree.NewG(treeDegree, func(a, b *searchedKey) bool { return strings.Compare(a.key, b.key) < 0 }),
	}
}

func (s *search) key(key string) *searchedKey {
	k, ok := s.keys.Get(&searchedKey{key: key})
	if !ok {
		k = &searchedKey{key: key}
		s.keys.ReplaceOrInsert(k)
	}
	return k
}

// from adds what r waits for.
func (s *search) from(r *request) { s.todo = append(s.todo, r) }

// ahead adds what those wait for who come before r.
func (s *search) ahead(r *request) {
	for _, key := range r.keys() {
		s.before(s.key(key), r.ticket)
	}
}

// behalf adds what a session waits for.
func (s *search) behalf(session uint64) {
	s.m.eachWait(wait{session: session}, wait{session: session + 1}, s.from)
}

// finds says whether session is among those that are waited for.
func (s *search) finds(session uint64) bool {
	for !s.sessions.Has(session) {
		n := len(s.todo)
		if n == 0 || s.steps >= maxSearch {
			return false
		}
		r := s.todo[n-1]
		s.todo = s.todo[:n-1]
		s.expand(r)
	}
	return true
}

// all finds all of them.
func (s *search) all() []uint64 {
	s.finds(0) // which is none
	return s.order
}

func (s *search) expand(r *request) {
	for _, key := range r.keys() {
		s.steps++
		k, l := s.key(key), s.m.lock(key)
		if l.holders > 0 && !k.holders {
			k.holders = true
			s.m.eachHolder(l, s.holder)
		}
		s.before(k, r.ticket)
	}
}

func (s *search) holder(h *request) bool {
	s.steps++
	if h.session != nobody && !s.sessions.Has(h.session) {
		s.sessions.ReplaceOrInsert(h.session)
		s.order = append(s.order, h.session)
		s.behalf(h.session)
	}
	return s.steps < maxSearch
}

// before looks at the places before ticket that were not seen yet.
func (s *search) before(k *searchedKey, ticket uint64) {
	if ticket <= k.to {
		return
	}
	s.m.tied.AscendRange(place{key: k.key, at: k.to}, place{key: k.key, at: ticket}, func(p place) bool {
		s.steps++
		s.from(s.m.at(p))
		return s.steps < maxSearch
	})
	k.to = ticket
}

// waitsForItself says that those who come before r wait for r's session.
func (m *machine) waitsForItself(r *request) bool {
	s := newSearch(m)
	s.ahead(r)
	return s.finds(r.session)
}

func (m *machine) eachWait(from, to wait, f func(*request)) {
	m.waits.AscendRange(from, to, func(w wait) bool {
		r, _ := m.requests.Get(&request{session: w.session, seq: w.seq})
		f(r)
		return true
	})
}

// revisit looks at those whom the session waits for, which has just begun to wait or got something: if they wait for it too, some of them may pass others
// now.
func (m *machine) revisit(session uint64) {
	if m.tied.Len() == 0 || session == nobody || !m.granting() || !m.isWanted(session) || !m.isHoldingBack() {
		return
	}
	s := newSearch(m)
	s.behalf(session)
	if len(s.todo) == 0 || !s.finds(session) {
		return
	}
	for _, id := range s.all() {
		m.eachWait(wait{session: id}, wait{session: id + 1}, func(w *request) {
			for _, key := range w.keys() {
				if !m.lock(key).fits(w) {
					return
				}
			}
			m.dirty = append(m.dirty, w.key)
		})
	}
}

// isHoldingBack says that a request for several keys may hold back others: at a key that nobody has exclusively somebody else waits as well. Of
// many keys it doesn't look at all.
func (m *machine) isHoldingBack() bool {
	const few = 64
	at, found := place{}, false
	for n := 0; !found; n++ {
		var key string
		m.tied.AscendGreaterOrEqual(at, func(p place) bool {
			key = p.key
			return false
		})
		if key == "" {
			return false
		}
		l := m.lock(key)
		found = n > few || l.session == 0 && l.waiters > 1
		at = place{key: key, at: m.lastTicket + 1}
	}
	return true
}

// addsNothing says that r, which has just begun to wait, waits for nothing that its session doesn't wait for already: for one key, like another of its
// requests not far before it.
func (m *machine) addsNothing(r *request) (found bool) {
	const few = 64
	n := 0
	if !r.together() {
		m.queue.DescendLessOrEqual(place{key: r.key, at: r.ticket - 1}, func(p place) bool {
			if n++; p.key != r.key || n > few || m.at(p).together() {
				return false
			}
			found = p.session == r.session
			return !found
		})
	}
	return found
}

// isWanted says that somebody may wait for something that the session holds, or one of its requests for several keys. It is for the many cases in which a look
// at a few is enough to see that nobody does.
func (m *machine) isWanted(session uint64) bool {
	const few = 64
	n, found := 0, false
	m.requests.AscendRange(&request{session: session}, &request{session: session + 1}, func(r *request) bool {
		if n++; n > few {
			found = true
		} else if r.state == granted {
			for _, key := range r.keysTo(&m.oneKey) {
				if m.lock(key).waiters > 0 {
					found = true
				}
			}
		}
		return !found
	})
	return found
}
