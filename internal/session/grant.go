package session

import (
	"context"
	"fmt"
	"strconv"

	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
)

// A state is what a request is at, as far as this process knows.
type state uint8

const (
	waiting   state = iota // asked, and no answer
	granted                // the answer is here, but the caller has not taken it yet
	held                   // returned to the caller; Done is open
	finishing              // OpFinish stands for it: a release, a cancel, or the end of a grant that was revoked or expired
	resuming               // detached, and an earlier session's: asked whether it is still there; see detached.then
	lapsed                 // detached, and its time is up here: once the leader has the right one it ends it by its own clock
	over                   // it is in no map any more
)

// An errand is what a request is for.
type errand uint8

const (
	toLock    errand = iota // OpAcquire or OpRequest
	toForce                 // OpForce
	toRelease               // OpRelease
	toAdopt                 // OpAdopt
)

// Grant is one request of this process from its first moment: while it waits only Acquire knows it, afterwards it is the grant.
// Its methods are safe for concurrent use.
type Grant struct {
	m      *Manager
	errand errand
	try    bool
	// These two are written while the request waits, and read by its owner afterwards.
	key   string // the first of its keys; "" as long as only a handle names them
	fence uint64

	seq     uint64 // guarded by m.mu, as is all below
	state   state
	sent    bool   // its operation may have reached the leader under the present session
	confirm bool   // finishing: OpConfirm goes before OpFinish
	expire  bool   // finishing: by OpExpire
	release bool   // somebody unlocked it (else, when it is finishing, it is nobody's any more)
	under   *epoch // of the session under which it was granted first; nil: none, or it was adopted
	more    *more  // what few have; nil for most

	wake  chan struct{} // of the one who waits for a change of state; nil when nobody does
	done  chan struct{} // Done's channel; made when it is first asked for
	ended chan struct{} // closed when a release is over, for those who find another waiting for it; made when needed
	err   error         // why Done is closed; nil while it is open
	end   error         // over: what the request or the release came to
}

// Key is what is locked, or the first of it.
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

// Err is why Done is closed: ErrUnlocked, ErrExpired, ErrForced, ErrMoved, ErrSessionLost, or what matches ErrClosed. It is nil while
// Done is open.
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
// and ErrSessionLost, and the grant ends with the session at the latest. A detached one does not end with it: its release goes on under
// the next session.
func (g *Grant) Release(ctx context.Context) error {
	m := g.m
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	m.checkLocked(now)
	if g.isHeld() {
		g.release = true
		m.leaving++
		m.overLocked(g, lockerr.ErrUnlocked)
		if g.state == finishing { // else it is to be taken up again first
			m.enqueueLocked(g)
		}
	}
	switch {
	case !g.release: // lost, one way or the other
		err := g.notHeld("unlock", g.err)
		m.mu.Unlock()
		return err
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

// isHeld says that Done is open.
func (g *Grant) isHeld() bool {
	return g.state == held || g.state == resuming && g.more.detached.then == held
}

func (g *Grant) isDetached() bool { return g.more != nil && g.more.detached != nil }

// notHeld is what a caller is told who wants something of a grant that is lost. Like all that names g it needs m.mu.
func (g *Grant) notHeld(verb string, why error) error {
	return fmt.Errorf("%s %s: %w: %w", verb, g.name(), lockerr.ErrNotHeld, why)
}

// what says what the request does, for messages.
func (g *Grant) what() string {
	verb := "lock"
	switch {
	case g.release:
		verb = "unlock"
	case g.errand == toForce:
		verb = "force unlock"
	case g.errand == toRelease:
		verb = "release"
	case g.errand == toAdopt:
		verb = "adopt"
	}
	return verb + " " + g.name()
}

// name is what is locked, for messages.
func (g *Grant) name() string {
	switch {
	case g.key == "" && g.more != nil && g.more.handle != nil:
		return fmt.Sprintf("the grant with fence %d", g.more.handle.Fence)
	case g.more != nil && len(g.more.keys) > 1:
		return fmt.Sprintf("%q and %d more", g.key, len(g.more.keys)-1)
	}
	return strconv.Quote(g.key)
}

// appendOps appends what stands for g at the leader now.
func (g *Grant) appendOps(ops []wire.Op) []wire.Op {
	switch g.state {
	case waiting, resuming:
		return append(ops, g.begins())
	case held, lapsed:
		if g.more != nil {
			return g.appendOrders(ops)
		}
	case finishing:
		switch {
		case g.confirm:
			// The confirmation ends the grant as what it is, a revoked one. It has no answer: the finish after it has.
			return append(ops, wire.Op{Kind: wire.OpConfirm, Seq: g.seq}, wire.Op{Kind: wire.OpFinish, Seq: g.seq})
		case g.expire:
			return append(ops, wire.Op{Kind: wire.OpExpire, Seq: g.seq})
		}
		return append(ops, wire.Op{Kind: wire.OpFinish, Seq: g.seq})
	}
	return ops
}

// begins is the operation that begins g.
func (g *Grant) begins() wire.Op {
	var ask *wire.Ask
	if g.more != nil {
		ask = g.more.ask
	}
	switch {
	case g.errand == toForce:
		return wire.Op{Kind: wire.OpForce, Seq: g.seq, Key: g.key}
	case g.errand == toRelease:
		return wire.Op{Kind: wire.OpRelease, Seq: g.seq, Ask: ask}
	case g.errand == toAdopt:
		return wire.Op{Kind: wire.OpAdopt, Seq: g.seq, Ask: ask}
	case ask != nil:
		return wire.Op{Kind: wire.OpRequest, Seq: g.seq, Try: g.try, Ask: ask}
	}
	return wire.Op{Kind: wire.OpAcquire, Seq: g.seq, Key: g.key, Try: g.try}
}
