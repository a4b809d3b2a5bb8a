package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/internal/wire"
)

// streamLayer gives Raft its streams. Raft's ServerAddress is the server's UUID: the layer resolves it, and the stream names it as its
// target, so that a process which took over an address never answers in its predecessor's name.
type streamLayer struct {
	server  wire.UUID
	mux     *mux.Mux
	accept  <-chan *mux.Conn
	dial    func(ctx context.Context, addr string, kind wire.Kind, target wire.UUID) (net.Conn, wire.Welcome, error)
	judge   func(server wire.UUID, name string) error // of who is at the other side: an error when it must not be heard
	resolve func(wire.UUID) (string, bool)
	changed func() <-chan struct{} // closed when resolve may answer something else
	done    chan struct{}          // closed by Close
	once    sync.Once
}

var _ raft.StreamLayer = (*streamLayer)(nil)

var errStreamsClosed = errors.New("raft streams are closed")

func newStreamLayer(server wire.UUID, n *Node) *streamLayer {
	return &streamLayer{
		server: server, mux: n.mux, accept: n.mux.Accept(wire.KindRaft), dial: n.dial, judge: n.stranger, resolve: n.addrOf, changed: n.Changed,
		done: make(chan struct{}),
	}
}

func (s *streamLayer) self() raft.ServerAddress { return raft.ServerAddress(s.server.String()) }

// Dial opens a stream to the server whose UUID address is.
func (s *streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	target, err := wire.ParseUUID(string(address))
	if err != nil {
		return nil, fmt.Errorf("raft address: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.dialLatest(ctx, target, func(ctx context.Context, addr string) (net.Conn, error) {
		conn, w, err := s.dial(ctx, addr, wire.KindRaft, target)
		if err != nil {
			return nil, err
		}
		return raftConn{raftlog.Answers(s.known(conn, w.Server, w.Name))}, nil
	})
}

// known is conn as long as its other side may be heard.
func (s *streamLayer) known(conn net.Conn, server wire.UUID, name string) net.Conn {
	return named{conn, func() error { return s.judge(server, name) }}
}

// dialLatest dials target where it is, and anew when it turns out to be elsewhere: an address that is gone may not answer at all, and the
// server that has come back at another would be missing from the majority until the time-out.
func (s *streamLayer) dialLatest(ctx context.Context, target wire.UUID, dial func(context.Context, string) (net.Conn, error)) (net.Conn, error) {
	for {
		changed := s.changed()
		addr, ok := s.resolve(target)
		if !ok {
			return nil, fmt.Errorf("no address known of server %s", target)
		}
		there, stop := context.WithCancel(ctx)
		moved := make(chan bool, 1)
		go func() { // ends with there
			moved <- s.moves(there, changed, target, addr)
			stop()
		}()
		conn, err := dial(there, addr)
		stop()
		if elsewhere := <-moved; err == nil || !elsewhere {
			return conn, err
		}
	}
}

// moves waits until target is elsewhere than at addr, or ctx ends.
func (s *streamLayer) moves(ctx context.Context, changed <-chan struct{}, target wire.UUID, addr string) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
		changed = s.changed()
		if latest, ok := s.resolve(target); ok && latest != addr {
			return true
		}
	}
}

// Accept waits for the next stream that named this server as its target (the mux refuses the others).
func (s *streamLayer) Accept() (net.Conn, error) {
	select {
	case c, ok := <-s.accept:
		if !ok {
			return nil, errStreamsClosed
		}
		return raftConn{raftlog.Requests(s.known(c, c.Hello().Server, c.Hello().Name))}, nil
	case <-s.done:
		return nil, errStreamsClosed
	}
}

// Close ends Accept and closes all Raft streams: Raft's transport leaves the accepted ones open.
func (s *streamLayer) Close() error {
	s.once.Do(func() {
		close(s.done)
		s.mux.CloseStreams(wire.KindRaft)
	})
	return nil
}

// raftConn reads the end of a stream that was closed on this side as an end and not as an error, which Raft would log as one.
type raftConn struct{ net.Conn }

func (c raftConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, mux.ErrMuted) {
		err = io.EOF
	}
	return n, err
}

type uuidAddr string

func (uuidAddr) Network() string  { return "distlock" }
func (a uuidAddr) String() string { return string(a) }

// Addr is the server's UUID.
func (s *streamLayer) Addr() net.Addr { return uuidAddr(s.server.String()) }
