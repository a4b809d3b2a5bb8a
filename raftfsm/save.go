package raftfsm

import "github.com/godistlock/distlock/internal/wire"

// How the state's items are written to a snapshot; load.go reads them.

func (s *state) encodeHeader(w *wire.Writer) {
	w.Array(headerFields(s.format))
	w.Uint(s.format)
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
	if s.format >= 3 {
		w.UUID(s.slot.server)
		w.Uint(s.slot.at)
	}
	if s.format >= 4 {
		encodeBindings(w, s.bindings)
	}
}

// headerFields says how many a format has: format 3 has the leaving slot beside those of the first, format 4 the bindings as well.
func headerFields(format uint64) int {
	switch {
	case format < 3:
		return 21
	case format == 3:
		return 23
	}
	return 24
}

func encodeUUIDs(w *wire.Writer, ids []wire.UUID) {
	w.Array(len(ids))
	for _, id := range ids {
		w.UUID(id)
	}
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

func (r *request) encode(w *wire.Writer, format uint64) {
	fence := r.fence
	if format == 1 {
		w.Array(10)
		if r.state != granted {
			fence = 0
		}
	} else {
		w.Array(13)
	}
	w.Uint(r.session)
	w.Uint(r.seq)
	w.String(r.key)
	w.Uint(r.ticket)
	w.Uint(fence)
	w.Int(r.since)
	w.Uint(uint64(r.state))
	w.Bool(r.revoked)
	w.Uint(uint64(r.code))
	w.String(r.text())
	if format == 1 {
		return
	}
	w.Uint(uint64(r.mode))
	w.Uint(uint64(r.weight))
	r.more.encode(w)
}

func (x *more) encode(w *wire.Writer) {
	if x == nil || x.plain() {
		w.Array(0)
		return
	}
	w.Array(15)
	w.Array(len(x.keys))
	for _, k := range x.keys {
		w.String(k)
	}
	w.Uint(uint64(x.limit))
	w.Uint(x.owner)
	w.Int(x.ttl)
	w.Int(x.cooldown)
	w.Blob(x.value)
	w.String(x.where)
	w.Bool(x.adopted)
	w.Int(x.detached)
	w.Int(x.timer.left)
	w.Uint(x.timer.armed)
	w.Uint(x.timer.nth)
	w.Uint(x.origin.Session)
	w.Uint(x.origin.Seq)
	w.UUID(x.nonce)
}

// plain says that x has nothing but the text of a failure.
func (x *more) plain() bool {
	return x.keys == nil && x.limit == 0 && x.owner == 0 && x.ttl == 0 && x.cooldown == 0 && len(x.value) == 0 && x.where == "" &&
		!x.adopted && x.detached == 0 && x.timer == timer{} && x.origin.IsZero() && x.nonce.IsZero()
}
