package node

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// pageBytes is about how large a page of a listing may get: well below a frame.
const pageBytes = 1 << 20

// Query answers a linearizable read: the leader commits an entry that was proposed after the question came, then reads its own state. On a
// lost answer or a change of leader it asks again until ctx ends: a read may be repeated.
func (n *Node) Query(ctx context.Context, q Query) (Answer, error) {
	if err := ctx.Err(); err != nil {
		return Answer{}, err
	}
	for round := 0; ; round++ {
		changed := n.Changed()
		a, err := n.tryQuery(ctx, q)
		if err == nil || errors.Is(err, ErrPageGone) {
			return a, err
		}
		if werr := n.waitRetry(ctx, changed, round); werr != nil {
			return Answer{}, fmt.Errorf("%w (%w; last: %w)", werr, lockerr.ErrNoQuorum, err)
		}
	}
}

func (n *Node) tryQuery(ctx context.Context, q Query) (Answer, error) {
	body, err := n.askLeader(ctx, func(ctx context.Context, l *lead) ([]byte, error) {
		a, err := n.pages.answer(ctx, l, q)
		if err != nil {
			return nil, err
		}
		return a.encode(), nil
	}, callQuery, q.encode())
	if err != nil {
		var remote *rpc.RemoteError
		if errors.As(err, &remote) && remote.Code == codePageGone {
			return Answer{}, ErrPageGone
		}
		return Answer{}, err
	}
	return decodeAnswer(body)
}

// askLeader runs local where this process leads, else calls the leader.
func (n *Node) askLeader(ctx context.Context, local func(context.Context, *lead) ([]byte, error), kind uint8, body []byte) ([]byte, error) {
	if l := n.lead.Load(); l != nil && l.isReady() {
		return local(ctx, l)
	}
	server, err := n.findLeader(ctx)
	if err != nil {
		return nil, err
	}
	return n.call(ctx, server, kind, body)
}

// Answer is what a Query found.
type Answer struct {
	Found bool // QueryGrant
	Fence uint64
	Locks []raftfsm.LockInfo
	Page  uint64 // QueryLocks: more follow on this held view; 0: that was all
}

// ErrPageGone says that a listing must begin anew: the leader that held its moment is gone.
var ErrPageGone = errors.New("the listing was interrupted by a change of leader")

const codePageGone = 1

// pages holds the views that listings read page by page, so that a listing is of one moment.
type pages struct {
	mu    sync.Mutex // guards the fields below
	next  uint64
	views map[uint64]*raftfsm.View
	order []uint64
}

// maxPages bounds the views that are held; the oldest goes first.
const maxPages = 16

func (p *pages) hold(v *raftfsm.View) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.views == nil {
		p.views = make(map[uint64]*raftfsm.View)
	}
	if len(p.order) == maxPages {
		delete(p.views, p.order[0])
		p.order = p.order[1:]
	}
	p.next++
	p.views[p.next] = v
	p.order = append(p.order, p.next)
	return p.next
}

func (p *pages) view(id uint64) *raftfsm.View {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.views[id]
}

func (p *pages) answer(ctx context.Context, l *lead, q Query) (Answer, error) {
	if q.Page != 0 {
		v := p.view(q.Page)
		if v == nil {
			return Answer{}, &rpc.RemoteError{Text: ErrPageGone.Error(), Code: codePageGone}
		}
		return listPage(v, q, func() uint64 { return q.Page }), nil
	}
	if err := l.prove(ctx); err != nil {
		return Answer{}, err
	}
	v := l.group.fsm.View()
	switch q.Kind {
	case QueryGrant:
		g, ok := v.Grant(q.Key)
		return Answer{Found: ok && !g.Revoked, Fence: g.Fence}, nil
	case QueryLocks:
		return listPage(v, q, func() uint64 { return p.hold(v) }), nil
	}
	return Answer{}, fmt.Errorf("query %d is not known to this version", q.Kind)
}

// listPage reads locks from v until the page is full.
func listPage(v *raftfsm.View, q Query, hold func() uint64) Answer {
	var a Answer
	after, size := q.After, 0
	for size < pageBytes {
		batch := v.Locks(q.Prefix, after, 64)
		for i, k := range batch {
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

// lockSize is about how many bytes k takes on the wire.
func lockSize(k raftfsm.LockInfo) int {
	n := len(k.Key) + 12
	for _, h := range k.Holders {
		n += len(h.Member) + 24
	}
	for _, w := range k.Waiters {
		n += len(w.Member) + 12
	}
	return n
}

func (a Answer) encode() []byte {
	w := wire.NewWriter()
	w.Array(4)
	w.Bool(a.Found)
	w.Uint(a.Fence)
	w.Uint(a.Page)
	w.Array(len(a.Locks))
	for _, k := range a.Locks {
		encodeLock(w, k)
	}
	return w.Bytes()
}

func decodeAnswer(body []byte) (Answer, error) {
	r := wire.NewReader(body)
	if n := r.Array(4); n != 4 {
		r.Fail("answer with %d fields", n)
	}
	a := Answer{Found: r.Bool(), Fence: r.Uint(), Page: r.Uint()}
	for range r.Array(wire.MaxFrame) {
		k := decodeLock(r)
		if r.Err() != nil {
			break
		}
		a.Locks = append(a.Locks, k)
	}
	return a, r.End()
}

func encodeLock(w *wire.Writer, k raftfsm.LockInfo) {
	w.Array(3)
	w.String(k.Key)
	w.Array(len(k.Holders))
	for _, h := range k.Holders {
		w.Array(3)
		w.String(h.Member)
		w.Uint(h.Fence)
		w.Int(h.Since)
	}
	w.Array(len(k.Waiters))
	for _, x := range k.Waiters {
		w.Array(2)
		w.String(x.Member)
		w.Int(x.Since)
	}
}

func decodeLock(r *wire.Reader) raftfsm.LockInfo {
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
	for range r.Array(wire.MaxFrame) {
		if n := r.Array(2); n != 2 {
			r.Fail("waiter with %d fields", n)
		}
		x := raftfsm.WaiterInfo{Member: r.String(wire.MaxName), Since: r.Int()}
		if r.Err() != nil {
			return k
		}
		k.Waiters = append(k.Waiters, x)
	}
	return k
}
