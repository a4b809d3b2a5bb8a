package mux

import (
	"net"
	"sync"

	"github.com/godistlock/distlock/internal/wire"
)

// Conn is a stream after its handshake. Its Close must be called even when the other side has hung up: until then it counts.
type Conn struct {
	net.Conn // the stream, secured when there is a Secure
	raw      net.Conn
	secured  Secured // nil without a Secure
	mux      *Mux
	host     string // the remote's, without the port
	incoming bool

	hello   wire.Hello   // the dialer's words
	welcome wire.Welcome // the acceptor's

	once    sync.Once
	closing chan struct{} // closed by the first Close or abort

	kind    wire.Kind // the fields from here are guarded by mux.mu; 0 before an incoming Hello was read
	pending bool      // incoming, and not yet through its handshake
	cause   error     // why the Mux closed it
}

// Peer is who the other side says it is.
type Peer struct {
	Cluster  wire.UUID
	Server   wire.UUID
	Instance wire.UUID
	Name     string
}

// Hello is how the stream was opened: the peer's words when it was accepted, ours when it was dialed.
func (c *Conn) Hello() wire.Hello { return c.hello }

// Welcome is how the Hello was answered: ours when the stream was accepted, the peer's when it was dialed.
func (c *Conn) Welcome() wire.Welcome { return c.welcome }

// Peer is who the other side says it is, on either kind of stream.
func (c *Conn) Peer() Peer {
	if c.incoming {
		return Peer{c.hello.Cluster, c.hello.Server, c.hello.Instance, c.hello.Name}
	}
	return Peer{c.welcome.Cluster, c.welcome.Server, c.welcome.Instance, c.welcome.Name}
}

// Close closes the stream. A stream that the Mux has closed already answers nil.
func (c *Conn) Close() error {
	var err error
	c.once.Do(func() {
		close(c.closing)
		err = c.Conn.Close()
	})
	c.mux.untrack(c)
	return err
}

// abort closes the stream under its owner's hands: the raw one, since a secured one may want to say goodbye to a peer that doesn't listen.
func (c *Conn) abort() {
	c.once.Do(func() {
		close(c.closing)
		c.raw.Close()
	})
	c.mux.untrack(c)
}
