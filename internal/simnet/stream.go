package simnet

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/godistlock/distlock/internal/mux"
)

// stream is two ends. Guarded by Net.mu.
type stream struct {
	id      uint64
	ends    [2]*conn // the dialer's first
	opening []byte   // the first bytes that the dialer has sent
}

const openingSize = 16

// mark is what a piece of a stream means beside its bytes.
type mark int

const (
	markNone  mark = iota
	markEnd        // the writer has closed
	markReset      // the writer's end is no more
)

// piece is what one write put under way.
type piece struct {
	at   time.Time // of arrival
	data []byte
	mark mark
}

// half is one direction of a stream. Guarded by Net.mu.
type half struct {
	net      *Net
	from, to *conn
	sent     int     // bytes written, for Write.Offset
	underway []piece // in the order of writing, which is that of arrival: a late one holds up those behind it
	armed    bool    // a timer will deliver the first of underway
	arrived  []byte  // not yet read
	bytes    int     // underway and arrived, at most window
	end      mark    // has arrived
	lost     bool    // whatever is written vanishes
	changed  signal
}

// push puts a piece under way.
func (h *half) push(p piece) {
	n := h.net
	p.at = time.Now().Add(n.link(h.from.host.ip, h.to.host.ip).sample())
	h.bytes += len(p.data)
	h.underway = append(h.underway, p)
	h.arm()
}

// arm sees to it that what is under way arrives, unless something is in the way; Net.resume arms again when that is gone.
func (h *half) arm() {
	if h.armed || len(h.underway) == 0 || !h.net.passable(h.from.host, h.to.host) {
		return
	}
	wait := time.Until(h.underway[0].at)
	if wait <= 0 {
		h.deliver()
		return
	}
	h.armed = true
	time.AfterFunc(wait, func() {
		h.net.mu.Lock()
		defer h.net.mu.Unlock()
		h.armed = false
		h.arm()
	})
}

// deliver takes everything that is due.
func (h *half) deliver() {
	now := time.Now()
	for len(h.underway) > 0 && !h.underway[0].at.After(now) {
		p := h.underway[0]
		h.underway = h.underway[1:]
		h.take(p)
	}
	h.changed.raise()
	h.arm()
}

func (h *half) take(p piece) {
	if h.to.closed {
		h.bytes -= len(p.data)
		if len(p.data) > 0 && !h.from.closed && h.from.in.end != markReset {
			h.to.out.push(piece{mark: markReset}) // nobody is there to read it
		}
		return
	}
	h.arrived = append(h.arrived, p.data...)
	if p.mark != markNone {
		h.end = p.mark
	}
	if p.mark == markReset {
		h.to.out.lost = true
		h.to.out.changed.raise() // who waits for room must hear of it
	}
}

// forget drops a stream whose ends are both closed: what is under way is nobody's.
func (n *Net) forget(s *stream) {
	if s.ends[0].closed && s.ends[1].closed {
		delete(n.streams, s.id)
	}
}

// conn is one end of a stream.
type conn struct {
	host          *host
	stream        *stream
	in, out       *half
	local, remote *net.TCPAddr
	dialer        bool
	closed        bool // guarded by Net.mu
	read, write   deadline
	writing       chan struct{} // capacity 1: held by whoever is in Write, since a mutex may not be waited for in virtual time
}

// connect makes a stream and puts its far end into l's backlog; n.mu is held.
func (n *Net) connect(h *host, l *listener) *conn {
	n.lastID++
	h.lastLocal++
	s := &stream{id: n.lastID}
	near := &conn{host: h, stream: s, local: h.tcp(firstLocal + h.lastLocal%10000), remote: l.addr, dialer: true, writing: make(chan struct{}, 1)}
	far := &conn{host: l.host, stream: s, local: l.addr, remote: near.local, writing: make(chan struct{}, 1)}
	near.out, far.out = &half{net: n, from: near, to: far}, &half{net: n, from: far, to: near}
	near.in, far.in = far.out, near.out
	s.ends = [2]*conn{near, far}
	n.streams[s.id] = s
	l.backlog = append(l.backlog, far)
	l.changed.raise()
	return near
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetReadDeadline(t time.Time) error  { return c.setDeadline(t, &c.read) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(t, &c.write) }
func (c *conn) SetDeadline(t time.Time) error      { return c.setDeadline(t, &c.read, &c.write) }

func (c *conn) setDeadline(t time.Time, ds ...*deadline) error {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	for _, d := range ds {
		d.set(t)
	}
	return nil
}

func (c *conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

func (c *conn) Read(p []byte) (int, error) {
	for {
		got, wait, err := c.tryRead(p)
		if wait == nil {
			return got, err
		}
		select {
		case <-wait:
		case <-c.read.wait():
		}
	}
}

// tryRead answers what to wait for when there is nothing to answer.
func (c *conn) tryRead(p []byte) (int, <-chan struct{}, error) {
	n, in := c.host.net, c.in
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case c.closed:
		return 0, nil, c.fail("read", net.ErrClosed)
	case c.read.isOver():
		return 0, nil, c.fail("read", os.ErrDeadlineExceeded)
	case len(p) == 0:
		return 0, nil, nil
	case c.host.frozen:
	case len(in.arrived) > 0:
		got := copy(p, in.arrived)
		in.arrived = in.arrived[got:]
		in.bytes -= got
		in.changed.raise()
		return got, nil, nil
	case in.end == markReset:
		return 0, nil, c.fail("read", syscall.ECONNRESET)
	case in.end == markEnd:
		return 0, nil, io.EOF
	}
	return 0, in.changed.wait(), nil
}

func (c *conn) Write(p []byte) (int, error) {
	select {
	case c.writing <- struct{}{}:
	case <-c.write.wait():
		return 0, c.fail("write", os.ErrDeadlineExceeded)
	}
	defer func() { <-c.writing }()
	w := c.describe(p)
	deliver, fate := c.host.net.judge(w)
	if fate == Deliver {
		deliver = len(p)
	}
	done, err := c.writeAll(p[:deliver])
	if err != nil || fate == Deliver {
		return done, err
	}
	c.lose(fate)
	return len(p), nil
}

// describe notes the beginning of what a dialer writes: it tells the kind of the stream.
func (c *conn) describe(p []byte) Write {
	n, s := c.host.net, c.stream
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.dialer && len(s.opening) < openingSize {
		s.opening = append(s.opening, p[:min(len(p), openingSize-len(s.opening))]...)
	}
	w := Write{
		Stream: s.id, From: c.host.ip, To: c.in.from.host.ip, Dialer: c.dialer,
		Kind: mux.KindOf(s.opening), Offset: c.out.sent, Data: p,
	}
	c.out.sent += len(p)
	return w
}

func (c *conn) writeAll(p []byte) (int, error) {
	done := 0
	for {
		got, wait, err := c.tryWrite(p[done:])
		done += got
		if wait == nil {
			return done, err
		}
		select {
		case <-wait:
		case <-c.write.wait():
		}
	}
}

// tryWrite answers what to wait for when not all could be written.
func (c *conn) tryWrite(p []byte) (int, <-chan struct{}, error) {
	n, out := c.host.net, c.out
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case c.closed:
		return 0, nil, c.fail("write", net.ErrClosed)
	case c.write.isOver():
		return 0, nil, c.fail("write", os.ErrDeadlineExceeded)
	case c.in.end == markReset:
		return 0, nil, c.fail("write", syscall.EPIPE)
	case len(p) == 0, out.lost:
		return len(p), nil, nil
	}
	k := min(len(p), window-out.bytes)
	if k > 0 {
		out.push(piece{data: append([]byte(nil), p[:k]...)})
	}
	if k == len(p) {
		return k, nil, nil
	}
	return k, out.changed.wait(), nil
}

// lose makes the rest of this direction vanish.
func (c *conn) lose(fate Fate) {
	n := c.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	c.out.lost = true
	if fate == Reset && !c.closed {
		c.out.push(piece{mark: markReset})
		c.in.push(piece{mark: markReset})
	}
}

// Close lets what was written arrive, then the peer reads the end.
func (c *conn) Close() error {
	n := c.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.shut(markEnd)
	return nil
}

// shut closes this end and tells the other; n.mu is held.
func (c *conn) shut(m mark) {
	if c.closed {
		return
	}
	c.closed = true
	c.in.bytes -= len(c.in.arrived)
	c.in.arrived = nil
	if c.in.end != markReset && !(c.out.lost && m == markEnd) {
		c.out.push(piece{mark: m})
	}
	c.in.changed.raise()
	c.out.changed.raise()
	c.read.set(time.Time{}) // no timer outlives it
	c.write.set(time.Time{})
	c.host.net.forget(c.stream)
}

// listener is a host's TCP port.
type listener struct {
	host    *host
	addr    *net.TCPAddr
	backlog []*conn // guarded by Net.mu, as what follows
	closed  bool
	changed signal
}

func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) Accept() (net.Conn, error) {
	n := l.host.net
	for {
		n.mu.Lock()
		if l.closed {
			n.mu.Unlock()
			return nil, &net.OpError{Op: "accept", Net: "tcp", Source: l.addr, Err: net.ErrClosed}
		}
		if len(l.backlog) > 0 && !l.host.frozen {
			c := l.backlog[0]
			l.backlog = l.backlog[1:]
			n.changed.raise() // a dial may have waited for room
			n.mu.Unlock()
			return c, nil
		}
		wait := l.changed.wait()
		n.mu.Unlock()
		<-wait
	}
}

func (l *listener) Close() error {
	l.host.net.mu.Lock()
	defer l.host.net.mu.Unlock()
	if l.closed {
		return &net.OpError{Op: "close", Net: "tcp", Source: l.addr, Err: net.ErrClosed}
	}
	l.shut()
	return nil
}

// shut closes the port and resets the streams that nobody has accepted; n.mu is held.
func (l *listener) shut() {
	l.closed = true
	delete(l.host.listeners, l.addr.Port)
	for _, c := range l.backlog {
		c.shut(markReset)
	}
	l.backlog = nil
	l.changed.raise()
	l.host.net.changed.raise()
}
