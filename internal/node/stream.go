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
	"github.com/godistlock/distlock/internal/wire"
)

// streamLayer gives Raft its streams. Raft's ServerAddress is the server's UUID: the layer resolves it, and the stream names it as its
// target, so that a process which took over an address never answers in its predecessor's name.
type streamLayer struct {
	server  wire.UUID
	mux     *mux.Mux
	accept  <-chan *mux.Conn
	resolve func(wire.UUID) (string, bool)
	done    chan struct{} // closed by Close
	once    sync.Once
}

var _ raft.StreamLayer = (*streamLayer)(nil)

var errStreamsClosed = errors.New("raft streams are closed")

func newStreamLayer(server wire.UUID, m *mux.Mux, resolve func(wire.UUID) (string, bool)) *streamLayer {
	return &streamLayer{server: server, mux: m, accept: m.Accept(wire.KindRaft), resolve: resolve, done: make(chan struct{})}
}

func (s *streamLayer) self() raft.ServerAddress { return raft.ServerAddress(s.server.String()) }

// Dial opens a stream to the server whose UUID address is.
func (s *streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	target, err := wire.ParseUUID(string(address))
	if err != nil {
		return nil, fmt.Errorf("raft address: %w", err)
	}
	addr, ok := s.resolve(target)
	if !ok {
		return nil, fmt.Errorf("no address known of server %s", target)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, _, err := s.mux.Dial(ctx, addr, wire.KindRaft, target)
	if err != nil {
		return nil, err
	}
	return raftConn{conn}, nil
}

// Accept waits for the next stream that named this server as its target (the mux refuses the others).
func (s *streamLayer) Accept() (net.Conn, error) {
	select {
	case c, ok := <-s.accept:
		if !ok {
			return nil, errStreamsClosed
		}
		return raftConn{c}, nil
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
