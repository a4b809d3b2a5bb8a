// Package mux shares one TCP port among Raft, calls and gossip. Each stream opens with a header that names its kind and with a Hello:
// who speaks, of which cluster, and which server is wanted. The receiver answers with a Welcome or a refusal. What is open is tracked,
// counted and capped here, so that it can be closed by kind and as a whole (raft's transport leaves accepted streams open).
package mux

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// ErrMuted is matched by the error of a Dial whose kind this process has muted.
var ErrMuted = errors.New("streams of this kind are muted here")

// Secured is a stream whose other side has proven that it belongs here.
type Secured interface {
	net.Conn
	// Proves says whether the other side is who it says it is.
	Proves(group, name string, server wire.UUID) error
	// Trust ends the bounds on what has not said yet who it is.
	Trust()
}

// Config is what a Mux is made of. Listener, Dial and Self are required.
type Config struct {
	Listener net.Listener // owned and closed by the Mux
	Dial     func(ctx context.Context, addr string) (net.Conn, error)

	// Self is who we are: what is said when dialing, and filled into a Welcome where Admit left it zero. Version, Kind and Target are
	// set by the Mux. Called from many goroutines; must not block.
	Self func(kind wire.Kind, target wire.UUID) wire.Hello

	// Admit decides on an incoming stream; a Refusal other than 0 refuses it. The Mux itself has refused another version, a muted kind,
	// and a Raft stream that wants another server than Self's. Nil admits everybody. Runs on the handshake's goroutine; must not block.
	Admit func(h wire.Hello) wire.Welcome

	// Secure wraps a raw stream before a byte of the Hello is sent or read, and proves who is there. The stream's deadline is set, and it is
	// closed when the Mux closes. Nil leaves it as it is.
	Secure func(raw net.Conn, server bool) (Secured, error)

	Logger *slog.Logger // nil: nothing is logged
}

// Mux is the one port. Safe for concurrent use.
type Mux struct {
	cfg    Config
	log    *slog.Logger
	quiet  quiet
	ctx    context.Context // ends at Close: dials in progress end with it
	cancel context.CancelFunc
	wg     sync.WaitGroup // the accept loop and the handshakes of incoming streams; Close waits for them

	mu      sync.Mutex // guards what follows
	closed  bool
	streams map[*Conn]struct{}
	muted   map[wire.Kind]bool
	accept  map[wire.Kind]chan *Conn
	load    load               // of incoming streams
	pending map[*Conn]struct{} // those of streams that are in their handshake

	strangers strangers
}

// New starts accepting streams.
func New(cfg Config) *Mux {
	m := &Mux{
		cfg:     cfg,
		log:     cfg.Logger,
		streams: map[*Conn]struct{}{},
		pending: map[*Conn]struct{}{},
		muted:   map[wire.Kind]bool{},
		accept:  map[wire.Kind]chan *Conn{},
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.wg.Go(m.acceptLoop) // ends when Close closes the listener
	return m
}

// Addr is the address that is really bound.
func (m *Mux) Addr() net.Addr { return m.cfg.Listener.Addr() }

// Done is closed when Close begins.
func (m *Mux) Done() <-chan struct{} { return m.ctx.Done() }

// Accept is where incoming streams of kind arrive. A stream that nobody takes within HandshakeTimeout is closed. Close closes the
// channel.
func (m *Mux) Accept(kind wire.Kind) <-chan *Conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.channel(kind)
}

// channel is the accept channel of kind; m.mu is held.
func (m *Mux) channel(kind wire.Kind) chan *Conn {
	ch := m.accept[kind]
	if ch == nil {
		ch = make(chan *Conn)
		m.accept[kind] = ch
		if m.closed {
			close(ch)
		}
	}
	return ch
}

// Mute, while on, closes all streams of kind, refuses incoming ones with RefusedMuted and fails Dial with ErrMuted. None that was in the
// middle of its handshake survives.
func (m *Mux) Mute(kind wire.Kind, on bool) {
	m.mu.Lock()
	m.muted[kind] = on
	m.mu.Unlock()
	if on {
		m.closeAll(ErrMuted, kind)
	}
}

// CloseStreams closes the streams of kind that are open now, dialed and accepted.
func (m *Mux) CloseStreams(kind wire.Kind) {
	m.closeAll(net.ErrClosed, kind)
}

// closeAll closes the tracked streams of kind, or all when kind is 0.
func (m *Mux) closeAll(cause error, kind wire.Kind) {
	m.mu.Lock()
	var victims []*Conn
	for c := range m.streams {
		if kind == 0 || c.kind == kind {
			c.cause = cause
			victims = append(victims, c)
		}
	}
	m.mu.Unlock()
	for _, c := range victims {
		c.abort()
	}
}

// Close closes the listener and every stream, accepted or dialed, and returns when the Mux's goroutines have ended. A second call waits
// too.
func (m *Mux) Close() error {
	m.mu.Lock()
	first := !m.closed
	m.closed = true
	m.mu.Unlock()
	m.cancel()
	err := m.cfg.Listener.Close()
	m.closeAll(net.ErrClosed, 0)
	m.wg.Wait()
	if !first {
		return nil
	}
	m.mu.Lock()
	for _, ch := range m.accept {
		close(ch) // only handshakes send, and they have ended
	}
	m.mu.Unlock()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// track takes a stream into the set that Close, Mute and CloseStreams close.
func (m *Mux) track(c *Conn) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(c.kind); err != nil {
		return err
	}
	m.streams[c] = struct{}{}
	return nil
}

// usable says whether streams of kind may be open; m.mu is held.
func (m *Mux) usable(kind wire.Kind) error {
	switch {
	case m.closed:
		return net.ErrClosed
	case m.muted[kind]:
		return ErrMuted
	}
	return nil
}

// untrack forgets c and gives its place to others. It may be called again.
func (m *Mux) untrack(c *Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.streams[c]; !ok {
		return
	}
	delete(m.streams, c)
	delete(m.pending, c)
	if c.incoming {
		m.load.end(c.host, c.pending)
	}
}

const (
	acceptBackoffMin = 5 * time.Millisecond
	acceptBackoffMax = time.Second
)

// acceptLoop survives what passes by itself, above all a process that is out of file descriptors.
func (m *Mux) acceptLoop() {
	backoff := acceptBackoffMin
	for {
		raw, err := m.cfg.Listener.Accept()
		if err == nil {
			backoff = acceptBackoffMin
			m.incoming(raw)
			continue
		}
		if m.ctx.Err() != nil {
			return
		}
		if errors.Is(err, net.ErrClosed) {
			m.log.Error("the listener was closed by somebody else; no more streams are accepted", "addr", m.Addr().String())
			return
		}
		if m.quiet.may("", "accept") {
			m.log.Warn("accepting a stream failed, trying again", "addr", m.Addr().String(), "error", err)
		}
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(backoff):
			backoff = min(2*backoff, acceptBackoffMax)
		}
	}
}

// incoming starts the handshake of a raw stream, if there is room for it.
func (m *Mux) incoming(raw net.Conn) {
	c := &Conn{Conn: raw, raw: raw, mux: m, host: hostOf(raw), incoming: true, pending: true, closing: make(chan struct{})}
	m.makeRoom(c.host)
	m.mu.Lock()
	ok := !m.closed && m.load.begin(c.host)
	if ok {
		m.streams[c] = struct{}{}
		m.pending[c] = struct{}{}
		m.wg.Add(1) // beside the accept loop's own count, so it cannot start from zero while Close waits
	}
	m.mu.Unlock()
	if !ok {
		raw.Close() // nothing of it has been read, so there is nobody to answer
		if m.ctx.Err() == nil && m.quiet.may(c.host, "pending") {
			m.log.Warn("stream closed: too many handshakes are pending", "remote", c.host)
		}
		return
	}
	go func() { // ends within HandshakeTimeout, or when Close closes the stream
		defer m.wg.Done()
		m.serve(c)
	}()
}

// makeRoom ends one handshake of the host that has the most, if all places are taken and host has fewer.
func (m *Mux) makeRoom(host string) {
	m.mu.Lock()
	greedy, ok := m.load.greediest(host)
	var victim *Conn
	if ok {
		for c := range m.pending { // in no order, so that nobody knows whose turn it is
			if c.host == greedy {
				victim = c
				break
			}
		}
	}
	m.mu.Unlock()
	if victim != nil {
		victim.abort()
		if m.quiet.may(greedy, "crowd") {
			m.log.Warn("a stream in its handshake was closed to make room: this address has too many", "remote", greedy)
		}
	}
}

// hostOf is whom a stream counts for: the remote's address, or of IPv6 the 64 bits that name its network, since whoever has one address there
// has all of them.
func hostOf(nc net.Conn) string {
	addr := nc.RemoteAddr().String()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.Is6() || ip.Is4In6() {
		return host
	}
	if ip.IsLinkLocalUnicast() || ip.IsLoopback() {
		return ip.WithZone("").String()
	}
	network, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return host
	}
	return network.String()
}

// Dial opens a stream of kind to addr. target is the server that is wanted, zero when any will do (not for Raft). ctx bounds the dialing
// and the handshake, which ends at HandshakeTimeout in any case; the stream that is returned has no deadline. A peer that says no gives
// a *RefusedError. Dial fails at once with ErrMuted while kind is muted and with net.ErrClosed after Close.
func (m *Mux) Dial(ctx context.Context, addr string, kind wire.Kind, target wire.UUID) (net.Conn, wire.Welcome, error) {
	c, err := m.dial(ctx, addr, kind, target)
	if err != nil {
		var refused *RefusedError
		var stranger *StrangerError
		switch {
		case errors.As(err, &refused):
			m.refusedBy(addr, refused.Welcome, refused)
			return nil, refused.Welcome, refused
		case errors.As(err, &stranger):
			m.estrangedFrom(stranger)
			return nil, wire.Welcome{}, stranger
		}
		return nil, wire.Welcome{}, fmt.Errorf("dial %s: %w", addr, err)
	}
	return c, c.welcome, nil
}

func (m *Mux) dial(ctx context.Context, addr string, kind wire.Kind, target wire.UUID) (*Conn, error) {
	m.mu.Lock()
	err := m.usable(kind)
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()

	raw, err := m.cfg.Dial(ctx, addr)
	if err != nil {
		return nil, m.dialError(ctx, nil, err)
	}
	c := &Conn{Conn: raw, raw: raw, mux: m, host: hostOf(raw), kind: kind, closing: make(chan struct{})}
	if err := m.track(c); err != nil {
		raw.Close()
		return nil, err
	}
	stop := context.AfterFunc(ctx, c.abort)
	err = m.greet(c, addr, target)
	if !stop() && err == nil {
		err = ctx.Err() // too late: the stream is being closed
	}
	if err != nil {
		c.abort()
		if reason, ok := estranged(err); ok {
			err = &StrangerError{Addr: addr, Reason: reason, Err: err}
		}
		return nil, m.dialError(ctx, c, err)
	}
	return c, nil
}

// dialError names the reason rather than its symptom, a stream closed under the handshake's hands.
func (m *Mux) dialError(ctx context.Context, c *Conn, err error) error {
	var refused *RefusedError
	var stranger *StrangerError
	if errors.As(err, &refused) || errors.As(err, &stranger) {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return net.ErrClosed
	case c != nil && c.cause != nil:
		return c.cause
	case ctx.Err() != nil && !errors.Is(err, ctx.Err()):
		return fmt.Errorf("%w (%v)", ctx.Err(), err)
	}
	return err
}
