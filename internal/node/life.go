package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godistlock/distlock/internal/clock"
	"github.com/godistlock/distlock/internal/founding"
	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

const (
	lifeCalm    = time.Second          // how often the life loop looks by itself once the cluster is open
	lonelyWait  = 2 * heartbeatTimeout // what a lone process beyond loopback listens before it founds a cluster
	maxNews     = 4                    // times that the machine is told news in a row before the loop listens again
	maxFounding = 256                  // messages of the first start that wait for the life loop
)

// life drives this process's membership: it hands events to the founding machine and carries out what that decides. One goroutine, run,
// owns it; it alone starts and stops Raft here.
type life struct {
	n       *Node
	machine *founding.Machine
	clock   clock.Clock
	events  chan founding.Event
	enlists chan enlistment
	asking  bool // a question to the leader is under way
	answers chan founding.Led
	group   *group
	booted  bool      // this process wrote the group's first configuration
	memory  *memory   // of this server's Raft; with DataDir unused
	ledAt   time.Time // when Raft here last knew a leader, or began

	enlisted uint64 // how often the leader has asked this process to run Raft
	doubting bool   // the leader is being asked whether this process has a seat
	doubts   chan doubt
	twinAt   time.Time // when a process with the same identity was last asked
	seatless sparse    // what the log says of seats that could not be taken
}

// enlistment is the leader's wish that this process runs Raft.
type enlistment struct {
	cluster wire.UUID
	done    chan error // cap 1
}

func newLife(n *Node, saved founding.Saved) *life {
	cfg := founding.Config{
		Self: founding.Process{
			Server: n.ident.Server, Instance: n.cfg.Instance, Name: n.cfg.Name, MayVote: n.cfg.MayVote,
		},
		Expect: n.cfg.Expect, Voters: n.cfg.Voters, Alone: n.cfg.Alone, Durable: n.cfg.Dir != "", Mint: wire.NewUUID,
	}
	return &life{
		n: n, machine: founding.New(cfg, saved), clock: clock.Monotonic(),
		memory: newMemory(), events: make(chan founding.Event, maxFounding), enlists: make(chan enlistment), answers: make(chan founding.Led, 1),
		doubts: make(chan doubt, 1),
	}
}

func (f *life) run() {
	if f.n.cfg.Alone && !f.n.cfg.Loopback {
		select {
		case <-time.After(lonelyWait):
		case <-f.n.ctx.Done():
			return
		}
	}
	if !f.n.claimed.Load() && !f.n.claimIdentity() {
		return
	}
	f.step(f.view())
	t := time.NewTimer(founding.TickEvery)
	defer t.Stop()
	for {
		changed := f.n.Changed()
		for range maxNews { // founding, confirming and opening follow from one another
			if !f.tellNews() {
				break
			}
		}
		select {
		case <-f.n.ctx.Done():
			return
		case <-f.n.gossip.Changed():
			if !f.machine.Open() { // else it is looked at from time to time: a large fleet has news all the time
				f.step(f.view())
				f.n.noteAddresses()
			}
			f.n.notify()
		case ev := <-f.events:
			f.step(ev)
		case e := <-f.enlists:
			e.done <- f.takeSeat(e.cluster)
		case led := <-f.answers:
			f.asking = false
			f.step(led)
		case d := <-f.doubts:
			f.resolve(d)
		case <-changed:
		case <-t.C:
			if f.machine.Open() {
				f.step(f.view())
				f.checkSeat()
				f.checkTwin()
				f.checkName()
				f.n.noteAddresses()
				f.n.storeAddresses()
				t.Reset(lifeCalm)
			} else {
				f.step(f.view()) // which addresses have answered is no news to gossip
				f.askNews()
				t.Reset(founding.TickEvery)
			}
		}
	}
}

// view is what gossip says now, as the machine wants it.
func (f *life) view() founding.View {
	members, unanswered := f.n.gossip.Survey()
	v := founding.View{Members: make([]founding.Peer, 0, len(members)), Unanswered: len(unanswered) > 0}
	for _, m := range members {
		v.Members = append(v.Members, founding.Peer{
			Process: founding.Process{Server: m.Server, Instance: m.Instance, Name: m.Name, MayVote: m.MayVote},
			Alive:   lives(m),
			Cluster: m.Cluster, Open: m.Open, Leads: m.Leader,
		})
	}
	return v
}

// step hands one event to the machine and does what it says, in order.
func (f *life) step(ev founding.Event) (acted bool) {
	was, wasOpen := f.machine.Cluster(), f.machine.Open()
	for _, a := range f.machine.Step(f.clock.Now(), ev) {
		if err := f.do(a); err != nil {
			f.n.fail(err)
			return false
		}
		acted = true
	}
	f.n.setWaiting(f.machine.Waiting())
	if f.machine.Cluster() != was || f.machine.Open() != wasOpen {
		f.n.settle(f.machine.Cluster(), f.machine.Open())
	}
	if f.machine.Open() && !wasOpen {
		f.compareVoters()
	}
	return acted
}

// compareVoters says so when the cluster has another size of its Raft group than this process was given: the committed one counts.
func (f *life) compareVoters() {
	if f.group == nil {
		return
	}
	if committed := f.group.fsm.View().Voters(); committed > 0 && committed != f.n.cfg.Voters {
		f.n.logger.Warn("Config.Voters differs from what the cluster was founded with, which counts; give all members the same",
			"own", f.n.cfg.Voters, "cluster", committed)
	}
}

func (f *life) do(a founding.Action) error {
	switch a := a.(type) {
	case founding.Save:
		return f.n.saveIdentity(a.Saved)
	case founding.Send:
		f.send(a.To, a.Message)
	case founding.StartRaft:
		return f.startRaft(a)
	case founding.StopRaft:
		return f.stopRaft(a)
	case founding.Found:
		if a.Charter.Silent {
			f.n.logger.Warn("the new cluster grants nothing for a while: where nobody answered, holders of an earlier one may be alive",
				"for", silence, "unanswered", f.n.gossip.KnownUnanswered())
		}
		f.propose(func(ctx context.Context, l *lead) error {
			_, err := l.propose(ctx, raftfsm.Found{Cluster: a.Charter.Cluster, Expect: a.Charter.Expect, Voters: a.Charter.Size, Silent: a.Charter.Silent})
			return err
		})
	case founding.Dissolve:
		f.propose(func(ctx context.Context, l *lead) error {
			_, err := l.propose(ctx, raftfsm.Dissolve{Cluster: a.Cluster})
			return err
		})
	case founding.Confirm:
		f.confirm(a.Cluster)
	case founding.Join:
		return f.join(a)
	case founding.Log:
		if a.Warn {
			f.n.logger.Warn(a.Text)
		} else {
			f.n.logger.Info(a.Text)
		}
	}
	return nil
}

// send brings a message to another process, or reports that it could not.
func (f *life) send(to wire.UUID, msg wire.Founding) {
	addr := ""
	for _, m := range f.n.gossip.Members() {
		if m.Instance == to {
			addr = m.Addr
		}
	}
	w := wire.NewWriter()
	msg.Encode(w)
	f.n.wg.Go(func() { // ends with the call, which has its limit
		err := errors.New("its address is not known")
		if addr != "" {
			_, err = f.n.callAddr(f.n.ctx, addr, wire.UUID{}, callFounding, w.Bytes())
		}
		if err != nil {
			f.post(founding.Unreached{Instance: to})
		}
	})
}

// post hands an event to the loop; it is lost when the node ends.
func (f *life) post(ev founding.Event) {
	select {
	case f.events <- ev:
	case <-f.n.ctx.Done():
	}
}

// founding takes a message of the first start that another process sent.
func (f *life) founding(ctx context.Context, from wire.Hello, body []byte) error {
	r := wire.NewReader(body)
	msg := wire.DecodeFounding(r)
	if err := r.End(); err != nil {
		return err
	}
	p := founding.Process{Server: from.Server, Instance: from.Instance, Name: from.Name, MayVote: true}
	for _, m := range f.n.gossip.Members() {
		if m.Instance == from.Instance {
			p.MayVote = m.MayVote
		}
	}
	select {
	case f.events <- founding.Received{From: p, Message: msg}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-f.n.ctx.Done():
		return f.n.ctx.Err()
	}
}

func (f *life) startRaft(a founding.StartRaft) error {
	if f.group != nil {
		return nil
	}
	return f.start(a.Cluster, a.Bootstrap, a.Voters)
}

func (f *life) start(cluster wire.UUID, bootstrap bool, voters []wire.UUID) error {
	f.n.setRaftCluster(cluster)
	g, err := f.n.startGroup(bootstrap, voters, f.memory)
	if err != nil {
		f.n.setRaftCluster(wire.UUID{}) // or Raft's streams would be let in that nobody takes
		f.n.fsm.Store(nil)
		return fmt.Errorf("raft did not start: %w", err)
	}
	f.group, f.booted, f.ledAt = g, bootstrap, time.Now()
	f.n.notify()
	if bootstrap || f.aloneInGroup(g) {
		f.n.wg.Go(func() { // ends within electPatience and the call's own limit
			f.n.awaitRaft(voters)
			if err := g.electNow(); err != nil {
				f.n.logger.Debug("the first election waits for its time-out", "error", err)
			}
		})
	}
	return nil
}

// electPatience is how long the first election waits for the other voters' Raft: longer than they take to start, shorter than an election
// that failed for want of them.
const electPatience = electionTimeout / 2

// awaitRaft waits until the other voters take Raft's streams.
func (n *Node) awaitRaft(voters []wire.UUID) {
	ctx, cancel := context.WithTimeout(n.ctx, electPatience)
	defer cancel()
	for _, v := range voters {
		for v != n.serverID() && ctx.Err() == nil {
			addr, _ := n.addrOf(v)
			conn, _, err := n.dial(ctx, addr, wire.KindRaft, v)
			if err == nil {
				conn.Close()
				break
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

func (f *life) aloneInGroup(g *group) bool {
	conf, _, err := g.configuration()
	return err == nil && len(conf.Servers) == 1 && string(conf.Servers[0].ID) == f.n.serverID().String()
}

func (f *life) stopRaft(a founding.StopRaft) error {
	empty := true
	if g := f.group; g != nil {
		err := f.stopGroup()
		last := g.raft.LastIndex()
		empty = last == 0 || last == 1 && f.booted
		if err != nil {
			return err
		}
	}
	if a.Wipe {
		f.memory = newMemory()
		if f.n.cfg.Dir == "" {
			return nil
		}
		return raftlog.Wipe(f.n.cfg.Dir)
	}
	f.n.wg.Go(func() { f.post(founding.Stopped{Cluster: a.Cluster, Empty: empty}) }) // the loop itself is here
	return nil
}

// stopGroup stops Raft here, if it runs.
func (f *life) stopGroup() error {
	g := f.group
	if g == nil {
		return nil
	}
	f.group = nil
	f.n.group.Store(nil)
	f.n.setRaftCluster(wire.UUID{})
	f.n.notify()
	err := g.shutdown()
	f.n.fsm.Store(nil) // it would get old
	return err
}

// join makes this process belong to a cluster that exists. Where a log of it stands here, Raft goes on with it.
func (f *life) join(a founding.Join) error {
	if server := a.Renounced; !server.IsZero() {
		f.n.wg.Go(func() { // ends within seatPatience
			ctx, cancel := context.WithTimeout(f.n.ctx, seatPatience)
			defer cancel()
			if err := f.n.askToGo(ctx, server); err != nil {
				f.n.logger.Info("this process's seat of before is still in the configuration", "server", server, "error", err)
			}
		})
	}
	if f.group != nil || f.n.cfg.Dir == "" || !raftlog.HasLog(f.n.cfg.Dir) {
		return nil
	}
	return f.start(a.Cluster, false, nil)
}

// seatPatience bounds the wait for a seat of this process's earlier self to be given up.
const seatPatience = 30 * time.Second

// enlist hands the leader's wish to the loop.
func (f *life) enlist(ctx context.Context, cluster wire.UUID) error {
	e := enlistment{cluster: cluster, done: make(chan error, 1)}
	select {
	case f.enlists <- e:
	case <-ctx.Done():
		return ctx.Err()
	case <-f.n.ctx.Done():
		return f.n.ctx.Err()
	}
	select {
	case err := <-e.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-f.n.ctx.Done():
		return f.n.ctx.Err()
	}
}

// takeSeat starts an empty Raft that follows the leader of this process's cluster.
func (f *life) takeSeat(cluster wire.UUID) error {
	f.enlisted++
	switch {
	case cluster.IsZero() || cluster != f.machine.Cluster():
		return fmt.Errorf("this process is not of cluster %s", cluster)
	case f.group != nil:
		return nil
	case !f.n.cfg.MayVote:
		return errors.New("this process may not vote")
	case f.n.resigned.Load():
		return errors.New("this process is leaving")
	}
	err := f.start(cluster, false, nil)
	if err == nil || f.n.failed.Load() || f.n.ctx.Err() != nil { // this member stops, and has said why
		return err
	}
	if f.seatless.due(time.Now(), err.Error()) { // the leader asks again and again
		f.n.logger.Warn("this process can't take its seat in the Raft group; the leader asks again", "dir", f.n.cfg.Dir, "error", err)
	}
	return err
}

// sparse lets a line of the log through when it says something else than the one before, or that was a minute ago.
type sparse struct {
	text string
	at   time.Time
}

func (s *sparse) due(now time.Time, text string) bool {
	if text == s.text && now.Sub(s.at) < time.Minute {
		return false
	}
	s.text, s.at = text, now
	return true
}

// propose runs a proposal of the first start where this process leads. What fails is asked for again by the machine.
func (f *life) propose(do func(context.Context, *lead) error) {
	l := f.n.lead.Load()
	if l == nil || !l.isReady() {
		return
	}
	ctx, cancel := context.WithTimeout(f.n.ctx, callTimeout)
	defer cancel()
	if err := do(ctx, l); err != nil {
		f.n.logger.Debug("a step of the first start is repeated", "error", err)
	}
}

// confirm has the leader commit that this process belongs to cluster for good, and reports when it has.
func (f *life) confirm(cluster wire.UUID) {
	call := confirmCall{
		cluster: cluster, server: f.machine.Server(), instance: f.n.cfg.Instance, name: f.n.cfg.Name, clock: f.n.cfg.Hooks.wall().UnixMicro(),
	}
	f.n.wg.Go(func() { // ends with the call, which has its limit
		ctx, cancel := context.WithTimeout(f.n.ctx, callTimeout)
		defer cancel()
		body, err := f.n.askLeader(ctx, func(ctx context.Context, l *lead) ([]byte, error) {
			return confirmOn(ctx, l, call)
		}, callConfirm, call.encode())
		if err != nil {
			return // the machine asks again
		}
		if ok, open, err := decodeConfirmReply(body); err == nil && ok {
			f.post(founding.Confirmed{Cluster: cluster, Open: open})
		}
	})
}
