package raftfsm

import (
	"fmt"
	"slices"

	"github.com/godistlock/distlock/internal/wire"
)

// create makes a session for a process, or meets the one it has.
func (m *machine) create(c *wire.CreateSession) Reply {
	if !m.open {
		return Reply{Code: wire.CodeNotOpen, Text: "the cluster has not opened yet"}
	}
	if old := m.named(c.Name); old != nil && old.who.Nonce == c.Nonce { // a copy has the name of its original
		old = m.ownSession(old)
		old.renewed = m.index
		m.res.Created = append(m.res.Created, old.id) // its process counts from this copy, so the leader must too
		return Reply{Session: old.id}
	}
	if c.Previous != 0 {
		if old := m.session(c.Previous); old != nil && old.who.Instance == c.Instance {
			m.endSession(old, byExpiry, &m.releases) // its process lost it
		}
	}
	if old := m.named(c.Name); old != nil {
		// The same instance is not its own successor: this is a late copy of a creation that a later one has followed.
		if old.who.Instance == c.Instance || !c.Proof.ProvesDead(old.who.Proof) {
			return Reply{Code: wire.CodeNameTaken, Session: old.id, Text: fmt.Sprintf("the session of a process named %q lives", c.Name)}
		}
		if old.who.Server != c.Server {
			m.bury(old.who.Server)
		}
		m.endSession(old, byExpiry, &m.expirations)
	}
	if m.sessions.Len() >= MaxSessions {
		return Reply{Code: wire.CodeLimit, Text: fmt.Sprintf("%d sessions (MaxSessions)", MaxSessions)}
	}
	m.exhume(c.Server)
	m.lastSession++
	ses := &session{gen: m.gen, id: m.lastSession, next: 1, renewed: m.index, who: c}
	m.sessions.ReplaceOrInsert(ses)
	m.names.ReplaceOrInsert(ses)
	m.res.Created = append(m.res.Created, ses.id)
	return Reply{Session: ses.id}
}

// close ends a session by its own wish.
func (m *machine) close(c Close) Reply {
	ses := m.session(c.Session)
	if ses == nil {
		return Reply{Code: wire.CodeGone}
	}
	m.endSession(ses, byRelease, &m.releases)
	return Reply{}
}

// expire ends a session whose time is up, unless what the leader measured has moved on.
func (m *machine) expire(c Expire) Reply {
	ses := m.session(c.Session)
	if ses == nil || c.Term != m.term || c.Seen != ses.renewed {
		return Reply{Code: wire.CodeStale}
	}
	m.endSession(ses, byExpiry, &m.expirations)
	return Reply{}
}

// endSession ends all that a session has and waits for but its detached grants, then grants what became free, in the order of the keys.
// Its grants are counted in ended.
func (m *machine) endSession(ses *session, why cause, ended *uint64) {
	ses = m.ownSession(ses)
	m.dirty = m.dirty[:0]
	all := m.requestsOf(ses)
	for _, r := range all { // what it waits for goes first: nothing is to be told or granted to it on the way
		if r.state != granted {
			m.requests.Delete(r)
			m.end(ses, r, why)
		}
	}
	for _, r := range all {
		if r.state != granted {
			continue
		}
		m.requests.Delete(r)
		switch {
		case r.revoked:
			m.conclude(ses, r, ended)
		case r.more != nil && r.more.detached > 0:
			m.detach(ses, r)
		default:
			m.drop(r, why, ended)
		}
	}
	m.dropGaps(ses)
	m.sessions.Delete(ses)
	m.names.Delete(ses)
	m.res.Ended = append(m.res.Ended, ses.id)
	slices.Sort(m.dirty)
	m.dirty = slices.Compact(m.dirty)
	m.serveDirty()
}

func (s *state) requestsOf(ses *session) []*request {
	all := make([]*request, 0, ses.requests)
	s.requests.AscendRange(&request{session: ses.id}, &request{session: ses.id + 1}, func(r *request) bool {
		all = append(all, r)
		return true
	})
	return all
}

func (m *machine) named(name string) *session {
	ses, _ := m.names.Get(&session{who: &wire.CreateSession{Name: name}})
	return ses
}

// bury remembers a server as proven dead; the oldest is forgotten beyond MaxDead.
func (m *machine) bury(server wire.UUID) {
	if server.IsZero() {
		return
	}
	m.exhume(server)
	if len(m.dead) == MaxDead {
		m.dead = m.dead[1:]
	}
	m.dead = append(m.dead[:len(m.dead):len(m.dead)], server)
}

// exhume takes a server off the dead, if it is among them: one that has a session lives.
func (m *machine) exhume(server wire.UUID) {
	if i := slices.Index(m.dead, server); i >= 0 {
		m.dead = slices.Concat(m.dead[:i], m.dead[i+1:])
	}
}
