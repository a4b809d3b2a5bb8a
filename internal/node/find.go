package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
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
	findTimeout  = 900 * time.Millisecond // of one where no session waits: it includes a detour round a leader that refuses this process
	moreTimeouts = 3                      // times that it doubles while nobody answers at all: all of a large fleet ask at once when a leader dies
	maxAsked     = 5                      // processes asked in one round, without those that others, or news, hint at
	mostAsked    = 12                     // with those
	askNext      = 12                     // in such a part of the round another is asked, if nobody has answered; each time twice as long after the one before
	heldFor      = holdFor + linkTimeout  // of a round in which somebody is reached: it may wait for the answer
	busyRetry    = 100 * time.Millisecond // between two rounds when who leads had too much to do to listen, at first; twice as long each time
	mostBusy     = 3                      // times that it doubles
	hurryAfter   = time.Second            // of finding nobody: an election takes less, so the leader may be one that gossip has not found
)

// Link finds the leader and opens a session's way to it. It blocks until there is one or ctx ends.
func (n *Node) Link(ctx context.Context, sink session.Sink) (session.Link, error) {
	began := time.Now()
	silent := 0 // rounds in a row in which nobody has answered
	busy := 0   // rounds in which somebody would not listen
	qs := &questions{n: n, ctx: ctx, sink: sink, late: map[wire.UUID]*question{}}
	defer qs.end()
	for round := 0; ; round++ {
		was := n.situation()
		if time.Since(began) >= hurryAfter {
			n.gossip.Hurry()
		}
		if n.Open() && n.claimed.Load() { // before, nobody is given a session
			k, heard, full := n.tryLink(ctx, qs, roundTimeout(silent))
			if k != nil {
				return k, nil
			}
			if silent++; heard {
				silent = 0
			}
			if full {
				busy++
			}
		}
		if err := n.waitRetry(ctx, was, retryPause(round, busy)); err != nil {
			return nil, err
		}
	}
}

// roundTimeout is what a round is given after so many in which nobody has answered: who is still busy with the last has more time for this one.
func roundTimeout(silent int) time.Duration { return linkTimeout << min(silent/2, moreTimeouts) }

// retryPause is the least pause before the next round; at most twice as long is waited.
func retryPause(round, busy int) time.Duration {
	if busy > 0 {
		return busyRetry << min(busy-1, mostBusy)
	}
	return min(linkRetry<<min(round/retryDoubles, 10), mostRetry)
}

// situation is what a search for the leader depends on.
type situation struct {
	leader       wire.UUID
	term         uint64
	ready, leads bool // this process may have a session; it leads itself
}

func (n *Node) situation() (s situation) {
	s.leader, s.term = n.leaderNews()
	l := n.lead.Load()
	s.ready, s.leads = n.Open() && n.claimed.Load(), l != nil && l.isReady()
	return s
}

// waitRetry waits until the situation is another than it was, or a little while; its error says that ctx or the node has ended. In a large fleet
// there is news of others all the time.
func (n *Node) waitRetry(ctx context.Context, was situation, pause time.Duration) error {
	t := time.NewTimer(pause + rand.N(pause))
	defer t.Stop()
	for waiting := true; waiting; {
		changed := n.Changed()
		if n.situation() != was {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			waiting = false
		case <-n.ctx.Done():
			waiting = false
		case <-t.C:
			waiting = false
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return n.ctx.Err()
}

// tryLink is one round of looking for the leader. It says whether anybody has answered, and whether somebody had too much to do to listen.
func (n *Node) tryLink(ctx context.Context, qs *questions, timeout time.Duration) (link session.Link, heard, full bool) {
	if l := n.lead.Load(); l != nil && l.isReady() {
		if k, ok := newLocalLink(l, qs.sink); ok {
			return k, true, false
		}
	}
	k, ok := qs.found(), true
	if k == nil {
		k, heard, full, ok = n.seekLink(ctx, qs, timeout)
	}
	if !ok {
		return nil, heard, full
	}
	n.mu.Lock()
	n.last, n.lastTerm = k.server, k.term
	n.mu.Unlock()
	n.linked.Store(k)
	n.spawn(func() { n.watchLink(k) }) // ends with the link
	if !k.via.IsZero() {
		n.logger.Info("the leader can't be reached directly; its connection goes through another member", "leader", k.name, "via", n.nameOf(k.via))
		n.spawn(func() { n.seekDirect(k.server, k.done, k.finish) }) // ends with the link
	}
	return k, true, false
}

// seekLink is seek for a link.
func (n *Node) seekLink(ctx context.Context, qs *questions, timeout time.Duration) (k *remoteLink, heard, full, ok bool) {
	var overrun atomic.Bool
	var asked, hinted sync.Map // servers: the questions of this round to them; those that others say lead
	lives := make(chan struct{})
	var told sync.Once // lives is closed: somebody hears the one who leads
	reached := func(server wire.UUID) bool {
		q, ok := asked.Load(server)
		return ok && q.(*question).reached.Load()
	}
	k, ok = seek(ctx, n, timeout, reached, func(ctx context.Context, server wire.UUID) (*remoteLink, bool, wire.UUID) {
		q := qs.begin(server, timeout, lives)
		if q == nil {
			return nil, false, wire.UUID{}
		}
		asked.Store(server, q)
		q, ok := qs.await(ctx, q, func() bool {
			leader, _ := n.leaderNews()
			_, named := hinted.Load(server)
			return named || server == leader
		})
		if !ok {
			return nil, false, wire.UUID{}
		}
		if !q.hint.IsZero() {
			hinted.Store(q.hint, true)
			told.Do(func() { close(lives) })
		}
		if isFull(q.err) {
			overrun.Store(true)
		}
		return q.link, q.link != nil, q.hint
	}, (*remoteLink).Close)
	for server := range asked.Range {
		heard = heard || reached(server.(wire.UUID))
	}
	return k, heard, overrun.Load(), ok
}

// watchLink ends a link whose leader has been succeeded: a leader that is paused would not say so itself.
func (n *Node) watchLink(k *remoteLink) {
	defer n.linked.CompareAndSwap(k, nil)
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
	leader, ok := seek(ctx, n, findTimeout, func(wire.UUID) bool { return false }, func(ctx context.Context, server wire.UUID) (wire.UUID, bool, wire.UUID) {
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
// nobody when this process itself has become the leader meanwhile. It takes timeout, and heldFor where somebody was reached by then who may be
// waiting for the answer as this process does: to be asked again costs all of them more. But who leads, as far as is known, has no reason to wait.
func seek[T any](ctx context.Context, n *Node, timeout time.Duration, reached func(wire.UUID) bool, ask func(context.Context, wire.UUID) (T, bool, wire.UUID), drop func(T)) (T, bool) {
	type reply struct {
		server wire.UUID
		v      T
		ok     bool
		hint   wire.UUID
	}
	ctx, cancel := context.WithTimeout(ctx, max(timeout, heldFor))
	replies := make(chan reply, mostAsked)
	asked, pending := 0, map[wire.UUID]bool{}
	met := map[wire.UUID]bool{n.serverID(): true, {}: true}
	start := func(server wire.UUID) {
		if met[server] || asked == mostAsked {
			return
		}
		met[server] = true
		if n.spawn(func() { // ends with ctx
			v, ok, hint := ask(ctx, server)
			replies <- reply{server, v, ok, hint}
		}) {
			asked++
			pending[server] = true
		}
	}
	defer func() {
		cancel()
		late := len(pending)
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
	told, toldTerm := n.leaderNews()
	mightLead := n.whoMightLead()
	startNext := func() {
		for was := len(pending); len(pending) == was && asked < maxAsked && len(mightLead) > 0; mightLead = mightLead[1:] {
			start(mightLead[0])
		}
	}
	holding := func() bool {
		for server := range pending {
			if reached(server) {
				return true
			}
		}
		return false
	}
	pause := timeout / askNext
	next, end := time.NewTimer(pause), time.NewTimer(timeout)
	defer next.Stop()
	defer end.Stop()
	startNext()
	known, late := false, false // somebody knows who leads; timeout is over
	var none T
	for len(pending) > 0 {
		select {
		case <-next.C:
			startNext()
			pause *= 2
			next.Reset(pause)
		case <-end.C:
			if late = true; !holding() || known || reached(told) && pending[told] {
				return none, false
			}
		case r := <-replies:
			delete(pending, r.server)
			if r.ok {
				return r.v, true
			}
			known = known || !r.hint.IsZero() // and so has no reason to wait
			if late && pending[r.hint] {
				return none, false
			}
			start(r.hint)
			startNext()
		case <-changed:
			changed = n.Changed()
			if l := n.lead.Load(); l != nil && l.isReady() {
				return none, false
			}
			leader, term := n.leaderNews()
			if news := leader != told || term != toldTerm; news && !pending[leader] && !leader.IsZero() && leader != n.serverID() {
				met[leader] = false // it may have said that it does not lead before it did
			}
			told, toldTerm = leader, term
			if !holding() || n.group.Load() != nil { // else somebody is about to tell, one asker after the other
				start(leader)
			}
		}
	}
	return none, false
}

// linkTo asks the server of q to be the leader. If it isn't, there is no link, and it may know who is; it takes up to holdFor to find out. It notes
// in q when the server has been reached, which is before that. An error says that it has not answered.
func (n *Node) linkTo(ctx context.Context, q *question, sink session.Sink, detourAfter time.Duration, lives <-chan struct{}) (*remoteLink, wire.UUID, error) {
	k := &remoteLink{server: q.server, sink: sink, done: make(chan struct{})}
	var err error
	if k.conn, k.via, err = n.reach(ctx, q.server, k, detourAfter, lives, &q.there); err != nil {
		return nil, wire.UUID{}, err
	}
	k.pacer = newPacer(askToPace(k.conn))
	q.reached.Store(true)
	n.mu.Lock()
	call := leadCall{format: wire.Format, over: n.last, term: n.lastTerm}
	n.mu.Unlock()
	body, err := k.conn.Call(ctx, callLead, call.encode())
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
	k.term, k.format, k.name = reply.term, reply.format, n.nameOf(q.server)
	return k, wire.UUID{}, nil
}

// nameOf is what people call a server.
func (n *Node) nameOf(server wire.UUID) string {
	for _, m := range n.members() {
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
	for _, m := range n.members() {
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
	for _, m := range n.members() { // one that was succeeded may not know, or have told, yet
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
