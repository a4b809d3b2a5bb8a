package node

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// detached takes key at l for d, as request seq of a session, and begins its time now.
func detached(t *testing.T, l *lead, id, seq uint64, key string, d time.Duration, sink *fakeSink) {
	t.Helper()
	l.give(id, []wire.Op{
		{Kind: wire.OpRequest, Seq: seq, Ask: &wire.Ask{Keys: []string{key}, Detached: d.Milliseconds()}},
		{Kind: wire.OpTime, Seq: seq, Ask: &wire.Ask{Time: d.Milliseconds(), Nth: 1}},
	}, sink)
	synctest.Wait()
	if !isHeld(l, key) {
		t.Fatalf("%s is not held", key)
	}
}

func isHeld(l *lead, key string) bool {
	_, ok := l.group.fsm.View().Grant(key, 0)
	return ok
}

// succeed ends l and begins the next lead over the same log.
func succeed(t *testing.T, f *fakeLog, l *lead) *lead {
	t.Helper()
	l.endAsync()
	synctest.Wait()
	next := startLead(l.group, fakeTerm, f.propose, f.allowed, l.logger)
	f.lead = next
	t.Cleanup(next.end)
	f.commitAll(true)
	if err := next.begin(); err != nil {
		t.Fatal(err)
	}
	return next
}

// A time ends not before it is up, and little later.
func TestTimesEndOnTimeAndNeverEarly(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Hour, &sink)
		for i, d := range []time.Duration{1, 99, 100, 101, 1000, 1234, 60_000, 61_001} {
			key := fmt.Sprint("k", i)
			d *= time.Millisecond
			detached(t, l, id, uint64(i+1), key, d, &sink)
			time.Sleep(d - time.Microsecond)
			synctest.Wait()
			if !isHeld(l, key) {
				t.Errorf("%s: ended early", d)
			}
			time.Sleep(timeTick + time.Microsecond)
			synctest.Wait()
			if isHeld(l, key) {
				t.Errorf("%s: not ended %s later", d, timeTick)
			}
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.times.byID != nil || l.times.heap != nil {
			t.Error("times that are over are remembered")
		}
	})
}

// However often something else wakes the loop, no session and no time is put off.
func TestWakesPutNothingOff(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Hour, &sink)
		idle := newSession(t, l, "idle", 2*time.Second, &sink)
		detached(t, l, id, 1, "k", 2*time.Second, &sink)
		for began := time.Now(); time.Since(began) < 2*time.Second+2*expiryTick; time.Sleep(5 * time.Millisecond) {
			hint(l.wake)
		}
		if isHeld(l, "k") {
			t.Error("the time is not over")
		}
		if _, stands := l.group.fsm.Session(idle); stands {
			t.Error("the session is not over")
		}
	})
}

// A new leader goes on from what was committed: at most an eighth is lost to each change, and nothing ends early.
func TestANewLeaderGoesOnMeasuring(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Hour, &sink)
		const d = 80 * time.Second
		began := time.Now()
		detached(t, l, id, 1, "k", d, &sink)
		for range 3 {
			time.Sleep(25 * time.Second)
			l = succeed(t, f, l)
		}
		left := l.group.fsm.View().Timers()[0].Left
		if really := (d - time.Since(began)).Milliseconds(); left < really || left > really+3*d.Milliseconds()/timeParts {
			t.Errorf("%d ms are committed as left, in truth it is %d", left, really)
		}
		time.Sleep(d - time.Since(began) - time.Millisecond)
		synctest.Wait()
		if !isHeld(l, "k") {
			t.Error("ended early")
		}
		time.Sleep(3*d/timeParts + timeTick)
		synctest.Wait()
		if isHeld(l, "k") {
			t.Errorf("not ended after %s", time.Since(began))
		}
	})
}

// A lead that is over measures for nobody, and one that was paused says what is true when it wakes.
func TestTimesOfAPausedLeader(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Hour, &sink)
		detached(t, l, id, 1, "k", 10*time.Second, &sink)
		f.commitAll(false) // nothing commits: what it says piles up
		time.Sleep(time.Minute)
		synctest.Wait()
		if !isHeld(l, "k") {
			t.Fatal("ended without a commit")
		}
		f.commitAll(true)
		synctest.Wait()
		if isHeld(l, "k") {
			t.Error("not ended though it said so")
		}
		detached(t, l, id, 2, "k", 10*time.Second, &sink)
		f.lose()
		l.endAsync()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := f.inFlight(); n > 0 {
			t.Errorf("a lead that is over proposes %d entries", n)
		}
		if !isHeld(l, "k") {
			t.Error("a lead that is over ended it")
		}
	})
}

// What is released, or set anew, is not ended by the time that ran before.
func TestTimesThatAreStoppedOrSetAnew(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Hour, &sink)
		detached(t, l, id, 1, "a", time.Second, &sink)
		detached(t, l, id, 2, "b", time.Second, &sink)
		l.give(id, []wire.Op{
			{Kind: wire.OpFinish, Seq: 1}, {Kind: wire.OpTime, Seq: 2, Ask: &wire.Ask{Time: 5000, Nth: 2}},
		}, &sink)
		synctest.Wait()
		l.mu.Lock()
		if n := len(l.times.byID); n != 1 || len(l.times.heap) != 1 {
			t.Errorf("%d times run, %d are in the heap; want one", n, len(l.times.heap))
		}
		l.mu.Unlock()
		time.Sleep(4999 * time.Millisecond)
		synctest.Wait()
		if !isHeld(l, "b") {
			t.Error("the time that was replaced ended it")
		}
		time.Sleep(2 * timeTick)
		synctest.Wait()
		if isHeld(l, "b") {
			t.Error("the new time did not end it")
		}
	})
}

// A cooldown begins in the very entry that ends the time before it, under the same fence.
func TestACooldownAfterATime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Hour, &sink)
		l.give(id, []wire.Op{
			{Kind: wire.OpRequest, Seq: 1, Ask: &wire.Ask{Keys: []string{"k"}, Detached: 1000, Cooldown: 3000}},
			{Kind: wire.OpTime, Seq: 1, Ask: &wire.Ask{Time: 1000, Nth: 1}},
			{Kind: wire.OpAcquire, Seq: 2, Key: "k"},
		}, &sink)
		time.Sleep(1000*time.Millisecond + timeTick)
		synctest.Wait()
		if isHeld(l, "k") {
			t.Fatal("held in its cooldown")
		}
		time.Sleep(2900 * time.Millisecond)
		synctest.Wait()
		if isHeld(l, "k") {
			t.Fatal("granted in its cooldown")
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if g, ok := l.group.fsm.View().Grant("k", 0); !ok || g.Seq != 2 {
			t.Error("the waiter is not granted after the cooldown")
		}
	})
}

// Of very many times only those are looked at that are due, as many at once as one command may carry; and each is said to have at least what is
// left of it.
func TestManyTimes(t *testing.T) {
	s := stopwatch{began: time.Now()}
	const n = 3 * raftfsm.MaxTimers
	for i := range n {
		s.start(raftfsm.Timer{Key: "k", Fence: uint64(i + 1), Armed: 1, Left: int64(60_000 + i)}, s.began)
	}
	said := map[uint64]int64{}
	ended := 0
	for now := s.began; len(s.heap) > 0; now = now.Add(137 * time.Millisecond) {
		for {
			out, _ := s.due(now)
			if len(out) == 0 {
				break
			}
			if len(out) > raftfsm.MaxTimers {
				t.Fatalf("%d times at once", len(out))
			}
			for _, x := range out {
				really := x.Fence - 1 + 60_000
				if at := now.Sub(s.began); ms(x.Left) < ms(int64(really))-at {
					t.Fatalf("%d ms left of %d after %s", x.Left, really, at)
				}
				if x.Left == 0 {
					ended++
				}
				said[x.Fence]++
			}
		}
	}
	if ended != n {
		t.Errorf("%d of %d have ended", ended, n)
	}
	for fence, times := range said {
		if times > timeParts+1 {
			t.Fatalf("time %d was told %d times", fence, times)
		}
	}
}

// A million of them cost a look at the one that is next.
func BenchmarkAMillionTimes(b *testing.B) {
	s := stopwatch{began: time.Now()}
	for i := range 1_000_000 {
		s.start(raftfsm.Timer{Key: "k", Fence: uint64(i + 1), Armed: 1, Left: wire.MaxTime - int64(i)}, s.began)
	}
	now := s.began.Add(time.Second)
	for b.Loop() {
		if out, _ := s.due(now); len(out) > 0 {
			b.Fatal("due")
		}
	}
}
