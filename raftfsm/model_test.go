package raftfsm

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// model is the lock table once more, as plainly as can be: maps and slices, nothing shared, nothing counted. What it says of an
// entry is compared with what the machine says, word for word.
type model struct {
	term, index uint64
	wall        int64
	silent      bool
	fence       uint64
	lastSession uint64
	dead        []wire.UUID
	sessions    map[uint64]*modelSession
	keys        map[string]*modelKey
	res         *Result
}

type modelSession struct {
	who      wire.CreateSession
	renewed  uint64
	seen     map[uint64]bool
	requests map[uint64]*modelRequest
}

type modelKey struct {
	holder *modelRequest
	queue  []*modelRequest
	forces []*modelRequest
}

type modelRequest struct {
	session, seq uint64
	key          string
	now          string // "waiting", "granted", "failed", "forcing" or "settled"
	fence        uint64
	since        int64
	revoked      bool
	failure      wire.Outcome
}

func newModel(silent bool, fence uint64) *model {
	return &model{silent: silent, fence: fence, sessions: map[uint64]*modelSession{}, keys: map[string]*modelKey{}}
}

func (m *model) apply(index, term uint64, e Entry) *Result {
	m.index, m.term, m.wall = index, term, e.Wall
	m.res = &Result{Index: index, Term: term}
	for _, c := range e.Commands {
		m.res.Replies = append(m.res.Replies, m.command(c))
	}
	return m.res
}

func (m *model) command(c Command) Reply {
	switch c := c.(type) {
	case Ops:
		ses := m.sessions[c.Session]
		if ses == nil {
			return Reply{Code: wire.CodeGone}
		}
		for _, o := range c.Ops {
			m.op(c.Session, ses, o)
		}
	case Create:
		return m.create(c.CreateSession)
	case Close:
		if m.sessions[c.Session] == nil {
			return Reply{Code: wire.CodeGone}
		}
		m.endSession(c.Session)
	case Expire:
		if ses := m.sessions[c.Session]; ses == nil || c.Term != m.term || c.Seen != ses.renewed {
			return Reply{Code: wire.CodeStale}
		}
		m.endSession(c.Session)
	case EndSilence:
		if !m.silent || c.Term != m.term {
			return Reply{Code: wire.CodeStale}
		}
		m.silent = false
		m.grantAll()
	}
	return Reply{}
}

func (m *model) tell(session uint64, o wire.Outcome) {
	m.res.Outcomes = append(m.res.Outcomes, Routed{session, o})
}

func (m *model) key(key string) *modelKey {
	if m.keys[key] == nil {
		m.keys[key] = &modelKey{}
	}
	return m.keys[key]
}

func (m *model) op(id uint64, ses *modelSession, o wire.Op) {
	r := ses.requests[o.Seq]
	fresh := !ses.seen[o.Seq]
	switch o.Kind {
	case wire.OpAcquire, wire.OpForce:
		ses.seen[o.Seq] = true
		if !fresh {
			if r != nil {
				m.repeat(r)
			}
			return
		}
		r = &modelRequest{session: id, seq: o.Seq, key: o.Key, since: m.wall}
		ses.requests[o.Seq] = r
		k := m.key(o.Key)
		switch {
		case o.Kind == wire.OpForce && k.holder == nil:
			m.fail(r, wire.CodeNotHeld, "nobody holds it")
		case o.Kind == wire.OpForce:
			r.now = "forcing"
			k.forces = append(k.forces, r)
			if !k.holder.revoked {
				k.holder.revoked = true
				m.tell(k.holder.session, m.revocation(k.holder))
			}
		case o.Try && m.silent && k.holder == nil:
			m.fail(r, wire.CodeHeld, "nothing is granted yet: holders from before the cluster lost its state may be alive")
		case o.Try && k.holder != nil:
			m.fail(r, wire.CodeHeld, fmt.Sprintf("held by %q (fence %d) since %s, %d waiting", m.sessions[k.holder.session].who.Name,
				k.holder.fence, time.UnixMicro(k.holder.since).UTC().Format(time.RFC3339), len(k.queue)))
		default:
			r.now = "waiting"
			k.queue = append(k.queue, r)
			m.grantAll()
		}
	case wire.OpFinish:
		ses.seen[o.Seq] = true
		m.tell(id, wire.Outcome{Kind: wire.OutEnded, Seq: o.Seq})
		if r != nil {
			m.drop(r)
			m.grantAll()
		}
	case wire.OpConfirm:
		if r != nil && r.now == "granted" && r.revoked {
			m.drop(r)
			m.grantAll()
		}
	case wire.OpForget:
		if fresh {
			ses.seen[o.Seq] = true
		} else if r != nil && r.now != "waiting" && r.now != "granted" {
			m.drop(r)
		}
	}
}

func (m *model) fail(r *modelRequest, code wire.Code, text string) {
	r.now, r.failure = "failed", wire.Outcome{Kind: wire.OutFailed, Seq: r.seq, Code: code, Text: text}
	m.repeat(r)
}

func (m *model) revocation(r *modelRequest) wire.Outcome {
	return wire.Outcome{Kind: wire.OutRevoked, Seq: r.seq, Fence: r.fence, Since: r.since, Code: wire.CodeForced}
}

func (m *model) repeat(r *modelRequest) {
	switch r.now {
	case "granted":
		m.tell(r.session, wire.Outcome{Kind: wire.OutGranted, Seq: r.seq, Fence: r.fence, Since: r.since})
		if r.revoked {
			m.tell(r.session, m.revocation(r))
		}
	case "failed":
		m.tell(r.session, r.failure)
	case "settled":
		m.tell(r.session, wire.Outcome{Kind: wire.OutSettled, Seq: r.seq})
	}
}

// drop takes a request out of everything, and grants nothing.
func (m *model) drop(r *modelRequest) {
	delete(m.sessions[r.session].requests, r.seq)
	k := m.key(r.key)
	same := func(o *modelRequest) bool { return o == r }
	k.queue = slices.DeleteFunc(k.queue, same)
	k.forces = slices.DeleteFunc(k.forces, same)
	if k.holder == r {
		k.holder = nil
	}
}

// grantAll settles and grants whatever can be, key by key.
func (m *model) grantAll() {
	keys := make([]string, 0, len(m.keys))
	for key := range m.keys {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		k := m.keys[key]
		if k.holder != nil {
			continue
		}
		for _, r := range k.forces {
			r.now = "settled"
			m.repeat(r)
		}
		k.forces = nil
		if len(k.queue) > 0 && !m.silent {
			r := k.queue[0]
			k.holder, k.queue = r, k.queue[1:]
			m.fence++
			r.now, r.fence, r.since = "granted", m.fence, m.wall
			m.repeat(r)
		}
	}
}

func (m *model) named(name string) (uint64, *modelSession) {
	for id, ses := range m.sessions {
		if ses.who.Name == name {
			return id, ses
		}
	}
	return 0, nil
}

func (m *model) create(c wire.CreateSession) Reply {
	if id, ses := m.named(c.Name); ses != nil && ses.who.Nonce == c.Nonce {
		ses.renewed = m.index
		m.res.Created = append(m.res.Created, id)
		return Reply{Session: id}
	}
	if old := m.sessions[c.Previous]; old != nil && old.who.Instance == c.Instance {
		m.endSession(c.Previous)
	}
	if id, old := m.named(c.Name); old != nil {
		if old.who.Instance == c.Instance || !c.Proof.ProvesDead(old.who.Proof) {
			return Reply{Code: wire.CodeNameTaken, Session: id, Text: fmt.Sprintf("the session of a process named %q lives", c.Name)}
		}
		if old.who.Server != c.Server {
			m.dead = append(slices.DeleteFunc(m.dead, func(u wire.UUID) bool { return u == old.who.Server }), old.who.Server)
		}
		m.endSession(id)
	}
	m.dead = slices.DeleteFunc(m.dead, func(u wire.UUID) bool { return u == c.Server })
	m.lastSession++
	m.sessions[m.lastSession] = &modelSession{who: c, renewed: m.index, seen: map[uint64]bool{}, requests: map[uint64]*modelRequest{}}
	m.res.Created = append(m.res.Created, m.lastSession)
	return Reply{Session: m.lastSession}
}

func (m *model) endSession(id uint64) {
	for _, r := range m.sessions[id].requests {
		m.drop(r)
	}
	delete(m.sessions, id)
	m.res.Ended = append(m.res.Ended, id)
	m.grantAll()
}

// dump is the model's state as dump(View) shows it, without what only the machine counts.
func (m *model) dump() string {
	var out strings.Builder
	ids := make([]uint64, 0, len(m.sessions))
	for id := range m.sessions {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		ses, revoked := m.sessions[id], 0
		for _, r := range ses.requests {
			if r.revoked && r.now == "granted" {
				revoked++
			}
		}
		fmt.Fprintf(&out, "session %d %q, renewed %d, %d requests, %d revoked\n", id, ses.who.Name, ses.renewed, len(ses.requests), revoked)
	}
	keys := make([]string, 0, len(m.keys))
	for key := range m.keys {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		k := m.keys[key]
		if k.holder == nil && len(k.queue) == 0 {
			continue
		}
		fmt.Fprintf(&out, "key %q", key)
		if h := k.holder; h != nil {
			fmt.Fprintf(&out, " held by %q %d/%d, fence %d", m.sessions[h.session].who.Name, h.session, h.seq, h.fence)
			if h.revoked {
				out.WriteString(", revoked")
			}
		}
		for _, w := range k.queue {
			fmt.Fprintf(&out, "; %q %d/%d waits", m.sessions[w.session].who.Name, w.session, w.seq)
		}
		out.WriteString("\n")
	}
	for _, d := range m.dead {
		fmt.Fprintf(&out, "dead %s\n", showID(d))
	}
	return out.String()
}
