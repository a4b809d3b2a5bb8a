package distlock

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// history is what the workers of a world saw, judged as it happens: when a Lock returns, whoever held the key before must have called
// Unlock, or its Done must be closed by then, in that very instant of virtual time; and the fence must be above all that were seen
// before. Porcupine then judges the whole, with the answers to CheckFence and Locks among the grants.
type history struct {
	w *world

	mu      sync.Mutex // guards the fields below
	moment  int64      // counts what happened: virtual time stands still for many things at once
	holds   map[string][]*hold
	last    map[string]*hold // with the greatest fence
	fences  map[Fence]*hold
	floor   Fence // the greatest fence of all that were seen
	asleep  map[int]bool
	forcing map[string]int   // ForceUnlocks under way
	forced  map[string]int64 // the moment when the last one was over; neverReturned when that is not known
	ops     map[string][]porcupine.Operation
	grants  int
	lost    int // holds that ended by Done and not by Unlock
	expired int // of these by ErrSessionLost
}

// hold is one grant from the return of Lock on.
type hold struct {
	member   int
	lock     *Lock
	done     <-chan struct{}
	at       time.Duration
	asked    int64
	granted  int64
	released int64 // Unlock was called; 0 before
	paused   bool  // the process was paused meanwhile: it may believe what it likes (only fences help)
	dead     bool  // the process has crashed
	end      int   // the index of its end in ops
}

func (h *hold) String() string {
	return fmt.Sprintf("%q of m%d, fence %d, granted at %s (err %v, released %v, paused %v, dead %v)", h.lock.Key(), h.member, h.lock.Fence(), h.at, h.lock.Err(), h.released != 0, h.paused, h.dead)
}

// over says that its process relies on it no more, or is none.
func (h *hold) over() bool {
	if h.released != 0 || h.dead || h.paused {
		return true
	}
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}

func newHistory(w *world) *history {
	return &history{w: w, holds: map[string][]*hold{}, last: map[string]*hold{}, fences: map[Fence]*hold{}, asleep: map[int]bool{},
		forcing: map[string]int{}, forced: map[string]int64{}, ops: map[string][]porcupine.Operation{}}
}

// asked is the moment before a call, with the greatest fence that was seen by then.
type asked struct {
	moment int64
	floor  Fence
}

func (h *history) tick() int64 {
	h.moment++
	return h.moment
}

func (h *history) ask() asked {
	h.mu.Lock()
	defer h.mu.Unlock()
	return asked{h.tick(), h.floor}
}

// granted takes a Lock that has just returned.
func (h *history) granted(member int, a asked, l *Lock) *hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := &hold{member: member, lock: l, done: l.Done(), at: time.Since(h.w.began), asked: a.moment, granted: h.tick(), paused: h.asleep[member]}
	h.grants++
	key, fence := l.Key(), l.Fence()
	if twice := h.fences[fence]; twice != nil {
		h.w.t.Errorf("a fence was given twice: %v and %v", twice, n)
	}
	h.fences[fence] = n
	if fence <= a.floor {
		h.w.t.Errorf("fence %d was asked for when %d had been given: %v", fence, a.floor, n)
	}
	h.floor = max(h.floor, fence)
	living := h.holds[key][:0]
	for _, o := range h.holds[key] {
		if !o.over() {
			h.w.t.Errorf("two hold one key at %s: %v and %v", n.at, o, n)
		} else if o.released == 0 && !o.dead && o.paused {
			living = append(living, o)
		}
	}
	gone := false // lost between its grant and this line, others may have come first
	select {
	case <-n.done:
		gone = true
	default:
	}
	if last := h.last[key]; last != nil && fence <= last.lock.Fence() && !gone && !n.paused {
		h.w.t.Errorf("fence not above that of the grant before: %v and %v", last, n)
	}
	if last := h.last[key]; last == nil || fence > last.lock.Fence() {
		h.last[key] = n
	}
	h.holds[key] = append(living, n)
	h.ops[key] = append(h.ops[key], porcupine.Operation{Input: virtualEvent{kind: evGrant, fence: fence}, Call: n.asked, Return: n.granted})
	n.end = len(h.ops[key])
	h.ops[key] = append(h.ops[key], porcupine.Operation{Input: virtualEvent{kind: evEnd, fence: fence}, Call: n.granted, Return: neverReturned})
	return n
}

const neverReturned = int64(1<<62 - 1)

// releasing is called before Unlock, unless Done is closed already.
func (h *history) releasing(n *hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n.released = h.tick()
}

// released takes Unlock's answer.
func (h *history) released(n *hold, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		return
	}
	op := &h.ops[n.lock.Key()][n.end]
	op.Return = h.tick()
	if key := n.lock.Key(); h.forcing[key] == 0 && h.forced[key] < n.granted { // else its end may have begun before
		op.Call = n.released
	}
}

// force is called before ForceUnlock. A grant may be ended for CheckFence's eyes before its holder knows.
func (h *history) force(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forcing[key]++
}

// wasForced takes ForceUnlock's answer; known is false when it may yet be carried out.
func (h *history) wasForced(key string, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forcing[key]--
	if h.forced[key] = max(h.forced[key], h.tick()); !known {
		h.forced[key] = neverReturned
	}
}

// wasLost takes a hold whose Done closed by itself.
func (h *history) wasLost(expired bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost++
	if expired {
		h.expired++
	}
}

// read takes an answer about a key: that exactly the grant with this fence is held (0: none of those that were seen).
func (h *history) read(a asked, key string, fence Fence) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops[key] = append(h.ops[key], porcupine.Operation{Input: virtualEvent{kind: evRead, fence: fence}, Call: a.moment, Return: h.tick()})
}

// stale takes an answer that the grant with this fence is not held.
func (h *history) stale(a asked, key string, fence Fence) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.forcing[key] > 0 || h.forced[key] >= h.fences[fence].granted {
		return // a grant that is revoked is listed until its holder has let go, and is stale before that
	}
	h.ops[key] = append(h.ops[key], porcupine.Operation{Input: virtualEvent{kind: evStale, fence: fence}, Call: a.moment, Return: h.tick()})
}

// known is a fence of key that was seen, the latest; 0 when none was.
func (h *history) known(key string) Fence {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.last[key]; l != nil {
		return l.lock.Fence()
	}
	return 0
}

func (h *history) crashed(member int) {
	h.each(member, func(n *hold) { n.dead = true })
}

func (h *history) paused(member int, on bool) {
	h.each(member, func(n *hold) { n.paused = true })
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asleep[member] = on
}

func (h *history) each(member int, f func(*hold)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, holds := range h.holds {
		for _, n := range holds {
			if n.member == member {
				f(n)
			}
		}
	}
}

type eventKind int

const (
	evGrant eventKind = iota
	evEnd
	evRead  // exactly this fence is held; 0: no grant that was seen
	evStale // this fence is not held
)

type virtualEvent struct {
	kind   eventKind
	fence  Fence
	number int // of a grant and its end: grants of a key are numbered by their fences, from 1
}

// keyState is a key between events: which grant is held, or was the last.
type virtualState struct {
	last  int
	fence Fence // 0: not held
}

// virtualModel is a lock of which all grants that anybody saw are known: the next one granted is the one with the least fence left, so that
// the search for an order is short.
var virtualModel = porcupine.Model{
	Init: func() any { return virtualState{} },
	Step: func(state, input, _ any) (bool, any) {
		s, e := state.(virtualState), input.(virtualEvent)
		switch e.kind {
		case evGrant:
			return s.fence == 0 && e.number == s.last+1, virtualState{last: e.number, fence: e.fence}
		case evEnd:
			return s.fence == e.fence, virtualState{last: s.last}
		case evStale:
			return s.fence != e.fence, s
		}
		return s.fence == e.fence, s
	},
}

// judge looks at all of it once more, when everything is over.
func (h *history) judge() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, ops := range h.ops {
		ops = h.numbered(ops)
		if porcupine.CheckOperations(virtualModel, ops) {
			continue
		}
		h.w.t.Errorf("no order of the %d grants, ends and answers about %q makes sense", len(ops), key)
		for i, op := range ops { // who reads this wants to know which one does not fit
			if e := op.Input.(virtualEvent); e.kind >= evRead && porcupine.CheckOperations(virtualModel, slices.Delete(slices.Clone(ops), i, i+1)) {
				h.w.t.Logf("without %v it would", e)
			}
		}
		slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
		for _, op := range ops {
			h.w.logs.add(-1, fmt.Sprintf("%q [%d, %d] %v", key, op.Call, op.Return, op.Input))
		}
	}
}

func (e virtualEvent) String() string {
	return fmt.Sprintf("%s %d", [...]string{"grant", "end", "an answer that it is held:", "an answer that it is not held:"}[e.kind], e.fence)
}

// numbered is ops as the model wants them. A fence in an answer that no caller ever had is that of a grant which nobody saw: one that was
// given up before it was returned.
func (h *history) numbered(ops []porcupine.Operation) []porcupine.Operation {
	numbers := map[Fence]int{}
	for _, f := range sortedFences(ops) {
		numbers[f] = len(numbers) + 1
	}
	out := make([]porcupine.Operation, 0, len(ops))
	for _, op := range ops {
		e := op.Input.(virtualEvent)
		if e.number = numbers[e.fence]; e.number == 0 {
			e.fence = 0
		}
		op.Input = e
		out = append(out, op)
	}
	return out
}

// count is how many grants were seen.
func (h *history) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.grants
}
