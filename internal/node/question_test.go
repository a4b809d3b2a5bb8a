package node

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/testport"
	"github.com/godistlock/distlock/internal/wire"
)

// A question that is kept goes on, and what it leads to is used in a later round or closed: one to a server at a time, and none after the search.
func TestQuestionsOutlastTheirRound(t *testing.T) {
	f := startFleet(t, 3, Hooks{}, Hooks{}, Hooks{})
	leader, _ := f.leader(t)
	n := f.others(leader)[0]
	qs := &questions{n: n, ctx: t.Context(), sink: &fakeSink{}, late: map[wire.UUID]*question{}}
	ask := func() *question {
		q := qs.begin(leader.Server(), time.Minute, nil)
		<-q.done
		if q.link == nil {
			t.Fatalf("no link: %v", q.err)
		}
		return q
	}
	first, second := ask(), ask()
	if !first.there.Load() || !first.reached.Load() {
		t.Error("the leader has answered, and was not reached")
	}
	qs.keep(first)
	qs.keep(second)
	<-second.link.Done()
	if k := qs.found(); k != first.link {
		t.Errorf("found %v", k)
	}
	if k := qs.found(); k != nil {
		t.Error("found twice")
	}
	third, fourth := ask(), ask()
	qs.keep(third)
	qs.end()
	<-third.link.Done()
	qs.keep(fourth)
	<-fourth.link.Done()
	select {
	case <-first.link.Done():
		t.Error("what was found is closed")
	default:
	}
	first.link.Close()
}

// Which question counts, and which goes on, when one of a round before is under way.
func TestQuestionsOfTwoRounds(t *testing.T) {
	f := startFleet(t, 1, Hooks{})
	qs := &questions{n: f[0], ctx: t.Context(), sink: &fakeSink{}, late: map[wire.UUID]*question{}}
	over, end := context.WithCancel(t.Context())
	end()
	server := wire.NewUUID()
	newOne := func(answered, there bool) (*question, context.Context) {
		ctx, cancel := context.WithCancel(t.Context())
		q := &question{server: server, cancel: cancel, done: make(chan struct{})}
		if q.there.Store(there); answered {
			close(q.done)
		} else {
			go func() { // ends with ctx
				<-ctx.Done()
				close(q.done)
			}()
		}
		return q, ctx
	}
	yes, no := func() bool { return true }, func() bool { return false }
	for _, c := range []struct {
		name          string
		there, before bool
		named         func() bool
		kept          string
	}{
		{"not connected", false, false, yes, ""}, {"named by nobody", true, false, no, ""}, {"connected", true, false, yes, "new"},
		{"beside an older one", true, true, yes, "old"}, {"beside an older one that nobody names any more", true, true, no, "old"},
	} {
		old, _ := newOne(false, true)
		q, ctx := newOne(false, c.there)
		if c.before {
			qs.keep(old)
		}
		if _, ok := qs.await(over, q, c.named); ok {
			t.Errorf("%s: answered", c.name)
		}
		want := map[string]*question{"old": old, "new": q}[c.kept]
		if got := qs.take(server); got != want {
			t.Errorf("%s: not the %q one goes on", c.name, c.kept)
		}
		if dropped := ctx.Err() != nil; dropped != (want != q) {
			t.Errorf("%s: dropped: %v", c.name, dropped)
		}
		old.cancel()
		q.cancel()
	}
	old, _ := newOne(false, true)
	q, _ := newOne(true, true)
	qs.keep(old)
	if got, ok := qs.await(t.Context(), q, yes); !ok || got != q || qs.take(server) != old {
		t.Error("one that says who leads instead ends an older one that may know better, or does not count")
	}
	old.cancel()
	old, _ = newOne(true, true)
	old.hint = wire.NewUUID()
	q, ctx := newOne(false, true)
	qs.keep(old)
	if got, ok := qs.await(t.Context(), q, yes); !ok || got != old || ctx.Err() == nil {
		t.Error("an older one's hint does not count, or the new question goes on")
	}
}

// A question ends by itself however long its server is silent, so that a new one is asked: who took the connection may be gone with its machine.
func TestQuestionsEnd(t *testing.T) {
	f := startFleet(t, 1, Hooks{})
	silent := wire.NewUUID()
	ln, err := net.Listen("tcp", testport.Node.Pick(t, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f[0].remember(silent, ln.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	qs := &questions{n: f[0], ctx: ctx, sink: &fakeSink{}, late: map[wire.UUID]*question{}}
	began := time.Now()
	q := qs.begin(silent, linkTimeout, nil)
	qs.keep(q)
	<-q.done
	if took := time.Since(began); q.err == nil || !q.there.Load() || took < lateRounds*linkTimeout {
		t.Errorf("over after %s: %v", took, q.err)
	}
	if qs.found() != nil || len(qs.late) != 0 {
		t.Error("what is over is kept")
	}
	q = qs.begin(silent, time.Hour, nil)
	if qs.keep(q); qs.late[silent] != q {
		t.Error("not kept")
	}
	cancel()
	<-q.done
}
