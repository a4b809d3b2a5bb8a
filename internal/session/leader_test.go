package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/clock"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
	"github.com/hashicorp/raft"
)

// cluster is a leader with the real state machine behind links that lose, delay, double and hang. It stands for whatever
// process leads: a change of leader is a new term and the end of all links.
type cluster struct {
	tb   testing.TB
	rng  *rand.Rand // guarded by mu, as all below
	wg   sync.WaitGroup
	stop chan struct{}

	mu     sync.Mutex
	fsm    *raftfsm.FSM
	index  uint64
	term   uint64
	leases map[uint64]*fakeLease
	sinks  map[uint64]*fakeLink
	links  map[*fakeLink]bool
	up     chan struct{} // closed while there is a leader; replaced when there is none
	wake   chan struct{} // cap 1: the leases changed

	delay    time.Duration // each message takes up to this long; 0: none
	double   float64       // a message to the leader is applied again, later
	cuts     []int         // the links to come break at that message; see fakeLink.passLocked
	outage   time.Duration // a link that breaks takes the leader along, for so long; 0: it doesn't
	cutRate  int           // each link breaks at a random message up to this; 0: none does
	grants   uint64        // OutGranted outcomes of the state machine that were not repeats
	granting func(key string, session, fence uint64)
	moving   func(fence uint64)
	asks     map[[2]uint64]*wire.Ask // the requests seen, for granting
	asked    *wire.Ask               // what is being granted, for granting
	fences   map[uint64]bool
	timers   map[uint64]fakeTimer // by fence
}

type fakeTimer struct {
	raftfsm.Timer
	end time.Time
}

type fakeLease struct {
	ttl      time.Duration
	last     time.Time
	renewals uint64
}

func newCluster(tb testing.TB, seed uint64) *cluster {
	c := &cluster{
		tb: tb, rng: rand.New(rand.NewPCG(seed, seed)), stop: make(chan struct{}),
		fsm: raftfsm.New(), term: 1, leases: map[uint64]*fakeLease{}, sinks: map[uint64]*fakeLink{}, links: map[*fakeLink]bool{},
		up: make(chan struct{}), wake: make(chan struct{}, 1), asks: map[[2]uint64]*wire.Ask{}, fences: map[uint64]bool{},
		timers: map[uint64]fakeTimer{},
	}
	close(c.up)
	c.fsm.Observe(c.observe)
	id := wire.NewUUID()
	c.mu.Lock()
	c.apply(raftfsm.Found{Cluster: id, Expect: 1, Voters: 1})
	c.mu.Unlock()
	c.wg.Go(c.expire)
	return c
}

// open lets sessions be made.
func (c *cluster) open() *cluster {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.apply(raftfsm.Confirm{Cluster: c.fsm.View().Cluster(), Server: wire.NewUUID(), Instance: wire.NewUUID(), Name: "founder", Clock: 1_000_000})
	if !c.fsm.View().Open() {
		c.tb.Fatal("the fake cluster does not open")
	}
	return c
}

func (c *cluster) close() {
	close(c.stop)
	c.wg.Wait()
}

// apply puts one command through the log.
func (c *cluster) apply(cmd raftfsm.Command) raftfsm.Reply {
	c.index++
	e := raftfsm.Entry{Version: raftfsm.Version, Term: c.term, Wall: int64(c.index), Commands: []raftfsm.Command{cmd}}
	res := c.fsm.Apply(&raft.Log{Index: c.index, Term: c.term, Type: raft.LogCommand, Data: e.Encode()}).(*raftfsm.Result)
	if res.Err != nil {
		c.tb.Errorf("entry %d: %v", c.index, res.Err)
		return raftfsm.Reply{}
	}
	if len(res.Armed)+len(res.Disarmed) > 0 {
		c.timeAgain()
	}
	return res.Replies[0]
}

// timeAgain keeps the timers that run as they are and begins to measure those that are new.
func (c *cluster) timeAgain() {
	now, old := time.Now(), c.timers
	c.timers = map[uint64]fakeTimer{}
	for _, t := range c.fsm.View().Timers() {
		f, ok := old[t.Fence]
		if !ok || f.Armed != t.Armed {
			f = fakeTimer{t, now.Add(time.Duration(t.Left) * time.Millisecond)}
		}
		c.timers[t.Fence] = f
	}
	signal(c.wake)
}

// observe pushes what an entry led to. It runs inside apply.
func (c *cluster) observe(res *raftfsm.Result) {
	for _, o := range res.Outcomes {
		if o.Kind == wire.OutGranted && !c.fences[o.Fence] {
			c.fences[o.Fence] = true
			c.grants++
			if c.granting != nil {
				if c.asked = c.asks[[2]uint64{o.Session, o.Seq}]; c.asked != nil {
					for _, key := range c.asked.Keys {
						c.granting(key, o.Session, o.Fence)
					}
				}
			}
		}
		if o.Kind == wire.OutAdopted && c.moving != nil {
			c.moving(o.Fence)
		}
		if l := c.sinks[o.Session]; l != nil {
			l.down(func() { l.sink.Outcomes(o.Session, []wire.Outcome{o.Outcome}) })
		}
	}
	for _, id := range res.Ended {
		delete(c.leases, id)
		if l := c.sinks[id]; l != nil {
			l.down(func() { l.sink.Renewed(id, 0, false) })
			delete(c.sinks, id)
		}
	}
}

// expire ends the sessions that were not renewed for their TTL.
func (c *cluster) expire() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-timer.C:
		case <-c.wake:
		}
		c.mu.Lock()
		next := time.Hour
		for id, l := range c.leases {
			left := time.Until(l.last.Add(l.ttl))
			if left <= 0 && c.led() {
				s, _ := c.fsm.Session(id)
				c.apply(raftfsm.Expire{Session: id, Term: c.term, Seen: s.Renewed})
				continue
			}
			next = min(next, max(left, time.Millisecond))
		}
		for _, f := range c.timers {
			left := time.Until(f.end)
			if left <= 0 && c.led() {
				f.Left = 0
				c.apply(raftfsm.Time{Term: c.term, Timers: []raftfsm.Timer{f.Timer}})
				continue
			}
			next = min(next, max(left, time.Millisecond))
		}
		timer.Reset(next)
		c.mu.Unlock()
	}
}

func (c *cluster) led() bool {
	select {
	case <-c.up:
		return true
	default:
		return false
	}
}

// depose ends the leader: links end (or hang, as a paused leader's do), and there is none until elect.
func (c *cluster) depose(hang bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.led() {
		c.up = make(chan struct{})
	}
	for l := range c.links {
		if hang {
			l.hung = true
		} else {
			l.endLocked()
		}
	}
	c.sinks = map[uint64]*fakeLink{}
}

// outLocked deposes the leader until outage is over.
func (c *cluster) outLocked() {
	if !c.led() {
		return
	}
	c.up = make(chan struct{})
	for l := range c.links {
		l.endLocked()
	}
	timer := time.NewTimer(c.outage)
	c.wg.Go(func() {
		defer timer.Stop()
		select {
		case <-timer.C:
			c.elect()
		case <-c.stop:
		}
	})
}

// cutOff keeps m from the leader until the returned function is called.
func (c *cluster) cutOff(m *Manager) (back func()) {
	gate := make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	m.mu.Lock()
	m.cfg.Connect = func(ctx context.Context, s Sink) (Link, error) {
		select {
		case <-gate:
			return c.connect(ctx, s)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	session := m.session
	m.mu.Unlock()
	if l := c.sinks[session]; l != nil {
		l.endLocked()
	}
	return func() { close(gate) }
}

// elect brings a leader of a new term, which gives every session a full TTL.
func (c *cluster) elect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.term++
	for _, l := range c.leases {
		l.last, l.renewals = time.Now(), 0
	}
	c.apply(raftfsm.Noop{}) // of the new term
	c.timers = nil
	c.timeAgain()
	close(c.up)
}

// connect is Config.Connect.
func (c *cluster) connect(ctx context.Context, s Sink) (Link, error) {
	for {
		c.mu.Lock()
		up := c.up
		if c.led() {
			l := &fakeLink{c: c, sink: s, done: make(chan struct{}), term: c.term, wakeUp: make(chan struct{}, 1), wakeDown: make(chan struct{}, 1)}
			if len(c.cuts) > 0 {
				l.left, c.cuts = c.cuts[0], c.cuts[1:]
			} else if c.cutRate > 0 {
				l.left = 1 + c.rng.IntN(c.cutRate)
			}
			c.links[l] = true
			c.wg.Go(func() { l.pump(&l.ups, l.wakeUp, true) }) // both end with the link, or with the cluster
			c.wg.Go(func() { l.pump(&l.downs, l.wakeDown, false) })
			c.mu.Unlock()
			return l, nil
		}
		c.mu.Unlock()
		select {
		case <-up:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// fakeLink is a link: a queue of messages each way.
type fakeLink struct {
	c    *cluster
	sink Sink
	done chan struct{}
	once sync.Once
	term uint64

	ups, downs       []func() // guarded by c.mu, as all below
	wakeUp, wakeDown chan struct{}
	hung             bool // nothing is processed; what is on its way down still arrives
	deaf             bool // all is processed, but nothing arrives any more on its way down
	left             int  // messages until the link breaks, -1 once it did; 0: it doesn't
}

var errBroken = errors.New("fake link broken")

func (l *fakeLink) endLocked() {
	l.once.Do(func() { close(l.done) })
	delete(l.c.links, l)
	for id, s := range l.c.sinks {
		if s == l {
			delete(l.c.sinks, id)
		}
	}
}

// pass counts a message, in either direction, and breaks the link instead of delivering the last.
func (l *fakeLink) passLocked() bool {
	if l.left > 0 {
		if l.left--; l.left == 0 {
			l.left = -1
			l.endLocked()
			if l.c.outage > 0 {
				l.c.outLocked()
			}
		}
	}
	return l.left >= 0
}

// pump delivers one direction's messages in order.
func (l *fakeLink) pump(queue *[]func(), wake chan struct{}, up bool) {
	for {
		l.c.mu.Lock()
		var next func()
		if len(*queue) > 0 {
			next, *queue = (*queue)[0], (*queue)[1:]
		}
		var delay time.Duration
		if l.c.delay > 0 {
			delay = time.Duration(l.c.rng.Int64N(int64(l.c.delay)))
		}
		l.c.mu.Unlock()
		if next == nil {
			select {
			case <-wake:
				continue
			case <-l.done:
				return
			case <-l.c.stop:
				return
			}
		}
		if delay > 0 {
			time.Sleep(delay) // the network's
		}
		l.c.mu.Lock()
		ok := l.passLocked() && (up || !l.deaf)
		if up {
			if ok && !l.hung && l.term == l.c.term && l.c.led() {
				next()
				if l.c.double > 0 && l.c.rng.Float64() < l.c.double {
					l.c.again(next)
				}
			}
			l.c.mu.Unlock()
			continue
		}
		l.c.mu.Unlock()
		if ok {
			next()
		}
	}
}

// again applies a message once more, later, also after a change of leader.
func (c *cluster) again(message func()) {
	wait := time.Duration(c.rng.Int64N(int64(3 * time.Second)))
	c.wg.Go(func() {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
			c.mu.Lock()
			defer c.mu.Unlock()
			message()
		case <-c.stop:
		}
	})
}

func (l *fakeLink) upward(message func()) error {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	select {
	case <-l.done:
		return errBroken
	default:
	}
	l.ups = append(l.ups, message)
	signal(l.wakeUp)
	return nil
}

// down queues an answer; c.mu is held.
func (l *fakeLink) down(message func()) {
	l.downs = append(l.downs, message)
	signal(l.wakeDown)
}

func (l *fakeLink) Create(ctx context.Context, r wire.CreateSession) (wire.SessionReply, error) {
	answer := make(chan wire.SessionReply, 8)
	err := l.upward(func() {
		c := l.c
		got := c.apply(raftfsm.Create{CreateSession: r})
		reply := wire.SessionReply{Code: got.Code, Session: got.Session, Term: c.term, Text: got.Text}
		switch lease := c.leases[got.Session]; {
		case got.Code == wire.CodeNameTaken && lease != nil:
			reply.Renewals = lease.renewals
		case got.Code == wire.CodeOK && lease == nil:
			c.leases[got.Session] = &fakeLease{ttl: time.Duration(r.TTL) * time.Millisecond, last: time.Now()}
		case got.Code == wire.CodeOK:
			lease.last = time.Now() // met again by a copy: that is a renewal
		}
		signal(c.wake)
		l.down(func() { answer <- reply })
	})
	if err != nil {
		return wire.SessionReply{}, err
	}
	select {
	case reply := <-answer:
		return reply, nil
	case <-l.done:
		return wire.SessionReply{}, errBroken
	case <-ctx.Done():
		return wire.SessionReply{}, ctx.Err()
	}
}

func (l *fakeLink) Attach(session uint64) error {
	return l.upward(func() {
		if l.c.links[l] {
			l.c.sinks[session] = l
		}
		for _, o := range l.c.fsm.View().Revoked(session) {
			l.down(func() { l.sink.Outcomes(session, []wire.Outcome{o}) })
		}
	})
}

func (l *fakeLink) Submit(session uint64, ops []wire.Op) error {
	if len(ops) > wire.MaxOps {
		l.c.tb.Errorf("%d ops in one Submit", len(ops))
	}
	return l.upward(func() {
		for _, o := range ops {
			switch o.Kind {
			case wire.OpAcquire:
				l.c.asks[[2]uint64{session, o.Seq}] = &wire.Ask{Keys: []string{o.Key}}
			case wire.OpRequest:
				l.c.asks[[2]uint64{session, o.Seq}] = o.Ask
			}
		}
		if r := l.c.apply(raftfsm.Ops{Session: session, Ops: ops}); r.Code == wire.CodeGone {
			l.down(func() { l.sink.Renewed(session, 0, false) })
		}
	})
}

func (l *fakeLink) Renew(session, attempt uint64) error {
	return l.upward(func() {
		lease := l.c.leases[session]
		if lease != nil {
			lease.last = time.Now()
			lease.renewals++
		}
		l.down(func() { l.sink.Renewed(session, attempt, lease != nil) })
	})
}

func (l *fakeLink) CloseSession(ctx context.Context, session uint64) error {
	answer := make(chan struct{}, 8)
	err := l.upward(func() {
		l.c.apply(raftfsm.Close{Session: session})
		l.down(func() { answer <- struct{}{} })
	})
	if err != nil {
		return err
	}
	select {
	case <-answer:
		return nil
	case <-l.done:
		return errBroken
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *fakeLink) Done() <-chan struct{} { return l.done }

func (l *fakeLink) Close() {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	l.endLocked()
}

// jumpy is a clock that a test can set forward, as a suspension of the machine does.
type jumpy struct {
	mu    sync.Mutex
	ahead time.Duration
	clock.Clock
}

func newJumpy() *jumpy { return &jumpy{Clock: clock.Monotonic()} }

func (j *jumpy) Now() time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.Clock.Now() + j.ahead
}

func (j *jumpy) jump(d time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ahead += d
}

// config is a process of c.
func (c *cluster) config(name string, ttl time.Duration) Config {
	instance, server := wire.NewUUID(), wire.NewUUID()
	return Config{
		Connect: c.connect, Clock: clock.Monotonic(), TTL: ttl, Name: name,
		Create: func(nonce wire.UUID, previous uint64) wire.CreateSession {
			return wire.CreateSession{Nonce: nonce, Name: name, Server: server, Instance: instance, TTL: ttl.Milliseconds(), Previous: previous}
		},
	}
}

// jumpyMember is a process whose clock the test can set forward.
func (c *cluster) jumpyMember(name string, ttl time.Duration) (*Manager, *jumpy) {
	c.tb.Helper()
	cfg, jump := c.config(name, ttl), newJumpy()
	cfg.Clock = jump
	m, err := Open(context.Background(), cfg)
	if err != nil {
		c.tb.Fatal(err)
	}
	return m, jump
}

func (c *cluster) member(name string, ttl time.Duration) *Manager {
	c.tb.Helper()
	m, err := Open(context.Background(), c.config(name, ttl))
	if err != nil {
		c.tb.Fatal(err)
	}
	return m
}

// leftovers says what the state machine still holds.
func (c *cluster) leftovers() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.fsm.View()
	var all string
	for _, l := range v.Locks("", "", 10) {
		all += fmt.Sprintf("key %q: %d holders, %d waiters; ", l.Key, len(l.Holders), len(l.Waiters))
	}
	for _, s := range v.Sessions() {
		if s.Requests > 0 {
			all += fmt.Sprintf("session %d: %d requests; ", s.ID, s.Requests)
		}
	}
	return all
}

// holders is who has key.
func (c *cluster) holders(key string) []raftfsm.GrantInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.fsm.View().Locks(key, "", 1) {
		return l.Holders
	}
	return nil
}

func (c *cluster) granted() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.grants
}
