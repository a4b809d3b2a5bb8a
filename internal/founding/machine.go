package founding

import (
	"fmt"
	"slices"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// TickEvery is how often a Machine wants a Tick until its cluster is open.
const TickEvery = 100 * time.Millisecond

// Timeouts of the first start. The same on all members; Invite must be well below WithdrawDead.
type Timeouts struct {
	Retry        time.Duration // between two copies of a message that has not been answered
	Settle       time.Duration // what is granted to latecomers while fewer than Voters who may vote are seen
	Patience     time.Duration // what a process grants to each lower name before it invites in its place
	Invite       time.Duration // within which all who are invited must have accepted
	WithdrawDead time.Duration // after which an acceptance is withdrawn whose inviter is not seen alive
	Withdraw     time.Duration // after which any acceptance is
	Leaderless   time.Duration // after which a bound process asks the others what became of its cluster
	GiveUp       time.Duration // after which a bound process whose cluster has no leader looks whether it may leave
	Guest        time.Duration // after which a guest leaves a cluster that nobody who is seen has known open
	Tie          time.Duration // how long two led clusters look at each other before the one with the greater UUID ends itself
	Shun         time.Duration // for which a process that did not answer is left out, where there are enough without it
}

// DefaultTimeouts are used where a Timeouts is zero.
func DefaultTimeouts() Timeouts {
	return Timeouts{
		Retry: 250 * time.Millisecond, Settle: time.Second, Patience: 3 * time.Second, Invite: 3 * time.Second, WithdrawDead: 5 * time.Second,
		Withdraw: 10 * time.Second, Leaderless: 3 * time.Second, GiveUp: 15 * time.Second, Guest: 10 * time.Second,
		Tie: 5 * time.Second, Shun: 5 * time.Second,
	}
}

// MaxInvited bounds how many processes are invited, where Expect does not want more: those who are left out join when it is done.
const MaxInvited = 64

// Config is what a Machine needs.
type Config struct {
	Self     Process
	Expect   int
	Voters   int  // size of the Raft group
	Alone    bool // no Peers and no Discover: nobody to wait for, if Expect is 1
	Durable  bool // with DataDir
	Mint     func() wire.UUID
	Timeouts Timeouts // zero: DefaultTimeouts
}

// Machine is one process's part in the first start. It is not safe for concurrent use.
type Machine struct {
	cfg Config
	t   Timeouts
	s   Saved
	now time.Duration
	out []Action

	begun      bool
	viewed     bool   // a View has come
	peers      []Peer // the living others, by name
	unanswered bool
	shunned    map[wire.UUID]time.Duration // instance: until when
	logged     map[string]time.Duration    // keys are constants

	differs   string // of whom Expect differs, for people
	differsAt time.Duration

	// While free.
	round    *round
	rounds   uint64        // numbers the rounds of this instance
	eligible time.Duration // since when this process could invite; -1: it can't
	nextTry  time.Duration // no round begins before
	failures int           // rounds given up
	failure  string        // why the last was, for people
	asked    time.Duration // when a charter was last asked for

	// While an invitation of another is accepted.
	host      Process // who invited; zero after a restart
	hostRound uint64
	since     time.Duration // when it was accepted

	// While belonging to a cluster.
	bound bound
	names map[wire.UUID]string // of the charter's voters, as far as they have been seen
}

// New returns a Machine that begins with its first Step. The zero Saved is a new process's.
func New(cfg Config, saved Saved) *Machine {
	m := &Machine{cfg: cfg, t: cfg.Timeouts, s: saved.clone(), eligible: -1,
		shunned: make(map[wire.UUID]time.Duration), logged: make(map[string]time.Duration)}
	if m.t == (Timeouts{}) {
		m.t = DefaultTimeouts()
	}
	if m.s.Server.IsZero() {
		m.s.Server = cfg.Self.Server
	}
	return m
}

// Saved is what the last Save said.
func (m *Machine) Saved() Saved { return m.s.clone() }

// Server is this process's Raft identity now.
func (m *Machine) Server() wire.UUID { return m.s.Server }

// Cluster is the cluster that this process belongs to, as gossip and handshakes should say; zero: none is known.
func (m *Machine) Cluster() wire.UUID { return m.s.Cluster }

// Open says that Cluster is known to have opened, by its own log or leader.
func (m *Machine) Open() bool { return m.s.Open }

// Step takes one event at time now (any clock that counts suspension and never goes back) and says what to do.
func (m *Machine) Step(now time.Duration, ev Event) []Action {
	if gap := now - m.now; gap > m.t.Leaderless { // this process was paused: that nobody was heard meanwhile says nothing
		m.bound.at, m.bound.ledAt, m.bound.openAt = m.bound.at+gap, m.bound.ledAt+gap, m.bound.openAt+gap
	}
	m.now, m.out = max(m.now, now), nil
	if !m.begun {
		m.begun = true
		m.begin()
	}
	switch ev := ev.(type) {
	case View:
		m.look(ev)
	case Received:
		m.receive(ev.From, ev.Message)
	case Unreached:
		m.unreached(ev.Instance)
	case Led:
		m.led(ev)
	case Confirmed:
		m.led(Led{Cluster: ev.Cluster, Leader: true, Leading: m.bound.news.Leading, Founded: true, Open: ev.Open, Confirmed: true})
	case Stopped:
		m.stopped(ev)
	}
	switch {
	case m.s.Open:
		m.warnOfOther()
	case m.s.Cluster.IsZero():
		m.driveFree()
	case m.s.Charter.IsZero():
		m.driveGuest()
	default:
		m.driveBound()
	}
	if !m.s.Charter.IsZero() {
		m.learnNames()
	}
	return m.out
}

// begin takes up what was saved.
func (m *Machine) begin() {
	switch {
	case m.s.Open:
		m.act(Join{Cluster: m.s.Cluster})
	case !m.s.Cluster.IsZero() && m.s.Charter.IsZero(): // a guest makes no promises: look again
		m.s.Cluster = wire.UUID{}
		m.save()
	case !m.s.Cluster.IsZero():
		m.bound = newBound(m.now)
		m.enter(wire.UUID{})
	case m.s.Accepted.IsZero():
	case m.s.Charter.Inviter == m.s.Server: // the round ended with the process that ran it
		m.refuse()
		m.save()
	default:
		m.since = m.now
	}
}

func (m *Machine) act(a Action) { m.out = append(m.out, a) }
func (m *Machine) save()        { m.act(Save{Saved: m.s.clone()}) }

func (m *Machine) send(to wire.UUID, msg wire.Founding) { m.act(Send{To: to, Message: msg}) }

func (m *Machine) log(warn bool, format string, args ...any) {
	m.act(Log{Text: fmt.Sprintf(format, args...), Warn: warn})
}

// remind logs at most once a minute per key.
func (m *Machine) remind(key, format string, args ...any) {
	if last, ok := m.logged[key]; ok && m.now-last < time.Minute {
		return
	}
	m.logged[key] = m.now
	m.log(true, format, args...)
}

// look takes in what gossip says: living others, by name, each instance once.
func (m *Machine) look(v View) {
	m.viewed, m.unanswered = true, v.Unanswered
	m.peers = m.peers[:0:0]
	for _, p := range v.Members {
		if p.Alive && p.Instance != m.cfg.Self.Instance {
			m.peers = append(m.peers, p)
		}
	}
	slices.SortFunc(m.peers, func(p, q Peer) int {
		switch {
		case p.before(q.Process):
			return -1
		case q.before(p.Process):
			return 1
		}
		return 0
	})
	m.peers = slices.CompactFunc(m.peers, func(p, q Peer) bool { return p.Instance == q.Instance })
	for inst, until := range m.shunned { // order does not matter
		if until <= m.now {
			delete(m.shunned, inst)
		}
	}
}

// self is this process under its present server.
func (m *Machine) self() Process {
	p := m.cfg.Self
	p.Server = m.s.Server
	return p
}

// sees says that instance is seen alive.
func (m *Machine) sees(instance wire.UUID) bool {
	return slices.ContainsFunc(m.peers, func(p Peer) bool { return p.Instance == instance })
}

// openCluster is the open cluster that most living processes have known open; of equals the one with the least UUID.
func (m *Machine) openCluster() (wire.UUID, bool) {
	count := make(map[wire.UUID]int)
	for i := range m.peers {
		if p := &m.peers[i]; p.Open {
			count[p.Cluster]++
		}
	}
	var best wire.UUID
	most := 0
	for cluster, n := range count { // order does not matter
		if n > most || n == most && cluster.Less(best) {
			best, most = cluster, n
		}
	}
	return best, most > 0
}

// leaderOf finds who leads cluster.
func (m *Machine) leaderOf(cluster wire.UUID) (Peer, bool) {
	for _, p := range m.peers {
		if p.Leads && p.Cluster == cluster {
			return p, true
		}
	}
	return Peer{}, false
}

// ledCluster is the led cluster with the least UUID, other than but.
func (m *Machine) ledCluster(but wire.UUID) (Peer, bool) {
	var best Peer
	for _, p := range m.peers {
		if p.Leads && !p.Cluster.IsZero() && p.Cluster != but && (best.Cluster.IsZero() || p.Cluster.Less(best.Cluster)) {
			best = p
		}
	}
	return best, !best.Cluster.IsZero()
}

// refuse turns away for good from what was accepted or belonged to.
func (m *Machine) refuse() {
	cluster := m.s.Accepted
	if cluster.IsZero() {
		cluster = m.s.Cluster
	}
	m.s.Accepted, m.s.Cluster, m.s.Charter = wire.UUID{}, wire.UUID{}, wire.Charter{}
	m.s.Bootstrap, m.s.Confirmed, m.s.Open = false, false, false
	m.host, m.hostRound, m.names = Process{}, 0, nil
	m.remember(cluster)
}

// remember adds to what is refused. When that is full, the older half is forgotten together with the server that refused it: what
// nobody remembers having refused is then asked of a server that no longer is.
func (m *Machine) remember(cluster wire.UUID) {
	if _, ok := m.s.refusal(cluster); ok {
		return
	}
	server := m.s.Server
	if len(m.s.Refused) >= MaxRefused {
		m.s.Refused = slices.Clone(m.s.Refused[len(m.s.Refused)-MaxRefused/2:])
		m.s.Server = m.cfg.Mint()
	}
	m.s.Refused = append(m.s.Refused, Refusal{Cluster: cluster, Server: server})
}
