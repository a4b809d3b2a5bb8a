package gossip

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/hashicorp/memberlist"
)

// State is what is thought of a process.
type State string

const (
	Alive   State = "alive"
	Suspect State = "suspect" // our own probes of it go unanswered
	Failed  State = "failed"
	Left    State = "left"
)

// Member is one process, as last heard of.
type Member struct {
	Meta
	State State
	Since time.Time // of Failed and Left: when we heard of it; else when we first did
}

// Bounds of what is remembered.
const (
	maxMembers   = 16384 // living ones; more are kept out
	maxDead      = 1024
	maxConflicts = 64
	deadFor      = 5 * time.Minute
	conflictFor  = 5 * time.Minute

	suspectAfter = probeInterval    // an unanswered probe's detours (another process, a stream) have had their time
	suspectFor   = 10 * time.Second // then it would have failed, had nobody else heard it
)

var (
	errForeign = errors.New("of another open cluster")
	errUnknown = errors.New("not to be known here")
	errForged  = errors.New("said of a process of our cluster by somebody else")
	errFull    = fmt.Errorf("more than %d processes", maxMembers)
)

// table is what we know of the others. memberlist calls in with its own lock held, so nothing here calls memberlist.
type table struct {
	log   *slog.Logger
	lines everyMinute
	knows func(Meta) bool // who is let in; nil: all. Set before anybody calls

	mu        sync.Mutex // guards what follows
	self      Meta
	since     time.Time
	closed    bool
	rows      map[string]*row // by node name
	sorted    []*row          // the same, in order
	living    int             // rows that are Alive
	conflicts map[wire.UUID]Member
	listed    []Member  // what list answered last; never changed, since it was handed out. Nil: something has changed
	listedFor time.Time // when it changes by itself: a probe has gone unanswered for too long, or a dead process is forgotten
}

type row struct {
	Member
	addr       netip.AddrPort // where its packets go
	missedAt   time.Time      // the first of our probes that went unanswered since it was last heard; zero: none
	everAlive  bool
	overridden bool // of a cluster that conflicts with ours since one of both opened: not listed
}

func (t *table) init(self Meta, log *slog.Logger) {
	t.self, t.log, t.since = self, log, time.Now()
	t.rows = map[string]*row{}
	t.conflicts = map[wire.UUID]Member{}
}

func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true // memberlist's timers may outlive it
}

func (t *table) selfMeta() Meta {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.self
}

// setSelf takes m, except for what never changes, and says whether anything has.
func (t *table) setSelf(m Meta) bool {
	t.mu.Lock()
	m.Instance, m.Name, m.Addr = t.self.Instance, t.self.Name, t.self.Addr
	if m == t.self {
		t.mu.Unlock()
		return false
	}
	t.self, t.listed = m, nil
	var foe *Meta
	for _, r := range t.rows { // having opened, we may be at odds with some that were welcome before
		r.overridden = t.conflictsWith(r.Meta)
		if r.overridden && r.State == Alive {
			t.conflict(r.Meta)
			foe = &r.Meta
		}
	}
	t.mu.Unlock()
	if foe != nil {
		t.warn(m, *foe)
	}
	return true
}

// conflictsWith says that both sides are open clusters and not the same. While one of them isn't open they must hear of each other: the
// unopened one dissolves.
func (t *table) conflictsWith(m Meta) bool {
	return m.Open && t.self.Open && !m.Cluster.IsZero() && !t.self.Cluster.IsZero() && m.Cluster != t.self.Cluster
}

// forged says that words which are at odds with us can't be the node's own: it is known as one of our open cluster, and a run of a process is
// of one open cluster all its life. Believed, one such message would take a member out of the list until it has something else to say. t.mu
// is held.
func (t *table) forged(node string) bool {
	r := t.rows[node]
	return r != nil && r.Open && r.Cluster == t.self.Cluster
}

// read checks what a node says of itself.
func read(n *memberlist.Node) (Meta, error) {
	m, err := decodeMeta(n.Meta)
	if err != nil {
		return Meta{}, err
	}
	if m.Instance.String() != n.Name {
		return Meta{}, fmt.Errorf("%w: instance %s under the name of %.40q", wire.ErrMalformed, m.Instance, n.Name)
	}
	if a, ok := netip.AddrFromSlice(n.Addr); !ok || a.Unmap().IsUnspecified() || n.Port == 0 {
		return Meta{}, fmt.Errorf("%w: no address for packets", wire.ErrMalformed)
	}
	// A process that claims another range of protocols would make memberlist refuse every later exchange with anybody.
	if n.PMin != memberlist.ProtocolVersionMin || n.PMax != memberlist.ProtocolVersionMax || n.DMin|n.DMax|n.DCur != 0 {
		return Meta{}, fmt.Errorf("%w: memberlist protocol %d to %d", wire.ErrMalformed, n.PMin, n.PMax)
	}
	return m, nil
}

func (t *table) foreign(n *memberlist.Node) bool {
	m, err := read(n)
	if err != nil {
		return false
	}
	t.mu.Lock()
	self, foe := t.self, t.conflictsWith(m) && !t.forged(n.Name)
	if foe {
		t.conflict(m)
	}
	t.mu.Unlock()
	if foe {
		t.warn(self, m)
	}
	return foe
}

// admit judges an alive message.
func (t *table) admit(n *memberlist.Node) error {
	m, err := read(n)
	if err != nil {
		if t.lines.due("malformed") {
			t.log.Warn("gossip: a process is ignored because what it says of itself can't be read", "from", n.Address(), "error", err)
		}
		return err
	}
	if t.knows != nil && !t.knows(m) {
		return errUnknown
	}
	self, err := t.judge(n.Name, m)
	switch {
	case errors.Is(err, errForeign):
		t.warn(self, m)
	case errors.Is(err, errFull):
		if t.lines.due("full") {
			t.log.Warn("gossip: a process is ignored because there are too many", "name", m.Name, "limit", maxMembers)
		}
	}
	return err
}

func (t *table) judge(node string, m Meta) (self Meta, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rows[node]
	if t.conflictsWith(m) && t.forged(node) {
		return t.self, errForged
	}
	if t.conflictsWith(m) {
		if r != nil {
			r.overridden, t.listed = true, nil
		}
		t.conflict(m)
		return t.self, errForeign
	}
	if (r == nil || r.State != Alive) && t.living >= maxMembers {
		return t.self, errFull
	}
	if r != nil && r.State == Alive {
		t.miss(r, time.Time{})
	}
	return t.self, nil
}

// put notes what memberlist now thinks of n and says whether the list has changed.
func (t *table) put(n *memberlist.Node, s State) bool {
	m, err := read(n)
	if err != nil {
		return false // admit has let nothing like it in
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	now := time.Now()
	r := t.rows[n.Name]
	if r == nil {
		r = &row{Member: Member{State: Failed, Since: now}}
	} else if r.Name != m.Name {
		t.remove(n.Name)
	}
	if s == Failed && m.Leaving {
		s = Left
	}
	if was := r.State == Alive; was != (s == Alive) {
		t.living += map[bool]int{true: -1, false: 1}[was]
		r.Since, r.missedAt = now, time.Time{}
	}
	a, _ := netip.AddrFromSlice(n.Addr)
	r.Meta, r.State, r.addr = m, s, netip.AddrPortFrom(a.Unmap(), n.Port)
	r.everAlive = r.everAlive || s == Alive
	r.overridden = t.conflictsWith(m)
	t.listed = nil
	if t.rows[n.Name] == nil {
		t.add(n.Name, r)
	}
	if len(t.rows)-t.living > maxDead {
		t.forget(now)
	}
	return true
}

// forget drops the dead that are old, and the oldest of too many.
func (t *table) forget(now time.Time) {
	if len(t.rows) == t.living {
		return
	}
	var dead []string
	for name, r := range t.rows {
		if r.State == Alive {
			continue
		}
		if now.Sub(r.Since) > deadFor {
			t.remove(name)
			continue
		}
		dead = append(dead, name)
	}
	if len(dead) <= maxDead {
		return
	}
	slices.SortFunc(dead, func(a, b string) int { return t.rows[a].Since.Compare(t.rows[b].Since) })
	for _, name := range dead[:len(dead)-maxDead] {
		t.remove(name)
	}
}

// heard notes that node has answered us.
func (t *table) heard(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.rows[node]; r != nil {
		t.miss(r, time.Time{})
	}
}

// missed notes that node has not.
func (t *table) missed(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.rows[node]; r != nil && (r.missedAt.IsZero() || time.Since(r.missedAt) > suspectFor) {
		t.miss(r, time.Now())
	}
}

// miss sets since when r does not answer us; t.mu is held.
func (t *table) miss(r *row, at time.Time) {
	if !r.missedAt.Equal(at) {
		r.missedAt, t.listed = at, nil
	}
}

// livingAt answers where the living are.
func (t *table) livingAt() map[netip.AddrPort]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := make(map[netip.AddrPort]bool, t.living)
	for _, r := range t.rows {
		if r.State == Alive {
			at[r.addr] = true
		}
	}
	return at
}

// strikeEverAlive takes out of addrs where anybody has ever been alive. It is asked with every change of the list, mostly with none or few.
func (t *table) strikeEverAlive(addrs map[netip.AddrPort]bool) {
	if len(addrs) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.rows {
		if r.everAlive {
			delete(addrs, r.addr)
		}
	}
}

// firstAgain is which of the repetitions of a change comes first.
func (t *table) firstAgain() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.living >= largeFleet {
		return len(sayAgain) - 1
	}
	return 0
}

// enough says whether there is no hurry to find others.
func (t *table) enough() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.living > 0 && t.living+1 >= int(t.self.Expect)
}

// conflict remembers m; t.mu is held.
func (t *table) conflict(m Meta) {
	now := time.Now()
	for id, c := range t.conflicts {
		if now.Sub(c.Since) > conflictFor {
			delete(t.conflicts, id)
		}
	}
	if _, ok := t.conflicts[m.Instance]; ok || len(t.conflicts) < maxConflicts {
		t.conflicts[m.Instance] = Member{Meta: m, State: Alive, Since: now}
	}
}

// warn says it in the log, outside of the lock: a logger is somebody else's code.
func (t *table) warn(self, m Meta) {
	if t.lines.due("conflict") {
		t.log.Error("gossip: two open clusters of one group meet; they never merge: stop one of them, or give one another Group",
			"ours", self.Cluster.String(), "theirs", m.Cluster.String(), "name", m.Name, "addr", m.Addr)
	}
}

func (t *table) conflicting() []Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Member
	for _, c := range t.conflicts {
		if time.Since(c.Since) <= conflictFor && t.conflictsWith(c.Meta) {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, order)
	return all
}
