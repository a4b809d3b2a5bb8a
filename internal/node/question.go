package node

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godistlock/distlock/internal/session"
	"github.com/godistlock/distlock/internal/wire"
)

// A question to one that is said to lead, which has taken the connection, may outlast the round in which it began. So who is far from the leader
// has its answer nevertheless, and the rounds are as short as ever: each asks others, and the same one anew, beside it. The one that is said to lead
// may be paused, or dead and its machine with it, and somebody may know the next; or what carried that connection carries it no more.
const (
	lateRounds = 4                           // it takes at most so many rounds: connected within the first, it is answered after three more such ways, with TLS
	mostLate   = linkTimeout << moreTimeouts // and at most so long, if these take longer
)

// questions are those of one search for the leader.
type questions struct {
	n    *Node
	ctx  context.Context // of the search
	sink session.Sink

	mu   sync.Mutex // guards the fields below
	over bool       // the search has ended
	late map[wire.UUID]*question
}

// question is one to a server whether it leads.
type question struct {
	server  wire.UUID
	cancel  context.CancelFunc
	there   atomic.Bool   // the server's machine has taken the connection
	reached atomic.Bool   // the server has
	done    chan struct{} // closed when the fields below are set
	link    *remoteLink   // nil: it does not lead, or it has not answered
	hint    wire.UUID
	err     error
}

// begin begins a question. Whoever has it awaits it, gives it to keep or to drop, or uses its link. It is nil once the node has begun to close.
func (qs *questions) begin(server wire.UUID, timeout time.Duration, lives <-chan struct{}) *question {
	q := &question{server: server, done: make(chan struct{})}
	var ctx context.Context
	ctx, q.cancel = context.WithTimeout(qs.ctx, max(heldFor, min(lateRounds*timeout, mostLate)))
	if !qs.n.spawn(func() { // ends with ctx
		defer close(q.done)
		defer q.cancel()
		q.link, q.hint, q.err = qs.n.linkTo(ctx, q, qs.sink, timeout/3, lives)
	}) {
		q.cancel()
		return nil
	}
	return q
}

// await waits for q, or for a question of a round before to the same server that has led to a link or a hint, and answers that one. It answers
// none when ctx, which is the round's, ends first: the older one then goes on, else q if it is connected and its server is named.
func (qs *questions) await(ctx context.Context, q *question, named func() bool) (*question, bool) {
	old := qs.take(q.server)
	for {
		var oldDone chan struct{} // nil: there is no old one
		if old != nil {
			oldDone = old.done
		}
		select {
		case <-oldDone:
			if old.link != nil || !old.hint.IsZero() {
				qs.drop(q)
				return old, true
			}
			old = nil
		case <-q.done:
			if old != nil && q.link != nil {
				qs.drop(old)
			} else if old != nil {
				qs.keep(old)
			}
			return q, true
		case <-ctx.Done():
			switch {
			case old != nil:
				qs.keep(old)
				qs.drop(q)
			case q.there.Load() && named():
				qs.keep(q)
			default:
				qs.drop(q)
			}
			return nil, false
		}
	}
}

// take takes out what goes on of a round before; nil: nothing.
func (qs *questions) take(server wire.UUID) *question {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	q := qs.late[server]
	delete(qs.late, server)
	return q
}

// keep lets q go on when its round is over.
func (qs *questions) keep(q *question) {
	qs.mu.Lock()
	_, other := qs.late[q.server]
	kept := !qs.over && !other && len(qs.late) < mostAsked
	if kept {
		qs.late[q.server] = q
	}
	qs.mu.Unlock()
	if !kept {
		qs.drop(q)
	}
}

// drop ends q; if there is a link already, it is closed.
func (qs *questions) drop(q *question) {
	q.cancel()
	end := func() {
		<-q.done
		if q.link != nil {
			q.link.Close()
		}
	}
	if !qs.n.spawn(end) { // ends with q
		end()
	}
}

// found is the link that a question of a round before has led to since; nil: there is none.
func (qs *questions) found() *remoteLink {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	for server, q := range qs.late {
		select {
		case <-q.done:
			delete(qs.late, server)
			if q.link != nil {
				return q.link
			}
		default:
		}
	}
	return nil
}

// end drops all.
func (qs *questions) end() {
	qs.mu.Lock()
	qs.over = true
	late := qs.late
	qs.late = nil
	qs.mu.Unlock()
	for _, q := range late {
		qs.drop(q)
	}
}
