// Package simnet is a network in memory with faults: delays, cuts, frozen and crashed hosts, lost packets and lost replies. It blocks on
// channels only and waits by timers only, so it runs in the virtual time of testing/synctest. What chance decides, it decides by a seed, for
// each direction between two hosts apart; the order in which the goroutines of a bubble run is not its to decide.
package simnet

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/godistlock/distlock/internal/mux"
)

// DefaultDelay is one way between two hosts, until SetDelay says otherwise. A host reaches itself in no time.
const DefaultDelay = 200 * time.Microsecond

const (
	window     = 256 << 10 // bytes under way in one direction of a stream, as a socket's buffers have them; more makes Write wait
	backlog    = 128       // streams that wait for Accept; more makes Dial wait
	packetQue  = 1024      // packets that wait for ReadFrom; more are lost
	maxPacket  = 65507     // bytes
	firstPort  = 40000     // of those picked for port 0
	firstLocal = 50000     // of those picked for the dialing end
)

// Net is one network. Its methods may be called at any time from any goroutine; none of them blocks.
type Net struct {
	mu      sync.Mutex // guards everything below, of all hosts, streams and sockets too; never held while waiting
	seed    uint64
	delay   time.Duration // of links not yet known
	jitter  time.Duration
	loss    float64
	hosts   map[string]*host
	links   map[[2]string]*link
	streams map[uint64]*stream // those that can still move a byte
	lastID  uint64
	changed signal // a host, a listener or a link is not what it was: dials look again
	tap     func(Write) (int, Fate)
	losses  []*Loss
}

// link is one direction between two hosts.
type link struct {
	cut           bool
	delay, jitter time.Duration
	loss          float64 // of packets
	rng           *rand.Rand
}

// New returns a network without hosts.
func New(seed uint64) *Net {
	return &Net{
		seed: seed, delay: DefaultDelay,
		hosts: map[string]*host{}, links: map[[2]string]*link{}, streams: map[uint64]*stream{},
	}
}

// Host is the network as it is seen by a process on the host ip, such as 10.0.0.1. The same ip is the same host.
func (n *Net) Host(ip string) mux.Network {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.host(ip)
}

func (n *Net) host(ip string) *host {
	if _, err := netip.ParseAddr(ip); err != nil {
		panic(fmt.Sprintf("simnet: a host is named by its IP address: %v", err)) // a test's mistake
	}
	h := n.hosts[ip]
	if h == nil {
		h = &host{net: n, ip: ip, listeners: map[int]*listener{}, packets: map[int]*packetConn{}}
		n.hosts[ip] = h
	}
	return h
}

func (n *Net) link(from, to string) *link {
	l := n.links[[2]string{from, to}]
	if l == nil {
		h := fnv.New64a()
		h.Write([]byte(from + ">" + to))
		l = &link{delay: n.delay, jitter: n.jitter, loss: n.loss, rng: rand.New(rand.NewPCG(n.seed, h.Sum64()))}
		if from == to {
			l.delay, l.jitter, l.loss = 0, 0, 0
		}
		n.links[[2]string{from, to}] = l
	}
	return l
}

// sample is how long something that sets out now is under way.
func (l *link) sample() time.Duration {
	if l.jitter <= 0 {
		return l.delay
	}
	return l.delay + time.Duration(l.rng.Int64N(int64(l.jitter)))
}

// passable says that nothing but time keeps bytes from getting from one host to the other.
func (n *Net) passable(from, to *host) bool {
	return !n.link(from.ip, to.ip).cut && !from.frozen && !to.frozen
}

// resume sets what had stopped in motion, oldest stream first, and lets dials look again.
func (n *Net) resume() {
	for _, id := range slices.Sorted(maps.Keys(n.streams)) {
		s := n.streams[id]
		for _, c := range s.ends {
			c.out.arm()
			c.in.changed.raise() // a reader on a thawed host
		}
	}
	for _, ip := range slices.Sorted(maps.Keys(n.hosts)) {
		h := n.hosts[ip]
		for _, l := range h.listeners {
			l.changed.raise()
		}
		for _, p := range h.packets {
			p.changed.raise()
		}
	}
	n.changed.raise()
}

// host is a machine with one address and at most one process on it that matters.
type host struct {
	net       *Net
	ip        string
	frozen    bool
	life      int // how often it was closed
	listeners map[int]*listener
	packets   map[int]*packetConn
	lastPort  int
	lastLocal int
}

// Listen takes ":0", ":port" or "ip:port" with the host's own ip or the unspecified one.
func (h *host) Listen(bind string) (net.Listener, net.PacketConn, error) {
	port, err := h.parseBind(bind)
	if err != nil {
		return nil, nil, &net.OpError{Op: "listen", Net: "tcp", Err: fmt.Errorf("%s: %w", bind, err)}
	}
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	for port == 0 {
		h.lastPort++
		if p := firstPort + h.lastPort; h.listeners[p] == nil && h.packets[p] == nil {
			port = p
		}
	}
	if h.listeners[port] != nil || h.packets[port] != nil {
		return nil, nil, &net.OpError{Op: "listen", Net: "tcp", Err: fmt.Errorf("%s: %w", bind, syscall.EADDRINUSE)}
	}
	l := &listener{host: h, addr: h.tcp(port)}
	p := &packetConn{host: h, addr: &net.UDPAddr{IP: net.ParseIP(h.ip), Port: port}}
	h.listeners[port], h.packets[port] = l, p
	n.changed.raise()
	return l, p, nil
}

func (h *host) parseBind(bind string) (int, error) {
	ip, text, err := net.SplitHostPort(bind)
	if err != nil {
		return 0, err
	}
	if a, err := netip.ParseAddr(ip); ip != "" && ip != h.ip && (err != nil || !a.IsUnspecified()) {
		return 0, syscall.EADDRNOTAVAIL
	}
	port, err := strconv.ParseUint(text, 10, 16)
	return int(port), err
}

func (h *host) tcp(port int) *net.TCPAddr { return &net.TCPAddr{IP: net.ParseIP(h.ip), Port: port} }

// Dial takes a round trip. A host or port that nobody listens on refuses; while a cut or a frozen host is in the way, Dial waits.
func (h *host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("%s: %w", addr, err)}
	}
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return fail(err)
	}
	n := h.net
	n.mu.Lock()
	life, target := h.life, n.host(to.Addr().String())
	for arrived := false; ; { // n.mu is held at the beginning of each round
		var wait <-chan struct{}
		var trip time.Duration
		switch {
		case h.life != life:
			n.mu.Unlock()
			return fail(net.ErrClosed)
		case ctx.Err() != nil:
			n.mu.Unlock()
			return fail(ctx.Err())
		case !n.passable(h, target) || !n.passable(target, h):
			wait, arrived = n.changed.wait(), false
		case !arrived:
			trip, arrived = n.link(h.ip, target.ip).sample()+n.link(target.ip, h.ip).sample(), true
		default:
			l := target.listeners[int(to.Port())]
			if l == nil {
				n.mu.Unlock()
				return fail(syscall.ECONNREFUSED)
			}
			if len(l.backlog) < backlog {
				c := n.connect(h, l)
				n.mu.Unlock()
				return c, nil
			}
			wait = n.changed.wait()
		}
		n.mu.Unlock()
		pause(ctx, wait, trip)
		n.mu.Lock()
	}
}

// pause waits for a signal, or for some time when there is none to wait for, or for ctx.
func pause(ctx context.Context, wait <-chan struct{}, d time.Duration) {
	if wait == nil {
		if d <= 0 {
			return
		}
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		return
	}
	select {
	case <-wait:
	case <-ctx.Done():
	}
}
