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
	for i := range c.Ops {
		m.op(ses, &c.Ops[i])
		if len(m.dirty) > 0 {
			m.serveDirty()
		}
	}
	return Reply{}
}

func (m *machine) op(ses *session, o *wire.Op) {
	switch o.Kind {
	case wire.OpAcquire:
		m.acquire(ses, o)
	case wire.OpFinish:
		m.finish(ses, o.Seq, byRelease)
	case wire.OpConfirm:
		m.letGo(ses, o.Seq)
	case wire.OpForce:
		m.force(ses, o)
	case wire.OpForget:
		m.forget(ses, o.Seq)
	case wire.OpRequest:
		m.ask(ses, o)
	case wire.OpExpire:
		m.finish(ses, o.Seq, byExpiry)
	case wire.OpTime:
		m.setTime(ses, o)
	case wire.OpDowngrade:
		m.downgrade(ses, o.Seq)
	case wire.OpRelease:
		m.release(ses, o)
	case wire.OpAdopt:
		m.adopt(ses, o)
	}
}

// begin says whether o begins a request. Of a request that lives it repeats the answer; of one that is finished it says nothing:
// a copy that comes late must neither get a second grant nor be taken for a new request. But what an Only asks for may have been taken up and
// then ended by its time, and its process have heard of neither: it would ask for ever.
func (m *machine) begin(ses *session, o *wire.Op) bool {
	if o.Seq < ses.next {
		if r := m.request(ses.id, o.Seq); r != nil {
			m.repeat(r)
			return false
		}
		if !m.inGap(ses, o.Seq) {
			if o.Kind == wire.OpRequest && o.Ask.Only {
				m.tell(ses.id, wire.Outcome{Kind: wire.OutFailed, Seq: o.Seq, Code: wire.CodeNotHeld, Text: notThere})
			}
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
func (m *machine) record(ses *session, o *wire.Op, key string, state requestState) *request {
	r := &request{gen: m.gen, session: ses.id, seq: o.Seq, key: key, since: m.wall, state: state}
	m.requests.ReplaceOrInsert(r)
	ses.requests++
	return r
}

// refuse records a failure and tells of it.
func (m *machine) refuse(ses *session, o *wire.Op, code wire.Code, text string) {
	m.fail(m.record(ses, o, "", failed), code, text)
}

// fail makes r, which is in no queue and may be changed in place, one that failed.
func (m *machine) fail(r *request, code wire.Code, text string) {
	if len(text) > wire.MaxText {
		text = text[:wire.MaxText]
	}
	*r = request{gen: r.gen, session: r.session, seq: r.seq, since: m.wall, state: failed, code: code, more: &more{text: text}}
	m.repeat(r)
}

// repeat tells what has become of a live request so far.
func (m *machine) repeat(r *request) {
	switch r.state {
	case granted:
		o := wire.Outcome{Kind: wire.OutGranted, Seq: r.seq, Fence: r.fence, Since: r.since}
		if r.more != nil && r.more.adopted {
			o.Kind, o.Grant = wire.OutAdopted, r.grant()
		}
		m.tell(r.session, o)
		if r.revoked {
			m.tell(r.session, revocation(r))
		}
	case failed:
		m.tell(r.session, wire.Outcome{Kind: wire.OutFailed, Seq: r.seq, Code: r.code, Text: r.text()})
	case settled:
		m.tell(r.session, wire.Outcome{Kind: wire.OutSettled, Seq: r.seq})
	case waiting:
		m.tell(r.session, m.queued(r))
	}
}

func revocation(r *request) wire.Outcome {
	return wire.Outcome{Kind: wire.OutRevoked, Seq: r.seq, Fence: r.fence, Since: r.since, Code: r.code}
}

// grant is what an adopter must know of r.
func (r *request) grant() *wire.Grant {
	return &wire.Grant{Keys: r.keys(), Mode: r.mode, Limit: r.more.limit, Weight: r.weight, TTL: r.more.ttl}
}

// acquire grants a key that is free exclusively, or puts the request into its queue.
func (m *machine) acquire(ses *session, o *wire.Op) {
	if !m.begin(ses, o) {
		return
	}
	l := m.lock(o.Key)
	switch {
	case ses.requests >= MaxRequests:
		m.refuse(ses, o, wire.CodeLimit, tooManyInUse)
	case l == nil && m.granting():
		if m.fence+1 >= fenceEnd {
			m.refuse(ses, o, wire.CodeLimit, fencesUsedUp)
			return
		}
		l = &lock{gen: m.gen, key: o.Key}
		m.locks.ReplaceOrInsert(l)
		r := m.record(ses, o, o.Key, waiting)
		m.nextFence(r)
		m.hold(l, r)
		m.repeat(r)
	case l != nil && l.limit != 0:
		m.refuse(ses, o, wire.CodeInvalid, otherKind(l))
	case o.Try:
		m.refuse(ses, o, wire.CodeHeld, m.whyNotFree(l, nil))
	case l != nil && l.waiters >= MaxWaiters:
		m.refuse(ses, o, wire.CodeLimit, tooManyWaiters)
	default:
		m.enqueue(m.record(ses, o, o.Key, waiting))
	}
}

// ask grants what is free, or puts the request into the queues of its keys.
func (m *machine) ask(ses *session, o *wire.Op) {
	if !m.begin(ses, o) {
		return
	}
	a := o.Ask
	if !a.Origin.IsZero() {
		if g := m.byOrigin(a.Origin); g != nil && g.session == nobody && g.state == granted {
			m.takeUp(ses, o, g)
			return
		}
		if a.Only {
			m.refuse(ses, o, wire.CodeNotHeld, notThere)
			return
		}
	}
	if code, why := m.forbidden(ses, a); code != wire.CodeOK {
		m.refuse(ses, o, code, why)
		return
	}
	r := m.record(ses, o, a.Keys[0], waiting)
	r.mode, r.weight, r.more = a.Mode, a.Weight, m.shared.of(moreOf(a))
	blocked := m.blockedAt(r)
	switch {
	case blocked == "" && m.granting():
		m.grant(r)
	case o.Try:
		if blocked == "" {
			blocked = r.key
		}
		m.fail(r, wire.CodeHeld, m.whyNotFree(m.lock(blocked), r))
	default:
		m.enqueue(r)
	}
}

// moreOf is what a asks for beyond a key and a mode; nil where that is nothing.
func moreOf(a *wire.Ask) *more {
	x := &more{
		limit: a.Limit, ttl: a.TTL, cooldown: a.Cooldown, detached: a.Detached, value: a.Value, where: a.Where, owner: a.Owner,
	}
	if len(a.Keys) > 1 {
		x.keys = a.Keys
	}
	if x.keys == nil && x.limit == 0 && x.ttl|x.cooldown|x.detached == 0 && len(x.value) == 0 && x.where == "" && x.owner == 0 {
		return nil
	}
	return x
}

// sameMore lets requests that have nothing but the same limit share it: each would cost more than the rest of its request. The last one is kept.
type sameMore struct{ last *more }

func (s *sameMore) of(x *more) *more {
	if x == nil || x.keys != nil || x.ttl|x.cooldown|x.detached != 0 || x.value != nil || x.where != "" || x.owner != 0 || x.text != "" ||
		!x.origin.IsZero() || x.timer != (timer{}) || x.adopted || !x.nonce.IsZero() {
		return x
	}
	if s.last == nil || s.last.limit != x.limit {
		s.last = x
	}
	return s.last
}

// forbidden says why a is not even to wait.
func (m *machine) forbidden(ses *session, a *wire.Ask) (wire.Code, string) {
	switch {
	case ses.requests >= MaxRequests:
		return wire.CodeLimit, tooManyInUse
	case m.fence+1 >= fenceEnd:
		return wire.CodeLimit, fencesUsedUp
	}
	for _, key := range a.Keys {
		switch l := m.lock(key); {
		case l == nil:
		case l.limit != a.Limit:
			return wire.CodeInvalid, otherKind(l)
		case l.waiters >= MaxWaiters:
			return wire.CodeLimit, tooManyWaiters
		}
	}
	return wire.CodeOK, ""
}

// blockedAt is the first key at which r, which comes last, would have to wait; "" if there is none.
func (m *machine) blockedAt(r *request) string {
	for _, key := range r.keys() {
		if l := m.lock(key); l != nil && (l.waiters > 0 || !l.fits(r)) {
			return key
		}
	}
	return ""
}

const (
	fencesUsedUp = "all fences below 2^53 are used up"
	notThere     = "somebody ended it, or its time was up, while its process had no session"
)

var (
	tooManyInUse   = fmt.Sprintf("%d requests of one session (MaxRequests)", MaxRequests)
	tooManyWaiters = fmt.Sprintf("%d waiters of one key (MaxWaiters)", MaxWaiters)
)

func otherKind(l *lock) string {
	key := strconv.Quote(l.key)
	if l.limit == 0 {
		return key + " is in use as a lock, not as a semaphore; use another key, or the same kind everywhere"
	}
	return fmt.Sprintf("%s is in use as a semaphore of %d units (Limit); use another key, or the same Limit everywhere", key, l.limit)
}

// finish ends a request whatever it is, also one that has not come yet. why counts if it is a grant.
func (m *machine) finish(ses *session, seq uint64, why cause) {
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
		m.end(ses, r, why)
	}
}

// letGo ends a revoked grant by its holder's word.
func (m *machine) letGo(ses *session, seq uint64) {
	if r := m.request(ses.id, seq); r != nil && r.state == granted && r.revoked {
		m.requests.Delete(r)
		ses.requests--
		ses.revoked--
		m.conclude(ses, r, &m.releases)
	}
}

// forget ends a request that holds and waits for nothing.
func (m *machine) forget(ses *session, seq uint64) {
	if seq < ses.next {
		if r := m.request(ses.id, seq); r != nil {
			if r.state != waiting && r.state != granted {
				m.requests.Delete(r)
				ses.requests--
				m.end(ses, r, byRelease)
			}
			return
		}
	}
	m.see(ses, seq) // where it can't be, the session has been told so by what it forgets
}

// end undoes what r, which is no longer among the requests, has or waits for.
func (m *machine) end(ses *session, r *request, why cause) {
	switch {
	case r.state == waiting:
		m.event(evCancelled, r)
		m.leaveQueue(r)
	case r.state == granted:
		if r.revoked {
			ses.revoked--
		}
		if why == byExpiry {
			m.drop(r, why, &m.expirations)
		} else {
			m.drop(r, why, &m.releases)
		}
	case r.state.revokes():
		m.forces.Delete(place{key: r.key, at: r.ticket})
		m.ownLock(m.lock(r.key)).forces--
	}
}

// whyNotFree says for people why r can't have l now; l is nil when its key is idle, r when it wants it exclusively.
func (m *machine) whyNotFree(l *lock, r *request) string {
	if !m.granting() || l == nil {
		return "nothing is granted yet: holders from before the cluster lost its state may be alive"
	}
	p := m.text[:0]
	if r != nil && r.together() {
		p = strconv.AppendQuote(p, l.key)
		p = append(p, ": "...)
	}
	h := m.firstHolder(l)
	p = m.appendHolder(p, l, h)
	if h != nil {
		p = append(p, " since "...)
		p = time.UnixMicro(h.since).UTC().AppendFormat(p, time.RFC3339)
	}
	p = append(p, ", "...)
	p = strconv.AppendUint(p, uint64(l.waiters), 10)
	m.text = append(p, " waiting"...)
	return string(m.text)
}

// firstHolder is who has held l longest, nil if nobody holds it.
func (m *machine) firstHolder(l *lock) *request {
	if l.session != 0 {
		if h := m.request(l.session, l.seq); h.state != cooling {
			return h
		}
		return nil
	}
	var first *request
	m.eachHolder(l, func(h *request) bool {
		if h.state != cooling {
			first = h
		}
		return first == nil
	})
	return first
}

// appendHolder appends who holds l; h is the first of them.
func (m *machine) appendHolder(p []byte, l *lock, h *request) []byte {
	switch {
	case h != nil:
	case l.holders > 0:
		return append(p, "in cooldown after a holder was lost"...)
	default:
		return append(p, "free, but others wait for it"...)
	}
	if h.session == nobody || h.more != nil && h.more.detached > 0 {
		p = append(p, "held detached"...)
	} else {
		p = append(p, "held by "...)
		p = strconv.AppendQuote(p, m.member(h.session))
	}
	p = append(p, " (fence "...)
	p = strconv.AppendUint(p, h.fence, 10)
	if h.more != nil && h.more.where != "" {
		p = append(p, ", taken at "...)
		p = append(p, h.more.where...)
	}
	p = append(p, ')')
	if l.holders > 1 {
		p = append(p, " and "...)
		p = strconv.AppendUint(p, uint64(l.holders-1), 10)
		p = append(p, " more"...)
	}
	return p
}

// queued tells a waiter whom it waits for.
func (m *machine) queued(r *request) wire.Outcome {
	o := wire.Outcome{Kind: wire.OutQueued, Seq: r.seq}
	l := m.lock(r.key)
	p := m.text[:0]
	if r.together() { // the first key that it can't have
		for _, k := range r.more.keys {
			if at := m.lock(k); !at.fits(r) {
				l = at
				break
			}
		}
		p = strconv.AppendQuote(p, l.key)
		p = append(p, ": "...)
	}
	h := m.firstHolder(l)
	if h != nil {
		o.Fence, o.Since = h.fence, h.since
	}
	if m.granting() {
		p = m.appendHolder(p, l, h)
	} else {
		p = append(p, "nothing was granted yet"...)
	}
	p = append(p, ", "...)
	p = strconv.AppendUint(p, uint64(l.waiters-1), 10)
	p = append(p, " waiting before"...)
	m.text = p
	o.Text = string(p[:min(len(p), wire.MaxText)])
	return o
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
