package session

import (
	"context"
	"errors"
	"fmt"

	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
)

// What is asked of a grant that goes on: OpTime and OpDowngrade. Both are sent again on every new link until they are answered.

// Downgrade makes an exclusive grant a shared one, with no gap and the same fence. Of a shared one it is nil, of units ErrInvalid. Of a
// grant that was lost it returns an error that matches ErrNotHeld and Err. When ctx ends first the downgrade goes on.
func (g *Grant) Downgrade(ctx context.Context) error {
	m := g.m
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	m.checkLocked(now)
	var err error
	switch mode := g.modeLocked(); {
	case mode == wire.Units:
		err = fmt.Errorf("downgrade %s: %w: units of a semaphore are neither exclusive nor shared", g.name(), lockerr.ErrInvalid)
	case !g.isHeld():
		err = g.notHeld("downgrade", g.err)
	case mode == wire.Shared:
	case !g.extraLocked().down:
		g.more.down, g.more.refusal = true, nil
		if g.state == held && m.link != nil { // else it goes out when the grant is taken up again
			m.queueLocked(g.downgrade())
		}
		fallthrough
	default:
		m.mu.Unlock()
		return g.awaitOrder(ctx, "downgrade", func() bool { return g.more.mode == wire.Shared })
	}
	m.mu.Unlock()
	return err
}

// appendOrders appends what has no answer yet.
func (g *Grant) appendOrders(ops []wire.Op) []wire.Op {
	x := g.more
	if x.down && g.state == held {
		ops = append(ops, g.downgrade())
	}
	if d := x.detached; d != nil && d.noted < d.nth {
		ops = append(ops, d.op(g.seq))
	}
	return ops
}

func (g *Grant) downgrade() wire.Op {
	return wire.Op{Kind: wire.OpDowngrade, Seq: g.seq}
}

// awaitOrder waits until done says, with m.mu, that an order is answered.
func (g *Grant) awaitOrder(ctx context.Context, verb string, done func() bool) error {
	m := g.m
	for {
		now := m.cfg.Clock.Now()
		m.mu.Lock()
		m.checkLocked(now)
		switch {
		case done():
			m.mu.Unlock()
			return nil
		case !g.isHeld():
			err := g.notHeld(verb, g.err)
			m.mu.Unlock()
			return err
		case g.more.refusal != nil:
			err := fmt.Errorf("%s %s: %w", verb, g.name(), g.more.refusal)
			m.mu.Unlock()
			return err
		}
		if g.more.turn == nil {
			g.more.turn = make(chan struct{})
		}
		turn := g.more.turn
		m.mu.Unlock()
		select {
		case <-turn:
		case <-ctx.Done():
			m.mu.Lock()
			defer m.mu.Unlock()
			if done() {
				return nil
			}
			if m.link == nil || m.silentLocked(m.cfg.Clock.Now()) {
				return fmt.Errorf("%s %s: %w: no leader answers: %w", verb, g.name(), lockerr.ErrNoQuorum, ctx.Err())
			}
			return fmt.Errorf("%s %s: %w", verb, g.name(), ctx.Err())
		}
	}
}

// turnLocked wakes those who wait for an order.
func (g *Grant) turnLocked() {
	if g.more != nil && g.more.turn != nil {
		close(g.more.turn)
		g.more.turn = nil
	}
}

// notedLocked: an order was carried out.
func (m *Manager) notedLocked(g *Grant, o *wire.Outcome) {
	switch {
	case g.more == nil:
		return
	case o.Fence == 0:
		if g.more.down {
			g.more.down, g.more.mode = false, wire.Shared
		}
	case g.more.detached != nil && o.Fence == g.more.detached.nth: // else it answers an OpTime that another has replaced
		m.notedTimeLocked(g)
	}
	g.turnLocked()
}

// refusedLocked: a process of the cluster is too old for an order. The grant goes on as it was.
func (m *Manager) refusedLocked(g *Grant, o *wire.Outcome) {
	if g.more != nil && g.more.down {
		g.more.down, g.more.refusal = false, fmt.Errorf("%w: %s", errors.ErrUnsupported, o.Text)
		g.turnLocked()
	}
}
