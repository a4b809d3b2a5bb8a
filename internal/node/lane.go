package node

import (
	"time"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// Bounds of what waits at the leader to go into an entry. All count costs: an operation is one, and so are bytesPerOp bytes.
const (
	maxLane   = 8 * maxBatchOps   // of one connection; then what comes on it is read no further
	maxLanes  = 128 * maxBatchOps // of all connections together, but for leastLane of each
	leastLane = maxLanes / 1024

	// maxShare is how much of one lane goes into an entry while others use the log too. What they ask for waits for two entries at the most,
	// and an entry takes the longer the more is in it: who floods the leader has entries of its own only as long as nobody else wants any.
	maxShare = 64
)

// lane is what came on one connection, which is one process's, and has not gone into an entry yet: in the order in which it came. Lanes take
// turns, so that who asks for much waits by itself. (Deficit round robin: Shreedhar and Varghese 1995.)
type lane struct {
	batch *batcher
	gone  <-chan struct{} // closed when the connection is over: nobody waits for room any more

	// Guarded by batch.mu:
	parts  []part
	queued cost
	credit int           // what its last turns left, or took too much
	listed bool          // it is among batch.turns
	active int64         // the period in which something came last
	taken  uint64        // operations that came and have gone into entries, or need none
	moved  chan struct{} // closed when something has; nil while nobody waits for that
}

// part is operations of one session, or what is left of them.
type part struct {
	session uint64
	ops     []wire.Op
	done    func(raftfsm.Reply, error)
}

// cost is what operations count for. Bytes are kept apart, so that it is the same however they are cut into parts.
type cost struct{ ops, bytes int }

func costOf(ops []wire.Op) cost {
	c := cost{ops: len(ops)}
	for i := range ops {
		c.bytes += bulkOf(&ops[i])
	}
	return c
}

func (c cost) total() int        { return c.ops + c.bytes/bytesPerOp }
func (c cost) plus(d cost) cost  { return cost{c.ops + d.ops, c.bytes + d.bytes} }
func (c cost) minus(d cost) cost { return cost{c.ops - d.ops, c.bytes - d.bytes} }

// newLane makes the lane of a connection that is over when gone is closed; nil: never.
func (b *batcher) newLane(gone <-chan struct{}) *lane { return &lane{batch: b, gone: gone} }

// submit queues operations. While there is no room for them it waits, until there is, or the connection or the lead is over.
func (b *batcher) submit(ln *lane, p part) {
	if len(p.ops) == 0 {
		return
	}
	c := costOf(p.ops)
	b.mu.Lock()
	for !b.closed && !b.hasRoom(ln, c) {
		moved := ln.movedLocked()
		b.mu.Unlock()
		select {
		case <-moved:
		case <-ln.gone:
			return
		}
		b.mu.Lock()
	}
	if b.closed {
		b.mu.Unlock()
		p.done(raftfsm.Reply{}, errNotLeading)
		return
	}
	ln.parts = append(ln.parts, p)
	ln.queued, b.queued = ln.queued.plus(c), b.queued.plus(c)
	if !ln.listed {
		ln.listed = true
		b.turns = append(b.turns, ln)
	}
	b.activity.note(ln)
	b.due = true
	b.mu.Unlock()
	hint(b.wake)
}

// pass counts operations that need no entry.
func (b *batcher) pass(ln *lane, ops int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ln.taken += uint64(ops)
	ln.move()
}

// hasRoom says whether c may be queued on ln. An empty lane takes whatever one message holds.
func (b *batcher) hasRoom(ln *lane, c cost) bool {
	switch waits := ln.queued.total(); {
	case waits == 0:
		return true
	case b.queued.total() >= maxLanes:
		return waits+c.total() <= leastLane
	default:
		return waits+c.total() <= maxLane
	}
}

func (ln *lane) movedLocked() <-chan struct{} {
	if ln.moved == nil {
		ln.moved = make(chan struct{})
	}
	return ln.moved
}

// takeTurns fills up to room of an entry from the lanes that wait, each in its turn and none with more than its share. Who found no room is
// the first the next time.
func (b *batcher) takeTurns(items []item, room int) []item {
	n := len(b.turns)
	if n == 0 || room <= 0 {
		return items
	}
	share := room
	if b.activity.lanes() > 1 {
		share = min(maxShare, max(1, room/n))
	}
	turn := 0
	for ; turn < n && room > 0; turn++ {
		ln := b.turns[turn]
		var took int
		items, took = ln.take(items, min(share, room))
		room -= took
		if len(ln.parts) > 0 {
			b.turns = append(b.turns, ln)
		} else {
			ln.listed, ln.credit = false, 0
		}
	}
	b.turns = append(b.turns[:0:0], b.turns[turn:]...)
	return items
}

// take removes what a turn of that much is good for, at least one operation: what that is too much counts against the next turns.
func (ln *lane) take(items []item, turn int) (_ []item, took int) {
	ln.credit += turn
	for len(ln.parts) > 0 && ln.credit > 0 {
		p := &ln.parts[0]
		var c cost
		for c.ops < len(p.ops) && c.total() < ln.credit {
			c.bytes += bulkOf(&p.ops[c.ops])
			c.ops++
		}
		items = append(items, item{cmd: raftfsm.Ops{Session: p.session, Ops: p.ops[:c.ops:c.ops]}, done: p.done})
		ln.credit -= c.total()
		took += c.total()
		ln.taken += uint64(c.ops)
		ln.queued, ln.batch.queued = ln.queued.minus(c), ln.batch.queued.minus(c)
		if p.ops = p.ops[c.ops:]; len(p.ops) == 0 {
			ln.parts[0] = part{}
			ln.parts = ln.parts[1:]
		}
	}
	if len(ln.parts) == 0 {
		ln.parts = nil
	}
	if took > 0 {
		ln.move()
	}
	return items, took
}

func (ln *lane) move() {
	if ln.moved != nil {
		close(ln.moved)
		ln.moved = nil
	}
}

// end forgets what waits, as the lead is over.
func (ln *lane) end() {
	ln.parts, ln.queued, ln.listed = nil, cost{}, false
	ln.move()
}

// activeFor is how long a connection that asked for something counts as one that uses the log: for this long, up to twice.
const activeFor = 500 * time.Millisecond

// activity counts the lanes on which something came of late.
type activity struct {
	began  time.Time
	period int64 // the last one in which something came, from 1
	now    int   // lanes on which something came in it
	before int   // and in the one before
}

func (a *activity) roll() {
	period := 1 + int64(time.Since(a.began)/activeFor)
	switch period - a.period {
	case 0:
		return
	case 1:
		a.before = a.now
	default:
		a.before = 0
	}
	a.period, a.now = period, 0
}

func (a *activity) note(ln *lane) {
	if a.roll(); ln.active != a.period {
		ln.active = a.period
		a.now++
	}
}

func (a *activity) lanes() int {
	a.roll()
	return max(a.now, a.before)
}
