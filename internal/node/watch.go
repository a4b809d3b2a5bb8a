package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/wire"
)

// Watch tells of what happens to the keys that begin with prefix, in commit order, until ctx or the node ends; then the channel is closed. It
// returns once the leader tells its events and has then committed an entry, so that a read of the locks that comes after it misses nothing.
//
// A reader that is too slow gets one EventMissed in the place of what it lost. So does every reader when another leader, or another connection
// to it, takes over: what was committed meanwhile is told by nobody. As with Watch itself, a read of the locks after that event misses nothing.
//
// ErrLimit: too many watches of this process, or at the leader.
func (n *Node) Watch(ctx context.Context, prefix string) (<-chan Event, error) {
	if len(prefix) > wire.MaxKey {
		return nil, fmt.Errorf("%w: a prefix of %d bytes, no key has more than %d", lockerr.ErrInvalid, len(prefix), wire.MaxKey)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := n.beginWatch(); err != nil {
		return nil, err
	}
	w := &watch{node: n, prefix: prefix, queue: newEventQueue()}
	s, err := w.subscribe(ctx, true)
	if err != nil {
		n.endWatch()
		return nil, err
	}
	out := make(chan Event)
	if !n.spawn(func() { w.run(ctx, s, out) }) { // ends with ctx or the node
		s.close()
		n.endWatch()
		return nil, lockerr.ErrClosed
	}
	return out, nil
}

func (n *Node) beginWatch() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.closed:
		return lockerr.ErrClosed
	case n.watches >= maxWatches:
		return fmt.Errorf("%w: %d watches of one process (maxWatches); end some, or watch what their prefixes have in common", lockerr.ErrLimit, maxWatches)
	}
	n.watches++
	return nil
}

func (n *Node) endWatch() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.watches--
}

// watch is one call of Watch.
type watch struct {
	node   *Node
	prefix string
	queue  *eventQueue
}

func (w *watch) run(ctx context.Context, s *subscription, out chan<- Event) {
	defer w.node.endWatch()
	defer close(out)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.node.ctx, cancel)()
	var keeper sync.WaitGroup
	defer keeper.Wait()
	keeper.Go(func() { w.keep(ctx, s) }) // ends with ctx
	for {
		batch := w.queue.take(maxEventBatch)
		if batch == nil {
			select {
			case <-w.queue.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		for _, e := range batch {
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
	}
}

// keep makes the subscription anew whenever it has ended.
func (w *watch) keep(ctx context.Context, s *subscription) {
	for {
		w.follow(ctx, s)
		s.close()
		if ctx.Err() != nil {
			return
		}
		var err error
		if s, err = w.subscribe(ctx, false); err != nil {
			return // ctx has ended
		}
	}
}

// follow waits for the end of s, or until it is known that its leader was succeeded: one that is paused would not say so itself.
func (w *watch) follow(ctx context.Context, s *subscription) {
	for {
		changed := w.node.Changed()
		if leader, term := w.node.leaderNews(); !leader.IsZero() && leader != s.server && term > s.term {
			return
		}
		select {
		case <-s.done:
			return
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// subscribe tries until it succeeds or ctx ends; the first time also until the leader says that it can't.
func (w *watch) subscribe(ctx context.Context, first bool) (*subscription, error) {
	for round := 0; ; round++ {
		was := w.node.situation()
		s, err := w.trySubscribe(ctx)
		if err == nil {
			if first {
				s.open()
			} else { // now that a read of the locks would see what the others led to
				s.open(Event{Type: EventMissed, Index: w.queue.lastIndex(), Time: w.node.cfg.Hooks.wall()})
			}
			return s, nil
		}
		if first && (errors.Is(err, lockerr.ErrLimit) || errors.Is(err, errors.ErrUnsupported)) {
			return nil, err
		}
		if werr := w.node.waitRetry(ctx, was, retryPause(round, 0)); werr != nil {
			return nil, fmt.Errorf("%w (%w; last: %w)", werr, lockerr.ErrNoQuorum, err)
		}
	}
}

func (w *watch) trySubscribe(ctx context.Context) (*subscription, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s := &subscription{to: w.queue, early: newEventQueue(), server: w.node.serverID(), done: make(chan struct{})}
	if l := w.node.lead.Load(); l != nil && l.isReady() {
		s.term, s.end = l.term, func() { l.unsubscribe(s) }
		if err := l.subscribe(ctx, s, w.prefix, s.finish); err != nil {
			return nil, err
		}
		return s, nil
	}
	if err := w.subscribeAt(ctx, s); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// subscribeAt subscribes at a leader that is another process.
func (w *watch) subscribeAt(ctx context.Context, s *subscription) (err error) {
	if s.server, err = w.node.findLeader(ctx); err != nil {
		return err
	}
	conn, via, err := w.node.reach(ctx, s.server, watchHandler{s}, detourAfter, nil, new(atomic.Bool))
	if err != nil {
		return err
	}
	s.end = func() { conn.Close() }
	prefix := wire.NewWriter()
	prefix.String(w.prefix)
	body, err := conn.Call(ctx, callWatch, prefix.Bytes())
	if err != nil {
		var remote *rpc.RemoteError
		switch {
		case !errors.As(err, &remote):
		case remote.Code == codeLimit:
			return fmt.Errorf("%w: %s", lockerr.ErrLimit, remote.Text)
		case isUnknownCall(err, callWatch):
			return errOldLeader
		}
		return err
	}
	r := wire.NewReader(body)
	s.term = r.Uint()
	if err := r.End(); err != nil || via.IsZero() {
		return err
	}
	w.node.spawn(func() { w.node.seekDirect(s.server, s.done, s.finish) }) // ends with the subscription
	return nil
}

// subscription is a watch at one lead.
type subscription struct {
	server wire.UUID // of the leader
	term   uint64
	done   chan struct{} // closed when the lead or the connection is over
	once   sync.Once
	end    func() // gives it up at the leader; nil if there is nothing to

	mu     sync.Mutex // guards the fields below
	to     *eventQueue
	early  *eventQueue // what came before open; nil after it
	closed bool
}

var _ eventSink = (*subscription)(nil)

func (s *subscription) events(all []Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
	case s.early != nil:
		s.early.events(all)
	default:
		s.to.events(all)
	}
}

// open passes events on from now on, first those given.
func (s *subscription) open(first ...Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to.events(first)
	for batch := s.early.take(maxEventBatch); batch != nil; batch = s.early.take(maxEventBatch) {
		s.to.events(batch)
	}
	s.early = nil
}

func (s *subscription) finish() { s.once.Do(func() { close(s.done) }) }

// close ends it; nothing is passed on afterwards.
func (s *subscription) close() {
	s.finish()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	if s.end != nil {
		s.end()
	}
}

// watchHandler is the connection of a subscription.
type watchHandler struct{ s *subscription }

var _ rpc.Handler = watchHandler{}

// Call refuses: a leader calls nothing on this connection.
func (watchHandler) Call(context.Context, *rpc.Conn, uint8, []byte) ([]byte, error) {
	return nil, errNoCalls
}

// Message takes the leader's events.
func (h watchHandler) Message(c *rpc.Conn, kind uint8, body []byte) {
	if kind == msgEvents {
		if all, err := decodeEvents(body); err == nil {
			h.s.events(all)
			_ = c.Send(msgTaken, nil) // fails only with the connection
			return
		}
	}
	h.s.finish() // it leads no more, or it says what we don't understand
}

// Closed ends the subscription.
func (h watchHandler) Closed(*rpc.Conn) { h.s.finish() }
