// Package raftfsm is the lock table of a cluster: a deterministic state machine that turns committed log entries into grants.
// It has no clock, no I/O, no goroutine and no randomness, so every replica that applies the same entries holds the same bytes.
//
// Programs may read it to see how locks are decided, but it carries no promise of compatibility: import package distlock.
package raftfsm

import (
	"cmp"
	"strings"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/google/btree"
)

// Bounds of what a session can make the state hold.
const (
	MaxSessions = 100_000 // living sessions
	MaxRequests = 1 << 20 // requests a session may have in use; as many failures again are remembered beyond it
	MaxGaps     = 65_536  // ranges of sequence numbers that a session left out
	MaxWaiters  = 100_000 // waiters of one key
	MaxExpect   = 65_536  // processes that found a cluster
	MaxVoters   = 7       // voters that a cluster may want
	MaxDead     = 128     // servers that are remembered as proven dead
)

// Fences stay below 2^53, which a float64 (so a JSON number) and a signed 64-bit column hold exactly.
const (
	fenceEnd = 1 << 53
	maxClock = fenceEnd - 1<<50 // a founder's clock counts no higher, so that 2^50 grants remain whatever it says
)

// treeDegree is the degree of all trees: wide enough that a tree of a million items has four levels.
const treeDegree = 32

// A requestState is what a live request is at. Values are part of the snapshot's format. A request in none of them is finished, and
// only its session's sequence numbers remember it.
type requestState uint8

const (
	waiting   requestState = 1 // in the queues of its keys
	granted   requestState = 2 // holds its keys
	failed    requestState = 3 // was told so; kept until its session forgets it, so that a copy meets the same answer
	forcing   requestState = 4 // an OpForce that waits for the end of all grants of its key up to its fence
	settled   requestState = 5 // what it wanted the end of has ended
	releasing requestState = 6 // an OpRelease that waits for the end of the grant with its fence
	adopting  requestState = 7 // an OpAdopt that waits for the grant with its fence
	cooling   requestState = 8 // a grant that was lost: it keeps its keys until its cooldown is over. Its session is nobody
)

// revokes says that r waits for what it revoked.
func (s requestState) revokes() bool { return s == forcing || s == releasing || s == adopting }

// nobody is the session of what belongs to none: detached grants that outlived theirs, and cooldowns. Their numbers are tickets.
const nobody = 1<<62 + 1

// A request is what (session, seq) asked for, from its first copy until it is finished. Who holds a key and who waits for it are
// requests: there is no other record of a grant.
type request struct {
	gen     uint64 // see machine.gen
	session uint64
	seq     uint64
	key     string // the first of its keys; of what revokes, where it is found among the forces
	ticket  uint64 // place in the queue, or among the forces, of key
	fence   uint64 // of a grant; of what revokes: see its state
	since   int64  // µs since 1970, when state began, by the leader's wall clock
	weight  uint32 // units of a semaphore
	state   requestState
	mode    wire.Mode
	revoked bool      // of a grant: its holder has been told to let go
	code    wire.Code // why it failed or was revoked
	more    *more     // nil for most. It is replaced, never changed in place
}

// more is what few requests have.
type more struct {
	keys     []string // all of them, ascending, if they are several
	limit    uint32   // units that the semaphore has
	owner    uint64   // who asks, by the number of its first request; 0: this is the first
	ttl      int64    // ms, for whoever adopts it
	cooldown int64    // ms
	value    []byte
	where    string
	text     string // why it failed, for people
	adopted  bool   // it came to its present session by an OpAdopt
	detached int64  // ms that it was asked for
	timer    timer
	origin   wire.Origin // by which the grant first came to be, if that was another request
	nonce    wire.UUID   // of the session of origin
}

// timer is the time of a detached grant or of a cooldown. The leader measures it.
type timer struct {
	left  int64  // ms, as far as was committed
	armed uint64 // index of the entry that set left last; 0: the time does not run
	nth   uint64 // of the last OpTime
}

// A lock is a key in use: held, waited for or both. A key that is neither has no lock.
type lock struct {
	gen     uint64 // see machine.gen
	key     string
	session uint64 // of the one who holds it exclusively; 0 for none. Other holders are in trees.holds
	seq     uint64 // of that holder's request
	waiters uint32
	forces  uint32    // what revoked grants of it and waits for their end
	holders uint32    // also the one who holds it exclusively, and cooldowns
	used    uint32    // units of the semaphore
	limit   uint32    // units that the semaphore has; 0: it is none. Fixed while the key is in use
	mode    wire.Mode // of the holders, if there are any
}

func (l *lock) idle() bool { return l.holders == 0 && l.waiters == 0 && l.forces == 0 }

// A place is where a request stands at one of its keys: in the queue by its ticket, among the forces by its ticket, among the holders
// and the timers by its fence.
type place struct {
	key          string
	at           uint64
	session, seq uint64
}

// A wait is a waiting request, or one that has been granted, by who asked.
type wait struct{ session, owner, seq uint64 }

// A move is a grant that is not (or no longer) that of the request by which it came to be.
type move struct {
	from         wire.Origin
	session, seq uint64 // whose it is now
}

// A session is a process's place in the cluster.
type session struct {
	gen      uint64 // see machine.gen
	id       uint64
	next     uint64              // the greatest sequence number seen, plus one
	renewed  uint64              // index of the entry that created it, or met its nonce again
	who      *wire.CreateSession // as it came; never changes
	requests uint32              // live requests
	revoked  uint32              // how many of its grants are revoked
	gaps     uint32              // its ranges in trees.gaps
}

// A gap is a range of sequence numbers below a session's next that have not been seen: their requests may still come.
type gap struct{ session, from, to uint64 }

// trees hold all that has a size. Requests and sessions stand in two trees at once as the same pointer.
type trees struct {
	sessions *btree.BTreeG[*session] // by id
	names    *btree.BTreeG[*session] // by name
	gaps     *btree.BTreeG[gap]      // by session and first number
	requests *btree.BTreeG[*request] // by session and seq
	locks    *btree.BTreeG[*lock]    // by key
	queue    *btree.BTreeG[place]    // the waiting ones, at each of their keys, by ticket
	forces   *btree.BTreeG[place]    // those that revoked, by ticket
	holds    *btree.BTreeG[place]    // the holders of what is not held exclusively, by fence
	timers   *btree.BTreeG[place]    // grants and cooldowns whose time runs, at their first key, by fence
	tied     *btree.BTreeG[place]    // the waiting ones for several keys, as in queue
	waits    *btree.BTreeG[wait]     // the waiting ones, by session and owner
	owned    *btree.BTreeG[wait]     // the granted ones that name their owner
	moves    *btree.BTreeG[move]     // by origin
}

// state is a whole state of the machine. A copy of it with cloned trees is a View; nothing it points to changes after that.
type state struct {
	index, term uint64 // of the last entry applied

	cluster   wire.UUID
	expect    int
	voters    int
	open      bool // grants are possible
	silent    bool // open, but holders of an earlier incarnation may live: nothing is granted until EndSilence
	dissolved bool // ended before it opened: it never will
	clock     int64
	founders  []wire.UUID // servers that have confirmed; only until the cluster opens; replaced, never changed in place

	fence       uint64 // the last that was given
	lastSession uint64
	lastTicket  uint64
	dead        []wire.UUID // proven dead, latest last; replaced, never changed in place

	slot     slot      // of who leaves the cluster; since format 3
	bindings *Bindings // of servers to names; replaced, never changed in place. Since format 4

	format  uint64 // the greatest version of an entry so far: of snapshots as well
	holders int    // now, at each of their keys; no cooldowns

	grants, releases, expirations uint64 // one for all keys of a request

	trees
}

func newState() state {
	return state{format: 1, trees: trees{
		sessions: btree.NewG(treeDegree, func(a, b *session) bool { return a.id < b.id }),
		names:    btree.NewG(treeDegree, func(a, b *session) bool { return a.who.Name < b.who.Name }),
		gaps: btree.NewG(treeDegree, func(a, b gap) bool {
			return a.session < b.session || a.session == b.session && a.from < b.from
		}),
		requests: btree.NewG(treeDegree, func(a, b *request) bool {
			return a.session < b.session || a.session == b.session && a.seq < b.seq
		}),
		locks:  btree.NewG(treeDegree, func(a, b *lock) bool { return a.key < b.key }),
		queue:  btree.NewG(treeDegree, byPlace),
		forces: btree.NewG(treeDegree, byPlace),
		holds:  btree.NewG(treeDegree, byPlace),
		timers: btree.NewG(treeDegree, byPlace),
		tied:   btree.NewG(treeDegree, byPlace),
		waits:  btree.NewG(treeDegree, byOwner),
		owned:  btree.NewG(treeDegree, byOwner),
		moves: btree.NewG(treeDegree, func(a, b move) bool {
			return cmp.Or(cmp.Compare(a.from.Session, b.from.Session), cmp.Compare(a.from.Seq, b.from.Seq)) < 0
		}),
	}}
}

func byPlace(a, b place) bool {
	return cmp.Or(strings.Compare(a.key, b.key), cmp.Compare(a.at, b.at)) < 0
}

func byOwner(a, b wait) bool {
	return cmp.Or(cmp.Compare(a.session, b.session), cmp.Compare(a.owner, b.owner), cmp.Compare(a.seq, b.seq)) < 0
}

// clone returns trees that share all nodes with t until one of them is written to, in constant time.
func (t trees) clone() trees {
	return trees{
		sessions: t.sessions.Clone(), names: t.names.Clone(), gaps: t.gaps.Clone(), requests: t.requests.Clone(),
		locks: t.locks.Clone(), queue: t.queue.Clone(), forces: t.forces.Clone(), holds: t.holds.Clone(),
		timers: t.timers.Clone(), tied: t.tied.Clone(), waits: t.waits.Clone(), owned: t.owned.Clone(), moves: t.moves.Clone(),
	}
}

// machine applies entries to its state. One goroutine at a time.
type machine struct {
	state

	// gen is raised whenever a View is taken. An item with an older gen may be in a View: it is cloned and replaced before it
	// changes. One with this gen was made since, and changes in place.
	gen uint64

	wall    int64    // of the entry that is being applied
	res     *Result  // what that entry leads to
	dirty   []string // keys whose queues are to be looked at before the operation is over
	oneKey  [1]string
	shared  sameMore
	text    []byte // of what is said to a waiter: used again for the next
	watched bool   // events are wanted; not part of the state

	probeSession session // what the trees are asked with: kept here because a probe on the stack would escape
	probeRequest request
	probeLock    lock
}

func newMachine() *machine { return &machine{state: newState()} }

// freeze returns the present state, which no later apply touches.
func (m *machine) freeze() state {
	m.gen++
	frozen := m.state
	frozen.trees = m.trees.clone()
	return frozen
}

// member is the name of a session's process; "" of nobody's.
func (s *state) member(id uint64) string {
	if ses, ok := s.sessions.Get(&session{id: id}); ok {
		return ses.who.Name
	}
	return ""
}

// granting says whether grants are possible now.
func (s *state) granting() bool { return s.open && !s.silent }

func (m *machine) session(id uint64) *session {
	m.probeSession.id = id
	ses, _ := m.sessions.Get(&m.probeSession)
	return ses
}

func (m *machine) request(session, seq uint64) *request {
	m.probeRequest.session, m.probeRequest.seq = session, seq
	r, _ := m.requests.Get(&m.probeRequest)
	return r
}

// takeRequest removes a request from the tree of requests and returns it, or nil.
func (m *machine) takeRequest(session, seq uint64) *request {
	m.probeRequest.session, m.probeRequest.seq = session, seq
	r, _ := m.requests.Delete(&m.probeRequest)
	return r
}

func (m *machine) lock(key string) *lock {
	m.probeLock.key = key
	l, _ := m.locks.Get(&m.probeLock)
	m.probeLock.key = ""
	return l
}

// ownSession returns ses, or its clone in its place, so that it may be changed.
func (m *machine) ownSession(ses *session) *session {
	if ses.gen == m.gen {
		return ses
	}
	c := *ses
	c.gen = m.gen
	m.sessions.ReplaceOrInsert(&c)
	m.names.ReplaceOrInsert(&c)
	return &c
}

// ownRequest returns r, or its clone in its place, so that it may be changed. It must have left its queue.
func (m *machine) ownRequest(r *request) *request {
	if r.gen == m.gen {
		return r
	}
	c := *r
	c.gen = m.gen
	m.requests.ReplaceOrInsert(&c)
	return &c
}

// ownLock returns l, or its clone in its place, so that it may be changed.
func (m *machine) ownLock(l *lock) *lock {
	if l.gen == m.gen {
		return l
	}
	c := *l
	c.gen = m.gen
	m.locks.ReplaceOrInsert(&c)
	return &c
}

// lockFor returns the lock of key, made if the key was idle, so that it may be changed.
func (m *machine) lockFor(key string, limit uint32) *lock {
	if l := m.lock(key); l != nil {
		return m.ownLock(l)
	}
	l := &lock{gen: m.gen, key: key, limit: limit}
	m.locks.ReplaceOrInsert(l)
	return l
}

// next returns the first place of key in tree at or after at; false when there is none.
func next(tree *btree.BTreeG[place], key string, at uint64) (found place, ok bool) {
	tree.AscendGreaterOrEqual(place{key: key, at: at}, func(p place) bool {
		found, ok = p, p.key == key
		return false
	})
	return found, ok
}

// at returns the request at p.
func (s *state) at(p place) *request {
	r, _ := s.requests.Get(&request{session: p.session, seq: p.seq})
	return r
}

// at is the state's without an allocation.
func (m *machine) at(p place) *request { return m.request(p.session, p.seq) }

// member is the state's without an allocation.
func (m *machine) member(id uint64) string {
	if ses := m.session(id); ses != nil {
		return ses.who.Name
	}
	return ""
}

// eachHolder calls f for every holder of l, cooldowns too, by their fences, until it answers false.
func (s *state) eachHolder(l *lock, f func(*request) bool) {
	if l.session != 0 {
		r, _ := s.requests.Get(&request{session: l.session, seq: l.seq})
		f(r)
		return
	}
	if l.holders == 0 {
		return
	}
	s.holds.AscendGreaterOrEqual(place{key: l.key}, func(p place) bool {
		return p.key == l.key && f(s.at(p))
	})
}

// keys are all keys of r.
func (r *request) keys() []string {
	if r.more != nil && len(r.more.keys) > 1 {
		return r.more.keys
	}
	return []string{r.key}
}

// keysTo is keys without an allocation: the slice is one's, until it is used again.
func (r *request) keysTo(one *[1]string) []string {
	if r.together() {
		return r.more.keys
	}
	one[0] = r.key
	return one[:]
}

// together says that r asks for several keys.
func (r *request) together() bool { return r.more != nil && len(r.more.keys) > 1 }

// owner is the number that stands for who asked.
func (r *request) owner() uint64 {
	if r.more != nil && r.more.owner != 0 {
		return r.more.owner
	}
	return r.seq
}

// extra is a copy of what r has beyond most requests, to be changed and put in its place.
func (r *request) extra() *more {
	if r.more == nil {
		return &more{}
	}
	c := *r.more
	return &c
}

func (r *request) text() string {
	if r.more == nil {
		return ""
	}
	return r.more.text
}

// origin is the request by which the grant r first came to be.
func (r *request) origin() wire.Origin {
	if r.more != nil && !r.more.origin.IsZero() {
		return r.more.origin
	}
	return wire.Origin{Session: r.session, Seq: r.seq}
}
