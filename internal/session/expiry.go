package session

import (
	"container/heap"
	"context"
	"fmt"
	"time"

	"github.com/godistlock/distlock/internal/lockerr"
)

// byDeadline is the heap of the grants with a time, whose Done is open.
type byDeadline []*Grant

func (h byDeadline) Len() int           { return len(h) }
func (h byDeadline) Less(i, j int) bool { return h[i].more.deadline < h[j].more.deadline }
func (h byDeadline) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].more.index, h[j].more.index = i+1, j+1
}

func (h *byDeadline) Push(g any) {
	*h = append(*h, g.(*Grant))
	(*h)[len(*h)-1].more.index = len(*h)
}

func (h *byDeadline) Pop() any {
	last := len(*h) - 1
	g := (*h)[last]
	(*h)[last] = nil
	*h, g.more.index = (*h)[:last], 0
	return g
}

// timeLocked sets when g's Done closes.
func (m *Manager) timeLocked(g *Grant, deadline time.Duration) {
	x := g.extraLocked()
	x.deadline = deadline
	if x.index == 0 {
		heap.Push(&m.times, g)
	} else {
		heap.Fix(&m.times, x.index-1)
	}
	if x.index == 1 {
		signal(m.rearm)
	}
}

// untimeLocked: g's Done is closed, or is about to be.
func (m *Manager) untimeLocked(g *Grant) {
	if g.more != nil && g.more.index > 0 {
		heap.Remove(&m.times, g.more.index-1)
	}
}

// expireLocked ends the grants whose time is up.
func (m *Manager) expireLocked(now time.Duration) {
	for len(m.times) > 0 && m.times[0].more.deadline <= now {
		g := m.times[0]
		m.overLocked(g, lockerr.ErrExpired) // takes it out of m.times
		switch d := g.more.detached; {
		case d == nil:
			g.expire = true
			m.enqueueLocked(g)
		case g.state == finishing:
			m.lapsedLocked(g, now)
		case m.session == 0 && d.noted == d.nth: // resuming, and it need not be asked for any more
			m.finishedLocked(g, nil)
		default: // resuming
			d.then = lapsed
		}
	}
}

// Extend sets the grant's time to ttl from now, and gives a time to one that had none; of a detached one it returns once that is
// committed. Of a grant that was lost it returns an error that matches ErrNotHeld and Err. An error that wraps ctx's leaves the outcome
// unknown: then the grant is to be relied on for the shorter of the two times.
func (g *Grant) Extend(ctx context.Context, ttl time.Duration) error {
	if err := timeFault(ttl); err != nil {
		return fmt.Errorf("extend %q: %w", g.key, err)
	}
	if ttl == 0 {
		return fmt.Errorf("extend %q: %w: a time of 0", g.key, lockerr.ErrInvalid)
	}
	m := g.m
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	m.checkLocked(now)
	switch {
	case !g.isHeld():
		err := g.notHeld("extend", g.err)
		m.mu.Unlock()
		return err
	case g.more == nil || g.more.detached == nil:
		m.timeLocked(g, now+ttl)
		m.mu.Unlock()
		return nil
	}
	nth := m.orderTimeLocked(g, ttl, now)
	m.mu.Unlock()
	return g.awaitOrder(ctx, "extend", func() bool { return g.more.detached.noted >= nth })
}
