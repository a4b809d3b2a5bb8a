package node

import (
	"container/heap"
	"time"

	"github.com/godistlock/distlock/raftfsm"
)

const (
	timeParts   = 8                      // what is left of a time is committed each time such a part of it has passed
	leastReport = 100 * time.Millisecond // but not more often: a new leader can't be more exact than this anyway
)

// stopwatch measures, on Go's monotonic clock, the times that run: those of detached grants and of cooldowns. The next to be looked at is at the
// top of a heap, so a million of them cost no more than those that are due. lead.mu guards it.
type stopwatch struct {
	began time.Time // all else counts from here
	byID  map[uint64]*timing
	heap  timings
}

// timing is one time that runs. It never says less than what is really left: it began when its entry had been applied, which was set before that.
type timing struct {
	raftfsm.Timer               // as it stood when it began
	began         time.Duration // since stopwatch.began
	next          time.Duration // when something is to be committed of it
	at            int           // in the heap
}

// timings is a heap by next, for package heap.
type timings []*timing

func (h timings) Len() int           { return len(h) }
func (h timings) Less(i, j int) bool { return h[i].next < h[j].next }
func (h timings) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push adds a *timing.
func (h *timings) Push(x any) {
	t := x.(*timing)
	t.at = len(*h)
	*h = append(*h, t)
}

// Pop takes the last.
func (h *timings) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return t
}

// up is when the time is over.
func (t *timing) up() time.Duration { return t.began + ms(t.Left) }

// left is what is left at now, in ms, rounded up: 0 only if it is over.
func (t *timing) left(now time.Duration) int64 {
	return int64(max(0, t.up()-now+time.Millisecond-1) / time.Millisecond)
}

// plan sets when something is to be committed next, looked at now.
func (t *timing) plan(now time.Duration) {
	t.next = min(t.up(), now+max(ms(t.Left)/timeParts, leastReport))
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// take follows a result that was observed at now, and says whether something is to be done sooner than was known before.
//
// Where an entry both ends and sets a time of the same fence, the result doesn't say in which order. It counts as set: what isn't there any more the
// state machine leaves alone.
func (s *stopwatch) take(r *raftfsm.Result, now time.Time) (sooner bool) {
	for _, fence := range r.Disarmed {
		s.stop(fence)
	}
	for _, t := range r.Armed {
		s.stop(t.Fence)
		sooner = s.start(t, now) || sooner
	}
	return sooner
}

// start begins to measure, and says whether t is the next at which something is to be done.
func (s *stopwatch) start(t raftfsm.Timer, now time.Time) bool {
	if s.byID == nil {
		s.byID = make(map[uint64]*timing)
	}
	began := now.Sub(s.began)
	x := &timing{Timer: t, began: began}
	x.plan(began)
	s.byID[t.Fence] = x
	heap.Push(&s.heap, x)
	return x.at == 0
}

func (s *stopwatch) stop(fence uint64) {
	if t := s.byID[fence]; t != nil {
		delete(s.byID, fence)
		heap.Remove(&s.heap, t.at)
	}
	if len(s.byID) == 0 { // what many once took is given back
		s.byID, s.heap = nil, nil
	}
}

// goOn is start for a time that ran under the leader before. One that was observed since may be known already.
func (s *stopwatch) goOn(t raftfsm.Timer, now time.Time) {
	if old := s.byID[t.Fence]; old != nil {
		if old.Armed > t.Armed || old.Armed == t.Armed && old.left(now.Sub(s.began)) <= t.Left {
			return
		}
		s.stop(t.Fence)
	}
	s.start(t, now)
}

// next is when something is to be committed; false: nothing runs.
func (s *stopwatch) next() (time.Time, bool) {
	if len(s.heap) == 0 {
		return time.Time{}, false
	}
	return s.began.Add(s.heap[0].next), true
}

// due is what is to be committed now, as far as one command may carry it, and how many bytes its keys have. What is over is forgotten: the command
// ends it, or the lead ends and the next one measures.
func (s *stopwatch) due(now time.Time) (out []raftfsm.Timer, bulk int) {
	at := now.Sub(s.began)
	for len(s.heap) > 0 && len(out) < raftfsm.MaxTimers && bulk < maxBulk {
		t := s.heap[0]
		if t.next > at {
			break
		}
		said := t.Timer
		said.Left = t.left(at)
		out = append(out, said)
		bulk += len(t.Key)
		if said.Left == 0 {
			s.stop(t.Fence)
			continue
		}
		t.plan(at)
		heap.Fix(&s.heap, 0)
	}
	return out, bulk
}

// takeTimesOver goes on with the times that ran under the leader before, with what was committed as left. It holds mu for a few at a time: entries
// are applied meanwhile.
func (l *lead) takeTimesOver(timers []raftfsm.Timer, now time.Time) {
	for len(timers) > 0 {
		n := min(len(timers), raftfsm.MaxTimers)
		l.mu.Lock()
		for _, t := range timers[:n] {
			l.times.goOn(t, now)
		}
		l.mu.Unlock()
		timers = timers[n:]
	}
}

// reportTimes proposes what is due.
func (l *lead) reportTimes() {
	for {
		l.mu.Lock()
		timers, bulk := l.times.due(time.Now())
		l.mu.Unlock()
		if len(timers) == 0 {
			return
		}
		l.batch.add(item{
			cmd: raftfsm.Time{Term: l.term, Timers: timers}, size: len(timers) / timersPerOp, bulk: bulk, done: func(raftfsm.Reply, error) {},
		})
	}
}

// timersPerOp is how many timers count for as much in an entry as one operation does.
const timersPerOp = 16
