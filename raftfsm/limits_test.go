package raftfsm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/godistlock/distlock/internal/wire"
)

// refusedWith checks that the last outcome of res is a failure that names a bound.
func refusedWith(t *testing.T, res *Result, seq uint64, text string) {
	t.Helper()
	if res.Err != nil || len(res.Outcomes) == 0 {
		t.Fatalf("%+v", res)
	}
	o := res.Outcomes[len(res.Outcomes)-1]
	if o.Kind != wire.OutFailed || o.Code != wire.CodeLimit || o.Seq != seq || !strings.Contains(o.Text, text) {
		t.Errorf("%+v, want request %d refused by %s", o, seq, text)
	}
}

// opsIn gives ops to session 1 in entries of a size that a client would send.
func opsIn(t testing.TB, f *FSM, index *uint64, ops []wire.Op) *Result {
	var res *Result
	for len(ops) > 0 {
		n := min(len(ops), wire.MaxOps)
		*index++
		if res = submit(f, *index, Ops{Session: 1, Ops: ops[:n]}); res.Err != nil {
			t.Fatal(res.Err)
		}
		ops = ops[n:]
	}
	return res
}

func TestMaxWaiters(t *testing.T) {
	f, index := opened(t, 2)
	ops := make([]wire.Op, MaxWaiters+2)
	for i := range ops {
		ops[i] = acquire(uint64(i+1), "a")
	}
	last := uint64(len(ops))
	refusedWith(t, opsIn(t, f, &index, ops), last, "100000 waiters of one key (MaxWaiters)")
	// It is remembered: a copy fails as well, though there is room now.
	refusedWith(t, opsIn(t, f, &index, []wire.Op{finish(2), acquire(last, "a")}), last, "MaxWaiters")
	if c := f.View().Counters(); c.Waiters != MaxWaiters-1 {
		t.Errorf("%+v", c)
	}
	if res := opsIn(t, f, &index, []wire.Op{finish(1)}); len(res.Outcomes) != 2 || res.Outcomes[1].Seq != 3 {
		t.Errorf("after the end of the first: %+v", res.Outcomes)
	}
}

func TestMaxGaps(t *testing.T) {
	f, index := opened(t, 1)
	ops := make([]wire.Op, MaxGaps+1)
	for i := range ops {
		ops[i] = finish(uint64(2 * (i + 1)))
	}
	refused := uint64(2 * len(ops))
	refusedWith(t, opsIn(t, f, &index, ops), refused, "65536 gaps in the sequence numbers of one session (MaxGaps)")
	refusedWith(t, opsIn(t, f, &index, []wire.Op{acquire(refused, "a")}), refused, "MaxGaps")
	if _, held := f.View().Grant("a", 0); held {
		t.Error("granted without a trace of its number")
	}
	if g, err := restoreOf(snapshotOf(t, f.View())); err != nil || dump(g.View()) != dump(f.View()) {
		t.Error(err)
	}
	// What fills a gap makes room for another.
	res := opsIn(t, f, &index, []wire.Op{acquire(1, "a"), acquire(refused, "b")})
	if len(res.Outcomes) != 2 || res.Outcomes[1].Kind != wire.OutGranted {
		t.Errorf("%+v", res.Outcomes)
	}
	index++
	submit(f, index, Close{Session: 1})
	if n := f.m.gaps.Len(); n != 0 {
		t.Errorf("%d gaps of a session that has ended", n)
	}
}

// A gap that would be cut in two when there is no room for two stays whole.
func TestMaxGapsInTheMiddle(t *testing.T) {
	f, index := opened(t, 1)
	ops := make([]wire.Op, MaxGaps)
	for i := range ops {
		ops[i] = finish(uint64(4 * (i + 1)))
	}
	opsIn(t, f, &index, ops)
	refusedWith(t, opsIn(t, f, &index, []wire.Op{acquire(2, "a")}), 2, "MaxGaps")
	for _, seq := range []uint64{1, 3, 2} { // from its ends it can be eaten up
		if res := opsIn(t, f, &index, []wire.Op{acquire(seq, fmt.Sprint(seq))}); res.Outcomes[0].Kind != wire.OutGranted {
			t.Errorf("%d: %+v", seq, res.Outcomes)
		}
	}
}

func TestMaxRequests(t *testing.T) {
	f, index := opened(t, 1)
	count := func(n uint32) { f.m.ownSession(f.m.session(1)).requests = n } // a million of them would only take long
	count(MaxRequests - 1)
	if res := opsIn(t, f, &index, []wire.Op{acquire(1, "a")}); res.Outcomes[0].Kind != wire.OutGranted {
		t.Errorf("%+v", res.Outcomes)
	}
	refusedWith(t, opsIn(t, f, &index, []wire.Op{acquire(2, "b")}), 2, "1048576 requests of one session (MaxRequests)")
	refusedWith(t, opsIn(t, f, &index, []wire.Op{{Kind: wire.OpForce, Seq: 3, Key: "a"}}), 3, "MaxRequests")
	count(MaxRequests / 2)
	refusedWith(t, opsIn(t, f, &index, []wire.Op{acquire(2, "b")}), 2, "MaxRequests") // remembered
	count(2 * MaxRequests)
	refusedWith(t, opsIn(t, f, &index, []wire.Op{acquire(4, "b")}), 4, "twice MaxRequests")
	count(MaxRequests / 2)
	if res := opsIn(t, f, &index, []wire.Op{acquire(4, "b")}); res.Outcomes[0].Kind != wire.OutGranted { // not remembered, not granted before
		t.Errorf("%+v", res.Outcomes)
	}
}

func TestMaxSessions(t *testing.T) {
	f, index := opened(t, 0)
	var last *Result
	for from := 0; from <= MaxSessions; from += 10_000 {
		var cmds []Command
		for i := from; i < min(from+10_000, MaxSessions+1); i++ {
			word := fmt.Sprint(i)
			cmds = append(cmds, Create{wire.CreateSession{Nonce: id(word), Name: word, Server: id(word), Instance: id(word), TTL: 1}})
		}
		index++
		if last = submit(f, index, cmds...); last.Err != nil {
			t.Fatal(last.Err)
		}
	}
	reply := last.Replies[len(last.Replies)-1]
	if reply.Code != wire.CodeLimit || !strings.Contains(reply.Text, "MaxSessions") || f.View().Counters().Sessions != MaxSessions {
		t.Errorf("%+v with %d sessions", reply, f.View().Counters().Sessions)
	}
}

func TestMaxDead(t *testing.T) {
	f, index := opened(t, 0)
	for i := range MaxDead + 5 {
		word := fmt.Sprint("s", i)
		index++
		submit(f, index, Create{wire.CreateSession{
			Nonce: id(word), Name: "web", Server: id(word), Instance: id(word), TTL: 1,
			Proof: wire.Proof{Boot: "b", Dir: "d", Started: int64(i)},
		}})
	}
	dead := f.View().Dead()
	if len(dead) != MaxDead || dead[0] != id("s4") || dead[MaxDead-1] != id(fmt.Sprint("s", MaxDead+3)) {
		t.Errorf("%d: %v", len(dead), dead)
	}
}

// TestFencesEnd: below 2^53, for a client that keeps them in a float64.
func TestFencesEnd(t *testing.T) {
	f, index := opened(t, 2)
	f.m.fence = fenceEnd - 2
	submit(f, index+1, Ops{Session: 2, Ops: []wire.Op{acquire(1, "b")}}) // the last one
	if f.m.fence != fenceEnd-1 {
		t.Fatal(f.m.fence)
	}
	index++
	refusedWith(t, opsIn(t, f, &index, []wire.Op{acquire(1, "a")}), 1, "2^53")
	opsIn(t, f, &index, []wire.Op{acquire(2, "b")})
	res := submit(f, index+1, Ops{Session: 2, Ops: []wire.Op{finish(1)}})
	refusedWith(t, res, 2, "2^53")
	if c := f.View().Counters(); c.Keys != 0 || c.LastFence != fenceEnd-1 {
		t.Errorf("%+v", c)
	}
	if _, err := restoreOf(snapshotOf(t, f.View())); err != nil {
		t.Error(err)
	}
}

// The first fence lies above every founder's clock, however wrong one is.
func TestFirstFence(t *testing.T) {
	for _, c := range []struct {
		clocks []int64
		want   uint64
	}{
		{[]int64{5, 7, 6}, 8},
		{[]int64{0, 0, 0}, 1},
		{[]int64{-1 << 63, -1, -7}, 1},
		{[]int64{1, 1<<63 - 1, 1}, maxClock + 1},
		{[]int64{1_767_323_045_000_000, 1_767_323_045_000_001, 0}, 1_767_323_045_000_002},
	} {
		f := New()
		cmds := []Command{Found{Cluster: id("C"), Expect: len(c.clocks), Voters: 3}}
		for i, clock := range c.clocks {
			cmds = append(cmds, Confirm{Cluster: id("C"), Server: id(fmt.Sprint(i)), Clock: clock})
		}
		cmds = append(cmds, Create{wire.CreateSession{Nonce: id("n"), Name: "n", Instance: id("n"), TTL: 1}}, Ops{Session: 1, Ops: []wire.Op{acquire(1, "a")}})
		if res := submit(f, 1, cmds...); !res.Opened || len(res.Outcomes) != 1 || res.Outcomes[0].Fence != c.want {
			t.Errorf("%v: %+v", c.clocks, res)
		}
	}
}

func TestFoundingsThatMakeNoSense(t *testing.T) {
	for _, c := range []Found{
		{Expect: 1, Voters: 1}, {Cluster: id("C"), Voters: 1}, {Cluster: id("C"), Expect: 1},
	} {
		f := New()
		if res := submit(f, 1, c); res.Err != nil || res.Replies[0].Code != wire.CodeInvalid || !f.View().Cluster().IsZero() {
			t.Errorf("%+v: %+v", c, res)
		}
	}
	for _, c := range []Found{{Cluster: id("C"), Expect: MaxExpect + 1, Voters: 1}, {Cluster: id("C"), Expect: 1, Voters: MaxVoters + 1}, {Cluster: id("C"), Expect: -1, Voters: 1}} {
		f := New()
		if res := submit(f, 1, c); res.Err == nil {
			t.Errorf("%+v: %+v", c, res)
		}
	}
	f := New()
	res := submit(f, 1, Found{Cluster: id("C"), Expect: 1, Voters: 1}, Confirm{Cluster: id("C")})
	if res.Replies[1].Code != wire.CodeInvalid || res.Opened {
		t.Errorf("a founder without a server: %+v", res)
	}
}

// The longest names make the longest texts; they still fit what a message may hold.
func TestTextsFit(t *testing.T) {
	f, index := opened(t, 1)
	name := strings.Repeat("\x00", wire.MaxName)
	res := submit(f, index+1,
		Create{wire.CreateSession{Nonce: id("n"), Name: name, Instance: id("n"), TTL: 1}},
		Create{wire.CreateSession{Nonce: id("m"), Name: name, Instance: id("m"), TTL: 1}},
		Ops{Session: 2, Ops: []wire.Op{acquire(1, "a")}},
		Ops{Session: 1, Ops: []wire.Op{{Kind: wire.OpAcquire, Seq: 1, Key: "a", Try: true}}})
	for _, r := range res.Replies {
		if len(r.Text) > wire.MaxText {
			t.Errorf("%d bytes: %s", len(r.Text), r.Text)
		}
	}
	o := res.Outcomes[1]
	if o.Code != wire.CodeHeld || len(o.Text) > wire.MaxText || !strings.HasSuffix(o.Text, "0 waiting") {
		t.Errorf("%+v", o)
	}
}
