package raftfsm

import (
	"fmt"
	"strconv"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// ops applies a session's operations in order.
func (m *machine) ops(c Ops) Reply {
	ses := m.session(c.Session)
	if ses == nil {
		return Reply{Code: wire.CodeGone}
	}
	ses = m.ownSession(ses) // good for all of them: gen is not raised within an entry
	for _, o := range c.Ops {
		switch o.Kind {
		case wire.OpAcquire:
			m.acquire(ses, o)
		case wire.OpFinish:
			m.finish(ses, o.Seq)
		case wire.OpConfirm:
			m.letGo(ses, o.Seq)
		case wire.OpForce:
			m.force(ses, o)
		case wire.OpForget:
			m.forget(ses, o.Seq)
		}
	}
	return Reply{}
}

// begin says whether o begins a request. Of a request that lives it repeats the answer; of one that is finished it says nothing:
// a copy that comes late must neither get a second grant nor be taken for a new request.
func (m *machine) begin(ses *session, o wire.Op) bool {
	if o.Seq < ses.next {
		if r := m.request(ses.id, o.Seq); r != nil {
			m.repeat(r)
			return false
		}
		if !m.inGap(ses, o.Seq) {
			return false
		}
	}
	// A refusal that can't be remembered must leave the number unseen: else a copy would meet silence.
	if ses.requests >= 2*MaxRequests {
		m.tell(ses.id, tooManyRequests(o.Seq))
		return false
	}
	if !m.see(ses, o.Seq) {
		m.tell(ses.id, tooManyGaps(o.Seq))
		return false
	}
	return true
}

// record keeps a request that has just begun.
func (m *machine) record(ses *session, o wire.Op, state requestState) *request {
	r := &request{gen: m.gen, session: ses.id, seq: o.Seq, key: o.Key, since: m.wall, state: state}
	m.requests.ReplaceOrInsert(r)
	ses.requests++
	return r
}

// refuse records a failure and tells of it.
func (m *machine) refuse(ses *session, o wire.Op, code wire.Code, text string) {
	r := m.record(ses, o, failed)
	r.key = "" // nobody asks a failure for its key
	m.fail(r, code, text)
}

func (m *machine) fail(r *request, code wire.Code, text string) {
	if len(text) > wire.MaxText {
		text = text[:wire.MaxText]
	}
	r.state, r.code, r.text, r.ticket, r.since = failed, code, &text, 0, m.wall
	m.repeat(r)
}

// repeat tells what has become of a live request so far.
func (m *machine) repeat(r *request) {
	switch r.state {
	case granted:
		m.tell(r.session, wire.Outcome{Kind: wire.OutGranted, Seq: r.seq, Fence: r.fence, Since: r.since})
		if r.revoked {
			m.tell(r.session, revocation(r))
		}
	case failed:
		m.tell(r.session, wire.Outcome{Kind: wire.OutFailed, Seq: r.seq, Code: r.code, Text: *r.text})
	case settled:
		m.tell(r.session, wire.Outcome{Kind: wire.OutSettled, Seq: r.seq})
	}
}

func revocation(r *request) wire.Outcome {
	return wire.Outcome{Kind: wire.OutRevoked, Seq: r.seq, Fence: r.fence, Since: r.since, Code: r.code}
}

// acquire grants a key that is free, or puts the request into its queue.
func (m *machine) acquire(ses *session, o wire.Op) {
	if !m.begin(ses, o) {
		return
	}
	l := m.lock(o.Key)
	switch {
	case ses.requests >= MaxRequests:
		m.refuse(ses, o, wire.CodeLimit, fmt.Sprintf("%d requests of one session (MaxRequests)", MaxRequests))
	case m.granting() && l == nil:
		if m.fence+1 >= fenceEnd {
			m.refuse(ses, o, wire.CodeLimit, fencesUsedUp)
			return
		}
		l = &lock{gen: m.gen, key: o.Key}
		m.locks.ReplaceOrInsert(l)
		m.grant(m.record(ses, o, waiting), l)
	case o.Try:
		m.refuse(ses, o, wire.CodeHeld, m.whyNotFree(l))
	case l != nil && l.waiters >= MaxWaiters:
		m.refuse(ses, o, wire.CodeLimit, fmt.Sprintf("%d waiters of one key (MaxWaiters)", MaxWaiters))
	default:
		m.enqueue(m.record(ses, o, waiting))
	}
}

func (m *machine) enqueue(r *request) {
	m.lastTicket++
	r.ticket = m.lastTicket
	m.queue.ReplaceOrInsert(r)
	m.lockFor(r.key).waiters++
}

const fencesUsedUp = "all fences below 2^53 are used up"

// grant gives l, which is free, to r, which is in no queue. Both may be changed in place.
func (m *machine) grant(r *request, l *lock) {
	m.fence++
	m.grants++
	m.holders++
	r.state, r.fence, r.since, r.ticket = granted, m.fence, m.wall, 0
	l.session, l.seq = r.session, r.seq
	m.repeat(r)
}

// grantNext settles the forces of l, which has just become free, and gives it to its first waiter; if there is none it goes. l may be
// changed in place.
func (m *machine) grantNext(l *lock) {
	for l.forces > 0 {
		m.settle(first(m.forces, l.key))
		l.forces--
	}
	for l.waiters > 0 && m.granting() {
		r := first(m.queue, l.key)
		m.queue.Delete(r)
		l.waiters--
		r = m.ownRequest(r)
		if m.fence+1 >= fenceEnd {
			m.fail(r, wire.CodeLimit, fencesUsedUp)
			continue
		}
		m.grant(r, l)
		return
	}
	if l.waiters == 0 {
		m.locks.Delete(l)
	}
}

// settle ends a force: the grant that it was for has ended.
func (m *machine) settle(r *request) {
	m.forces.Delete(r)
	r = m.ownRequest(r)
	r.state, r.since, r.ticket = settled, m.wall, 0
	m.repeat(r)
}

// finish ends a request whatever it is, also one that has not come yet.
func (m *machine) finish(ses *session, seq uint64) {
	var r *request
	if seq < ses.next {
		r = m.takeRequest(ses.id, seq)
	}
	if r == nil && !m.see(ses, seq) {
		m.tell(ses.id, tooManyGaps(seq)) // OutEnded would be a lie: the request may still come and be granted
		return
	}
	m.tell(ses.id, wire.Outcome{Kind: wire.OutEnded, Seq: seq})
	if r != nil {
		ses.requests--
		m.end(ses, r)
	}
}

// letGo ends a revoked grant by its holder's word.
func (m *machine) letGo(ses *session, seq uint64) {
	if r := m.request(ses.id, seq); r != nil && r.state == granted && r.revoked {
		m.requests.Delete(r)
		ses.requests--
		m.end(ses, r)
	}
}

// forget ends a request that holds and waits for nothing.
func (m *machine) forget(ses *session, seq uint64) {
	if seq < ses.next {
		if r := m.request(ses.id, seq); r != nil {
			if r.state != waiting && r.state != granted {
				m.requests.Delete(r)
				ses.requests--
				m.end(ses, r)
			}
			return
		}
	}
	m.see(ses, seq) // where it can't be, the session has been told so by what it forgets
}

// end undoes what r, which is no longer among the requests, has or waits for.
func (m *machine) end(ses *session, r *request) {
	switch r.state {
	case waiting:
		m.leaveQueue(r)
	case granted:
		if r.revoked {
			ses.revoked--
		}
		m.holders--
		m.releases++
		m.vacate(r.key)
	case forcing:
		m.forces.Delete(r)
		m.ownLock(m.lock(r.key)).forces--
	}
}

// leaveQueue takes a waiter out of its queue.
func (m *machine) leaveQueue(r *request) {
	m.queue.Delete(r)
	l := m.ownLock(m.lock(r.key))
	l.waiters--
	if l.waiters == 0 && !l.held() && l.forces == 0 {
		m.locks.Delete(l)
	}
}

// vacate makes a held key free and grants it to the next.
func (m *machine) vacate(key string) {
	l := m.lock(key)
	if l.waiters == 0 && l.forces == 0 {
		m.locks.Delete(l)
		return
	}
	l = m.ownLock(l)
	l.session, l.seq = 0, 0
	m.grantNext(l)
}

// force revokes the grant of a key, whoever has it.
func (m *machine) force(ses *session, o wire.Op) {
	if !m.begin(ses, o) {
		return
	}
	l := m.lock(o.Key)
	switch {
	case ses.requests >= MaxRequests:
		m.refuse(ses, o, wire.CodeLimit, fmt.Sprintf("%d requests of one session (MaxRequests)", MaxRequests))
		return
	case l == nil || !l.held():
		m.refuse(ses, o, wire.CodeNotHeld, "nobody holds it")
		return
	case l.forces >= MaxWaiters:
		m.refuse(ses, o, wire.CodeLimit, fmt.Sprintf("%d forces of one grant (MaxWaiters)", MaxWaiters))
		return
	}
	r := m.record(ses, o, forcing)
	m.lastTicket++
	r.ticket = m.lastTicket
	m.forces.ReplaceOrInsert(r)
	l = m.ownLock(l)
	l.forces++
	m.revoke(m.request(l.session, l.seq), wire.CodeForced)
}

// revoke tells the holder of a grant to let go. The grant goes on until it says that it has, or its session ends.
func (m *machine) revoke(r *request, code wire.Code) {
	if r.revoked {
		return
	}
	r = m.ownRequest(r)
	r.revoked, r.code = true, code
	m.ownSession(m.session(r.session)).revoked++
	m.tell(r.session, revocation(r))
}

// whyNotFree says for people why a key is not free at once. l is nil when it is idle.
func (m *machine) whyNotFree(l *lock) string {
	if l == nil || !l.held() {
		return "nothing is granted yet: holders from before the cluster lost its state may be alive"
	}
	r := m.request(l.session, l.seq)
	p := append(make([]byte, 0, 128), "held by "...)
	p = strconv.AppendQuote(p, m.session(l.session).who.Name)
	p = append(p, " (fence "...)
	p = strconv.AppendUint(p, r.fence, 10)
	p = append(p, ") since "...)
	p = time.UnixMicro(r.since).UTC().AppendFormat(p, time.RFC3339)
	p = append(p, ", "...)
	p = strconv.AppendUint(p, uint64(l.waiters), 10)
	return string(append(p, " waiting"...))
}

func tooManyRequests(seq uint64) wire.Outcome {
	return wire.Outcome{
		Kind: wire.OutFailed, Seq: seq, Code: wire.CodeLimit,
		Text: fmt.Sprintf("%d requests of one session (twice MaxRequests)", 2*MaxRequests),
	}
}

func tooManyGaps(seq uint64) wire.Outcome {
	return wire.Outcome{
		Kind: wire.OutFailed, Seq: seq, Code: wire.CodeLimit,
		Text: fmt.Sprintf("%d gaps in the sequence numbers of one session (MaxGaps)", MaxGaps),
	}
}
