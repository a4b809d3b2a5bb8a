package simnet

import (
	"net"
	"os"
	"syscall"
	"time"
)

type packet struct {
	from *net.UDPAddr
	data []byte
}

// packetConn is a host's UDP port.
type packetConn struct {
	host    *host
	addr    *net.UDPAddr
	queue   []packet // guarded by Net.mu, as what follows
	closed  bool
	changed signal
	read    deadline
}

func (p *packetConn) LocalAddr() net.Addr { return p.addr }

func (p *packetConn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Source: p.addr, Err: err}
}

// WriteTo never blocks. A packet that is lost was written all the same.
func (p *packetConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, p.fail("write", syscall.EINVAL)
	}
	n := p.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.closed {
		return 0, p.fail("write", net.ErrClosed)
	}
	if len(b) > maxPacket {
		return 0, p.fail("write", syscall.EMSGSIZE)
	}
	l := n.link(p.host.ip, to.IP.String())
	if lost := l.loss > 0 && l.rng.Float64() < l.loss; lost || l.cut || p.host.frozen {
		return len(b), nil
	}
	pkt := packet{p.addr, append([]byte(nil), b...)}
	arrive := func() {
		h := n.hosts[to.IP.String()]
		if h == nil {
			return
		}
		target := h.packets[to.Port]
		if !l.cut && target != nil && len(target.queue) < packetQue {
			target.queue = append(target.queue, pkt)
			target.changed.raise()
		}
	}
	wait := l.sample()
	if wait <= 0 {
		arrive()
		return len(b), nil
	}
	time.AfterFunc(wait, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		arrive()
	})
	return len(b), nil
}

// ReadFrom cuts a packet that b is too short for.
func (p *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n := p.host.net
	for {
		n.mu.Lock()
		switch {
		case p.closed:
			n.mu.Unlock()
			return 0, nil, p.fail("read", net.ErrClosed)
		case p.read.isOver():
			n.mu.Unlock()
			return 0, nil, p.fail("read", os.ErrDeadlineExceeded)
		case len(p.queue) > 0 && !p.host.frozen:
			pkt := p.queue[0]
			p.queue = p.queue[1:]
			n.mu.Unlock()
			return copy(b, pkt.data), pkt.from, nil
		}
		wait := p.changed.wait()
		n.mu.Unlock()
		select {
		case <-wait:
		case <-p.read.wait():
		}
	}
}

func (p *packetConn) Close() error {
	p.host.net.mu.Lock()
	defer p.host.net.mu.Unlock()
	if p.closed {
		return p.fail("close", net.ErrClosed)
	}
	p.shut()
	return nil
}

func (p *packetConn) shut() {
	p.closed = true
	delete(p.host.packets, p.addr.Port)
	p.queue = nil
	p.read.set(time.Time{})
	p.changed.raise()
}

func (p *packetConn) SetDeadline(t time.Time) error      { return p.SetReadDeadline(t) }
func (p *packetConn) SetWriteDeadline(t time.Time) error { return nil }

func (p *packetConn) SetReadDeadline(t time.Time) error {
	p.host.net.mu.Lock()
	defer p.host.net.mu.Unlock()
	if p.closed {
		return p.fail("set", net.ErrClosed)
	}
	p.read.set(t)
	return nil
}
