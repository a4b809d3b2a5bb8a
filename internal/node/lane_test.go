package node

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// idleBatcher is one that nobody drains but the test.
func idleBatcher() *batcher { return newBatcher(1, nil, time.Now, nil) }

// partOf is n operations of a session, numbered from.
func partOf(session, from uint64, n int) part {
	ops := make([]wire.Op, n)
	for i := range ops {
		ops[i] = wire.Op{Kind: wire.OpFinish, Seq: from + uint64(i)} // without a byte that counts
	}
	return part{session: session, ops: ops, done: func(raftfsm.Reply, error) {}}
}

// fill queues n operations of a session on ln.
func fill(ln *lane, session uint64, n int) {
	for from := 0; from < n; from += wire.MaxOps {
		ln.batch.submit(ln, partOf(session, uint64(from+1), min(wire.MaxOps, n-from)))
	}
}

// bySession counts the operations of items, and those that wait for an entry only as 0.
func bySession(items []item) map[uint64]int {
	n := map[uint64]int{}
	for _, it := range items {
		if it.cmd == nil {
			n[0]++
			continue
		}
		c := it.cmd.(raftfsm.Ops)
		n[c.Session] += len(c.Ops)
	}
	return n
}

// Behind however much another process has asked for, an operation goes with the next entry, and that is a small one.
func TestAFloodWaitsByItself(t *testing.T) {
	b := idleBatcher()
	flood, calm := b.newLane(nil), b.newLane(nil)
	fill(flood, 1, maxLane)
	for range 10 {
		fill(calm, 2, 3)
		n := bySession(b.take())
		if n[2] != 3 || n[1] > maxShare || n[1] == 0 {
			t.Fatalf("an entry of %d operations of the flood, and %d of 3 of the other", n[1], n[2])
		}
	}
}

// Who is alone with the log has whole entries of it, also again some time after another has used it.
func TestALaneThatIsAlone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := idleBatcher()
		flood, calm := b.newLane(nil), b.newLane(nil)
		fill(flood, 1, maxLane)
		if n := len(b.take()[0].cmd.(raftfsm.Ops).Ops); n != maxBatchOps {
			t.Errorf("%d operations in the entry of a lane that is alone", n)
		}
		fill(calm, 2, 1)
		b.take()
		if n := bySession(b.take()); n[1] != maxShare {
			t.Errorf("%d operations in an entry just after the other's", n[1])
		}
		time.Sleep(2 * activeFor)
		fill(flood, 1, 1)
		if n := bySession(b.take()); n[1] != maxBatchOps {
			t.Errorf("%d operations in an entry when the other has long been idle", n[1])
		}
	})
}

// More lanes than fit an entry: each has its turn before any has a second, and all keep their order.
func TestLanesTakeTurns(t *testing.T) {
	b := idleBatcher()
	const lanes, each = 3000, 5
	for i := range lanes {
		fill(b.newLane(nil), uint64(i+1), each)
	}
	got := make([]int, lanes+1)
	seen := make([]uint64, lanes+1)
	for entries := 0; ; entries++ {
		items := b.take()
		if len(items) == 0 {
			break
		}
		total := 0
		for _, it := range items {
			c := it.cmd.(raftfsm.Ops)
			total += len(c.Ops)
			got[c.Session] += len(c.Ops)
			for _, o := range c.Ops {
				if seen[c.Session]++; o.Seq != seen[c.Session] {
					t.Fatalf("operation %d of %d where %d belongs", o.Seq, c.Session, seen[c.Session])
				}
			}
		}
		if total > maxBatchOps {
			t.Fatalf("an entry of %d operations", total)
		}
		if least, most := slices.Min(got[1:]), slices.Max(got[1:]); most > least+1 {
			t.Fatalf("after %d entries one has had %d operations, another %d", entries+1, least, most)
		}
	}
	if least := slices.Min(got[1:]); least != each {
		t.Errorf("one had %d of its %d operations", least, each)
	}
}

// Bytes count: a process whose operations are as large as can be gets no more of the log than one with small ones.
func TestTurnsCountBytes(t *testing.T) {
	b := idleBatcher()
	keys := make([]string, wire.MaxKeys)
	for i := range keys {
		keys[i] = strings.Repeat(string(rune('A'+i)), wire.MaxKey)
	}
	large := make([]wire.Op, 100)
	for i := range large {
		large[i] = wire.Op{Kind: wire.OpRequest, Seq: uint64(i + 1), Ask: &wire.Ask{Keys: keys}}
	}
	heavy, light := b.newLane(nil), b.newLane(nil)
	b.submit(heavy, part{session: 1, ops: large, done: func(raftfsm.Reply, error) {}})
	fill(light, 2, maxLane)
	n := map[uint64]int{}
	for range 50 {
		items := b.take()
		if len(items) == 0 {
			t.Fatal("an empty entry, and lanes wait")
		}
		for id, k := range bySession(items) {
			n[id] += k
		}
	}
	per := costOf(large[:1]).total()
	if heavy := n[1] * per; heavy > n[2]+per || n[1] < 10 {
		t.Errorf("%d operations that count for %d each, and %d small ones", n[1], per, n[2])
	}
	// Many who have all had more than their turn: there is no empty entry.
	c := idleBatcher()
	const lanes = 1000
	for range lanes {
		c.submit(c.newLane(nil), part{session: 1, ops: large[:2], done: func(raftfsm.Reply, error) {}})
	}
	for total := 0; total < 2*lanes; {
		n := bySession(c.take())
		if n[1] == 0 || n[1] > maxBatchOps/per+1 {
			t.Fatalf("after %d large operations an entry of %d", total, n[1])
		}
		total += n[1]
	}
}

// What waits for an entry only (a renewal, a read) goes with the next one, however much is queued.
func TestRenewalsPassOperations(t *testing.T) {
	b := idleBatcher()
	fill(b.newLane(nil), 1, maxLane)
	for range 2 * maxBatchOps {
		b.add(item{cmd: raftfsm.Ops{Session: 2}})
	}
	for range 50 {
		b.add(item{patient: true})
	}
	if n := bySession(b.take()); n[0] != 50 {
		t.Errorf("%d of 50 renewals in the next entry", n[0])
	}
}

// Commands of the leader's own and of calls neither wait for operations nor keep them all out.
func TestCommandsLeaveRoomForOperations(t *testing.T) {
	b := idleBatcher()
	fill(b.newLane(nil), 1, maxLane)
	for range 2 * maxBatchOps {
		b.add(item{cmd: raftfsm.Noop{}})
	}
	noops, ops := 0, 0
	for _, it := range b.take() {
		if c, ok := it.cmd.(raftfsm.Ops); ok {
			ops += len(c.Ops)
		} else {
			noops++
		}
	}
	if noops != maxBatchOps/2 || ops != maxBatchOps/2 {
		t.Errorf("%d commands and %d operations in an entry of %d", noops, ops, maxBatchOps)
	}
}

// submits starts a submission and says whether it waits.
func submits(ln *lane, p part) (waits bool, done chan struct{}) {
	done = make(chan struct{})
	go func() {
		ln.batch.submit(ln, p)
		close(done)
	}()
	synctest.Wait()
	select {
	case <-done:
		return false, done
	default:
		return true, done
	}
}

// A full lane takes no more: who fills it waits, which is what holds a connection back, until something went into an entry.
func TestAFullLaneHoldsItsConnectionBack(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := idleBatcher()
		gone := make(chan struct{})
		flood, other := b.newLane(gone), b.newLane(nil)
		fill(flood, 1, maxLane-1)
		if waits, _ := submits(flood, partOf(1, 1, 1)); waits {
			t.Fatal("the last operation that fits waits")
		}
		waits, done := submits(flood, partOf(1, 1, 1))
		if !waits || flood.queued.total() != maxLane {
			t.Fatalf("one operation more does not wait; %d are queued", flood.queued.total())
		}
		if waits, _ := submits(other, partOf(2, 1, maxLane)); waits {
			t.Error("another connection waits as well")
		}
		b.take()
		synctest.Wait()
		select {
		case <-done:
		default:
			t.Error("it still waits after an entry")
		}
		fill(flood, 1, maxLane-flood.queued.total())
		waits, done = submits(flood, partOf(1, 1, 1))
		if !waits {
			t.Error("it does not wait")
		}
		close(gone)
		<-done
		if flood.queued.total() != maxLane {
			t.Errorf("%d are queued of a connection that is gone", flood.queued.total())
		}
	})
}

// The end of a lead ends the wait for room, and tells all who wait.
func TestTheEndOfALeadEndsItsLanes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := idleBatcher()
		ln := b.newLane(nil)
		var told atomic.Int32
		p := partOf(1, 1, maxLane)
		p.done = func(raftfsm.Reply, error) { told.Add(1) }
		b.submit(ln, p)
		waits, done := submits(ln, p)
		if !waits {
			t.Fatal("it does not wait")
		}
		b.close()
		<-done
		b.submit(ln, p)
		if n := told.Load(); n != 3 {
			t.Errorf("%d of 3 were told", n)
		}
	})
}

// All lanes together are bounded as well: then each has little, but something.
func TestAllLanesTogetherAreBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := idleBatcher()
		for range maxLanes / maxLane {
			fill(b.newLane(nil), 1, maxLane)
		}
		if n := b.queued.total(); n != maxLanes {
			t.Fatalf("%d are queued", n)
		}
		late := b.newLane(nil)
		if waits, _ := submits(late, partOf(2, 1, leastLane)); waits {
			t.Error("a connection that has nothing there waits")
		}
		waits, done := submits(late, partOf(2, 1, 1))
		if !waits {
			t.Error("a connection that has its least there does not wait")
		}
		if n := bySession(b.take()); n[2] == 0 {
			t.Fatal("it has no turn")
		}
		<-done
	})
}
