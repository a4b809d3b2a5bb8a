package gossip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Bounds of the transport. What comes or goes beyond them is dropped: gossip lives with losses, and nothing in it may block.
const (
	maxPacket      = 65507 // the most that one UDP packet carries
	maxPacketIn    = 4096  // memberlist's have 1,400; it keeps some thousand that it has not come to
	packetsWaiting = 512   // to be sent; what came in waits in the socket
	maxStreams     = 128   // accepted and not yet closed
)

var errClosed = errors.New("gossip is closed")

// transport carries memberlist over a socket and streams that belong to others. Once it is shut down every call of it returns at once.
type transport struct {
	packets   net.PacketConn
	dial      func(ctx context.Context, addr string) (net.Conn, error)
	accept    func(ctx context.Context) (net.Conn, error)
	advertise netip.AddrPort
	label     string
	others    string // the label of those of this group with whom it is otherwise: sealed or not
	seals     seals
	heard     func(node string) // a stream that was dialed to node has answered
	log       *slog.Logger

	ctx     context.Context // ends with shutdown
	cancel  context.CancelFunc
	in      chan *memberlist.Packet // without a buffer; never closed: memberlist would read a nil packet
	out     chan outPacket
	streams chan net.Conn
	pings   pings
	strange strangers
	room    room           // of what streams receive
	wg      sync.WaitGroup // reader, writer, acceptor
	once    sync.Once

	mu       sync.Mutex // guards conns, accepted and closed
	conns    map[*stream]struct{}
	accepted int
	closed   bool
}

type outPacket struct {
	b  []byte
	to *net.UDPAddr
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(cfg Config, keys seals, advertise netip.AddrPort, heard func(string), log *slog.Logger) *transport {
	t := &transport{
		packets: cfg.Packets, dial: cfg.Dial, accept: cfg.Accept, advertise: advertise, heard: heard, log: log,
		label: cfg.label(len(cfg.Keys) > 0), others: cfg.label(len(cfg.Keys) == 0), seals: keys, strange: strangers{log: log},
		in:      make(chan *memberlist.Packet),
		out:     make(chan outPacket, packetsWaiting),
		streams: make(chan net.Conn),
		conns:   map[*stream]struct{}{},
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.wg.Go(t.read)       // ends when shutdown has set the read deadline
	t.wg.Go(t.write)      // ends with ctx
	t.wg.Go(t.acceptLoop) // ends with ctx
	return t
}

// FinalAdvertiseAddr tells memberlist our address; memberlist's own settings are not used.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.advertise.Addr().AsSlice(), int(t.advertise.Port()), nil
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.in }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress queues a packet and never blocks: a full queue drops it, as a network would. b is memberlist's last use of that
// memory, since the label that we always set makes a copy for each packet.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if len(b) > maxPacket {
		return time.Time{}, fmt.Errorf("gossip: packet of %d bytes", len(b))
	}
	ap, err := netip.ParseAddrPort(a.Addr) // never a name: resolving one would block
	if err != nil || ap.Port() == 0 {
		return time.Time{}, fmt.Errorf("gossip: %q is no address of a packet", a.Addr)
	}
	if !t.pings.note(t.opened(b)) {
		return time.Time{}, errClosed
	}
	select {
	case t.out <- outPacket{b, net.UDPAddrFromAddrPort(ap)}:
	default:
	}
	return time.Now(), nil
}

func (t *transport) write() {
	for {
		select {
		case p := <-t.out:
			if _, err := t.packets.WriteTo(p.b, p.to); err != nil && t.ctx.Err() == nil {
				t.log.Debug("gossip: packet not sent", "to", p.to.String(), "error", err)
			}
		case <-t.ctx.Done():
			return
		}
	}
}

func (t *transport) read() {
	buf, plain := make([]byte, 1<<16), make([]byte, 0, 1<<16)
	for {
		n, from, err := t.packets.ReadFrom(buf)
		if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // such as Windows's answer to a packet that found nobody: the socket goes on
			select {
			case <-time.After(20 * time.Millisecond):
				continue
			case <-t.ctx.Done():
				return
			}
		}
		if why, ok := t.judge(buf[:n], plain); !ok {
			t.strange.note(packetWord, from, why)
			continue
		}
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: time.Now()}
		select {
		case t.in <- p:
		case <-t.ctx.Done():
			return
		}
	}
}

// judge says whether memberlist may have a packet that came in, or what is wrong with it. plain is memory to open it in.
func (t *transport) judge(p, plain []byte) (why reason, ok bool) {
	p, group, err := memberlist.RemoveLabelHeaderFromPacket(p)
	switch {
	case err != nil || group == "" || len(p) == 0 || len(p) > maxPacketIn:
		return noise, false
	case group == t.others && t.seals == nil:
		return theySeal, false
	case group == t.others:
		return otherSecret, false
	case group != t.label:
		return otherGroup, false
	case t.seals == nil:
		if judgePacket(p) == nil {
			return 0, true
		}
		if p[0] <= sealVersion && len(p) > sealExtra {
			return theySeal, false
		}
		return noise, false
	}
	if plain, err = t.seals.open(plain[:0], p, []byte(t.label)); err != nil {
		return otherSecret, false
	}
	return noise, judgePacket(plain) == nil
}

// opened is what an own packet holds, without label and seal; nothing when it can't be read.
func (t *transport) opened(p []byte) []byte {
	p, _, err := memberlist.RemoveLabelHeaderFromPacket(p)
	if err != nil || t.seals == nil {
		return p
	}
	plain, err := t.seals.open(make([]byte, 0, len(p)), p, []byte(t.label))
	if err != nil {
		return nil
	}
	return plain
}

func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	nc, err := t.dial(ctx, a.Addr)
	if err != nil {
		return nil, err
	}
	// memberlist writes its label before it sets a deadline of its own.
	if err := nc.SetDeadline(time.Now().Add(timeout)); err != nil {
		_ = nc.Close()
		return nil, err
	}
	s := t.track(nc, false)
	if s == nil {
		return nil, errClosed
	}
	s.node = a.Name
	return s, nil
}

func (t *transport) acceptLoop() {
	for {
		nc, err := t.accept(t.ctx)
		if err != nil {
			return
		}
		s := t.track(nc, true)
		if s == nil {
			continue
		}
		select {
		case t.streams <- s:
		case <-t.ctx.Done():
			_ = s.Close()
			return
		}
	}
}

// track makes nc one that shutdown closes; nil means that it was closed, because gossip is, or has too many.
func (t *transport) track(nc net.Conn, accepted bool) *stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || accepted && t.accepted >= maxStreams {
		_ = nc.Close()
		return nil
	}
	s := &stream{Conn: nc, t: t, accepted: accepted, message: incoming{room: &t.room, seals: t.seals, label: t.label, others: t.others, accepted: accepted}}
	t.conns[s] = struct{}{}
	if accepted {
		t.accepted++
	}
	return s
}

// Shutdown ends all I/O and waits for it. The packet socket stays open: it belongs to whoever gave it.
func (t *transport) Shutdown() error {
	t.once.Do(func() {
		t.answerPings()
		t.cancel()
		t.mu.Lock()
		t.closed = true
		conns := t.conns
		t.conns = map[*stream]struct{}{}
		t.mu.Unlock()
		for s := range conns {
			_ = s.Conn.Close()
		}
		if err := t.packets.SetDeadline(time.Unix(1, 0)); err != nil {
			_ = t.packets.Close() // the only other way to end a read
		}
	})
	t.wg.Wait()
	return nil
}

// answerPings ends memberlist's outstanding probes. A packet that was taken off in, which has no buffer, is dealt with before memberlist
// looks whether it was shut down.
func (t *transport) answerPings() {
	limit := time.NewTimer(100 * time.Millisecond) // memberlist may not run at all, when it failed to start
	defer limit.Stop()
	for _, seq := range t.pings.take() {
		p, err := ackPacket(t.label, t.seals, seq)
		if err != nil {
			return
		}
		select {
		case t.in <- p:
		case <-limit.C:
			return
		}
	}
}

// stream closes itself on a failed write, since memberlist forgets a stream whose label it could not write. memberlist reads it on one
// goroutine, which also closes it.
type stream struct {
	net.Conn
	t        *transport
	node     string // set before the stream is handed out
	accepted bool

	message incoming // the reader's
	left    []byte   // of it, not yet read
	done    bool     // it was received, or failed
}

// Read gives memberlist what came in, once that is complete and was found good.
func (s *stream) Read(p []byte) (int, error) {
	if !s.done {
		if err := s.receive(); err != nil {
			return 0, err
		}
	}
	if len(s.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.left)
	s.left = s.left[n:]
	return n, nil
}

func (s *stream) receive() error {
	left, err := s.message.receive(s.Conn)
	s.left, s.done = left, true
	if err == nil {
		if s.node != "" {
			s.t.heard(s.node)
		}
		return nil
	}
	s.left = nil
	s.message.drop()
	var no *refusal
	if errors.As(err, &no) {
		s.t.strange.note(streamWord, s.RemoteAddr(), no.why)
	}
	return err
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	if err != nil {
		_ = s.Close()
	}
	return n, err
}

func (s *stream) Close() error {
	s.t.mu.Lock()
	if _, ok := s.t.conns[s]; ok {
		delete(s.t.conns, s)
		if s.accepted {
			s.t.accepted--
		}
	}
	s.t.mu.Unlock()
	s.left = nil
	s.message.drop()
	return s.Conn.Close()
}
