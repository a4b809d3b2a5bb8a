package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// errTooManyWatches refuses a watch.
var errTooManyWatches = fmt.Errorf("%w: %d watches in the whole cluster (maxLeadWatches); end some, or watch in fewer processes", lockerr.ErrLimit, maxLeadWatches)

// subscribe makes sink hear of the keys that begin with prefix until unsubscribe or the end of the lead, when tell is called. It returns once
// an entry has committed that was proposed after the state machine had begun to tell events: whoever reads the state now misses nothing.
func (l *lead) subscribe(ctx context.Context, sink eventSink, prefix string, tell func()) error {
	if !l.whenOver(sink, tell) {
		return errNotLeading
	}
	if err := l.addWatch(sink, prefix); err != nil {
		l.withdraw(sink)
		return err
	}
	if err := l.prove(ctx); err != nil {
		l.unsubscribe(sink)
		return err
	}
	return nil
}

func (l *lead) addWatch(sink eventSink, prefix string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.onEnd == nil:
		return errNotLeading
	case len(l.watches) >= maxLeadWatches:
		return errTooManyWatches
	}
	if len(l.watches) == 0 {
		l.group.fsm.Watch(true) // from the next batch on; the proof's entry, proposed later, is not in one that has begun
	}
	l.watches[sink] = prefix
	return nil
}

func (l *lead) unsubscribe(sink eventSink) {
	l.withdraw(sink)
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.watches[sink]; !ok {
		return
	}
	delete(l.watches, sink)
	if len(l.watches) == 0 {
		l.group.fsm.Watch(false)
	}
}

// endWatchesLocked is called once, when the lead is over. The next lead on this process turns events on for its own watches.
func (l *lead) endWatchesLocked() {
	if len(l.watches) > 0 {
		l.group.fsm.Watch(false)
	}
	l.watches = nil
}

// tellWatchesLocked hands a result's events to who wants them.
func (l *lead) tellWatchesLocked(r *raftfsm.Result) {
	if len(r.Events) == 0 || len(l.watches) == 0 {
		return
	}
	all := eventsOf(r)
	some := make([]Event, 0, len(all))
	for sink, prefix := range l.watches {
		if prefix == "" {
			sink.events(all)
			continue
		}
		some = some[:0]
		for _, e := range all {
			if strings.HasPrefix(e.Key, prefix) {
				some = append(some, e)
			}
		}
		if len(some) > 0 {
			sink.events(some)
		}
	}
}

// peerWatch is a watch of another process: one connection. A goroutine of its own sends, so that the applying one only queues.
type peerWatch struct {
	*eventQueue
	conn  *rpc.Conn
	lead  *lead
	over  chan struct{}   // closed when the connection is gone
	stop  <-chan struct{} // closed when the node ends
	taken chan struct{}   // cap maxUnacked: messages that the other side has taken
}

var _ eventSink = (*peerWatch)(nil)

// watch subscribes the connection, and answers the term of the lead. It serves nothing else then.
func (p *peerConn) watch(ctx context.Context, c *rpc.Conn, body []byte) ([]byte, error) {
	r := wire.NewReader(body)
	prefix := r.String(wire.MaxKey)
	if err := r.End(); err != nil {
		return nil, err
	}
	l := p.node.leading(ctx)
	if l == nil {
		return nil, errNotLeading
	}
	pw := &peerWatch{
		eventQueue: newEventQueue(), conn: c, lead: l, stop: p.node.ctx.Done(), over: make(chan struct{}), taken: make(chan struct{}, maxUnacked),
	}
	p.mu.Lock()
	busy := p.watching != nil
	if !busy {
		p.watching = pw
	}
	p.mu.Unlock()
	if busy {
		return nil, errUnknownMessage
	}
	if err := l.subscribe(ctx, pw, prefix, func() { _ = c.Send(msgOver, nil) }); err != nil {
		return nil, watchError(err)
	}
	if !p.node.spawn(pw.send) { // ends with the connection, the lead or the node
		l.unsubscribe(pw)
		return nil, errNotLeading
	}
	w := wire.NewWriter()
	w.Uint(l.term)
	return w.Bytes(), nil
}

// watchError gives err a code that the other side can branch on.
func watchError(err error) error {
	if errors.Is(err, errTooManyWatches) {
		return &rpc.RemoteError{Code: codeLimit, Text: err.Error()}
	}
	return err
}

// send sends what is queued, a few messages ahead of what the other side has said that it took.
func (w *peerWatch) send() {
	for free := maxUnacked; ; {
		var wake <-chan struct{}
		if free > 0 {
			if batch := w.take(maxEventBatch); batch != nil {
				if w.conn.Send(msgEvents, encodeEvents(batch)) != nil {
					return // the connection is gone
				}
				free--
				continue
			}
			wake = w.wake
		}
		select {
		case <-wake:
		case <-w.taken:
			free = min(free+1, maxUnacked)
		case <-w.over:
			return
		case <-w.lead.done:
			return
		case <-w.stop:
			return
		}
	}
}
