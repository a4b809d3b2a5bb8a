package node

import (
	"context"
	"sync"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// When a leader dies all of a large fleet ask for the next. Who is asked keeps them waiting until it knows, so that they ask once.
const (
	holdFor    = time.Second      // at most so long: an election takes less
	tellEvery  = time.Millisecond // they are told one after the other, since all of them turn to the leader then
	tellAtOnce = 16               // but for so many
)

// awaitNews waits until this process leads, or knows who does, or as long as who asked may be kept waiting. One whose lead the asker has lost counts
// only if it is heard from again: a voter hears from its leader several times in such a while.
func (n *Node) awaitNews(ctx context.Context, over wire.UUID, term uint64) *lead {
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, holdFor)
	defer cancel()
	look := time.NewTicker(heartbeatTimeout / 10)
	defer look.Stop()
	for waited := false; ; {
		changed := n.Changed()
		if l := n.leading(ctx); l != nil {
			return l
		}
		g := n.group.Load()
		if g == nil { // it would hear of the next leader no sooner than who asks
			return nil
		}
		leader, now := n.leaderNews()
		switch {
		case leader.IsZero() || leader == n.serverID():
		case leader != over || now > term:
			if waited {
				n.telling.wait(ctx)
			}
			return nil
		case g.raft.LastContact().After(asked) && g.raft.CurrentTerm() <= term: // to give a vote, of a later term, is a contact too
			return nil
		}
		select {
		case <-changed:
			waited = true
		case <-look.C:
		case <-ctx.Done():
			return nil
		case <-n.ctx.Done():
			return nil
		}
	}
}

// oneByOne lets those who wait go one after the other.
type oneByOne struct {
	mu   sync.Mutex // guards next
	next time.Time  // when the next may go
}

func (p *oneByOne) turn(now time.Time) (wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if early := now.Add(-tellAtOnce * tellEvery); p.next.Before(early) {
		p.next = early
	}
	wait = max(p.next.Sub(now), 0)
	if p.next = p.next.Add(tellEvery); p.next.After(now.Add(holdFor)) { // those who come now are gone by then
		p.next = now.Add(holdFor)
	}
	return wait
}

// wait waits for its turn, or until ctx ends.
func (p *oneByOne) wait(ctx context.Context) {
	wait := p.turn(time.Now())
	if wait == 0 {
		return
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
