package mux

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// layer is a raft.StreamLayer over a Mux: a ServerAddress is the server's UUID, and where tells how to get there.
type layer struct {
	m     *Mux
	self  wire.UUID
	where func(wire.UUID) string
	done  chan struct{}
}

type uuidAddr string

func (uuidAddr) Network() string  { return "distlock" }
func (a uuidAddr) String() string { return string(a) }

func (l *layer) Accept() (net.Conn, error) {
	select {
	case c, ok := <-l.m.Accept(wire.KindRaft):
		if ok {
			return c, nil
		}
	case <-l.done:
	}
	return nil, net.ErrClosed
}

func (l *layer) Close() error   { close(l.done); return nil }
func (l *layer) Addr() net.Addr { return uuidAddr(l.self.String()) }

func (l *layer) Dial(target raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, err := wire.ParseUUID(string(target))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	nc, _, err := l.m.Dial(ctx, l.where(id), wire.KindRaft, id)
	return nc, err
}

type raftPeer struct {
	id    identity
	m     *Mux
	trans *raft.NetworkTransport
}

func newRaftPeer(t *testing.T, where func(wire.UUID) string) *raftPeer {
	t.Helper()
	l, p, err := System().Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	id := newIdentity()
	m := New(Config{Listener: l, Dial: System().Dial, Self: id.self})
	t.Cleanup(func() { m.Close() })
	trans := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:          &layer{m: m, self: id.server, where: where, done: make(chan struct{})},
		MaxPool:         2,
		MaxRPCsInFlight: 1,
		Timeout:         2 * time.Second,
		Logger:          hclog.NewNullLogger(),
	})
	return &raftPeer{id, m, trans}
}

func (p *raftPeer) serve() {
	for {
		select {
		case rpc := <-p.trans.Consumer():
			rpc.Respond(&raft.AppendEntriesResponse{Term: 7, Success: true}, nil)
		case <-p.m.Done():
			return
		}
	}
}

// Raft's own transport over the one port: two peers find each other by UUID, a UUID that has moved away is refused (HAZARDS 4), and what
// the transport leaves open when it closes (HAZARDS 19) the Mux closes.
func TestRaftTransport(t *testing.T) {
	before := runtime.NumGoroutine()
	addrs := map[wire.UUID]string{}
	where := func(id wire.UUID) string { return addrs[id] }
	a, b := newRaftPeer(t, where), newRaftPeer(t, where)
	gone := wire.NewUUID() // lived where b lives now
	addrs[a.id.server], addrs[b.id.server], addrs[gone] = a.m.Addr().String(), b.m.Addr().String(), b.m.Addr().String()
	go a.serve()
	go b.serve()

	call := func(from *raftPeer, to wire.UUID) error {
		var resp raft.AppendEntriesResponse
		err := from.trans.AppendEntries(raft.ServerID(to.String()), raft.ServerAddress(to.String()), &raft.AppendEntriesRequest{Term: 7}, &resp)
		if err == nil && !resp.Success {
			return errors.New("no success")
		}
		return err
	}
	for range 3 {
		if err := call(a, b.id.server); err != nil {
			t.Fatal(err)
		}
		if err := call(b, a.id.server); err != nil {
			t.Fatal(err)
		}
	}
	var refused *RefusedError
	if err := call(a, gone); !errors.As(err, &refused) || refused.Welcome.Refusal != wire.RefusedTarget {
		t.Fatalf("a message for a predecessor was answered: %v", err)
	}

	a.m.Mute(wire.KindRaft, true)
	if err := call(a, b.id.server); err == nil {
		t.Error("a muted server was heard")
	}
	if err := call(b, a.id.server); err == nil {
		t.Error("a muted server answered")
	}
	a.m.Mute(wire.KindRaft, false)
	if err := call(a, b.id.server); err != nil {
		t.Errorf("after the mute: %v", err)
	}

	a.trans.Close()
	b.trans.Close()
	if n := open(b.m); n == 0 {
		t.Error("raft's transport closes what it accepted: HAZARDS 19 has changed")
	}
	a.m.Close()
	b.m.Close()
	if n := open(a.m) + open(b.m); n != 0 {
		t.Errorf("%d streams left", n)
	}
	noneLeft(t, before)
}

func open(m *Mux) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.streams)
}

// noneLeft waits until the goroutines of raft's transport, which nobody can wait for, have seen that their streams are closed.
func noneLeft(t *testing.T, before int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			buf := make([]byte, 1<<16)
			t.Fatalf("goroutines left:\n%s", strings.TrimSpace(string(buf[:runtime.Stack(buf, true)])))
		}
		time.Sleep(time.Millisecond)
	}
}
