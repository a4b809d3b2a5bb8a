package session

import (
	"context"
	"fmt"

	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
)

// A state is what a request is at, as far as this process knows.
type state uint8

const (
	waiting   state = iota // asked, and no answer
	granted                // the answer is here, but the caller has not taken it yet
	held                   // returned to the caller; Done is open
	finishing              // OpFinish stands for it: a release, a cancel, or the end of a grant that was revoked
	over                   // it is in no map any more
)

// Grant is one request of this process from its first moment: while it waits only Acquire knows it, afterwards it is the grant.
// Its methods are safe for concurrent use.
type Grant struct {
	m     *Manager
	key   string
	force bool // an OpForce, not an OpAcquire
	try   bool
	fence uint64 // written while the request waits, read by its owner afterwards

	seq     uint64 // guarded by m.mu, as is all below
	state   state
	sent    bool // its operation may have reached the leader under the present session
	confirm bool // finishing: OpConfirm goes before OpFinish
	release bool // finishing: somebody unlocked it (else it is nobody's any more)
	late    *late

	wake  chan struct{} // of the one who waits for a change of state; nil when nobody does
	done  chan struct{} // Done's channel; made when it is first asked for
	ended chan struct{} // closed when a release is over, for those who find another waiting for it; made when needed
	err   error         // why Done is closed; nil while it is open
	end   error         // over: what the request or the release came to
}

// Key is what is locked.
func (g *Grant) Key() string { return g.key }

// Fence is the grant's.
func (g *Grant) Fence() uint64 { return g.fence }

// Done is closed when the grant may no longer be relied on.
func (g *Grant) Done() <-chan struct{} {
	now := g.m.cfg.Clock.Now()
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	g.m.checkLocked(now)
	if g.done == nil {
		g.done = make(chan struct{})
		if g.err != nil {
			close(g.done)
		}
	}
	return g.done
}

// Err is why Done is closed: ErrUnlocked, ErrForced, ErrSessionLost, or what matches ErrClosed. It is nil while Done is open.
func (g *Grant) Err() error {
	now := g.m.cfg.Clock.Now()
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	g.m.checkLocked(now)
	return g.err
}

// Release ends the grant: Done closes first, then the release goes out, even when ctx has ended; ctx bounds only the wait for the
// answer. It is nil once the release is committed, and ever after. When ctx ends first it returns ctx's error, the release goes on,
// and another Release waits for the same one. Of a grant that was lost it returns an error that matches ErrNotHeld and Err. A
// session that is lost before the release was answered leaves unknown whether the key was free at once: the error matches ErrNotHeld
// and ErrSessionLost, and the grant ends with the session at the latest.
func (g *Grant) Release(ctx context.Context) error {
	m := g.m
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	m.checkLocked(now)
	if g.state == held {
		g.release = true
		m.leaving++
		m.overLocked(g, lockerr.ErrUnlocked)
		m.enqueueLocked(g)
	}
	switch {
	case !g.release: // lost, one way or the other
		err := g.err
		m.mu.Unlock()
		return fmt.Errorf("unlock %q: %w: %w", g.key, lockerr.ErrNotHeld, err)
	case g.state == over:
		err := g.end
		m.mu.Unlock()
		return err
	case g.wake == nil: // the usual case: the only one to wait, on a channel that is used again
		wake := m.wakes.Get().(chan struct{})
		g.wake = wake
		m.mu.Unlock()
		err := g.awaitRelease(ctx, wake)
		m.wakes.Put(wake)
		return err
	}
	if g.ended == nil {
		g.ended = make(chan struct{})
	}
	ended := g.ended
	m.mu.Unlock()
	select {
	case <-ended:
		m.mu.Lock()
		defer m.mu.Unlock()
		return g.end
	case <-ctx.Done():
		return m.waitEnded(g, ctx.Err())
	}
}

func (g *Grant) awaitRelease(ctx context.Context, wake chan struct{}) error {
	m := g.m
	for {
		select {
		case <-wake:
			m.mu.Lock()
			isOver, end := g.state == over, g.end
			m.mu.Unlock()
			if isOver { // else the token was meant for the channel's user before
				return end
			}
		case <-ctx.Done():
			m.mu.Lock()
			isOver, end := g.state == over, g.end
			g.wake = nil
			m.mu.Unlock()
			if isOver {
				return end
			}
			return m.waitEnded(g, ctx.Err())
		}
	}
}

// verb says what the request does, for messages.
func (g *Grant) verb() string {
	switch {
	case g.release:
		return "unlock"
	case g.force:
		return "force unlock"
	}
	return "lock"
}

// appendOps appends what stands for g at the leader now.
func (g *Grant) appendOps(ops []wire.Op) []wire.Op {
	switch {
	case g.state == waiting && g.force:
		return append(ops, wire.Op{Kind: wire.OpForce, Seq: g.seq, Key: g.key})
	case g.state == waiting:
		return append(ops, wire.Op{Kind: wire.OpAcquire, Seq: g.seq, Key: g.key, Try: g.try})
	case g.state == finishing && g.confirm:
		// The confirmation ends the grant as what it is, a forced one. It has no answer: the finish after it has.
		return append(ops, wire.Op{Kind: wire.OpConfirm, Seq: g.seq}, wire.Op{Kind: wire.OpFinish, Seq: g.seq})
	case g.state == finishing:
		return append(ops, wire.Op{Kind: wire.OpFinish, Seq: g.seq})
	}
	return ops
}
