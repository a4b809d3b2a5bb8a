package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/roster"
	"github.com/godistlock/distlock/internal/wire"
)

const (
	// settledFor is how long a process takes the leader's word that its role stands.
	settledFor = time.Second
	// heardWithin is how long ago a server with a seat must have answered the leader to count as being there: some heartbeats.
	heardWithin = time.Second
)

// standing is what the leader says of one process's place in the Raft group.
type standing struct {
	suffrage roster.Suffrage // in the committed configuration; 0: none
	pending  string          // what of its role is about to change, for people; "" for nothing
}

// prospects is where all processes stand and will stand, as the leader saw it at one moment.
type prospects struct {
	at       time.Time
	of       []raft.Server // the configuration
	now      map[wire.UUID]roster.Suffrage
	then     map[wire.UUID]roster.Suffrage
	instance map[wire.UUID]bool // runs of this cluster that gossip hears
}

// standingOf says where a run of a server stands, as of a moment after the call began: this process led then.
func (n *Node) standingOf(ctx context.Context, l *lead, server, instance wire.UUID) (standing, error) {
	if err := l.prove(ctx); err != nil {
		return standing{}, err
	}
	moves := l.moves(server) // before the prospects are looked at, which may be of a moment before the change was decided
	p, err := n.prospects(l)
	if err != nil {
		return standing{}, err
	}
	s := standing{suffrage: p.now[server]}
	switch then := p.then[server]; {
	case moves:
		s.pending = "its place in the Raft group is being changed"
	case !p.instance[instance]:
		s.pending = "the leader has not heard of this process by gossip yet"
	case then != s.suffrage:
		s.pending = "it is about to become a " + roleText(then)
	case s.suffrage != 0 && server != n.serverID() && (l.silentFor(server, time.Now()) > heardWithin || !l.hasLog(server)):
		s.pending = "its log is behind the leader's"
	}
	return s, nil
}

func roleText(s roster.Suffrage) string {
	switch s {
	case roster.Voter:
		return "voter"
	case roster.Nonvoter:
		return "standby"
	}
	return "client"
}

// prospects looks at most once in a stewardTick and for each configuration: in a large fleet many ask.
func (n *Node) prospects(l *lead) (prospects, error) {
	l.prospectsMu.Lock()
	defer l.prospectsMu.Unlock()
	conf, index, err := l.group.configuration()
	if err != nil {
		return prospects{}, err
	}
	if p := l.prospects; time.Since(p.at) < stewardTick && slices.Equal(p.of, conf.Servers) {
		return p, nil
	}
	v := n.rosterView(l, conf, index)
	p := prospects{
		at: time.Now(), of: conf.Servers, now: make(map[wire.UUID]roster.Suffrage), then: make(map[wire.UUID]roster.Suffrage),
		instance: runsOf(n.clusterID(), n.members()),
	}
	for _, s := range v.Config {
		p.now[s.ID] = s.Suffrage
	}
	for _, s := range roster.Settle(v) {
		p.then[s.ID] = s.Suffrage
	}
	l.prospects = p
	return p, nil
}

// runsOf are the runs that live and have said that they are of cluster: who has just started is not planned for before.
func runsOf(cluster wire.UUID, members []gossip.Member) map[wire.UUID]bool {
	runs := make(map[wire.UUID]bool, len(members))
	for _, m := range members {
		if lives(m) && m.Cluster == cluster {
			runs[m.Instance] = true
		}
	}
	return runs
}

// askStanding asks the leader where this process stands. The session's way to it is open mostly: to look for the leader and to dial it once more takes
// more round trips than some who are far from it have time for.
func (n *Node) askStanding(ctx context.Context) (standing, error) {
	server := n.serverID()
	if k := n.linked.Load(); k != nil {
		body, err := k.conn.Call(ctx, callStanding, encodeStandingCall(server, n.cfg.Instance))
		if err == nil {
			return decodeStanding(body)
		}
		if isUnknownCall(err, callStanding) {
			return standing{}, err
		}
	}
	return ask(ctx, n, func(ctx context.Context, l *lead) (standing, error) {
		return n.standingOf(ctx, l, server, n.cfg.Instance)
	}, callStanding, encodeStandingCall(server, n.cfg.Instance), decodeStanding)
}

// Settled is nil when nothing about this process's role is about to change: it has the seat that it will have, with the log that goes with
// it. Who updates a cluster one process after the other waits for that before the next. A leader of a version that can't say counts as nil.
func (n *Node) Settled(ctx context.Context) error {
	n.mu.Lock()
	fresh := !n.settledAt.IsZero() && time.Since(n.settledAt) < settledFor
	n.mu.Unlock()
	if fresh {
		return nil
	}
	s, err := n.askStanding(ctx)
	switch {
	case isUnknownCall(err, callStanding):
	case err != nil:
		return fmt.Errorf("%w: the leader does not say whether this process's role stands: %w", lockerr.ErrNoQuorum, err)
	case s.pending != "":
		return fmt.Errorf("the role of this process is not settled: %s", s.pending)
	}
	n.mu.Lock()
	n.settledAt = time.Now()
	n.mu.Unlock()
	return nil
}

// seatDoubt is how long a server with a seat must not have heard of a leader before it asks whether it still has it.
const seatDoubt = 3 * time.Second

// doubt is a question to the leader, answered: whether this process has a place in the Raft group.
type doubt struct {
	group    *group
	enlisted uint64 // how often the leader had asked this process to run Raft when it asked back
	standing standing
	err      error
}

// checkSeat asks the leader, beside the loop, whether Raft is still wanted here, if it seems not: this server's own configuration lacks it, or no
// leader has sent it anything for a while. A server that is in no configuration would else stand for election for ever, in vain.
func (f *life) checkSeat() {
	g := f.group
	if g == nil || f.doubting || g.raft.State() == raft.Leader {
		return
	}
	seats, known := f.n.seats()
	if known && seats[f.n.serverID()] != 0 && time.Since(g.raft.LastContact()) < seatDoubt {
		return
	}
	f.doubting = true
	d := doubt{group: g, enlisted: f.enlisted}
	f.n.wg.Go(func() { // ends with the call, which has its limit
		ctx, cancel := context.WithTimeout(f.n.ctx, callTimeout)
		defer cancel()
		d.standing, d.err = f.n.askStanding(ctx)
		f.doubts <- d // cap 1, and only one question at a time
	})
}

// resolve stops Raft here when the leader has said that this process has no place in its group and will have none. The log stays, on disk or in
// memory, and with it the votes that were given: should a seat come later, Raft goes on with it as the same server.
func (f *life) resolve(d doubt) {
	f.doubting = false
	if d.err != nil || d.standing.suffrage != 0 || d.standing.pending != "" || f.group != d.group || f.enlisted != d.enlisted {
		return
	}
	f.n.logger.Info("this process has no seat in the Raft group any more: it takes its locks as a client", "member", f.n.cfg.Name)
	if err := f.stopGroup(); err != nil {
		f.n.fail(err)
		return
	}
	f.n.announcer.announce()
}

func encodeStandingCall(server, instance wire.UUID) []byte {
	w := wire.NewWriter()
	w.UUID(server)
	w.UUID(instance)
	return w.Bytes()
}

func decodeStandingCall(body []byte) (server, instance wire.UUID, err error) {
	r := wire.NewReader(body)
	server, instance = r.UUID(), r.UUID()
	return server, instance, r.End()
}

// maxPending bounds the text of a standing.
const maxPending = 256

func (s standing) encode() []byte {
	w := wire.NewWriter()
	w.Array(2)
	w.Uint(uint64(s.suffrage))
	w.String(s.pending)
	return w.Bytes()
}

func decodeStanding(body []byte) (standing, error) {
	r := wire.NewReader(body)
	if n := r.Array(2); n != 2 {
		r.Fail("standing with %d fields", n)
	}
	suffrage := r.Uint()
	if suffrage > uint64(roster.Nonvoter) {
		r.Fail("suffrage %d", suffrage)
	}
	s := standing{suffrage: roster.Suffrage(suffrage), pending: r.String(maxPending)}
	return s, r.End()
}
