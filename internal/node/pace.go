package node

import (
	"context"
	"sync"

	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/wire"
)

// firstWindow is how much a process sends before the leader has said how much it may.
const firstWindow = maxLane / 4

// pacer bounds what is on its way to a leader and has not gone into an entry there. A process that has more to ask keeps it: if the leader had to
// stop reading the connection, the renewals on it would wait as well, and a process could lose its session to its own haste. It asks the leader
// from time to time whether all that it sent has gone into entries; that answers when it has, and says how much may be on its way from then on. A
// leader of a version that doesn't know the question stops reading where it must.
type pacer struct {
	ask func(ctx context.Context, ops uint64) (window int, err error)

	ctx    context.Context // ends with stop
	cancel context.CancelFunc
	wg     sync.WaitGroup // asking

	mu      sync.Mutex // guards the fields below
	window  int
	sent    sum
	taken   sum // of what was sent, that has gone into entries as far as is known
	asking  bool
	waiting bool          // a send waits
	moved   chan struct{} // closed when taken or window has changed; nil while nobody waits for that
	off     bool          // the leader doesn't pace, or is gone
}

// sum is operations, and what they count for.
type sum struct {
	ops  uint64
	cost cost
}

func newPacer(ask func(ctx context.Context, ops uint64) (window int, err error)) *pacer {
	p := &pacer{ask: ask, window: firstWindow}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// admit waits until ops may be sent, or the connection is over. One process sends one message at a time.
func (p *pacer) admit(ops []wire.Op) {
	c := costOf(ops)
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.off && p.pendingLocked() > 0 && p.pendingLocked()+c.total() > p.window {
		p.waiting = true
		p.askLocked()
		if p.moved == nil {
			p.moved = make(chan struct{})
		}
		moved := p.moved
		p.mu.Unlock()
		select {
		case <-moved:
		case <-p.ctx.Done():
		}
		p.mu.Lock()
		p.waiting = false
	}
	p.sent.ops += uint64(c.ops)
	p.sent.cost = p.sent.cost.plus(c)
	if p.pendingLocked() >= p.window/4 {
		p.askLocked()
	}
}

// pendingLocked is what is on its way, as far as is known.
func (p *pacer) pendingLocked() int { return p.sent.cost.minus(p.taken.cost).total() }

func (p *pacer) askLocked() {
	if !p.asking && !p.off {
		p.asking = true
		p.wg.Go(p.run) // ends when there is nothing to ask, and with the connection
	}
}

// run asks about all that was sent, and again while it is worth it.
func (p *pacer) run() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.asking {
		about := p.sent
		p.mu.Unlock()
		window, err := p.ask(p.ctx, about.ops)
		p.mu.Lock()
		if err != nil { // it is of a version that doesn't know this; or the connection ends, and nobody has to wait for it
			p.off = true
		} else {
			p.taken, p.window = about, min(max(window, leastLane), maxLane)
		}
		if p.moved != nil {
			close(p.moved)
			p.moved = nil
		}
		p.asking = !p.off && (p.pendingLocked() >= p.window/4 || p.waiting && p.pendingLocked() > 0)
	}
}

// stop ends all waits. The connection must be closed.
func (p *pacer) stop() {
	p.mu.Lock()
	p.off = true
	p.mu.Unlock()
	p.cancel()
	p.wg.Wait()
}

// askToPace asks the leader at the other end of conn.
func askToPace(conn *rpc.Conn) func(ctx context.Context, ops uint64) (int, error) {
	return func(ctx context.Context, ops uint64) (int, error) {
		w := wire.NewWriter()
		w.Uint(ops)
		body, err := conn.Call(ctx, callPace, w.Bytes())
		if err != nil {
			return 0, err
		}
		r := wire.NewReader(body)
		window := atMost(r, maxLane)
		return int(window), r.End()
	}
}

// pace answers an askToPace: once so many operations of the connection have gone into entries, it says how many may be on their way.
func (p *peerConn) pace(ctx context.Context, body []byte) ([]byte, error) {
	r := wire.NewReader(body)
	ops := r.Uint()
	if err := r.End(); err != nil {
		return nil, err
	}
	l, ln := p.boundLane()
	if l == nil {
		return nil, errNotLeading
	}
	window, err := l.batch.pace(ctx, ln, ops, l.done)
	if err != nil {
		return nil, err
	}
	w := wire.NewWriter()
	w.Uint(uint64(window))
	return w.Bytes(), nil
}

// pace waits until so many operations have come on ln and gone into entries. It answers the share of all lanes' room that is ln's.
func (b *batcher) pace(ctx context.Context, ln *lane, ops uint64, over <-chan struct{}) (window int, err error) {
	for {
		b.mu.Lock()
		if ln.taken >= ops {
			window = min(max(maxLanes/max(1, b.activity.lanes()), leastLane), maxLane)
			b.mu.Unlock()
			return window, nil
		}
		moved := ln.movedLocked()
		b.mu.Unlock()
		select {
		case <-moved:
		case <-over:
			return 0, errNotLeading
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}
