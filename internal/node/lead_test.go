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
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// newSession creates one of ttl at l and attaches sink.
func newSession(t *testing.T, l *lead, name string, ttl time.Duration, sink *fakeSink) uint64 {
	t.Helper()
	r, err := l.create(t.Context(), wire.CreateSession{
		Nonce: wire.NewUUID(), Name: name, Server: wire.NewUUID(), Instance: wire.NewUUID(), TTL: ttl.Milliseconds(),
	})
	if err != nil || r.Code != wire.CodeOK {
		t.Fatalf("create: %+v, %v", r, err)
	}
	l.attach(r.Session, sink)
	return r.Session
}

// A renewal is answered only after an entry that was proposed after it came has committed: nothing less proves that this process leads. An
// entry that was on its way before proves nothing, nor does one that is lost.
func TestRenewalWaitsForACommit(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Minute, &sink)
		f.commitAll(false)
		before := make(chan error, 1)
		go func() { // an entry on its way before the renewal comes
			_, err := l.propose(t.Context(), raftfsm.Noop{})
			before <- err
		}()
		synctest.Wait()
		if n := f.inFlight(); n != 1 {
			t.Fatalf("%d entries in flight", n)
		}
		l.renew(id, 1, &sink)
		time.Sleep(patientFor)
		synctest.Wait()
		if got, _ := sink.got(); len(got) > 0 {
			t.Fatal("answered before anything has committed")
		}
		// The older entry commits alone: its index is the lower one.
		f.mu.Lock()
		old, rest := f.waiting[0], f.waiting[1:]
		f.waiting = []*fakeEntry{old}
		f.commitLocked()
		f.waiting = rest
		f.mu.Unlock()
		synctest.Wait()
		if err := <-before; err != nil {
			t.Fatal(err)
		}
		if got, _ := sink.got(); len(got) > 0 {
			t.Fatal("answered after an entry that was proposed before it came")
		}
		f.commitAll(false)
		synctest.Wait()
		if got, _ := sink.got(); !slices.Equal(got, []bool{true}) {
			t.Fatalf("answers %v after the commit", got)
		}
		l.renew(id, 2, &sink)
		time.Sleep(patientFor)
		synctest.Wait()
		f.lose()
		synctest.Wait()
		if got, _ := sink.got(); len(got) != 1 {
			t.Errorf("answers %v: the last one by a leader that is none", got)
		}
		select {
		case <-l.done:
		default:
			t.Error("the lead goes on after a lost entry")
		}
	})
}

// Renewals cost entries by the time, not by their number, and none when others are due: an idle fleet of a thousand processes renews 600 times a
// second. None waits for longer than patientFor.
func TestRenewalsGoTogether(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, l := newFakeCluster(t)
		const sessions, pace = 100, patientFor / 10
		sinks := make([]fakeSink, sessions)
		ids := make([]uint64, sessions)
		for i := range ids {
			ids[i] = newSession(t, l, fmt.Sprint("m", i), time.Minute, &sinks[i])
		}
		entries := func() uint64 { f.mu.Lock(); defer f.mu.Unlock(); return f.index }
		began := entries()
		for i, id := range ids {
			l.renew(id, 1, &sinks[i])
			time.Sleep(pace)
		}
		time.Sleep(patientFor)
		synctest.Wait()
		if n := entries() - began; n > sessions/10+1 {
			t.Errorf("%d entries for %d renewals within %s", n, sessions, sessions*pace)
		}
		for i := range sinks {
			if got, _ := sinks[i].got(); !slices.Equal(got, []bool{true}) {
				t.Fatalf("renewal %d was answered with %v", i, got)
			}
		}
		l.renew(ids[0], 2, &sinks[0])
		l.give(ids[1], []wire.Op{{Kind: wire.OpAcquire, Seq: 1, Key: "k"}}, &sinks[1])
		synctest.Wait() // and no time passes
		if got, _ := sinks[0].got(); len(got) != 2 {
			t.Error("a renewal has not gone with the operation that came after it")
		}
		asked := time.Now()
		l.renew(ids[0], 3, &sinks[0])
		for {
			synctest.Wait()
			if got, _ := sinks[0].got(); len(got) == 3 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(asked); took > patientFor {
			t.Errorf("a renewal waited for %s", took)
		}
	})
}

// A renewal whose session is gone by the commit is answered with no.
func TestRenewalOfASessionThatEnds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Minute, &sink)
		f.commitAll(false)
		go l.closeSession(t.Context(), id)
		synctest.Wait()
		l.renew(id, 1, &sink)
		f.commitAll(true)
		synctest.Wait()
		got, _ := sink.got()
		if len(got) == 0 || slices.Contains(got, true) {
			t.Errorf("answers %v", got)
		}
	})
}

// What Raft did not say is committed has an unknown outcome: nobody is told that it failed, and nothing is pushed.
func TestLostEntryHasAnUnknownOutcome(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Minute, &sink)
		f.commitAll(false)
		l.give(id, []wire.Op{{Kind: wire.OpAcquire, Seq: 1, Key: "k"}}, &sink)
		created := make(chan error, 1)
		go func() {
			_, err := l.create(t.Context(), wire.CreateSession{Nonce: wire.NewUUID(), Name: "other", TTL: 10_000})
			created <- err
		}()
		synctest.Wait()
		f.lose()
		synctest.Wait()
		if err := <-created; !errors.Is(err, errLost) && !errors.Is(err, errNotLeading) {
			t.Errorf("a creation whose entry was lost: %v", err)
		}
		if renewed, outs := sink.got(); len(renewed)+len(outs) > 0 {
			t.Errorf("told %v and %v of what nobody knows", renewed, outs)
		}
		// All that comes later is refused: this lead is over.
		if err := l.prove(t.Context()); !errors.Is(err, errNotLeading) {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// Raft's futures have no time limit of their own: a caller's context ends the wait.
func TestProposalsEndWithTheirContext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, l := newFakeCluster(t)
		f.commitAll(false)
		for name, call := range map[string]func(context.Context) error{
			"prove":   l.prove,
			"propose": func(ctx context.Context) error { _, err := l.propose(ctx, raftfsm.Noop{}); return err },
			"close":   func(ctx context.Context) error { return l.closeSession(ctx, 1) },
			"query": func(ctx context.Context) error {
				_, err := l.answer(ctx, Query{Kind: QueryLocks})
				return err
			},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
				t.Errorf("%s: %v after %s", name, err, time.Since(began))
			}
			cancel()
		}
	})
}

// A new leader gives every session a full TTL, from the commit of an entry of its own: the one before may have answered a renewal just before it
// ended. Then a session that is not renewed ends, at the earliest its TTL after the last renewal came.
func TestNewLeadGivesAFullTTL(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, first := newFakeCluster(t)
		var sink fakeSink
		const ttl = 2 * time.Second
		newSession(t, first, "m", ttl, &sink)
		time.Sleep(ttl * 9 / 10)
		first.endAsync()
		synctest.Wait()
		second := startLead(first.group, fakeTerm, f.propose, first.allowed, first.logger)
		defer second.end()
		f.lead = second
		f.commitAll(false)
		go second.begin()
		time.Sleep(10 * ttl) // until its own entry has committed it ends nothing
		f.commitAll(true)
		<-second.ready
		began := time.Now()
		id := first.group.fsm.View().Sessions()[0].ID
		ends := func() bool { _, stands := first.group.fsm.Session(id); return !stands }
		time.Sleep(ttl - time.Millisecond)
		synctest.Wait()
		if ends() {
			t.Fatalf("expired %s after the new leader began", time.Since(began))
		}
		second.renew(id, 1, &sink)
		time.Sleep(ttl - time.Millisecond)
		synctest.Wait()
		if ends() {
			t.Fatal("expired less than its TTL after a renewal")
		}
		time.Sleep(2 * expiryTick)
		synctest.Wait()
		if !ends() {
			t.Fatal("a session that nobody renews goes on")
		}
	})
}

// A leader whose own process was paused finds sessions that look expired, and their renewals unread in its sockets.
func TestExpiryAfterAPause(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		var sink fakeSink
		const ttl = 2 * time.Second
		id := newSession(t, l, "m", ttl, &sink)
		l.prolong(time.Minute) // what the loop does when it wakes a minute late
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if _, stands := l.group.fsm.Session(id); !stands {
			t.Error("the session paid for the leader's pause")
		}
	})
}

// A panic in a push leaves no lock behind that the end of the lead waits for.
func TestPanicInAPush(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Minute, &sink)
		l.attach(id, panicSink{&sink})
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			l.observe(&raftfsm.Result{Outcomes: []raftfsm.Routed{{Session: id}}})
		}()
		ended := make(chan struct{})
		go func() {
			l.end()
			close(ended)
		}()
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Error("the lead's end waits for a lock that a panic left")
		}
	})
}

type panicSink struct{ *fakeSink }

func (panicSink) Outcomes(uint64, []wire.Outcome) { panic("a bug") }

// endedSink is a sink whose end is noted.
type endedSink struct {
	fakeSink
	ended int
}

func (s *endedSink) superseded() { s.ended++ }

// Who attaches a session ends the way that it had before, and nobody's who attaches it again the same way.
func TestOneWayToASession(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		id := newSession(t, l, "m", time.Minute, &fakeSink{})
		var owner, stranger endedSink
		l.attach(id, &owner)
		l.attach(id, &owner)
		if owner.ended != 0 {
			t.Error("a way is ended by itself")
		}
		l.attach(id, &stranger)
		if owner.ended != 1 {
			t.Error("the way before goes on, and nothing comes by it")
		}
		l.attach(id, &owner)
		if stranger.ended != 1 || owner.ended != 1 {
			t.Errorf("ended: the stranger %d times, the owner %d", stranger.ended, owner.ended)
		}
	})
}
