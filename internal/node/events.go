package node

import (
	"slices"
	"sync"
	"time"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// Event is something that happened to a key.
type Event struct {
	Type   string // as raftfsm's events, or EventMissed
	Index  uint64 // commit order; several events may have one index
	Key    string
	Member string
	Fence  uint64
	Time   time.Time // the leader's wall clock
}

// EventMissed is the type of the event that stands for those that a watcher didn't get. It has no key.
const EventMissed = "missed"

const (
	maxEvents      = 4096 // that wait for a watcher; what comes beyond is missed
	maxEventBatch  = 256  // in one message
	maxUnacked     = 4    // messages of events that a process has not taken yet; the rest waits at the leader
	maxEventType   = 16   // bytes
	maxWatches     = 256  // of one process
	maxLeadWatches = 1024 // at one leader
)

// An eventSink takes events in commit order. It doesn't block, and doesn't keep the slice.
type eventSink interface {
	events([]Event)
}

// eventQueue holds what a watcher has not taken yet. The writer never waits: what a full queue loses is stood for by one event, in its place.
type eventQueue struct {
	wake chan struct{} // cap 1: there may be something to take

	mu   sync.Mutex // guards the fields below
	buf  []Event    // at most maxEvents, and after them one that stands for those that found no place
	last uint64     // index of the last event that came
}

func newEventQueue() *eventQueue { return &eventQueue{wake: make(chan struct{}, 1)} }

func (q *eventQueue) events(all []Event) {
	q.mu.Lock()
	for _, e := range all {
		q.last = e.Index
		switch n := len(q.buf); {
		case n < maxEvents:
			q.buf = append(q.buf, e)
		case n == maxEvents && q.buf[n-1].Type != EventMissed:
			q.buf = append(q.buf, missed(e))
		}
	}
	q.mu.Unlock()
	hint(q.wake)
}

func (q *eventQueue) lastIndex() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.last
}

// take removes at most n.
func (q *eventQueue) take(n int) []Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.buf))
	if n == 0 {
		return nil
	}
	out := slices.Clone(q.buf[:n])
	q.buf = slices.Delete(q.buf, 0, n)
	if len(q.buf) == 0 {
		q.buf = nil
	}
	return out
}

// missed stands for e and what follows it.
func missed(e Event) Event { return Event{Type: EventMissed, Index: e.Index, Time: e.Time} }

func hint(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// eventsOf is what r tells.
func eventsOf(r *raftfsm.Result) []Event {
	all := make([]Event, len(r.Events))
	at := time.UnixMicro(r.Wall)
	for i, e := range r.Events {
		all[i] = Event{Type: string(e.Type), Index: r.Index, Key: e.Key, Member: e.Member, Fence: e.Fence, Time: at}
	}
	return all
}

func encodeEvents(all []Event) []byte {
	w := wire.NewWriter()
	w.Array(len(all))
	for _, e := range all {
		w.Array(6)
		w.String(e.Type)
		w.Uint(e.Index)
		w.String(e.Key)
		w.String(e.Member)
		w.Uint(e.Fence)
		w.Int(e.Time.UnixMicro())
	}
	return w.Bytes()
}

func decodeEvents(body []byte) ([]Event, error) {
	r := wire.NewReader(body)
	n := r.Array(maxEventBatch)
	all := make([]Event, 0, min(n, r.Len()/7+1)) // an event takes at least seven bytes
	for range n {
		if f := r.Array(6); f != 6 {
			r.Fail("event with %d fields", f)
		}
		e := Event{Type: r.String(maxEventType), Index: r.Uint(), Key: r.String(wire.MaxKey), Member: r.String(wire.MaxName), Fence: r.Uint()}
		e.Time = time.UnixMicro(r.Int())
		if r.Err() != nil {
			return nil, r.Err()
		}
		all = append(all, e)
	}
	return all, r.End()
}
