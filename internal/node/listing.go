package node

import (
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// pageBytes is about how large a page of a listing may get: well below a frame.
const pageBytes = 1 << 20

// maxValueBytes bounds the values that are shown of one key's holders, all together: a key is never spread over pages.
const maxValueBytes = 2 << 20

// listPage reads locks from v until the page is full.
func listPage(v *raftfsm.View, q Query, hold func() uint64) Answer {
	var a Answer
	after, size := q.After, 0
	for size < pageBytes {
		batch := v.Locks(q.Prefix, after, 64)
		for i, k := range batch {
			trimValues(k)
			a.Locks = append(a.Locks, k)
			size += lockSize(k)
			after = k.Key
			if size >= pageBytes && i+1 < len(batch) {
				break
			}
		}
		if len(batch) < 64 && (len(batch) == 0 || after == batch[len(batch)-1].Key) {
			return a
		}
	}
	a.Page = hold()
	return a
}

// trimValues leaves out the values of the later of very many holders.
func trimValues(k raftfsm.LockInfo) {
	size := 0
	for i := range k.Holders {
		h := &k.Holders[i]
		if size += len(h.Value) + len(h.Where); size > maxValueBytes {
			h.Value, h.Where = nil, ""
		}
	}
}

// lockSize is about how many bytes k takes on the wire.
func lockSize(k raftfsm.LockInfo) int {
	n := len(k.Key) + 20
	for _, h := range k.Holders {
		n += len(h.Member) + len(h.Value) + len(h.Where) + 40
	}
	for _, w := range k.Waiters {
		n += len(w.Member) + 12
	}
	return n
}

// An answer has four fields for those who know exclusive locks only, else five. Who reads one tells by that.
const (
	plainFields  = 4
	answerFields = 5
)

// encodeFor is a as who asked for kind reads it.
func (a Answer) encodeFor(kind QueryKind) []byte {
	if kind <= queryPlain {
		return a.encodePlain()
	}
	return a.encode()
}

func (a Answer) encodePlain() []byte {
	w := wire.NewWriter()
	w.Array(plainFields)
	w.Bool(a.Found)
	w.Uint(a.Fence)
	w.Uint(a.Page)
	w.Array(len(a.Locks))
	for _, k := range a.Locks {
		w.Array(3)
		w.String(k.Key)
		w.Array(len(k.Holders))
		for _, h := range k.Holders {
			w.Array(3)
			w.String(h.Member)
			w.Uint(h.Fence)
			w.Int(h.Since)
		}
		encodeWaiters(w, k.Waiters)
	}
	return w.Bytes()
}

func (a Answer) encode() []byte {
	w := wire.NewWriter()
	w.Array(answerFields)
	w.Bool(a.Found)
	w.Uint(a.Fence)
	w.Uint(a.Page)
	w.Array(len(a.Locks))
	for _, k := range a.Locks {
		encodeLock(w, k)
	}
	encodeCounters(w, a.Stats)
	return w.Bytes()
}

func decodeAnswer(body []byte) (Answer, error) {
	r := wire.NewReader(body)
	n := r.Array(answerFields)
	if n < plainFields {
		r.Fail("answer with %d fields", n)
	}
	a := Answer{Found: r.Bool(), Fence: r.Uint(), Page: r.Uint()}
	lock := decodeLock
	if n == plainFields {
		lock = decodePlainLock
	}
	for range r.Array(wire.MaxFrame) {
		k := lock(r)
		if r.Err() != nil {
			break
		}
		a.Locks = append(a.Locks, k)
	}
	if n == answerFields {
		a.Stats = decodeCounters(r)
	}
	return a, r.End()
}

func encodeLock(w *wire.Writer, k raftfsm.LockInfo) {
	w.Array(5)
	w.String(k.Key)
	w.Uint(uint64(k.Mode))
	w.Uint(uint64(k.Limit))
	w.Array(len(k.Holders))
	for _, h := range k.Holders {
		w.Array(7)
		w.String(h.Member)
		w.Uint(h.Fence)
		w.Int(h.Since)
		w.Uint(uint64(h.Weight))
		w.Bool(h.Detached)
		w.Blob(h.Value)
		w.String(h.Where)
	}
	encodeWaiters(w, k.Waiters)
}

func decodeLock(r *wire.Reader) raftfsm.LockInfo {
	if n := r.Array(5); n != 5 {
		r.Fail("lock with %d fields", n)
	}
	k := raftfsm.LockInfo{Key: r.String(wire.MaxKey), Mode: wire.Mode(atMost(r, uint64(wire.Units))), Limit: uint32(atMost(r, wire.MaxUnits))}
	for range r.Array(wire.MaxFrame) {
		if n := r.Array(7); n != 7 {
			r.Fail("holder with %d fields", n)
		}
		h := raftfsm.GrantInfo{
			Key: k.Key, Mode: k.Mode, Member: r.String(wire.MaxName), Fence: r.Uint(), Since: r.Int(), Weight: uint32(atMost(r, wire.MaxUnits)),
			Detached: r.Bool(), Value: r.Blob(wire.MaxValue), Where: r.String(wire.MaxWhere),
		}
		if r.Err() != nil {
			return k
		}
		k.Holders = append(k.Holders, h)
	}
	k.Waiters = decodeWaiters(r)
	return k
}

func decodePlainLock(r *wire.Reader) raftfsm.LockInfo {
	if n := r.Array(3); n != 3 {
		r.Fail("lock with %d fields", n)
	}
	k := raftfsm.LockInfo{Key: r.String(wire.MaxKey)}
	for range r.Array(wire.MaxFrame) {
		if n := r.Array(3); n != 3 {
			r.Fail("holder with %d fields", n)
		}
		h := raftfsm.GrantInfo{Key: k.Key, Member: r.String(wire.MaxName), Fence: r.Uint(), Since: r.Int()}
		if r.Err() != nil {
			return k
		}
		k.Holders = append(k.Holders, h)
	}
	k.Waiters = decodeWaiters(r)
	return k
}

func encodeWaiters(w *wire.Writer, all []raftfsm.WaiterInfo) {
	w.Array(len(all))
	for _, x := range all {
		w.Array(2)
		w.String(x.Member)
		w.Int(x.Since)
	}
}

func decodeWaiters(r *wire.Reader) (all []raftfsm.WaiterInfo) {
	for range r.Array(wire.MaxFrame) {
		if n := r.Array(2); n != 2 {
			r.Fail("waiter with %d fields", n)
		}
		x := raftfsm.WaiterInfo{Member: r.String(wire.MaxName), Since: r.Int()}
		if r.Err() != nil {
			return all
		}
		all = append(all, x)
	}
	return all
}

func encodeCounters(w *wire.Writer, c raftfsm.Counters) {
	w.Array(8)
	for _, n := range []int{c.Keys, c.Holders, c.Waiters, c.Sessions} {
		w.Uint(uint64(n))
	}
	w.Uint(c.Grants)
	w.Uint(c.Releases)
	w.Uint(c.Expirations)
	w.Uint(c.LastFence)
}

func decodeCounters(r *wire.Reader) raftfsm.Counters {
	if n := r.Array(8); n != 8 {
		r.Fail("counters with %d fields", n)
	}
	return raftfsm.Counters{
		Keys: count(r), Holders: count(r), Waiters: count(r), Sessions: count(r),
		Grants: r.Uint(), Releases: r.Uint(), Expirations: r.Uint(), LastFence: r.Uint(),
	}
}

// maxCount is more than there can be of anything.
const maxCount = 1<<31 - 1

func count(r *wire.Reader) int { return int(atMost(r, maxCount)) }

// atMost reads a number up to limit.
func atMost(r *wire.Reader, limit uint64) uint64 {
	v := r.Uint()
	if v > limit {
		r.Fail("%d where a number up to %d belongs", v, limit)
		return 0
	}
	return v
}
