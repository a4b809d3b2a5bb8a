package raftfsm

import (
	"errors"
	"fmt"
	"math"

	"github.com/godistlock/distlock/internal/wire"
)

// How a state is built of the items of a snapshot; save.go writes them.

func decodeUUIDs(r *wire.Reader, limit int) []wire.UUID {
	var ids []wire.UUID
	for range r.Array(limit) {
		ids = append(ids, r.UUID())
	}
	return ids
}

func decodeMore(r *wire.Reader) *more {
	n := r.Array(15)
	if n == 0 {
		return nil
	}
	if n != 15 {
		r.Fail("%d fields of what a request has beyond others", n)
	}
	x := &more{}
	for range r.Array(wire.MaxKeys) {
		x.keys = append(x.keys, r.String(wire.MaxKey))
	}
	x.limit, x.owner = uint32(number(r, wire.MaxUnits)), r.Uint()
	x.ttl, x.cooldown = duration(r), duration(r)
	x.value, x.where, x.adopted = r.Blob(wire.MaxValue), r.String(wire.MaxWhere), r.Bool()
	x.detached = duration(r)
	x.timer = timer{left: duration(r), armed: r.Uint(), nth: r.Uint()}
	x.origin, x.nonce = wire.Origin{Session: r.Uint(), Seq: r.Uint()}, r.UUID()
	return x
}

// duration reads ms.
func duration(r *wire.Reader) int64 { return int64(number(r, wire.MaxTime)) }

// maxCount is more sessions or tickets than there can ever be: a count beyond it could overflow.
const maxCount = 1 << 62

// header says how many items follow it.
type header struct{ sessions, gaps, requests int }

// loader builds a state of a snapshot's items. They come in order, so that what breaks it is found at once.
type loader struct {
	state
	lastGap     gap
	lastRequest *request
	forced      []*request // what revoked grants
	same        sameMore
}

func (l *loader) header(r *wire.Reader) (header, error) {
	n := r.Array(64)
	version := r.Uint()
	switch {
	case r.Err() != nil:
		return header{}, r.Err()
	case version > Version:
		return header{}, versionError("snapshot", version)
	case version == 0 || n != headerFields(version):
		r.Fail("header of version %d with %d fields", version, n)
	}
	l.format = version
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
	if version >= 3 {
		l.slot = slot{server: r.UUID(), at: r.Uint()}
	}
	if version >= 4 {
		l.bindings = decodeBindings(r)
	}
	switch {
	case l.slot.server.IsZero() != (l.slot.at == 0) || l.slot.at > l.index:
		r.Fail("server %v took the leaving slot at %d", l.slot.server, l.slot.at)
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
	fields, states := 13, cooling
	if l.format == 1 {
		fields, states = 10, settled
	}
	if n := in.Array(13); n != fields {
		in.Fail("request with %d fields", n)
	}
	r := &request{
		session: in.Uint(), seq: in.Uint(), key: in.String(wire.MaxKey), ticket: in.Uint(), fence: in.Uint(), since: in.Int(),
		state: requestState(number(in, int(states))), revoked: in.Bool(), code: wire.Code(number(in, math.MaxUint8)),
	}
	text := in.String(wire.MaxText)
	if l.format > 1 {
		r.mode, r.weight, r.more = wire.Mode(number(in, int(wire.Units))), uint32(number(in, wire.MaxUnits)), l.same.of(decodeMore(in))
	} else if r.state == forcing {
		r.fence = l.fence // not written; see check
	}
	switch {
	case r.state == failed && r.more == nil:
		r.more = &more{text: text}
	case r.state == failed || text != "":
		in.Fail("a text, or more, where it does not belong")
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
	last := l.lastRequest
	if last != nil && (r.session < last.session || r.session == last.session && r.seq <= last.seq) {
		return errors.New("out of order")
	}
	ses, ok := l.sessions.Get(&session{id: r.session})
	switch {
	case r.session == nobody:
		ok = r.seq > 0 && r.seq <= l.lastTicket && !r.revoked && (r.state == cooling || r.state == granted && r.more != nil && r.more.detached > 0)
	case ok:
		_, unseen := l.gapOf(ses, r.seq)
		ok = r.seq > 0 && r.seq < ses.next && !unseen && r.state != cooling
		if ses.requests++; ses.requests > 2*MaxRequests {
			return fmt.Errorf("more than %d", 2*MaxRequests)
		}
	}
	if !ok {
		return errors.New("no such session, or not seen by it")
	}
	l.requests.ReplaceOrInsert(r)
	l.lastRequest = r
	if err := r.consistent(l.fence, l.lastTicket); err != nil {
		return err
	}
	if r.revoked {
		ses.revoked++
	}
	return l.place(r)
}

// consistent says what of r contradicts itself.
func (r *request) consistent(lastFence, lastTicket uint64) error {
	held := r.state == granted || r.state == cooling
	queued := r.state == waiting || r.state.revokes()
	units := r.mode == wire.Units
	switch {
	case r.state < waiting,
		queued != (r.ticket > 0) || r.ticket > lastTicket,
		(held || r.state.revokes()) != (r.fence > 0) || r.fence > lastFence,
		r.revoked && r.state != granted,
		(r.revoked || r.state == failed) != (r.code != wire.CodeOK),
		(queued || held) && r.key == "",
		units != (r.weight > 0) || units != (r.limit() > 0) || r.weight > r.limit(),
		!held && r.state != waiting && (r.mode != wire.Exclusive || r.more != nil && !r.more.plain()):
		return errors.New("its fields contradict each other")
	case r.more == nil:
		return nil
	}
	return r.more.consistent(r)
}

func (x *more) consistent(r *request) error {
	for i, k := range x.keys {
		if i == 0 && (k != r.key || len(x.keys) == 1) || i > 0 && k <= x.keys[i-1] {
			return errors.New("its keys don't ascend")
		}
	}
	held := r.state == granted || r.state == cooling
	runs := x.timer.armed > 0
	switch {
	case x.owner > wire.MaxSeq, x.origin.IsZero() != x.nonce.IsZero(), (x.origin.Session == 0) != (x.origin.Seq == 0),
		x.adopted && x.origin.IsZero(), !x.origin.IsZero() && r.state != granted,
		runs != (x.timer.left > 0), !runs && x.timer.nth > 0, runs && !held,
		runs && r.state == granted && x.detached == 0,
		r.state == cooling && (!runs || x.cooldown == 0 || x.detached > 0),
		r.session == nobody && (!runs || r.state == granted && x.origin.IsZero()):
		return errors.New("what it has beyond others contradicts the rest")
	}
	return nil
}

// place puts a request where its state says.
func (l *loader) place(r *request) error {
	switch {
	case r.state == waiting:
		for _, key := range r.keys() {
			at := place{key, r.ticket, r.session, r.seq}
			if _, twice := l.queue.ReplaceOrInsert(at); twice {
				return errors.New("a place in the queue twice")
			}
			if r.together() {
				l.tied.ReplaceOrInsert(at)
			}
			k, err := l.lock(key, r.limit())
			if err != nil {
				return err
			}
			k.waiters++
		}
		l.waits.ReplaceOrInsert(wait{r.session, r.owner(), r.seq})
	case r.state.revokes():
		if _, twice := l.forces.ReplaceOrInsert(place{r.key, r.ticket, r.session, r.seq}); twice {
			return errors.New("a place among the forces twice")
		}
		l.forced = append(l.forced, r)
	case r.state == granted || r.state == cooling:
		return l.holder(r)
	}
	return nil
}

func (l *loader) holder(r *request) error {
	for _, key := range r.keys() {
		k, err := l.lock(key, r.limit())
		switch {
		case err != nil:
			return err
		case !k.fits(r):
			return errors.New("two holders of one key")
		}
		k.holders++
		k.mode = r.mode
		if r.mode == wire.Exclusive {
			k.session, k.seq = r.session, r.seq
		} else {
			k.used += r.weight
			if _, twice := l.holds.ReplaceOrInsert(place{key, r.fence, r.session, r.seq}); twice {
				return errors.New("a fence twice")
			}
		}
		if r.state == granted {
			l.holders++
		}
	}
	if r.more == nil {
		return nil
	}
	if r.more.owner != 0 {
		l.owned.ReplaceOrInsert(wait{r.session, r.more.owner, r.seq})
	}
	if r.more.timer.armed > 0 {
		if _, twice := l.timers.ReplaceOrInsert(place{r.key, r.fence, r.session, r.seq}); twice {
			return errors.New("a time twice")
		}
	}
	if o := r.more.origin; !o.IsZero() {
		if _, twice := l.moves.ReplaceOrInsert(move{o, r.session, r.seq}); twice {
			return errors.New("an origin twice")
		}
	}
	return nil
}

// lock finds or makes the lock of key, of the kind that limit says.
func (l *loader) lock(key string, limit uint32) (*lock, error) {
	k, ok := l.locks.Get(&lock{key: key})
	if !ok {
		k = &lock{key: key, limit: limit}
		l.locks.ReplaceOrInsert(k)
	}
	if k.limit != limit {
		return nil, errors.New("a key of two kinds")
	}
	return k, nil
}

// check looks at what only a whole state can tell.
func (l *loader) check() (err error) {
	for _, r := range l.forced {
		k, ok := l.locks.Get(&lock{key: r.key})
		if ok && l.format == 1 {
			l.eachHolder(k, func(h *request) bool {
				r.fence = h.fence
				return true
			})
		}
		if !ok || !l.awaitsRevoked(k, r) {
			return fmt.Errorf("key %q has forces but no revoked grant", r.key)
		}
		k.forces++
	}
	l.locks.Ascend(func(k *lock) bool {
		if k.waiters > MaxWaiters || k.forces > MaxWaiters {
			err = fmt.Errorf("key %q has %d waiters", k.key, k.waiters)
		}
		if p, ok := next(l.queue, k.key, 0); ok && l.granting() {
			if r := l.at(p); !r.together() && k.fits(r) {
				err = fmt.Errorf("key %q has room but waiters", k.key)
			}
		}
		return err == nil
	})
	return err
}

// awaitsRevoked says that one of the grants that r waits for is there, and revoked.
func (l *loader) awaitsRevoked(k *lock, r *request) (found bool) {
	l.eachHolder(k, func(h *request) bool {
		found = h.state == granted && h.revoked && (h.fence == r.fence || r.state == forcing && h.fence < r.fence)
		return !found
	})
	return found
}
