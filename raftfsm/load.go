package raftfsm

import (
	"errors"
	"fmt"
	"math"

	"github.com/godistlock/distlock/internal/wire"
)

// How the state's items are written to a snapshot, and how a state is built of them.

func (s *state) encodeHeader(w *wire.Writer) {
	w.Array(21)
	w.Uint(Version)
	w.Uint(s.index)
	w.Uint(s.term)
	w.UUID(s.cluster)
	w.Int(int64(s.expect))
	w.Int(int64(s.voters))
	w.Bool(s.open)
	w.Bool(s.silent)
	w.Bool(s.dissolved)
	w.Int(s.clock)
	encodeUUIDs(w, s.founders)
	w.Uint(s.fence)
	w.Uint(s.lastSession)
	w.Uint(s.lastTicket)
	encodeUUIDs(w, s.dead)
	w.Uint(s.grants)
	w.Uint(s.releases)
	w.Uint(s.expirations)
	w.Int(int64(s.sessions.Len()))
	w.Int(int64(s.gaps.Len()))
	w.Int(int64(s.requests.Len()))
}

func encodeUUIDs(w *wire.Writer, ids []wire.UUID) {
	w.Array(len(ids))
	for _, id := range ids {
		w.UUID(id)
	}
}

func decodeUUIDs(r *wire.Reader, limit int) []wire.UUID {
	var ids []wire.UUID
	for range r.Array(limit) {
		ids = append(ids, r.UUID())
	}
	return ids
}

func (ses *session) encode(w *wire.Writer) {
	w.Array(4)
	w.Uint(ses.id)
	w.Uint(ses.next)
	w.Uint(ses.renewed)
	ses.who.Encode(w)
}

func (g gap) encode(w *wire.Writer) {
	w.Array(3)
	w.Uint(g.session)
	w.Uint(g.from)
	w.Uint(g.to)
}

func (r *request) encode(w *wire.Writer) {
	w.Array(10)
	w.Uint(r.session)
	w.Uint(r.seq)
	w.String(r.key)
	w.Uint(r.ticket)
	w.Uint(r.fence)
	w.Int(r.since)
	w.Uint(uint64(r.state))
	w.Bool(r.revoked)
	w.Uint(uint64(r.code))
	text := ""
	if r.text != nil {
		text = *r.text
	}
	w.String(text)
}

// maxCount is more sessions or tickets than there can ever be: a count beyond it could overflow.
const maxCount = 1 << 62

// header says how many items follow it.
type header struct{ sessions, gaps, requests int }

// loader builds a state of a snapshot's items. They come in order, so that what breaks it is found at once.
type loader struct {
	state
	lastGap     gap
	lastRequest *request
}

func (l *loader) header(r *wire.Reader) (header, error) {
	n := r.Array(64)
	version := r.Uint()
	switch {
	case r.Err() != nil:
		return header{}, r.Err()
	case version > Version:
		return header{}, versionError("snapshot", version)
	case version == 0 || n != 21:
		r.Fail("header of version %d with %d fields", version, n)
	}
	l.index = r.Uint()
	l.term = r.Uint()
	l.cluster = r.UUID()
	l.expect = number(r, MaxExpect)
	l.voters = number(r, MaxVoters)
	l.open = r.Bool()
	l.silent = r.Bool()
	l.dissolved = r.Bool()
	l.clock = r.Int()
	l.founders = decodeUUIDs(r, MaxExpect)
	l.fence = r.Uint()
	l.lastSession = r.Uint()
	l.lastTicket = r.Uint()
	l.dead = decodeUUIDs(r, MaxDead)
	l.grants = r.Uint()
	l.releases = r.Uint()
	l.expirations = r.Uint()
	h := header{sessions: number(r, MaxSessions), gaps: number(r, math.MaxInt32), requests: number(r, math.MaxInt32)}
	switch {
	case l.clock < 0 || l.clock > maxClock || l.fence >= fenceEnd:
		r.Fail("clock %d, fence %d", l.clock, l.fence)
	case l.lastSession > maxCount || l.lastTicket > maxCount:
		r.Fail("session %d, ticket %d", l.lastSession, l.lastTicket)
	case l.dissolved && (l.open || l.cluster.IsZero()):
		r.Fail("dissolved, and open or not founded")
	case l.open && (l.cluster.IsZero() || len(l.founders) > 0) || !l.open && h.sessions > 0:
		r.Fail("open %v with %d sessions, %d founders", l.open, h.sessions, len(l.founders))
	}
	return h, r.End()
}

func (l *loader) session(r *wire.Reader) error {
	if n := r.Array(4); n != 4 {
		r.Fail("session with %d fields", n)
	}
	ses := &session{id: r.Uint(), next: r.Uint(), renewed: r.Uint()}
	who := wire.DecodeCreateSession(r)
	ses.who = &who
	if err := r.Err(); err != nil {
		return err
	}
	if last, ok := l.sessions.Max(); ok && ses.id <= last.id || ses.id == 0 || ses.id > l.lastSession || ses.next == 0 || ses.next > wire.MaxSeq+1 {
		return fmt.Errorf("session %d out of order", ses.id)
	}
	if l.names.Has(ses) {
		return fmt.Errorf("two sessions named %q", who.Name)
	}
	l.sessions.ReplaceOrInsert(ses)
	l.names.ReplaceOrInsert(ses)
	return nil
}

func (l *loader) gap(r *wire.Reader) error {
	if n := r.Array(3); n != 3 {
		r.Fail("gap with %d fields", n)
	}
	g := gap{session: r.Uint(), from: r.Uint(), to: r.Uint()}
	if err := r.Err(); err != nil {
		return err
	}
	ses, ok := l.sessions.Get(&session{id: g.session})
	last := l.lastGap
	if !ok || g.from == 0 || g.from > g.to || g.to >= ses.next ||
		g.session < last.session || g.session == last.session && g.from <= last.to+1 {
		return fmt.Errorf("gap %d to %d of session %d", g.from, g.to, g.session)
	}
	if ses.gaps++; ses.gaps > MaxGaps {
		return fmt.Errorf("more than %d gaps of session %d", MaxGaps, ses.id)
	}
	l.gaps.ReplaceOrInsert(g)
	l.lastGap = g
	return nil
}

func (l *loader) request(in *wire.Reader) error {
	if n := in.Array(10); n != 10 {
		in.Fail("request with %d fields", n)
	}
	r := &request{
		session: in.Uint(), seq: in.Uint(), key: in.String(wire.MaxKey), ticket: in.Uint(), fence: in.Uint(), since: in.Int(),
		state: requestState(number(in, int(settled))), revoked: in.Bool(), code: wire.Code(number(in, math.MaxUint8)),
	}
	if text := in.String(wire.MaxText); r.state == failed {
		r.text = &text
	} else if text != "" {
		in.Fail("a text where none belongs")
	}
	if err := in.Err(); err != nil {
		return err
	}
	if err := l.add(r); err != nil {
		return fmt.Errorf("request %d of session %d: %w", r.seq, r.session, err)
	}
	return nil
}

// add puts a request into the trees where it belongs.
func (l *loader) add(r *request) error {
	ses, ok := l.sessions.Get(&session{id: r.session})
	last := l.lastRequest
	switch {
	case !ok:
		return errors.New("no such session")
	case last != nil && (r.session < last.session || r.session == last.session && r.seq <= last.seq):
		return errors.New("out of order")
	case r.seq == 0 || r.seq >= ses.next:
		return errors.New("not seen by its session")
	}
	if _, ok := l.gapOf(ses, r.seq); ok {
		return errors.New("not seen by its session")
	}
	if ses.requests++; ses.requests > 2*MaxRequests {
		return fmt.Errorf("more than %d", 2*MaxRequests)
	}
	l.requests.ReplaceOrInsert(r)
	l.lastRequest = r
	return l.place(ses, r)
}

// place puts a request where its state says, and refuses what that state can't have.
func (l *loader) place(ses *session, r *request) error {
	queued := r.state == waiting || r.state == forcing
	switch {
	case queued != (r.ticket > 0) || r.ticket > l.lastTicket,
		(r.state == granted) != (r.fence > 0) || r.fence > l.fence,
		r.revoked && r.state != granted,
		(r.revoked || r.state == failed) != (r.code != wire.CodeOK),
		(queued || r.state == granted) && r.key == "":
		return errors.New("its fields contradict each other")
	}
	switch r.state {
	case waiting:
		if _, twice := l.queue.ReplaceOrInsert(r); twice {
			return errors.New("a place in the queue twice")
		}
		l.lock(r.key).waiters++
	case forcing:
		if _, twice := l.forces.ReplaceOrInsert(r); twice {
			return errors.New("a place among the forces twice")
		}
		l.lock(r.key).forces++
	case granted:
		k := l.lock(r.key)
		if k.held() {
			return errors.New("two holders of one key")
		}
		k.session, k.seq = r.session, r.seq
		l.holders++
		if r.revoked {
			ses.revoked++
		}
	case failed, settled:
	default:
		return errors.New("in no state")
	}
	return nil
}

func (l *loader) lock(key string) *lock {
	if k, ok := l.locks.Get(&lock{key: key}); ok {
		return k
	}
	k := &lock{key: key}
	l.locks.ReplaceOrInsert(k)
	return k
}

// check looks at what only a whole state can tell.
func (l *loader) check() (err error) {
	l.locks.Ascend(func(k *lock) bool {
		switch {
		case !k.held() && l.granting():
			err = fmt.Errorf("key %q is free but has waiters", k.key)
		case k.waiters > MaxWaiters || k.forces > MaxWaiters:
			err = fmt.Errorf("key %q has %d waiters", k.key, k.waiters)
		case k.forces > 0 && !l.revoked(k):
			err = fmt.Errorf("key %q has forces but no revoked grant", k.key)
		}
		return err == nil
	})
	return err
}

func (l *loader) revoked(k *lock) bool {
	r, ok := l.requests.Get(&request{session: k.session, seq: k.seq})
	return ok && r.revoked
}
