// Package streampackets carries packets over streams, where UDP is not to be used: a net.PacketConn whose packets travel inside streams that
// somebody else opens, accepts and secures. As with UDP a packet may be lost, and whoever sends is never held up.
//
// A stream carries packets one way, from who dialed it: two bytes of length, then the packet. The other side answers a byte whenever it has read
// all that came, so that the sender finds out when a stream leads nowhere any more (the kernel would go on for a quarter of an hour) and dials
// another. Streams are opened by the first packet to an address and closed when none has followed for a while.
package streampackets

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// Config says what streams there are. All but Logger must be set.
type Config struct {
	Local net.Addr // what LocalAddr answers
	// Dial opens a stream for packets to an IP:port. It must end with ctx.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Accept answers the next stream for packets that came in, or an error once there will be none or ctx has ended.
	Accept func(ctx context.Context) (net.Conn, error)
	Logger *slog.Logger // nil: nothing is logged
}

// MaxPacket is the most that a packet holds, in bytes. memberlist's have 1,400.
const MaxPacket = 8 << 10

// packetsRead wait for ReadFrom; those who sent more are not read meanwhile, each for himself.
const packetsRead = 64

// Conn is a net.PacketConn. Safe for concurrent use.
type Conn struct {
	cfg    Config
	log    *slog.Logger
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // the acceptor, and a goroutine for each peer and source; Close waits for them
	in     chan packet
	read   deadline

	mu      sync.Mutex // guards what follows; nothing is waited for under it
	closed  bool
	peers   map[netip.AddrPort]*peer
	dialing int // of peers
	sources map[*source]struct{}
}

var _ net.PacketConn = (*Conn)(nil)

type packet struct {
	b    []byte
	from net.Addr
}

// New begins to accept streams. Close must follow, and waits for Accept and Dial to end with their ctx.
func New(cfg Config) *Conn {
	c := &Conn{
		cfg: cfg, log: cfg.Logger, in: make(chan packet, packetsRead),
		peers: map[netip.AddrPort]*peer{}, sources: map[*source]struct{}{},
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.wg.Go(c.acceptLoop) // ends with ctx
	return c
}

// LocalAddr is Config.Local.
func (c *Conn) LocalAddr() net.Addr { return c.cfg.Local }

// ReadFrom answers the next packet, cut to what b holds, and where the stream that it came on was dialed from: an address of the sender's, but none
// that it can be reached at.
func (c *Conn) ReadFrom(b []byte) (int, net.Addr, error) {
	over := c.read.over()
	select {
	case <-over: // before what is there to read, as with a socket
		return 0, nil, c.fail("read", os.ErrDeadlineExceeded)
	case <-c.ctx.Done():
		return 0, nil, c.fail("read", net.ErrClosed)
	default:
	}
	select {
	case p := <-c.in:
		return copy(b, p.b), p.from, nil
	case <-over:
		return 0, nil, c.fail("read", os.ErrDeadlineExceeded)
	case <-c.ctx.Done():
		return 0, nil, c.fail("read", net.ErrClosed)
	}
}

// WriteTo never blocks. A packet for which there is no room, or nobody at addr, is lost and was written all the same.
func (c *Conn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if len(b) == 0 || len(b) > MaxPacket {
		return 0, c.fail("write", syscall.EMSGSIZE)
	}
	to, err := addrPort(addr)
	if err != nil {
		return 0, c.fail("write", err)
	}
	if !c.send(to, b) {
		return 0, c.fail("write", net.ErrClosed)
	}
	return len(b), nil
}

// addrPort never looks a name up.
func addrPort(addr net.Addr) (netip.AddrPort, error) {
	if addr == nil {
		return netip.AddrPort{}, syscall.EINVAL
	}
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil || ap.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("%w: %s", syscall.EINVAL, addr)
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

func (c *Conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "packets over streams", Source: c.cfg.Local, Err: err}
}

// Close closes all streams and waits for all goroutines.
func (c *Conn) Close() error {
	c.mu.Lock()
	again := c.closed
	c.closed = true // no goroutine begins from here on
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	c.read.set(time.Time{}) // ends its timer
	if again {
		return c.fail("close", net.ErrClosed)
	}
	return nil
}

// SetDeadline is SetReadDeadline: WriteTo never waits.
func (c *Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline does nothing.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline ends ReadFrom calls, those under way too; streams are not touched.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.ctx.Err() != nil {
		return c.fail("set", net.ErrClosed)
	}
	c.read.set(t)
	return nil
}

// deadline is a moment that can be moved and waited for.
type deadline struct {
	mu    sync.Mutex // guards what follows
	ch    chan struct{}
	shut  bool // ch is closed
	moved int  // how often it was set: a timer that is late does nothing
	timer *time.Timer
}

// over is closed when the moment has passed.
func (d *deadline) over() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.channel()
}

func (d *deadline) channel() chan struct{} {
	if d.ch == nil {
		d.ch = make(chan struct{})
	}
	return d.ch
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.moved++
	if d.shut {
		d.ch, d.shut = nil, false
	}
	switch wait := time.Until(t); {
	case t.IsZero():
	case wait <= 0:
		close(d.channel())
		d.shut = true
	default:
		moved := d.moved
		d.timer = time.AfterFunc(wait, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.moved == moved {
				close(d.channel())
				d.shut = true
			}
		})
	}
}
