package node

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/wire"
)

// asker submits operations of one session and answers what is told of each.
type asker struct {
	t    *testing.T
	lead *lead
	sink fakeSink
	id   uint64
	told int
}

func newAsker(t *testing.T, l *lead, name string) *asker {
	a := &asker{t: t, lead: l}
	a.id = newSession(t, l, name, time.Hour, &a.sink)
	return a
}

// ask answers what was told since the last time.
func (a *asker) ask(ops ...wire.Op) []wire.Outcome {
	a.lead.give(a.id, ops, &a.sink)
	synctest.Wait()
	_, all := a.sink.got()
	outs := all[a.told:]
	a.told = len(all)
	return outs
}

// is checks that all that was told is of that kind, with that code.
func is(t *testing.T, what string, outs []wire.Outcome, n int, kind wire.OutcomeKind, code wire.Code) {
	t.Helper()
	if len(outs) != n {
		t.Errorf("%s: told %+v", what, outs)
	}
	for _, o := range outs {
		if o.Kind != kind || o.Code != code {
			t.Errorf("%s: told %+v", what, o)
		}
	}
}

func acquires(key string, from, to uint64) (ops []wire.Op) {
	for seq := from; seq <= to; seq++ {
		ops = append(ops, wire.Op{Kind: wire.OpAcquire, Seq: seq, Key: key})
	}
	return ops
}

// All waiters of the cluster are bounded: the last one waits, one more is refused, and whoever wants what is free is not concerned.
func TestWaitersInAllAreBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		const most = 10
		l.bounds.waiting = most
		a, b := newAsker(t, l, "a"), newAsker(t, l, "b")
		is(t, "the holder", a.ask(acquires("k", 1, 1)...), 1, wire.OutGranted, 0)
		is(t, "as many as may wait", a.ask(acquires("k", 2, most+1)...), most, wire.OutQueued, 0)
		refused := b.ask(acquires("k", 1, 1)...)
		is(t, "one more, of another process", refused, 1, wire.OutFailed, wire.CodeLimit)
		if text := refused[0].Text; !strings.Contains(text, fmt.Sprintf("%d requests wait in the whole cluster (maxWaiting)", most)) {
			t.Errorf("the bound is named by %q", text)
		}
		is(t, "what is free", b.ask(acquires("free", 2, 2)...), 1, wire.OutGranted, 0)
		is(t, "who won't wait", b.ask(wire.Op{Kind: wire.OpAcquire, Try: true, Seq: 3, Key: "k"}), 1, wire.OutFailed, wire.CodeHeld)
		is(t, "a copy", a.ask(acquires("k", 2, 2)...), 1, wire.OutQueued, 0)
		is(t, "another kind", b.ask(request(4, wire.Ask{Keys: []string{"k", "z"}})), 1, wire.OutFailed, wire.CodeLimit)
		is(t, "the end of a waiter", a.ask(wire.Op{Kind: wire.OpFinish, Seq: 5}), 1, wire.OutEnded, 0)
		is(t, "one in its place", b.ask(acquires("k", 5, 5)...), 1, wire.OutQueued, 0)
		// What was refused is over for both sides once it is forgotten.
		is(t, "nothing", b.ask(wire.Op{Kind: wire.OpForget, Seq: 1}, wire.Op{Kind: wire.OpForget, Seq: 4}), 0, 0, 0)
		is(t, "the end of another", a.ask(wire.Op{Kind: wire.OpFinish, Seq: 6}), 1, wire.OutEnded, 0)
		is(t, "a late copy of what was refused", b.ask(acquires("k", 1, 1)...), 0, 0, 0)
	})
}

// What the whole state takes is bounded: then nothing new is begun, and all that ends something goes on.
func TestTheStateIsBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, l := newFakeCluster(t)
		a := newAsker(t, l, "a")
		const held = 100
		for i := range uint64(held) {
			is(t, "before", a.ask(acquires(strings.Repeat("k", 500)+fmt.Sprint(i), i+1, i+1)...), 1, wire.OutGranted, 0)
		}
		snapshot, err := f.fsm.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		sink := &discardSink{}
		if err := snapshot.Persist(sink); err != nil {
			t.Fatal(err)
		}
		size := f.fsm.Size()
		if off := sink.n - size.Bytes; off < 0 || off > held || size.Requests != held {
			t.Fatalf("%+v, and a snapshot of %d bytes", size, sink.n)
		}
		l.bounds.state = size.Bytes + 1
		is(t, "the last", a.ask(acquires("last", held+1, held+1)...), 1, wire.OutGranted, 0)
		refused := a.ask(acquires("one more", held+2, held+2)...)
		is(t, "one more", refused, 1, wire.OutFailed, wire.CodeLimit)
		if len(refused) > 0 && !strings.Contains(refused[0].Text, "(maxState)") {
			t.Errorf("the bound is named by %q", refused[0].Text)
		}
		is(t, "a copy", a.ask(acquires("last", held+1, held+1)...), 1, wire.OutGranted, 0)
		is(t, "the end of two", a.ask(wire.Op{Kind: wire.OpFinish, Seq: 1}, wire.Op{Kind: wire.OpFinish, Seq: 2}), 2, wire.OutEnded, 0)
		is(t, "one in their place", a.ask(acquires("one more", held+3, held+3)...), 1, wire.OutGranted, 0)
	})
}

// discardSink counts a snapshot.
type discardSink struct{ n int64 }

func (s *discardSink) Write(p []byte) (int, error) { s.n += int64(len(p)); return len(p), nil }
func (*discardSink) Close() error                  { return nil }
func (*discardSink) ID() string                    { return "" }
func (*discardSink) Cancel() error                 { return nil }
