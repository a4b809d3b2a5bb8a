package node

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/testport"
	"github.com/godistlock/distlock/internal/wire"
)

// Who looks for the leader asks the likeliest, and others only when that has not answered for a while or has said no: all of a large fleet look at
// the same moment.
func TestSeekAsksInTurn(t *testing.T) {
	f := startFleet(t, 3, Hooks{}, Hooks{}, Hooks{})
	leader, _ := f.leader(t)
	n := f.others(leader)[0]
	await(t, n, "the leader and the other voter", func() bool {
		might := n.whoMightLead()
		return might[0] == leader.Server() && !slices.ContainsFunc(f.others(n), func(o *Node) bool { return !slices.Contains(might, o.Server()) })
	})
	var mu sync.Mutex
	var asked []wire.UUID
	seeking := func(timeout time.Duration, answer func(ctx context.Context, nth int) bool) (wire.UUID, bool) {
		asked = nil
		return seek(t.Context(), n, timeout, func(wire.UUID) bool { return false }, func(ctx context.Context, server wire.UUID) (wire.UUID, bool, wire.UUID) {
			mu.Lock()
			asked = append(asked, server)
			nth := len(asked)
			mu.Unlock()
			return server, answer(ctx, nth), wire.UUID{}
		}, func(wire.UUID) {})
	}
	const ages = time.Hour // no other is asked by the clock
	if got, ok := seeking(ages, func(context.Context, int) bool { return true }); !ok || got != leader.Server() || len(asked) != 1 {
		t.Errorf("found %s, %v, after %d were asked", got, ok, len(asked))
	}
	if _, ok := seeking(ages, func(_ context.Context, nth int) bool { return nth == 2 }); !ok || len(asked) != 2 || asked[0] == asked[1] {
		t.Errorf("after a no: %v, %d were asked", ok, len(asked))
	}
	began := time.Now()
	if got, ok := seeking(10*time.Second, func(ctx context.Context, nth int) bool {
		if nth == 1 {
			<-ctx.Done()
		}
		return nth == 2
	}); !ok || got != asked[1] || time.Since(began) > 5*time.Second {
		t.Errorf("one that is silent holds up the others: %v after %s", ok, time.Since(began))
	}
	if _, ok := seeking(ages, func(context.Context, int) bool { return false }); ok || len(asked) != 2 || slices.Contains(asked, n.Server()) {
		t.Errorf("%d were asked, %v", len(asked), ok)
	}
}

// Who is asked for the leader after the last has died answers when it knows the next, and not before, or once it has kept the asker waiting long
// enough: all of a large fleet would ask again and again. A process of before, which does not say that it can wait, is answered at once.
func TestWhoIsAskedWaitsForNews(t *testing.T) {
	f := startFleet(t, 3, Hooks{}, Hooks{}, Hooks{})
	leader, l := f.leader(t)
	asked, asker := f.others(leader)[0], f.others(leader)[1]
	ask := func(call []byte) (leadReply, time.Duration) {
		t.Helper()
		began := time.Now()
		body, err := asker.callAddr(t.Context(), asked.cfg.Addr, asked.Server(), callLead, call)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := decodeLeadReply(body)
		if err != nil {
			t.Fatal(err)
		}
		return reply, time.Since(began)
	}
	over := leadCall{format: wire.Format, over: leader.Server(), term: l.term}
	if reply, took := ask(leadCall{format: wire.Format}.encode()); reply.leader != leader.Server() {
		t.Errorf("who leads is known, and after %s the answer is %+v", took, reply)
	}
	old := wire.NewWriter()
	old.Uint(wire.Format)
	leader.Close()
	if reply, took := ask(old.Bytes()); took >= holdFor {
		t.Errorf("a process of before waits %s for %+v", took, reply)
	}
	for news := false; !news; {
		reply, took := ask(over.encode())
		news = reply.leads || !reply.leader.IsZero() && reply.leader != leader.Server()
		if !news && took < holdFor {
			t.Fatalf("no news after %s: %+v", took, reply)
		}
	}
}

// A vote that is given is no word of the leader before.
func TestAVoteIsNoNews(t *testing.T) {
	f := startFleet(t, 3, Hooks{}, Hooks{}, Hooks{})
	leader, l := f.leader(t)
	asked, asker := f.others(leader)[0], f.others(leader)[1]
	over := leader.Server()
	leader.Close()
	g := asker.group.Load()
	id := raft.ServerID(asker.Server().String())
	vote := raft.RequestVoteRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(id)},
		Term:      l.term, LastLogIndex: 1 << 40, LastLogTerm: l.term, LeadershipTransfer: true, // else one that has a leader gives none
	}
	done := make(chan struct{})
	go func() { // ends with done
		to := asked.Server().String()
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-tick.C:
			case <-done:
				return
			}
			vote.Term++
			var given raft.RequestVoteResponse
			_ = g.transport.RequestVote(raft.ServerID(to), raft.ServerAddress(to), &vote, &given)
		}
	}()
	defer close(done)
	began := time.Now()
	call := leadCall{format: wire.Format, over: over, term: l.term}
	body, err := asker.callAddr(t.Context(), asked.cfg.Addr, asked.Server(), callLead, call.encode())
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := decodeLeadReply(body); err != nil || reply.leader == over && time.Since(began) < holdFor {
		t.Errorf("after %s: %+v, %v", time.Since(began), reply, err)
	}
}

// Where nobody listens any more others are asked for a way there, but not at once: all who had a leader that has died would do it.
func TestNoHurryToWhoIsGone(t *testing.T) {
	f := startFleet(t, 3, Hooks{}, Hooks{}, Hooks{})
	closed := testport.Node.Pick(t, 1)[0]
	n, nobody := f[0], wire.NewUUID()
	for _, o := range f {
		o.remember(nobody, closed)
	}
	await(t, n, "the others", func() bool { via, _ := n.detoursTo(nobody); return len(via) == 2 })
	reach := func(limit, detourAfter time.Duration) time.Duration {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		if _, _, err := n.reach(ctx, nobody, noHandler{}, detourAfter, nil, new(atomic.Bool)); !provesGone(err) {
			t.Errorf("got %v", err)
		}
		return time.Since(began)
	}
	const limit = 300 * time.Millisecond
	if took := reach(limit, time.Hour); took < limit { // others, who say the same, would have ended it
		t.Errorf("others were asked at once: it took %s", took)
	}
	if took := reach(time.Minute, time.Millisecond); took > 30*time.Second {
		t.Errorf("others were not asked: it took %s", took)
	}
}

func TestRoundsOfSilenceTakeLonger(t *testing.T) {
	for silent, want := range map[int]time.Duration{0: linkTimeout, 1: linkTimeout, 2: 2 * linkTimeout, 6: 8 * linkTimeout, 1000: 8 * linkTimeout} {
		if got := roundTimeout(silent); got != want {
			t.Errorf("after %d: %s", silent, got)
		}
	}
}

// Askers are told a few at once and then one after the other; those who have given up hold up nobody who comes later.
func TestAskersAreToldOneByOne(t *testing.T) {
	var p oneByOne
	now := time.Now()
	for i := range 3 * tellAtOnce {
		if got, want := p.turn(now), max(0, time.Duration(i-tellAtOnce)*tellEvery); got != want {
			t.Errorf("asker %d waits %s, want %s", i, got, want)
		}
	}
	for range 10 * int(holdFor/tellEvery) {
		p.turn(now)
	}
	if got := p.turn(now); got > holdFor {
		t.Errorf("one waits %s, and nobody is kept for more than %s", got, holdFor)
	}
	if got := p.turn(now.Add(2 * holdFor)); got != 0 {
		t.Errorf("after a while one waits %s", got)
	}
}

func TestPausesGrow(t *testing.T) {
	for _, c := range []struct {
		round, busy int
		want        time.Duration
	}{
		{0, 0, linkRetry}, {retryDoubles, 0, 2 * linkRetry}, {1000, 0, mostRetry}, {0, 1, busyRetry}, {1000, 2, 2 * busyRetry}, {0, 1000, busyRetry << mostBusy},
	} {
		if got := retryPause(c.round, c.busy); got != c.want {
			t.Errorf("round %d, busy %d: %s, want %s", c.round, c.busy, got, c.want)
		}
	}
}

// News of others does not end the pause between two rounds; that of a leader does.
func TestWaitRetryWaitsForItsSituation(t *testing.T) {
	f := startFleet(t, 1, Hooks{})
	n := f[0]
	f.leader(t)
	await(t, n, "it leads", func() bool { return n.situation().leads })
	over := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { over <- n.waitRetry(ctx, n.situation(), time.Hour) }()
	for range 50 {
		n.notify()
		select {
		case err := <-over:
			t.Fatalf("it does not wait: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	if err := n.waitRetry(ctx, situation{term: 1 << 40}, time.Hour); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-over; err != context.Canceled {
		t.Errorf("its end: %v", err)
	}
}

// When a way through another member is looked for.
func TestDetoursAreDue(t *testing.T) {
	const after = 100 * time.Millisecond
	for _, c := range []struct {
		name               string
		waited             time.Duration
		gone, lives, there bool
		want               bool
	}{
		{"nothing answers yet", after / 2, false, false, false, false}, {"nothing answers", after, false, false, false, true},
		{"it answers slowly", time.Hour, false, false, true, false}, {"it answers slowly, and others hear it", time.Hour, false, true, true, false},
		{"nobody listens", after, true, false, false, false}, {"nobody listens for long", goneDetourAfter, true, false, false, true},
		{"nobody listens, and others hear it", 0, true, true, false, true},
	} {
		w := detourWait{began: time.Now().Add(-c.waited), after: after, gone: c.gone, lives: c.lives}
		if got := w.due(c.there); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
