package node

import (
	"context"
	"fmt"
	"time"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
)

// A directory that was copied makes two processes of one server: both could vote in its name. The second of two that can see each other stops. A
// process that takes up a stored identity therefore listens for another with it first, and says nothing of the identity meanwhile, so that
// nobody takes it for the server's new address.

const (
	twinPatience = 500 * time.Millisecond // how long it listens, if it hears of nobody at all
	twinTimeout  = 300 * time.Millisecond // of the question to a process that gossip takes for another with the same identity
	twinEvery    = 2 * time.Second        // how often they are asked at most, later on
	maxTwins     = 4                      // processes that are asked: whoever gossips can claim to be one
)

// claimIdentity waits until this process may act as the server that was stored. It answers false when another process does, or the node ended:
// then it gets no session either.
func (n *Node) claimIdentity() bool {
	if !n.identityIsFree() {
		return false
	}
	n.claimed.Store(true)
	n.announcer.announce()
	n.notify()
	return true
}

func (n *Node) identityIsFree() bool {
	t := time.NewTimer(twinPatience)
	defer t.Stop()
	for {
		heard := false
		for _, m := range n.gossip.Members() {
			heard = heard || m.Instance != n.cfg.Instance && m.State == gossip.Alive && m.Cluster == n.clusterID()
		}
		if heard && n.gossip.Exchanged() { // so it has heard of all of whom that one knows
			if m, ok := n.livingTwin(n.twins()); ok {
				n.fail(twinError(n.cfg.Dir, m))
				return false
			}
			return true
		}
		select {
		case <-n.gossip.Changed():
		case <-t.C:
			return true
		case <-n.ctx.Done():
			return false
		}
	}
}

// twins are other processes that gossip hears under this server's UUID, elsewhere. They may be earlier runs of this one, long gone.
func (n *Node) twins() []gossip.Member {
	return twinsOf(n.serverID(), n.cfg.Instance, n.cfg.Addr, n.members())
}

func twinsOf(server, instance wire.UUID, addr string, members []gossip.Member) (out []gossip.Member) {
	asked := map[string]bool{addr: true}
	for _, m := range members {
		if lives(m) && m.Server == server && m.Instance != instance && !asked[m.Addr] && len(out) < maxTwins {
			asked[m.Addr] = true
			out = append(out, m)
		}
	}
	return out
}

// livingTwin is the first of those that acts as this server.
func (n *Node) livingTwin(twins []gossip.Member) (gossip.Member, bool) {
	for _, m := range twins {
		if n.confirmTwin(m) {
			return m, true
		}
	}
	return gossip.Member{}, false
}

// confirmTwin asks the process itself: gossip takes seconds to see that one has ended. Whichever run of it is there, it acts as this server.
func (n *Node) confirmTwin(m gossip.Member) bool {
	ctx, cancel := context.WithTimeout(n.ctx, twinTimeout)
	defer cancel()
	conn, welcome, err := n.dial(ctx, m.Addr, wire.KindCall, m.Server)
	if err != nil {
		return false
	}
	conn.Close()
	return welcome.Server == m.Server && welcome.Instance != n.cfg.Instance
}

func twinError(dir string, m gossip.Member) error {
	return fmt.Errorf("%w: process %q at %s runs with the identity that is stored in DataDir %q: the directory is a copy; give this process an empty one",
		lockerr.ErrNameTaken, m.Name, m.Addr, dir)
}

// checkTwin looks for another process of this server from time to time. The one that was started later stops.
func (f *life) checkTwin() {
	n := f.n
	if n.cfg.Dir == "" || time.Since(f.twinAt) < twinEvery {
		return
	}
	twins := n.twins()
	if len(twins) == 0 {
		return
	}
	f.twinAt = time.Now()
	n.wg.Go(func() { // ends with the questions, which have their limits
		m, ok := n.livingTwin(twins)
		if !ok {
			return
		}
		if later(n.started, n.cfg.Instance, m) {
			n.fail(twinError(n.cfg.Dir, m))
			return
		}
		n.logger.Error("another process runs with a copy of this one's DataDir: it should stop by itself; stop it otherwise",
			"member", m.Name, "addr", m.Addr, "dir", n.cfg.Dir)
	})
}

// later says that a process was started after m.
func later(started uint64, instance wire.UUID, m gossip.Member) bool {
	if started != m.Started {
		return started > m.Started
	}
	return m.Instance.Less(instance)
}
