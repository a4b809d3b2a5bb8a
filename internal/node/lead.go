package node

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/session"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// errNotLeading ends what was asked of a leader that leads no more. What had been proposed by then is of unknown outcome: its session asks
// the next leader with the same sequence numbers.
var errNotLeading = errors.New("this process does not lead")

// lead is one term of leadership of this process: the batcher, the leases of the sessions and the ways to push to them. It begins when
// Raft says that this process leads and ends for good when it doesn't, or when another term began.
type lead struct {
	group  *group
	term   uint64
	logger *slog.Logger
	batch  *batcher
	bounds bounds
	ready  chan struct{} // closed once an entry of this term has committed: from then on the state holds all that was ever committed
	done   chan struct{} // closed by end
	began  time.Time
	once   sync.Once
	wg     sync.WaitGroup // batcher and expiry loop
	pages  pages

	prospectsMu sync.Mutex // guards prospects
	prospects   prospects

	formatMu sync.Mutex              // held over each check of the format and what follows from it; never together with mu
	allowed  func() (uint64, string) // the greatest format that all members read, and who is too old for a greater one

	asked  map[wire.UUID]time.Time // servers, with a seat, whose names were asked for, and when; of the steward only
	roused map[wire.UUID]time.Time // servers, with a seat, that were asked to run Raft again, and when; of the steward only

	mu      sync.Mutex // guards the fields below
	moving  wire.UUID  // whose place in the Raft group the steward is changing; zero: nobody's
	leases  map[uint64]*lease
	stay    stay                      // of who has the leaving slot
	leaving map[wire.UUID]gossip.Meta // servers that asked to be taken out of the Raft group, and what the run that did said of itself; zero: not known
	shunned map[wire.UUID]time.Time   // until when a process that would not take a seat is passed over
	sinks   map[uint64]session.Sink   // queues: they take what they are given and return
	onEnd   map[any]func()            // what to tell when this lead is over, by who asked
	watches map[eventSink]string      // by who watches: the prefix. Sinks queue, as above
	times   stopwatch                 // what is left of detached grants and cooldowns
	wake    chan struct{}             // cap 1: a lease or a time was added
}

// lease is what the leader remembers of a session's renewals. It is not replicated: a new leader begins anew with a full TTL.
type lease struct {
	ttl      time.Duration
	last     time.Time // when the last renewal came in, on Go's monotonic clock
	renewals uint64
}

func startLead(g *group, term uint64, propose func([]byte) proposal, allowed func() (uint64, string), logger *slog.Logger) *lead {
	l := &lead{
		group: g, term: term, logger: logger, allowed: allowed, bounds: defaultBounds,
		ready: make(chan struct{}), done: make(chan struct{}),
		leases: make(map[uint64]*lease), sinks: make(map[uint64]session.Sink), onEnd: make(map[any]func()),
		watches: make(map[eventSink]string), asked: make(map[wire.UUID]time.Time), roused: make(map[wire.UUID]time.Time),
		leaving: make(map[wire.UUID]gossip.Meta), shunned: make(map[wire.UUID]time.Time), wake: make(chan struct{}, 1),
	}
	l.batch = newBatcher(term, propose, g.cfg.hooks.wall, l.endAsync)
	l.began = time.Now()
	l.times.began = l.began
	l.raiseFormat(g.fsm.View().Format())
	l.checkFormat()
	l.wg.Go(func() { l.batch.run(l.done) }) // both end with done
	l.wg.Go(l.expireLoop)
	return l
}

// endAsync ends the lead without waiting for its goroutines: they call it.
func (l *lead) endAsync() {
	l.once.Do(func() {
		close(l.done)
		l.pages.end()
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, tell := range l.onEnd {
			tell()
		}
		l.onEnd = nil
		l.endWatchesLocked()
	})
}

// whenOver calls tell once, without waiting for it to do much, when the lead is over; false: it is over already. who can withdraw it.
func (l *lead) whenOver(who any, tell func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.onEnd == nil {
		return false
	}
	l.onEnd[who] = tell
	return true
}

func (l *lead) withdraw(who any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.onEnd, who)
}

// end stops proposing and waits for what is in flight, which Raft answers once it has stepped down. Links that were given out end with
// done. Where the disk hangs Raft's main loop answers nobody: then the goroutines that wait for it end when the disk does.
func (l *lead) end() {
	l.endAsync()
	gone := make(chan struct{})
	go func() { // ends with the lead's goroutines
		l.wg.Wait()
		close(gone)
	}()
	t := time.NewTimer(endPatience)
	defer t.Stop()
	select {
	case <-gone:
	case <-t.C:
	}
}

const endPatience = 2 * time.Second

// begin commits an entry of the lead's own term and then gives every session a full TTL: the leader before may have answered a renewal just
// before it ended.
func (l *lead) begin() error {
	if err := l.prove(context.Background()); err != nil {
		return err
	}
	view := l.group.fsm.View()
	now := time.Now() // not before any of what the state says was committed
	l.raiseFormat(view.Format())
	l.mu.Lock()
	for _, s := range view.Sessions() {
		if l.leases[s.ID] == nil {
			l.leases[s.ID] = &lease{ttl: s.TTL, last: now}
		}
	}
	l.mu.Unlock()
	l.takeTimesOver(view.Timers(), now)
	close(l.ready)
	return nil
}

// isReady says that l answers: it has begun, and is not over.
func (l *lead) isReady() bool {
	select {
	case <-l.done:
		return false
	default:
	}
	select {
	case <-l.ready:
		return true
	default:
		return false
	}
}

// propose puts one command into the log and waits for its reply.
func (l *lead) propose(ctx context.Context, c raftfsm.Command) (raftfsm.Reply, error) {
	type answer struct {
		reply raftfsm.Reply
		err   error
	}
	ch := make(chan answer, 1)
	l.batch.add(item{cmd: c, done: func(r raftfsm.Reply, err error) { ch <- answer{r, err} }})
	select {
	case a := <-ch:
		return a.reply, a.err
	case <-ctx.Done():
		return raftfsm.Reply{}, ctx.Err()
	case <-l.done:
		return raftfsm.Reply{}, errNotLeading
	}
}

// prove returns once an entry that was proposed after the call has committed: then this process led at some moment of the call, and its
// state holds all that was committed before it. (raft.VerifyLeader proves neither: docs/hazards.md, 1 and 2.)
func (l *lead) prove(ctx context.Context) error {
	ch := make(chan error, 1)
	l.batch.add(item{done: func(_ raftfsm.Reply, err error) { ch <- err }})
	select {
	case err := <-ch:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-l.done:
		return errNotLeading
	}
}

// observe takes each entry's result in commit order: it keeps the leases in step with the sessions and pushes outcomes to their owners.
func (l *lead) observe(r *raftfsm.Result) {
	l.mu.Lock()
	defer l.mu.Unlock() // a panic below is caught by the guard, and end needs mu
	for _, id := range r.Ended {
		delete(l.leases, id)
	}
	now := time.Now()
	for _, id := range r.Created { // created, or met again by a resent creation
		if s, ok := l.group.fsm.Session(id); ok {
			if old := l.leases[id]; old != nil {
				old.last = now
			} else {
				l.leases[id] = &lease{ttl: s.TTL, last: now}
			}
		}
	}
	if sooner := l.times.take(r, now); sooner || len(r.Created) > 0 {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	l.tellWatchesLocked(r)
	l.pushLocked(r.Outcomes)
	for _, id := range r.Ended {
		if s := l.sinks[id]; s != nil {
			s.Renewed(id, 0, false)
			delete(l.sinks, id)
		}
	}
}

// pushLocked hands the outcomes to their sessions' sinks, one call per session and entry. Sinks don't block.
func (l *lead) pushLocked(outs []raftfsm.Routed) {
	if len(outs) == 0 || len(l.sinks) == 0 {
		return
	}
	if len(outs) == 1 {
		if s := l.sinks[outs[0].Session]; s != nil {
			s.Outcomes(outs[0].Session, []wire.Outcome{outs[0].Outcome})
		}
		return
	}
	bySession := make(map[uint64][]wire.Outcome, 4)
	var order []uint64
	for _, o := range outs {
		if l.sinks[o.Session] == nil {
			continue
		}
		if bySession[o.Session] == nil {
			order = append(order, o.Session)
		}
		bySession[o.Session] = append(bySession[o.Session], o.Outcome)
	}
	for _, id := range order {
		l.sinks[id].Outcomes(id, bySession[id])
	}
}

// attach makes sink the way to session's owner and tells it again what it must know: the grants that were revoked meanwhile. Outcomes of
// open requests come when the owner sends those again. The way before ends: should it have been the owner's, and this one be somebody's who
// repeats what he heard it say, the owner comes again at once instead of waiting for what is told to another.
func (l *lead) attach(id uint64, sink session.Sink) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.sinks[id].(interface{ superseded() }); ok && l.sinks[id] != sink {
		old.superseded()
	}
	l.sinks[id] = sink
	if outs := l.group.fsm.View().Revoked(id); len(outs) > 0 {
		sink.Outcomes(id, outs)
	}
}

// detach forgets sink, unless another took its place.
func (l *lead) detach(id uint64, sink session.Sink) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sinks[id] == sink {
		delete(l.sinks, id)
	}
}

// submit puts a session's operations into the entries to come, and waits while their lane is full. Outcomes come through the sink.
func (l *lead) submit(id uint64, ops []wire.Op, sink session.Sink, ln *lane) {
	if l.format() < wire.OpFormat {
		all := len(ops)
		ops = l.downToFormat1(id, ops, sink)
		l.batch.pass(ln, all-len(ops))
	}
	if full := l.bounds.full(l.group.fsm.Size()); full != (fullness{}) {
		all := len(ops)
		ops = l.withinBounds(id, ops, sink, full)
		l.batch.pass(ln, all-len(ops))
	}
	l.batch.submit(ln, part{session: id, ops: ops, done: func(r raftfsm.Reply, err error) {
		if err == nil && r.Code == wire.CodeGone {
			sink.Renewed(id, 0, false)
		}
	}})
}

// renew notes the renewal now and answers it once an entry proposed from now on has committed, if the session stands in the state then.
func (l *lead) renew(id, attempt uint64, sink session.Sink) {
	l.mu.Lock()
	if s := l.leases[id]; s != nil {
		s.last = time.Now()
		s.renewals++
	}
	l.mu.Unlock()
	l.batch.add(item{patient: true, done: func(_ raftfsm.Reply, err error) {
		if err != nil {
			return // this process may not lead any more: no answer is the right one
		}
		_, stands := l.group.fsm.Session(id)
		sink.Renewed(id, attempt, stands)
	}})
}

// create creates a session, or tells who has its name.
func (l *lead) create(ctx context.Context, c wire.CreateSession) (wire.SessionReply, error) {
	r, err := l.propose(ctx, raftfsm.Create{CreateSession: c})
	if err != nil {
		return wire.SessionReply{}, err
	}
	reply := wire.SessionReply{Code: r.Code, Session: r.Session, Term: l.term, Text: r.Text}
	if r.Code == wire.CodeNameTaken {
		l.mu.Lock()
		if s := l.leases[r.Session]; s != nil {
			reply.Renewals = s.renewals
		}
		l.mu.Unlock()
	}
	return reply, nil
}

// closeSession ends a session at its owner's wish. One that is gone already is what was wished for.
func (l *lead) closeSession(ctx context.Context, id uint64) error {
	_, err := l.propose(ctx, raftfsm.Close{Session: id})
	return err
}
