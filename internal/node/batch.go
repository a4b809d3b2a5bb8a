package node

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

const (
	maxBatchOps     = 1024 // operations in one entry; measured: more buys nothing
	entriesInFlight = 2    // the next is gathered and sent while the last is on disk and on its way

	// patientFor is how long a renewal waits for an entry to go with. A thousand idle processes make 600 a second; alone each were an entry, which
	// all voters write to disk. They lose nothing by it: a session counts its time from when it sent the renewal, and the leader from when it came.
	patientFor = 25 * time.Millisecond
)

// item is one thing that waits for an entry: a command, or (cmd nil) only the news that an entry proposed after it came has committed.
type item struct {
	cmd  raftfsm.Command
	size int // operations in it
	bulk int // bytes of keys, values and the like in it

	patient bool // it waits for others to go with, but no longer than patientFor

	// done is called once, on a goroutine of the batcher, with the command's reply or the reason why its outcome is unknown.
	// It must not block.
	done func(raftfsm.Reply, error)
}

// bytesPerOp is how many bytes count for as much in an entry as one operation does.
const bytesPerOp = 1024

// cost is what it counts for in an entry: its operations, and a command without any as one, so that thousands of sessions that are created
// at once make no entry beyond raftfsm.MaxEntry, which no member could read; and its bytes, for the same reason: one request may have 64 keys
// of 1 KiB.
func (it item) cost() int {
	if it.cmd == nil {
		return 0
	}
	return max(1, it.size) + it.bulk/bytesPerOp
}

// maxBulk bounds the bytes of one command, which goes into an entry whatever it costs, when it is the first.
const maxBulk = maxBatchOps * bytesPerOp

// bulkOf is about how many bytes o takes in an entry, beyond what every operation does.
func bulkOf(o *wire.Op) int {
	n := len(o.Key)
	if o.Ask == nil {
		return n
	}
	for _, k := range o.Ask.Keys {
		n += len(k)
	}
	return n + len(o.Ask.Value) + len(o.Ask.Where)
}

// batcher gathers all that comes while entries are in flight into the next one. It drains greedily, with no timer but for the patient: under light
// load an item goes at once and alone, under heavy load entries grow. What asks for no command goes with the next entry in any case; so renewals
// never wait behind operations. Then come the leader's own commands and those of calls, then the operations of all connections in turns.
type batcher struct {
	term    uint64
	propose func([]byte) proposal
	wall    func() time.Time
	lost    func()        // called when a proposal fails: this lead is over
	format  atomic.Uint64 // in which entries are written; only rises. Who adds what an older one can't say has raised it first

	mu       sync.Mutex // guards the fields below
	waiting  []item     // commands
	proofs   []item     // what waits for an entry only
	turns    []*lane    // those that have something, in the order of their turns
	queued   cost       // in all lanes
	activity activity
	due      bool // what waits is to go now
	timed    bool // a timer runs that makes it due
	closed   bool
	wake     chan struct{} // cap 1
}

// proposal is an entry on its way: wait returns its result.
type proposal interface {
	wait() (*raftfsm.Result, error)
}

func newBatcher(term uint64, propose func([]byte) proposal, wall func() time.Time, lost func()) *batcher {
	b := &batcher{term: term, propose: propose, wall: wall, lost: lost, wake: make(chan struct{}, 1)}
	b.activity.began = time.Now()
	b.format.Store(1)
	return b
}

// add queues it for the next entry.
func (b *batcher) add(it item) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		it.done(raftfsm.Reply{}, errNotLeading)
		return
	}
	if it.cmd == nil {
		b.proofs = append(b.proofs, it)
	} else {
		b.waiting = append(b.waiting, it)
	}
	switch {
	case !it.patient:
		b.due = true
	case !b.due && !b.timed:
		b.timed = true
		time.AfterFunc(patientFor, b.expire) // does nothing once the batcher is closed
	}
	due := b.due
	b.mu.Unlock()
	if due {
		hint(b.wake)
	}
}

// expire ends the patience of what waits.
func (b *batcher) expire() {
	b.mu.Lock()
	b.timed, b.due = false, len(b.proofs)+len(b.waiting)+len(b.turns) > 0
	due := b.due
	b.mu.Unlock()
	if due {
		hint(b.wake)
	}
}

// run proposes until done, then fails what still waits and waits for what is in flight.
func (b *batcher) run(done <-chan struct{}) {
	slots := make(chan struct{}, entriesInFlight)
	var inFlight sync.WaitGroup
	defer inFlight.Wait()
	defer b.close()
	for {
		select {
		case <-done:
			return
		case <-b.wake:
		}
		for {
			select {
			case slots <- struct{}{}:
			case <-done:
				return
			}
			items := b.take()
			if len(items) == 0 {
				<-slots
				break
			}
			p := b.propose(b.encode(items))
			inFlight.Add(1)
			go func() { // ends when Raft has answered
				defer inFlight.Done()
				b.settle(items, p)
				<-slots
			}()
		}
	}
}

// take removes the items of the next entry: as many as fit.
func (b *batcher) take() []item {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.due {
		return nil
	}
	items, room := b.proofs, maxBatchOps
	b.proofs = nil
	most := room // of the commands
	if len(b.turns) > 0 {
		most = room / 2
	}
	n, used := 0, 0
	for n < len(b.waiting) && (n == 0 || used+b.waiting[n].cost() <= most) {
		used += b.waiting[n].cost()
		n++
	}
	items = append(items, b.waiting[:n]...)
	if b.waiting = b.waiting[n:]; len(b.waiting) == 0 {
		b.waiting = nil
	}
	items = b.takeTurns(items, room-used)
	for len(items) == 0 && len(b.turns) > 0 { // they had all taken too much before
		items = b.takeTurns(items, room)
	}
	b.due = len(b.waiting)+len(b.turns) > 0
	return items
}

func (b *batcher) encode(items []item) []byte {
	e := raftfsm.Entry{Version: b.format.Load(), Term: b.term, Wall: b.wall().UnixMicro()}
	for _, it := range items {
		if it.cmd != nil {
			e.Commands = append(e.Commands, it.cmd)
		}
	}
	return e.Encode()
}

// settle hands the entry's replies to its items, in order.
func (b *batcher) settle(items []item, p proposal) {
	r, err := p.wait()
	if err != nil {
		b.lost()
		for _, it := range items {
			it.done(raftfsm.Reply{}, err)
		}
		return
	}
	next := 0
	for _, it := range items {
		var reply raftfsm.Reply
		if it.cmd != nil {
			reply = r.Replies[next]
			next++
		}
		it.done(reply, nil)
	}
}

func (b *batcher) close() {
	b.mu.Lock()
	b.closed = true
	rest := append(b.proofs, b.waiting...)
	for _, ln := range b.turns {
		for _, p := range ln.parts {
			rest = append(rest, item{done: p.done})
		}
		ln.end()
	}
	b.proofs, b.waiting, b.turns, b.queued = nil, nil, nil, cost{}
	b.mu.Unlock()
	for _, it := range rest {
		it.done(raftfsm.Reply{}, errNotLeading)
	}
}
