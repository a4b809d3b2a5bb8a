package node

import (
	"context"
	"errors"
	"math"
	"net"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/wire"
)

// servedBy is a connection that another process opened to a node that leads, and that process's end of it. Both end with the test.
func servedBy(t *testing.T, l *lead) (*peerConn, *rpc.Conn) {
	n := &Node{peers: map[*peerConn]*rpc.Conn{}}
	n.ctx = t.Context()
	n.lead.Store(l)
	p := &peerConn{node: n}
	near, far := net.Pipe()
	served, caller := rpc.New(near, p, rpc.Options{}), rpc.New(far, noHandler{}, rpc.Options{})
	t.Cleanup(func() {
		caller.Close()
		served.Close()
	})
	return p, caller
}

// A connection may be bound as often as its process likes: whoever pushes to its session, as the goroutine does that applies the log, waits for
// nothing that waits for the lead.
func TestBindingAgainHoldsNobodyUp(t *testing.T) {
	_, l := newFakeCluster(t)
	p, caller := servedBy(t, l)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	bind := func() {
		body, err := caller.Call(ctx, callLead, nil)
		if err != nil {
			t.Errorf("not bound: %v", err)
			return
		}
		if reply, err := decodeLeadReply(body); err != nil || !reply.leads || reply.term != l.term {
			t.Errorf("bound to %+v, %v", reply, err)
		}
	}
	bind()
	id := newSession(t, l, "m", time.Minute, new(fakeSink))
	l.attach(id, p)

	l.mu.Lock() // as who pushes has it
	var again sync.WaitGroup
	again.Go(bind)
	for ctx.Err() == nil && !anyStack("(*peerConn).bind(", "(*lead).whenOver(", "(*Mutex).lockSlow(") { // until it waits for the lead
		time.Sleep(time.Millisecond)
	}
	free := p.mu.TryLock()
	if free {
		p.mu.Unlock()
		l.sinks[id].Outcomes(id, []wire.Outcome{{Kind: wire.OutGranted, Seq: 1}})
	}
	l.mu.Unlock()
	again.Wait()
	if !free {
		t.Error("who pushes to the connection waits for the one that is bound to it, and that one for who pushes")
	}
	if ctx.Err() != nil {
		t.Fatal("it took too long")
	}

	// A lead that is over takes nobody.
	l.endAsync()
	if body, err := caller.Call(ctx, callLead, nil); err == nil {
		if reply, err := decodeLeadReply(body); err != nil || reply.leads {
			t.Errorf("after its end: %+v, %v", reply, err)
		}
	}
	if l.whenOver(p, func() {}) {
		t.Error("the lead is not over")
	}
}

// told is a session's owner at the other end of a connection. A renewal's answer ends what it waits for.
type told struct {
	fakeSink
	messages int // guarded by mu
	renewed  chan struct{}
}

func (s *told) Outcomes(id uint64, outs []wire.Outcome) {
	s.fakeSink.Outcomes(id, outs)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages++
}

func (s *told) Renewed(uint64, uint64, bool) { close(s.renewed) }

// pushing is a connection that p serves, and the session's owner at its other end. Both end with the test.
func pushing(t *testing.T) (*peerConn, *remoteLink, *told) {
	p, sink := &peerConn{node: &Node{peers: map[*peerConn]*rpc.Conn{}}}, &told{renewed: make(chan struct{})}
	k := &remoteLink{sink: sink, done: make(chan struct{})}
	near, far := net.Pipe()
	p.conn, k.conn = rpc.New(near, p, rpc.Options{}), rpc.New(far, k, rpc.Options{})
	t.Cleanup(func() {
		k.conn.Close()
		p.conn.Close()
	})
	return p, k, sink
}

// What one entry of the log led to for one session, or what it is told when it attaches, may be more than a message holds.
func TestManyOutcomesAreSeveralMessages(t *testing.T) {
	keys := make([]string, wire.MaxKeys)
	for i := range keys {
		keys[i] = string(rune('0'+i)) + strings.Repeat("k", wire.MaxKey-1)
	}
	adopted := make([]wire.Outcome, 2*wire.MaxFrame/(wire.MaxKeys*wire.MaxKey))
	for i := range adopted {
		adopted[i] = wire.Outcome{Kind: wire.OutAdopted, Seq: uint64(i + 1), Grant: &wire.Grant{Keys: keys, Mode: wire.Shared}}
	}
	revoked := make([]wire.Outcome, wire.MaxOutcomes+1)
	for i := range revoked {
		revoked[i] = wire.Outcome{Kind: wire.OutRevoked, Seq: uint64(i + 1), Code: wire.CodeForced}
	}
	failed := make([]wire.Outcome, wire.MaxFrame/wire.MaxText+1)
	for i := range failed {
		failed[i] = wire.Outcome{Kind: wire.OutFailed, Seq: uint64(i + 1), Text: strings.Repeat("t", wire.MaxText)}
	}
	for _, part := range []struct {
		name  string
		outs  []wire.Outcome
		least int // messages
	}{{"adopted", adopted, 16}, {"revoked", revoked, 2}, {"failed", failed, 8}, {"one", adopted[:1], 1}, {"none", nil, 0}} {
		t.Run(part.name, func(t *testing.T) {
			p, k, sink := pushing(t)
			p.Outcomes(7, part.outs)
			p.Renewed(7, 1, true)
			select {
			case <-sink.renewed:
			case <-k.done:
				t.Fatal("the connection broke:", k.conn.Err())
			}
			_, outs := sink.got()
			if !reflect.DeepEqual(outs, part.outs) {
				t.Errorf("%d of %d outcomes came, or others", len(outs), len(part.outs))
			}
			if most := 2*part.least + 8; sink.messages < part.least || sink.messages > most {
				t.Errorf("in %d messages, want %d to %d", sink.messages, part.least, most)
			}
		})
	}
}

func TestSizeOfOutcomes(t *testing.T) {
	for _, o := range []wire.Outcome{
		{Kind: 255, Seq: math.MaxUint64, Fence: math.MaxUint64, Since: math.MinInt64, Code: 255, Text: strings.Repeat("t", wire.MaxText)},
		{Kind: wire.OutAdopted, Seq: math.MaxUint64, Fence: math.MaxUint64, Since: math.MinInt64, Code: 255, Text: "text", Grant: &wire.Grant{
			Keys: []string{strings.Repeat("k", wire.MaxKey), "l"}, Mode: 255, Limit: math.MaxUint32, Weight: math.MaxUint32, TTL: math.MinInt64,
		}},
	} {
		w := wire.NewWriter()
		o.Encode(w)
		if n := outcomeSize(&o); n < len(w.Bytes()) {
			t.Errorf("an outcome of %d bytes counts as %d", len(w.Bytes()), n)
		}
	}
}

// What can't be told must not be left out: the other side asks again on the next connection.
func TestPushThatFailsEndsTheConnection(t *testing.T) {
	p, k, _ := pushing(t)
	p.send(msgOutcomes, make([]byte, rpc.MaxBody+1))
	select {
	case <-p.conn.Done():
	default:
		t.Fatal("it goes on")
	}
	if err := p.conn.Err(); !errors.Is(err, rpc.ErrTooLarge) {
		t.Error(err)
	}
	<-k.done
}

// anyStack says whether there is a goroutine in all these functions.
func anyStack(functions ...string) bool {
	buf := make([]byte, 1<<20)
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if !slices.ContainsFunc(functions, func(f string) bool { return !strings.Contains(stack, f) }) {
			return true
		}
	}
	return false
}
