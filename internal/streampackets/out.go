package streampackets

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// Bounds of what goes out. What is beyond them is dropped.
const (
	maxPeers     = 256 // addresses with a stream, or remembered for one that could not be opened
	maxDials     = 64  // at a time
	packetsWait  = 32  // for each address
	gatherBytes  = 16 << 10
	dialTimeout  = 2 * time.Second
	writeTimeout = time.Second
	idleOut      = 30 * time.Second // without a packet
	ackTimeout   = 2 * time.Second  // without an answer to what was written
	busyFor      = time.Second      // since its last packet; an address that is busy gives its place to nobody

	firstRetry = 250 * time.Millisecond // after a dial that failed, doubling up to lastRetry
	lastRetry  = 2 * time.Second
)

var (
	errSilent  = errors.New("the other side doesn't answer any more")
	errEvicted = errors.New("another address needs its place")
)

// peer is an address that packets go to.
type peer struct {
	to    netip.AddrPort
	queue chan []byte   // filled under Conn.mu
	gone  chan struct{} // closed by eviction, under Conn.mu

	// Guarded by Conn.mu.
	running bool // its goroutine runs
	dialing bool
	last    time.Time // of a packet
	retry   time.Time // no dial before
	wait    time.Duration
}

// send puts b into the queue of a stream, which it has opened if there is none; false after Close.
func (c *Conn) send(to netip.AddrPort, b []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	now := time.Now()
	p := c.peers[to]
	if p == nil {
		if len(c.peers) >= maxPeers && !c.evict(now) {
			return true
		}
		p = &peer{to: to, queue: make(chan []byte, packetsWait), gone: make(chan struct{})}
		c.peers[to] = p
	}
	p.last = now
	if !p.running {
		if c.dialing >= maxDials || now.Before(p.retry) {
			return true
		}
		p.running, p.dialing = true, true
		c.dialing++
		c.wg.Go(func() { c.serve(p) }) // ends with ctx, when evicted, or when its stream does
	}
	select {
	case p.queue <- append([]byte(nil), b...):
	default:
	}
	return true
}

// evict makes room for a peer: of those without a stream, then of those that are not busy, the one that was used longest ago. c.mu is held.
func (c *Conn) evict(now time.Time) bool {
	var victim *peer
	for _, p := range c.peers {
		if p.dialing || p.running && now.Sub(p.last) < busyFor {
			continue
		}
		if victim == nil || victim.running && !p.running || victim.running == p.running && p.last.Before(victim.last) {
			victim = p
		}
	}
	if victim == nil {
		return false
	}
	delete(c.peers, victim.to)
	close(victim.gone)
	return true
}

// serve opens a stream and carries packets until it is over.
func (c *Conn) serve(p *peer) {
	ctx, cancel := context.WithTimeout(c.ctx, dialTimeout)
	nc, err := c.cfg.Dial(ctx, p.to.String())
	cancel()
	began := time.Now()
	c.mu.Lock()
	p.dialing = false
	c.dialing--
	c.mu.Unlock()
	if err == nil {
		err = c.carry(p, nc)
	}
	if err != nil && c.ctx.Err() == nil {
		c.log.Debug("packets over streams: a stream is over", "to", p.to.String(), "error", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p.running = false
	for len(p.queue) > 0 { // it would be out of date when the next stream is there
		<-p.queue
	}
	switch {
	case c.peers[p.to] != p: // evicted
	case err == nil:
		delete(c.peers, p.to)
	case time.Since(began) < busyFor: // it could not be dialed, or was shut at once
		p.wait = min(max(2*p.wait, firstRetry), lastRetry)
		p.retry = time.Now().Add(p.wait)
	default:
		p.wait = 0
	}
}

// carry writes p's packets to nc. It returns nil when there have been none for idleOut.
func (c *Conn) carry(p *peer, nc net.Conn) error {
	defer context.AfterFunc(c.ctx, func() { _ = nc.Close() })() // ends a write under way
	a := acks{over: make(chan struct{}), began: time.Now()}
	go a.read(nc)               // ends when nc is closed
	defer func() { <-a.over }() // after the next line
	defer nc.Close()
	idle := time.NewTimer(idleOut)
	defer idle.Stop()
	var buf []byte
	for {
		select {
		case b := <-p.queue:
			buf = appendFrame(buf[:0], b)
			for len(p.queue) > 0 && len(buf) < gatherBytes {
				buf = appendFrame(buf, <-p.queue) // nobody else takes any
			}
			if a.missing() > ackTimeout {
				return errSilent
			}
			if err := nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
				return err
			}
			a.expect()
			if _, err := nc.Write(buf); err != nil {
				return err
			}
			idle.Reset(idleOut)
		case <-a.over:
			return a.err
		case <-idle.C:
			return nil
		case <-p.gone:
			return errEvicted
		case <-c.ctx.Done():
			return net.ErrClosed
		}
	}
}

func appendFrame(buf, b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(buf, uint16(len(b))), b...)
}

// acks knows since when an answer is missing.
type acks struct {
	began time.Time
	since atomic.Int64 // after began, of the first write that no answer has followed; 0: none is missing
	over  chan struct{}
	err   error // set before over is closed
}

func (a *acks) expect() { a.since.CompareAndSwap(0, max(int64(time.Since(a.began)), 1)) }

func (a *acks) missing() time.Duration {
	since := a.since.Load()
	if since == 0 {
		return 0
	}
	return time.Since(a.began) - time.Duration(since)
}

func (a *acks) read(nc net.Conn) {
	defer close(a.over)
	var buf [64]byte
	for {
		if _, a.err = nc.Read(buf[:]); a.err != nil {
			return
		}
		a.since.Store(0)
	}
}
