package node

import (
	"context"
	"net"
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
