package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/raftfsm"
)

// Query answers a linearizable read: the leader commits an entry that was proposed after the question came, then reads its own state. On a
// lost answer or a change of leader it asks again until ctx ends: a read may be repeated.
func (n *Node) Query(ctx context.Context, q Query) (Answer, error) {
	if err := ctx.Err(); err != nil {
		return Answer{}, err
	}
	for round := 0; ; round++ {
		was := n.situation()
		a, err := asUnderstood(ctx, q, n.query)
		if err == nil || errors.Is(err, ErrPageGone) || errors.Is(err, errOldLeader) {
			return a, err
		}
		if werr := n.waitRetry(ctx, was, retryPause(round, 0)); werr != nil {
			return Answer{}, fmt.Errorf("%w (%w; last: %w)", werr, lockerr.ErrNoQuorum, err)
		}
	}
}

// asUnderstood asks a leader that may be older than this process in a way that it understands.
func asUnderstood(ctx context.Context, q Query, ask func(context.Context, Query) (Answer, error)) (Answer, error) {
	a, err := ask(ctx, q)
	switch {
	case q.Kind == QueryGrant && q.Page != 0 && errors.Is(err, ErrPageGone): // it took the fence for a page
		fence := q.Page
		q.Page = 0
		a, err = ask(ctx, q)
		a.Found = a.Found && a.Fence == fence
	case q.Kind == QueryLocks && errors.Is(err, errOldLeader):
		q.Kind = queryPlain
		a, err = ask(ctx, q)
	}
	return a, err
}

// query asks once.
func (n *Node) query(ctx context.Context, q Query) (Answer, error) {
	a, err := ask(ctx, n, func(ctx context.Context, l *lead) (Answer, error) {
		a, err := l.answer(ctx, q)
		for i := range a.Locks {
			for j := range a.Locks[i].Holders { // the state's own bytes, which nobody may change
				h := &a.Locks[i].Holders[j]
				h.Value = bytes.Clone(h.Value)
			}
		}
		return a, err
	}, callQuery, q.encode(), decodeAnswer)
	if err != nil {
		return Answer{}, queryError(q, err)
	}
	return a, nil
}

// queryError makes of what a leader answered what the caller can branch on.
func queryError(q Query, err error) error {
	var remote *rpc.RemoteError
	switch {
	case !errors.As(err, &remote):
		return err
	case remote.Code == codePageGone:
		return ErrPageGone
	case remote.Code == codeUnknown, remote.Code == 0 && remote.Text == unknownQuery(q.Kind): // code 0 is what the first version answers
		return errOldLeader
	}
	return err
}

// errOldLeader says that the leader does not know what it was asked for. It matches errors.ErrUnsupported.
var errOldLeader = fmt.Errorf("the process that leads is of a version that doesn't know this; update it: %w", errors.ErrUnsupported)

func unknownQuery(k QueryKind) string { return fmt.Sprintf("query %d is not known to this version", k) }

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

// ask is askLeader for what has a type of its own.
func ask[T any](ctx context.Context, n *Node, local func(context.Context, *lead) (T, error), kind uint8, body []byte, decode func([]byte) (T, error)) (T, error) {
	var here *T
	answer, err := n.askLeader(ctx, func(ctx context.Context, l *lead) ([]byte, error) {
		v, err := local(ctx, l)
		here = &v
		return nil, err
	}, kind, body)
	switch {
	case here != nil:
		return *here, err
	case err != nil:
		var none T
		return none, err
	}
	return decode(answer)
}

// Answer is what a Query found.
type Answer struct {
	Found bool   // QueryGrant: the grant is held, and not revoked
	Fence uint64 // QueryGrant: its fence; if it was not found, that of the grant which is held longest
	Stats raftfsm.Counters
	Locks []raftfsm.LockInfo
	Page  uint64 // QueryLocks: more follow on this held view; 0: that was all
}

// ErrPageGone says that a listing must begin anew: the leader that held its moment is gone, or holds it no longer.
var ErrPageGone = errors.New("the moment that the listing is of is not held any more")

// Codes of errors that a leader answers. They are never renumbered.
const (
	codePageGone uint8 = 1
	codeUnknown  uint8 = 2 // it doesn't know what it was asked for
	codeLimit    uint8 = 3 // a bound that its Text names
	codeGone     uint8 = 4 // nobody is where the server that is wanted should be
)

// pages holds the views that the listings of one lead read page by page, so that each listing is of one moment. The zero value is ready.
type pages struct {
	mu    sync.Mutex // guards the fields below
	over  bool       // the lead is: nothing is held any more
	views map[uint64]heldView
	order []uint64 // of what views has, the oldest first
}

type heldView struct {
	*raftfsm.View
	unread *time.Timer // lets it go
}

const (
	maxPages = 16          // views that are held; the oldest goes first
	pageLife = time.Minute // how long one is held after the last page that was read from it
)

// hold keeps v and names it. The name is not used again, here or by another lead: a listing never goes on in another's moment.
func (p *pages) hold(v *raftfsm.View) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := rand.Uint64()
	for id == 0 || p.views[id].View != nil {
		id = rand.Uint64()
	}
	if p.over {
		return id
	}
	if p.views == nil {
		p.views = make(map[uint64]heldView)
	}
	if len(p.order) == maxPages {
		p.dropLocked(p.order[0])
	}
	p.views[id] = heldView{v, time.AfterFunc(pageLife, func() { p.drop(id) })}
	p.order = append(p.order, id)
	return id
}

// view is the one that is held as id, and nil if none is. What comes while its time runs out is still answered.
func (p *pages) view(id uint64) *raftfsm.View {
	p.mu.Lock()
	defer p.mu.Unlock()
	h, ok := p.views[id]
	if !ok {
		return nil
	}
	h.unread.Reset(pageLife)
	return h.View
}

func (p *pages) drop(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropLocked(id)
}

func (p *pages) dropLocked(id uint64) {
	if h, ok := p.views[id]; ok {
		h.unread.Stop()
		delete(p.views, id)
		p.order = slices.DeleteFunc(p.order, func(held uint64) bool { return held == id })
	}
}

// end drops all, and holds nothing from then on.
func (p *pages) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	for id := range p.views {
		p.dropLocked(id)
	}
}

// answer answers q from the state, or from the view that a listing goes on with.
func (l *lead) answer(ctx context.Context, q Query) (Answer, error) {
	lists := q.Kind == QueryLocks || q.Kind == queryPlain
	if lists && q.Page != 0 {
		v := l.pages.view(q.Page)
		if v == nil {
			return Answer{}, &rpc.RemoteError{Text: ErrPageGone.Error(), Code: codePageGone}
		}
		a := listPage(v, q, func() uint64 { return q.Page })
		if a.Page == 0 { // should this answer be lost, the listing begins anew
			l.pages.drop(q.Page)
		}
		return a, nil
	}
	if err := l.prove(ctx); err != nil {
		return Answer{}, err
	}
	v := l.group.fsm.View()
	switch {
	case lists:
		return listPage(v, q, func() uint64 { return l.pages.hold(v) }), nil
	case q.Kind == QueryGrant:
		return grantAnswer(v, q), nil
	case q.Kind == QueryStats:
		return Answer{Stats: v.Counters()}, nil
	}
	return Answer{}, &rpc.RemoteError{Text: unknownQuery(q.Kind), Code: codeUnknown}
}

// grantAnswer answers a QueryGrant. q.Page is the fence; an older process asks without.
func grantAnswer(v *raftfsm.View, q Query) Answer {
	g, ok := v.Grant(q.Key, q.Page)
	if !ok && q.Page != 0 {
		longest, _ := v.Grant(q.Key, 0)
		return Answer{Fence: longest.Fence}
	}
	return Answer{Found: ok && !g.Revoked, Fence: g.Fence}
}
