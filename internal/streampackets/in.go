package streampackets

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"time"
)

// Bounds of what comes in.
const (
	maxSources   = 512         // streams; one more takes the place of the one that has been silent longest
	idleIn       = 2 * idleOut // without a packet: the sender would have closed it
	frameTimeout = 5 * time.Second
)

// source is a stream that was accepted.
type source struct {
	nc    net.Conn
	from  net.Addr
	heard time.Time // guarded by Conn.mu
}

func (c *Conn) acceptLoop() {
	for {
		nc, err := c.cfg.Accept(c.ctx)
		if err != nil {
			return
		}
		s := &source{nc: nc, from: nc.RemoteAddr()}
		if ap, err := netip.ParseAddrPort(s.from.String()); err == nil {
			s.from = net.UDPAddrFromAddrPort(ap)
		}
		c.admit(s)
	}
}

func (c *Conn) admit(s *source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = s.nc.Close()
		return
	}
	if len(c.sources) >= maxSources {
		var victim *source
		for o := range c.sources {
			if victim == nil || o.heard.Before(victim.heard) {
				victim = o
			}
		}
		delete(c.sources, victim)
		c.wg.Go(func() { _ = victim.nc.Close() }) // ends by itself; a secured stream may take a moment to say goodbye
	}
	s.heard = time.Now()
	c.sources[s] = struct{}{}
	c.wg.Go(func() { c.hear(s) }) // ends when its stream is closed: by the sender, a deadline, eviction or ctx
}

// hear reads packets until the stream ends or says what makes no sense.
func (c *Conn) hear(s *source) {
	defer context.AfterFunc(c.ctx, func() { _ = s.nc.Close() })()
	defer c.forget(s)
	const head = 2
	r := bufio.NewReaderSize(s.nc, head+MaxPacket)
	for {
		if err := s.nc.SetReadDeadline(time.Now().Add(idleIn)); err != nil {
			return
		}
		if _, err := r.Peek(1); err != nil {
			return
		}
		if err := s.nc.SetReadDeadline(time.Now().Add(frameTimeout)); err != nil {
			return
		}
		frame, err := r.Peek(head)
		if err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(frame))
		if n == 0 || n > MaxPacket {
			c.log.Debug("packets over streams: a stream is closed for a packet of no size there is", "from", s.from.String(), "bytes", n)
			return
		}
		if frame, err = r.Peek(head + n); err != nil {
			return
		}
		p := packet{append([]byte(nil), frame[head:]...), s.from}
		_, _ = r.Discard(head + n)
		c.touch(s)
		if r.Buffered() == 0 && !s.ack() {
			return
		}
		select {
		case c.in <- p:
		case <-c.ctx.Done():
			return
		}
	}
}

// ack says that all was read.
func (s *source) ack() bool {
	if err := s.nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return false
	}
	_, err := s.nc.Write([]byte{1})
	return err == nil
}

func (c *Conn) touch(s *source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.heard = time.Now()
}

func (c *Conn) forget(s *source) {
	c.mu.Lock()
	delete(c.sources, s)
	c.mu.Unlock()
	_ = s.nc.Close()
}
