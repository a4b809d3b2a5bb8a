package session

import (
	"iter"
	"runtime"
	"slices"

	"github.com/godistlock/distlock/internal/wire"
)

// maxForgot bounds the OpForgets that are sent again on a new link. Older ones are all but certainly committed; one that was not costs
// the leader a few bytes until the session ends.
const maxForgot = 1 << 16

// sentForget is an OpForget that was sent when attempt was the last renewal.
type sentForget struct{ seq, attempt uint64 }

// enqueueLocked sends what now stands for g. Without a link it is enough to have changed g's state: see outstandingLocked.
func (m *Manager) enqueueLocked(g *Grant) {
	if m.link == nil {
		return
	}
	g.sent = true
	m.queue = g.appendOps(m.queue)
	m.kickLocked()
}

// queueLocked sends o, if there is a link. What must not get lost is queued again by outstandingLocked.
func (m *Manager) queueLocked(o wire.Op) {
	if m.link != nil {
		m.queue = append(m.queue, o)
		m.kickLocked()
	}
}

// kickLocked wakes send. A token that is already there will do: send looks at the whole queue.
func (m *Manager) kickLocked() { signal(m.kick) }

// send hands the queue to the link, all that came up meanwhile at once. It ends with m.ctx.
func (m *Manager) send() {
	for {
		select {
		case <-m.kick:
		case <-m.ctx.Done():
			return
		}
		for more := true; more; more = m.sendQueue() {
			// Whoever is about to ask does so first, and goes along: the op that woke us would go alone else, each with a message, an
			// entry of the log and a switch of goroutines of its own. It costs nothing when nobody is.
			runtime.Gosched()
		}
	}
}

// sendQueue sends what is queued now; false when that is nothing.
func (m *Manager) sendQueue() bool {
	m.mu.Lock()
	if m.link == nil || len(m.queue) == 0 {
		m.mu.Unlock()
		return false
	}
	m.flushForgetsLocked()
	link, session, ops := m.link, m.session, m.queue
	m.queue = make([]wire.Op, 0, min(len(ops), wire.MaxOps)) // the link may keep ops
	m.mu.Unlock()
	for part := range parts(ops) {
		if err := link.Submit(session, part); err != nil {
			// All of it is sent again on the next link.
			m.cfg.Logger.Debug("the link to the leader failed", "error", err)
			link.Close()
			break
		}
	}
	return true
}

// maxMessage bounds the bytes of the ops in one message, but for one op. It is far below wire.MaxFrame.
const maxMessage = 1 << 20

// parts cuts ops such that each part fits a message.
func parts(ops []wire.Op) iter.Seq[[]wire.Op] {
	return func(yield func([]wire.Op) bool) {
		from, bytes := 0, 0
		for i := range ops {
			size := sizeOf(&ops[i])
			if i > from && (i-from == wire.MaxOps || bytes+size > maxMessage) {
				if !yield(ops[from:i:i]) {
					return
				}
				from, bytes = i, 0
			}
			bytes += size
		}
		if from < len(ops) {
			yield(ops[from:])
		}
	}
}

// sizeOf is at least what o takes in a message.
func sizeOf(o *wire.Op) int {
	const numbers = 160 // more than all that has no length of its own
	size := numbers + len(o.Key)
	if o.Ask != nil {
		size += len(o.Ask.Value) + len(o.Ask.Where)
		for _, k := range o.Ask.Keys {
			size += len(k) + 3
		}
	}
	return size
}

// flushForgetsLocked puts the pending OpForgets into the queue.
func (m *Manager) flushForgetsLocked() {
	if m.link == nil || len(m.forget) == 0 {
		return
	}
	for _, seq := range m.forget {
		m.queue = append(m.queue, wire.Op{Kind: wire.OpForget, Seq: seq})
		m.forgot = append(m.forgot, sentForget{seq, m.attempt})
	}
	m.forget = m.forget[:0]
	if n := len(m.forgot) - maxForgot; n > 0 {
		m.forgot = slices.Delete(m.forgot, 0, n)
	}
	m.kickLocked()
}

// committedLocked drops the OpForgets that attempt's answer shows to be committed: all that were sent before the attempt before it. The
// leader answers a renewal after an entry that it proposed later; one attempt more leaves room for a leader whose queue was long.
func (m *Manager) committedLocked(attempt uint64) {
	n := 0
	for n < len(m.forgot) && m.forgot[n].attempt+1 < attempt {
		n++
	}
	m.forgot = slices.Delete(m.forgot, 0, n)
	if len(m.forgot) == 0 && cap(m.forgot) > smallPeak {
		m.forgot = nil
	}
}

// outstandingLocked fills the queue with all that has no answer, in the order of the numbers, for a link that is new.
func (m *Manager) outstandingLocked() {
	m.queue = nil
	for _, g := range m.inOrderLocked() {
		g.sent = true
		m.queue = g.appendOps(m.queue)
	}
	for _, f := range m.forgot {
		m.forget = append(m.forget, f.seq)
	}
	m.forgot = nil
	m.flushForgetsLocked()
	if len(m.queue) > 0 {
		m.kickLocked()
	}
}

// inOrderLocked is all requests by their numbers.
func (m *Manager) inOrderLocked() []*Grant {
	all := make([]*Grant, 0, len(m.reqs))
	for _, g := range m.reqs {
		all = append(all, g)
	}
	slices.SortFunc(all, func(a, b *Grant) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	return all
}
