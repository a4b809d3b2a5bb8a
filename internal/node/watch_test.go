package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// heard are events as a test reads them: "granted k".
func heard(all []Event) (out []string) {
	for _, e := range all {
		out = append(out, fmt.Sprintf("%s %s", e.Type, e.Key))
	}
	return out
}

// A watch has begun when the leader has committed an entry since it tells events: what comes after is told, in commit order, to those whose prefix
// it has.
func TestAWatchBeginsWithACommit(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Minute, &sink)
		l.give(id, []wire.Op{{Kind: wire.OpAcquire, Seq: 1, Key: "a/1"}}, &sink)
		synctest.Wait()
		f.commitAll(false)
		all, some := newEventQueue(), newEventQueue()
		begun := make(chan error, 2)
		go func() { begun <- l.subscribe(t.Context(), all, "", func() {}) }()
		go func() { begun <- l.subscribe(t.Context(), some, "b/", func() {}) }()
		synctest.Wait()
		if len(begun) > 0 {
			t.Fatal("begun before anything has committed")
		}
		l.give(id, []wire.Op{
			{Kind: wire.OpAcquire, Seq: 2, Key: "a/1"}, {Kind: wire.OpAcquire, Seq: 3, Key: "b/1"}, {Kind: wire.OpFinish, Seq: 1}, {Kind: wire.OpFinish, Seq: 3},
			request(4, wire.Ask{Keys: []string{"a/2", "b/2"}}),
		}, &sink)
		f.commitAll(true)
		synctest.Wait()
		for range 2 {
			if err := <-begun; err != nil {
				t.Fatal(err)
			}
		}
		got := all.take(maxEvents)
		want := []string{"queued a/1", "granted b/1", "released a/1", "granted a/1", "released b/1", "granted a/2", "granted b/2"}
		if !slices.Equal(heard(got), want) {
			t.Errorf("all: %v; want %v", heard(got), want)
		}
		for _, e := range got {
			if e.Member != "m" || e.Index == 0 || e.Time.IsZero() || (e.Fence == 0) != (e.Type == "queued") {
				t.Errorf("%+v", e)
			}
		}
		if got := heard(some.take(maxEvents)); !slices.Equal(got, []string{"granted b/1", "released b/1", "granted b/2"}) {
			t.Errorf("b/: %v", got)
		}
		l.unsubscribe(all)
		l.give(id, []wire.Op{{Kind: wire.OpFinish, Seq: 4}}, &sink)
		synctest.Wait()
		if all.take(1) != nil || some.take(9) == nil {
			t.Error("told after the end, or another's end ended it")
		}
		l.unsubscribe(some)
		l.give(id, []wire.Op{{Kind: wire.OpAcquire, Seq: 5, Key: "k"}}, &sink)
		synctest.Wait()
		var last *raftfsm.Result
		f.fsm.Observe(func(r *raftfsm.Result) { last = r; f.lead.observe(r) })
		if err := l.prove(t.Context()); err != nil || len(last.Events) > 0 {
			t.Errorf("events for nobody: %v, %v", last.Events, err)
		}
	})
}

// The end of the lead ends its watches, and the next one's are not touched by what the first's owners do afterwards.
func TestTheEndOfALeadEndsItsWatches(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, first := newFakeCluster(t)
		told := make(chan struct{}, 1)
		old, q := newEventQueue(), newEventQueue()
		if err := first.subscribe(t.Context(), old, "", func() { hint(told) }); err != nil {
			t.Fatal(err)
		}
		second := succeed(t, f, first)
		<-told
		if err := first.subscribe(t.Context(), q, "", func() {}); !errors.Is(err, errNotLeading) {
			t.Errorf("a watch at a lead that is over: %v", err)
		}
		if err := second.subscribe(t.Context(), q, "", func() {}); err != nil {
			t.Fatal(err)
		}
		first.unsubscribe(old)
		var sink fakeSink
		id := newSession(t, second, "m", time.Minute, &sink)
		second.give(id, []wire.Op{{Kind: wire.OpAcquire, Seq: 1, Key: "k"}}, &sink)
		synctest.Wait()
		if got := heard(q.take(9)); !slices.Equal(got, []string{"granted k"}) || old.take(1) != nil {
			t.Errorf("told %v", got)
		}
	})
}

func TestWatchesAreBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		var last *eventQueue
		for i := range maxLeadWatches {
			last = newEventQueue()
			if err := l.subscribe(t.Context(), last, "", func() {}); err != nil {
				t.Fatalf("watch %d: %v", i, err)
			}
		}
		if err := l.subscribe(t.Context(), newEventQueue(), "", func() {}); !errors.Is(err, lockerr.ErrLimit) {
			t.Errorf("one more: %v", err)
		}
		l.unsubscribe(last)
		if err := l.subscribe(t.Context(), newEventQueue(), "", func() {}); err != nil {
			t.Errorf("after one has ended: %v", err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.onEnd) != maxLeadWatches {
			t.Errorf("%d of those that are to be told of the lead's end", len(l.onEnd))
		}
	})
}

// collect reads from a watch until it has n of them that are not missed.
func collect(t *testing.T, from <-chan Event, n int) (all []Event) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for n > 0 {
		select {
		case e, ok := <-from:
			if !ok {
				t.Fatalf("the channel is closed after %v", heard(all))
			}
			all = append(all, e)
			if e.Type != EventMissed {
				n--
			}
		case <-deadline.C:
			t.Fatalf("only %d events: %v", len(all), heard(all[:min(len(all), 20)]))
		}
	}
	return all
}

func awaitClosed(t *testing.T, from <-chan Event) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for {
		select {
		case _, ok := <-from:
			if !ok {
				return
			}
		case <-deadline.C:
			t.Fatal("the channel is not closed")
		}
	}
}

// Watches of a process that leads and of one that doesn't; a reader that never reads holds up nobody, and is told what it missed.
func TestWatchFromEverywhere(t *testing.T) {
	f := startFleet(t, 1, Hooks{}, Hooks{}) // one voter: however slow all is, it leads
	leader, l := f.leader(t)
	follower := f.others(leader)[0]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch := func(n *Node, prefix string) <-chan Event {
		c, err := n.Watch(ctx, prefix)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	slowHere, slowThere := watch(leader, ""), watch(follower, "")
	here, there := watch(leader, "k"), watch(follower, "k")
	var sink fakeSink
	ask := follower.link(t, &sink)
	const rounds, each = 20, 500
	seq := uint64(0)
	var atHere, atThere []Event
	for range rounds {
		var ops []wire.Op
		for i := range each {
			seq++
			ops = append(ops, wire.Op{Kind: wire.OpAcquire, Seq: seq, Key: fmt.Sprint("k", i)}, wire.Op{Kind: wire.OpFinish, Seq: seq})
		}
		ask(ops...)
		atHere = append(atHere, collect(t, here, 2*each)...)
		atThere = append(atThere, collect(t, there, 2*each)...)
	}
	if !slices.Equal(heard(atHere), heard(atThere)) || len(atHere) != 2*rounds*each {
		t.Errorf("%d events at the leader, %d elsewhere; or others", len(atHere), len(atThere))
	}
	for i, e := range atHere {
		if x := atThere[i]; x.Index != e.Index || x.Fence != e.Fence || x.Member != e.Member || !x.Time.Equal(e.Time) || i > 0 && e.Index < atHere[i-1].Index {
			t.Fatalf("event %d: %+v here, %+v there", i, e, x)
		}
	}
	for name, slow := range map[string]<-chan Event{"here": slowHere, "there": slowThere} {
		got := collect(t, slow, maxEvents)
		ask(wire.Op{Kind: wire.OpAcquire, Seq: seq + 1, Key: "last"}, wire.Op{Kind: wire.OpFinish, Seq: seq + 1})
		seq++
		for last := got[len(got)-1]; last.Key != "last"; last = got[len(got)-1] {
			got = append(got, collect(t, slow, 1)...)
		}
		missed := slices.DeleteFunc(slices.Clone(got), func(e Event) bool { return e.Type != EventMissed })
		if len(missed) == 0 || len(got) >= 2*rounds*each {
			t.Errorf("%s: the slow one got %d events and missed %d times", name, len(got), len(missed))
		}
		for i := 1; i < len(got); i++ {
			if got[i].Index < got[i-1].Index {
				t.Errorf("%s: %+v after %+v", name, got[i], got[i-1])
			}
		}
	}
	cancel()
	for _, c := range []<-chan Event{here, there, slowHere, slowThere} {
		awaitClosed(t, c)
	}
	await(t, leader, "the leader has forgotten them", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.watches) == 0
	})
	for _, n := range []*Node{leader, follower} {
		await(t, n, "nothing of them is left", func() bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.watches == 0
		})
	}
}

// When another process leads, the watch goes on there; the reader is told that it missed something, and a read of the locks after that shows what
// that was.
func TestWatchGoesOnAtTheNextLeader(t *testing.T) {
	f := startFleet(t, 3, Hooks{}, Hooks{}, Hooks{})
	leader, _ := f.leader(t)
	rest := f.others(leader)
	c, err := rest[0].Watch(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var sink fakeSink
	leader.link(t, &sink)(wire.Op{Kind: wire.OpAcquire, Seq: 1, Key: "before"})
	if got := heard(collect(t, c, 1)); !slices.Equal(got, []string{"granted before"}) {
		t.Fatalf("told %v", got)
	}
	if err := leader.Close(); err != nil {
		t.Fatal(err)
	}
	next, _ := rest.leader(t)
	next.link(t, &sink)(wire.Op{Kind: wire.OpAcquire, Seq: 1, Key: "after"})
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	select {
	case e := <-c:
		if e.Type != EventMissed {
			t.Fatalf("%+v before anything says that others are missing", e)
		}
	case <-deadline.C:
		t.Fatal("told of nothing")
	}
	if !toldOrListed(t, next, "after", c) {
		t.Error("neither told nor listed after the gap")
	}
	if err := rest[0].Close(); err != nil {
		t.Fatal(err)
	}
	awaitClosed(t, c)
	if _, err := rest[0].Watch(t.Context(), ""); !errors.Is(err, lockerr.ErrClosed) {
		t.Errorf("a watch of a node that is closed: %v", err)
	}
}

// toldOrListed says whether key is listed at n now, or told of by c.
func toldOrListed(t *testing.T, n *Node, key string, c <-chan Event) bool {
	t.Helper()
	a, err := n.Query(t.Context(), Query{Kind: QueryLocks, Prefix: key})
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Locks) > 0 && len(a.Locks[0].Holders) > 0 {
		return true
	}
	return slices.Contains(heard(collect(t, c, 1)), "granted "+key)
}

// A process has so many watches at once; one that finds no leader ends with its context.
func TestWatchesOfOneProcess(t *testing.T) {
	n, _ := loneNode(t, Hooks{})
	l := awaitLead(t, n)
	ctx, cancel := context.WithCancel(t.Context())
	var last <-chan Event
	for range maxWatches {
		c, err := n.Watch(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		last = c
	}
	if _, err := n.Watch(ctx, ""); !errors.Is(err, lockerr.ErrLimit) {
		t.Errorf("one more: %v", err)
	}
	cancel()
	awaitClosed(t, last)
	if _, err := n.Watch(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("under a context that has ended: %v", err)
	}
	if _, err := n.Watch(t.Context(), string(make([]byte, wire.MaxKey+1))); !errors.Is(err, lockerr.ErrInvalid) {
		t.Errorf("a prefix that no key has: %v", err)
	}
	n.handing.Store(true) // nobody leads any more
	l.endAsync()
	await(t, n, "it leads no more", func() bool { return n.lead.Load() == nil })
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := n.Watch(short, ""); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, lockerr.ErrNoQuorum) {
		t.Errorf("without a leader: %v", err)
	}
}
