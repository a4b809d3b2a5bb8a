package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/session"
	"github.com/godistlock/distlock/internal/wire"
)

const (
	linkRetry    = 25 * time.Millisecond  // between two rounds of asking who leads, at first
	mostRetry    = 400 * time.Millisecond // and after many that found nobody
	retryDoubles = 8                      // rounds after which the pause doubles
	linkTimeout  = 300 * time.Millisecond // of one round, at first
	moreTimeouts = 3                      // times that it doubles while nobody answers at all: all of a large fleet ask at once when a leader dies
	maxAsked     = 5                      // processes asked in one round
	askNext      = 12                     // in such a part of the round another is asked, if nobody has answered
	hurryAfter   = time.Second            // of finding nobody: an election takes less, so the leader may be one that gossip has not found
)

// Link finds the leader and opens a session's way to it. It blocks until there is one or ctx ends.
func (n *Node) Link(ctx context.Context, sink session.Sink) (session.Link, error) {
	began := time.Now()
	silent := 0 // rounds in a row in which nobody has answered
	for round := 0; ; round++ {
		changed := n.Changed()
		if time.Since(began) >= hurryAfter {
			n.gossip.Hurry()
		}
		if n.Open() && n.claimed.Load() { // before, nobody is given a session
			k, heard := n.tryLink(ctx, sink, roundTimeout(silent))
			if k != nil {
				return k, nil
			}
			if silent++; heard {
				silent = 0
			}
		}
		if err := n.waitRetry(ctx, changed, round); err != nil {
			return nil, err
		}
	}
}

// roundTimeout is what a round is given after so many in which nobody has answered: who is still busy with the last has more time for this one.
func roundTimeout(silent int) time.Duration { return linkTimeout << min(silent/2, moreTimeouts) }

// waitRetry waits for news or a little while; its error says that ctx or the node has ended.
func (n *Node) waitRetry(ctx context.Context, changed <-chan struct{}, round int) error {
	pause := min(linkRetry<<min(round/retryDoubles, 10), mostRetry)
	t := time.NewTimer(pause + rand.N(pause))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-n.ctx.Done():
	case <-changed:
	case <-t.C:
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return n.ctx.Err()
}

// tryLink is one round of looking for the leader, and says whether anybody has answered.
func (n *Node) tryLink(ctx context.Context, sink session.Sink, timeout time.Duration) (link session.Link, heard bool) {
	if l := n.lead.Load(); l != nil && l.isReady() {
		if k, ok := newLocalLink(l, sink); ok {
			return k, true
		}
	}
	var answered atomic.Bool
	k, ok := seek(ctx, n, timeout, func(ctx context.Context, server wire.UUID) (*remoteLink, bool, wire.UUID) {
		k, hint, err := n.linkTo(ctx, server, sink, timeout/3)
		if err == nil {
			answered.Store(true)
		}
		return k, k != nil, hint
	}, (*remoteLink).Close)
	if !ok {
		return nil, answered.Load()
	}
	n.mu.Lock()
	n.last = k.server
	n.mu.Unlock()
	n.spawn(func() { n.watchLink(k) }) // ends with the link
	if !k.via.IsZero() {
		n.logger.Info("the leader can't be reached directly; its connection goes through another member", "leader", k.name, "via", n.nameOf(k.via))
		n.spawn(func() { n.seekDirect(k.server, k.done, k.finish) }) // ends with the link
	}
	return k, true
}

// watchLink ends a link whose leader has been succeeded: a leader that is paused would not say so itself.
func (n *Node) watchLink(k *remoteLink) {
	for {
		changed := n.Changed()
		if leader, term := n.leaderNews(); !leader.IsZero() && leader != k.server && term > k.term {
			k.finish()
		}
		select {
		case <-k.done:
			return
		case <-n.ctx.Done():
			return
		case <-changed:
		}
	}
}

// findLeader asks round until a server says that it leads.
func (n *Node) findLeader(ctx context.Context) (wire.UUID, error) {
	leader, ok := seek(ctx, n, linkTimeout, func(ctx context.Context, server wire.UUID) (wire.UUID, bool, wire.UUID) {
		body, err := n.call(ctx, server, callWho, nil)
		if err != nil {
			return server, false, wire.UUID{}
		}
		reply, err := decodeLeadReply(body)
		if err != nil {
			return server, false, wire.UUID{}
		}
		n.remember(reply.leader, reply.addr)
		return server, reply.leads, reply.leader
	}, func(wire.UUID) {})
	if !ok {
		return wire.UUID{}, errors.New("no process answered that it leads")
	}
	return leader, nil
}

// seek asks those who might lead, and whom they hint at, one soon after the other and side by side, so that one that is paused holds up nobody: the
// likeliest mostly leads, and a large fleet need not ask all. It answers the first that ask finds; what is found later is dropped. It finds
// nobody when this process itself has become the leader meanwhile.
func seek[T any](ctx context.Context, n *Node, timeout time.Duration, ask func(context.Context, wire.UUID) (T, bool, wire.UUID), drop func(T)) (T, bool) {
	type reply struct {
		v    T
		ok   bool
		hint wire.UUID
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	replies := make(chan reply, maxAsked)
	pending := 0
	asked := map[wire.UUID]bool{n.serverID(): true, {}: true}
	start := func(server wire.UUID) {
		if asked[server] || len(asked) == maxAsked+2 {
			return
		}
		asked[server] = true
		if n.spawn(func() { // ends with ctx
			v, ok, hint := ask(ctx, server)
			replies <- reply{v, ok, hint}
		}) {
			pending++
		}
	}
	defer func() {
		cancel()
		late := pending
		collect := func() {
			for range late {
				if r := <-replies; r.ok {
					drop(r.v)
				}
			}
		}
		if late > 0 && !n.spawn(collect) { // ends with those it waits for
			collect()
		}
	}()
	changed := n.Changed()
	mightLead := n.whoMightLead()
	startNext := func() {
		for was := pending; pending == was && len(mightLead) > 0; mightLead = mightLead[1:] {
			start(mightLead[0])
		}
	}
	next := time.NewTicker(timeout / askNext)
	defer next.Stop()
	startNext()
	var none T
	for pending > 0 {
		select {
		case <-next.C:
			startNext()
		case r := <-replies:
			pending--
			if r.ok {
				return r.v, true
			}
			start(r.hint)
			startNext()
		case <-changed:
			changed = n.Changed()
			if l := n.lead.Load(); l != nil && l.isReady() {
				return none, false
			}
			leader, _ := n.leaderNews()
			start(leader)
		}
	}
	return none, false
}

// linkTo asks one server to be the leader. If it isn't, there is no link, and it may know who is. An error says that it has not answered.
func (n *Node) linkTo(ctx context.Context, server wire.UUID, sink session.Sink, detourAfter time.Duration) (*remoteLink, wire.UUID, error) {
	k := &remoteLink{server: server, sink: sink, done: make(chan struct{})}
	var err error
	if k.conn, k.via, err = n.reach(ctx, server, k, detourAfter); err != nil {
		return nil, wire.UUID{}, err
	}
	k.pacer = newPacer(askToPace(k.conn))
	ours := wire.NewWriter()
	ours.Uint(wire.Format)
	body, err := k.conn.Call(ctx, callLead, ours.Bytes())
	if err != nil {
		k.Close()
		return nil, wire.UUID{}, err
	}
	reply, err := decodeLeadReply(body)
	if err != nil || !reply.leads {
		k.Close()
		n.remember(reply.leader, reply.addr)
		return nil, reply.leader, err
	}
	k.term, k.format, k.name = reply.term, reply.format, n.nameOf(server)
	return k, wire.UUID{}, nil
}

// nameOf is what people call a server.
func (n *Node) nameOf(server wire.UUID) string {
	for _, m := range n.gossip.Members() {
		if m.Server == server {
			return m.Name
		}
	}
	return "server " + server.String()
}

// whoMightLead lists servers to ask, the likeliest first: what Raft says here, who says so by gossip, the last leader, any voter.
func (n *Node) whoMightLead() []wire.UUID {
	leader, _ := n.leaderNews()
	out := []wire.UUID{leader}
	cluster := n.clusterID()
	var voters []wire.UUID
	for _, m := range n.gossip.Members() {
		if m.Cluster != cluster || m.State == gossip.Failed || m.State == gossip.Left {
			continue
		}
		if m.Leader {
			out = append(out, m.Server)
		} else if m.Voter {
			voters = append(voters, m.Server)
		}
	}
	n.mu.Lock()
	out = append(out, n.last)
	n.mu.Unlock()
	rand.Shuffle(len(voters), func(i, j int) { voters[i], voters[j] = voters[j], voters[i] })
	out = append(out, voters...)
	if len(voters) == 0 { // restarted, and gossip has not come round yet: ask those that were stored
		n.mu.Lock()
		for u := range n.addrs.places {
			out = append(out, u)
		}
		n.mu.Unlock()
	}
	return out
}

// leaderNews is the leader as Raft knows it here, else as gossip tells, with the term; zero for none.
func (n *Node) leaderNews() (wire.UUID, uint64) {
	if g := n.group.Load(); g != nil && !n.muted.Load() {
		if u := g.leader(); !u.IsZero() {
			return u, g.raft.CurrentTerm()
		}
	}
	cluster := n.clusterID()
	var leader wire.UUID
	var term uint64
	for _, m := range n.gossip.Members() { // one that was succeeded may not know, or have told, yet
		if m.Leader && m.Cluster == cluster && lives(m) && m.Term >= term {
			leader, term = m.Server, m.Term
		}
	}
	return leader, term
}

// leaderHint is leaderNews with the leader's address.
func (n *Node) leaderHint() (wire.UUID, string) {
	leader, _ := n.leaderNews()
	if leader.IsZero() {
		return leader, ""
	}
	addr, _ := n.addrOf(leader)
	return leader, addr
}

// leading is this process's lead once that is ready; nil when it does not lead. It waits for a lead that begins, within ctx.
func (n *Node) leading(ctx context.Context) *lead {
	l := n.lead.Load()
	if l == nil {
		return nil
	}
	select {
	case <-l.ready:
		return l
	case <-l.done:
	case <-ctx.Done():
	case <-n.ctx.Done():
	}
	return nil
}

// spawn runs f on a goroutine that Close waits for; false once Close has begun.
func (n *Node) spawn(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.wg.Go(f)
	return true
}
