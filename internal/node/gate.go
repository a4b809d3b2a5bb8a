package node

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/raftlog"
)

// gate stands before what a leader sends to replicate its log. Raft v1.8.0 waits after each failure of it twice as long as before, up to ten
// seconds, and nothing cuts that short: a follower that was away for a while would be back, beat its heart and be ready, and yet not
// take an entry for seconds; were the other follower of three to die then, nothing could commit and sessions would run out. So to a server
// that did not answer nothing is sent until it has answered a heartbeat again, which Raft tries all the time: failures don't add up.
type gate struct {
	raftlog.Transport
	wanted func(to raft.ServerID, term uint64) bool // this process leads term still, and to belongs to its group

	downs  atomic.Int32                    // len(down): all are up nearly always
	mu     sync.Mutex                      // guards down
	down   map[raft.ServerID]chan struct{} // closed when the server has answered a heartbeat
	closed chan struct{}                   // by release
	once   sync.Once

	contacts sync.Map // raft.ServerID -> *contact
}

// contact is what answers say of a server.
type contact struct {
	mu      sync.Mutex // guards the fields below
	term    uint64     // of this process's leadership in which it answered last
	heard   time.Time  // when, on Go's monotonic clock
	matched uint64     // up to which entry its log was equal to this one's then
}

func newGate(t raftlog.Transport, wanted func(raft.ServerID, uint64) bool) *gate {
	return &gate{Transport: t, wanted: wanted, down: make(map[raft.ServerID]chan struct{}), closed: make(chan struct{})}
}

func (g *gate) AppendEntries(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if len(req.Entries) == 0 && req.PrevLogEntry == 0 && req.LeaderCommitIndex == 0 { // a heartbeat, as Raft tells it
		err := g.Transport.AppendEntries(id, addr, req, resp)
		if err == nil {
			g.up(id)
			g.answered(id, req.Term, 0)
		}
		return err
	}
	g.wait(id, req.Term)
	err := g.Transport.AppendEntries(id, addr, req, resp)
	switch {
	case err != nil:
		g.noAnswer(id)
	case resp.Success:
		g.answered(id, req.Term, req.PrevLogEntry+uint64(len(req.Entries)))
	}
	return err
}

func (g *gate) InstallSnapshot(id raft.ServerID, addr raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	g.wait(id, req.Term)
	err := g.Transport.InstallSnapshot(id, addr, req, resp, data)
	switch {
	case err != nil:
		g.noAnswer(id)
	case resp.Success:
		g.answered(id, req.Term, req.LastLogIndex)
	}
	return err
}

// answered notes that id has answered the leader of term, and that its log is equal up to matched, if that is not 0.
func (g *gate) answered(id raft.ServerID, term, matched uint64) {
	v, ok := g.contacts.Load(id)
	if !ok {
		v, _ = g.contacts.LoadOrStore(id, &contact{})
	}
	c := v.(*contact)
	c.mu.Lock()
	defer c.mu.Unlock()
	if term > c.term {
		c.term, c.matched = term, 0 // its log may have been cut since
	}
	if term == c.term {
		c.heard, c.matched = time.Now(), max(c.matched, matched)
	}
}

// contactWith is when id last answered the leader of term, and how far its log is known to be equal; the zero time if it has not.
func (g *gate) contactWith(id raft.ServerID, term uint64) (heard time.Time, matched uint64) {
	v, ok := g.contacts.Load(id)
	if !ok {
		return time.Time{}, 0
	}
	c := v.(*contact)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.term != term {
		return time.Time{}, 0
	}
	return c.heard, c.matched
}

func (g *gate) Close() error {
	g.release()
	return g.Transport.Close()
}

// release lets everybody through from now on: Raft's shutdown waits for them.
func (g *gate) release() { g.once.Do(func() { close(g.closed) }) }

func (g *gate) noAnswer(id raft.ServerID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down[id] == nil {
		g.down[id] = make(chan struct{})
		g.downs.Add(1)
	}
}

func (g *gate) up(id raft.ServerID) {
	if g.downs.Load() == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if heard := g.down[id]; heard != nil {
		close(heard)
		delete(g.down, id)
		g.downs.Add(-1)
	}
}

// gateTick is how often who waits looks whether it still should: Raft does not say when a leader's term is over or a server is removed.
const gateTick = 100 * time.Millisecond

// wait returns when id has answered a heartbeat since it did not answer, or when nobody wants to send to it any more.
func (g *gate) wait(id raft.ServerID, term uint64) {
	if g.downs.Load() == 0 {
		return
	}
	g.mu.Lock()
	heard := g.down[id]
	g.mu.Unlock()
	if heard == nil {
		return
	}
	tick := time.NewTicker(gateTick)
	defer tick.Stop()
	for g.wanted(id, term) {
		select {
		case <-heard:
			return
		case <-g.closed:
			return
		case <-tick.C:
		}
	}
	g.up(id) // so that the map does not grow
}
