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
	waiting requestState = 1 // in the queue of its key
	granted requestState = 2 // holds its key
	failed  requestState = 3 // was told so; kept until its session forgets it, so that a copy meets the same answer
	forcing requestState = 4 // an OpForce that waits for the end of a grant
	settled requestState = 5 // an OpForce whose grant has ended
)

// A request is what (session, seq) asked for, from its first copy until it is finished. Who holds a key and who waits for it are
// requests: there is no other record of a grant.
type request struct {
	gen     uint64 // see machine.gen
	session uint64
	seq     uint64
	key     string
	ticket  uint64 // place in the queue, or among the forces, of key
	fence   uint64 // of a grant
	since   int64  // µs since 1970, when state began, by the leader's wall clock
	state   requestState
	revoked bool      // of a grant: its holder has been told to let go
	code    wire.Code // why it failed or was revoked
	text    *string   // why it failed, for people; behind a pointer since few requests have one
}

// A lock is a key in use: held, waited for or both. A key that is neither has no lock.
type lock struct {
	gen     uint64 // see machine.gen
	key     string
	session uint64 // the holder's session; 0 for none
	seq     uint64 // the holder's request
	waiters uint32
	forces  uint32 // pending on the present grant
}

func (l *lock) held() bool { return l.session != 0 }

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
	queue    *btree.BTreeG[*request] // the waiting ones, by key and ticket
	forces   *btree.BTreeG[*request] // the forcing ones, by key and ticket
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

	holders                       int // now
	grants, releases, expirations uint64

	trees
}

func newState() state {
	return state{trees: trees{
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
	}}
}

func byPlace(a, b *request) bool {
	return cmp.Or(strings.Compare(a.key, b.key), cmp.Compare(a.ticket, b.ticket)) < 0
}

// clone returns trees that share all nodes with t until one of them is written to, in constant time.
func (t trees) clone() trees {
	return trees{
		sessions: t.sessions.Clone(), names: t.names.Clone(), gaps: t.gaps.Clone(), requests: t.requests.Clone(),
		locks: t.locks.Clone(), queue: t.queue.Clone(), forces: t.forces.Clone(),
	}
}

// machine applies entries to its state. One goroutine at a time.
type machine struct {
	state

	// gen is raised whenever a View is taken. An item with an older gen may be in a View: it is cloned and replaced before it
	// changes. One with this gen was made since, and changes in place.
	gen uint64

	wall int64   // of the entry that is being applied
	res  *Result // what that entry leads to

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
func (m *machine) lockFor(key string) *lock {
	if l := m.lock(key); l != nil {
		return m.ownLock(l)
	}
	l := &lock{gen: m.gen, key: key}
	m.locks.ReplaceOrInsert(l)
	return l
}

// first returns the first request of key in one of the two trees by place, or nil.
func first(tree *btree.BTreeG[*request], key string) *request {
	var head *request
	tree.AscendGreaterOrEqual(&request{key: key}, func(r *request) bool {
		if r.key == key {
			head = r
		}
		return false
	})
	return head
}
