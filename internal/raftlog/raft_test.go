package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/bubble"
)

// listFSM is a state machine that remembers every number applied to it.
type listFSM struct {
	mu      sync.Mutex // guards what follows
	got     []uint64
	restore error
	apply   func(uint64) // called for each; may panic
}

func (f *listFSM) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := binary.BigEndian.Uint64(l.Data)
	if f.apply != nil {
		f.apply(n)
	}
	f.got = append(f.got, n)
	return n
}

func (f *listFSM) Snapshot() (raft.FSMSnapshot, error) {
	return listSnapshot(f.list()), nil
}

func (f *listFSM) Restore(r io.ReadCloser) error {
	p, err := io.ReadAll(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		err = f.restore
	}
	if err != nil {
		return err
	}
	f.got = nil
	for ; len(p) >= 8; p = p[8:] {
		f.got = append(f.got, binary.BigEndian.Uint64(p))
	}
	return nil
}

func (f *listFSM) list() []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.got)
}

type listSnapshot []uint64

func (s listSnapshot) Persist(sink raft.SnapshotSink) error {
	for _, n := range s {
		if _, err := sink.Write(binary.BigEndian.AppendUint64(nil, n)); err != nil {
			sink.Cancel()
			return err
		}
	}
	return sink.Close()
}
func (s listSnapshot) Release() {}

// peer is one Raft node over a store that can fail.
type peer struct {
	id       raft.ServerID
	store    *faulty
	guard    *Guarded
	fsm      *listFSM
	trans    *raft.InmemTransport
	raft     *raft.Raft
	poisoned chan struct{}
}

// trio is three of them.
type trio struct {
	t     *testing.T
	peers []*peer
}

func newTrio(t *testing.T, firstLeads bool) *trio {
	c := &trio{t: t}
	conf := raft.Configuration{}
	for i := range 3 {
		id := raft.ServerID(fmt.Sprint("n", i))
		_, trans := raft.NewInmemTransportWithTimeout(raft.ServerAddress(id), time.Second)
		p := &peer{id: id, store: &faulty{Store: Memory()}, fsm: &listFSM{}, trans: trans, poisoned: make(chan struct{})}
		conf.Servers = append(conf.Servers, raft.Server{ID: id, Address: raft.ServerAddress(id)})
		c.peers = append(c.peers, p)
	}
	for _, p := range c.peers {
		p.guard = Guard(p.store, GuardConfig{
			Name: string(p.id),
			OnPoison: func(error) { // cut all traffic of this member, then return
				for _, q := range c.peers {
					q.trans.Disconnect(raft.ServerAddress(p.id))
				}
				p.trans.DisconnectAll()
				close(p.poisoned)
			},
		})
		for _, q := range c.peers {
			if q != p {
				p.trans.Connect(raft.ServerAddress(q.id), q.trans)
			}
		}
	}
	for i, p := range c.peers {
		rc := raft.DefaultConfig()
		rc.LocalID, rc.Logger = p.id, hclog.NewNullLogger()
		rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = 300*time.Millisecond, 300*time.Millisecond, 200*time.Millisecond
		if i == 0 != firstLeads { // the others begin the election
			rc.HeartbeatTimeout, rc.ElectionTimeout = 900*time.Millisecond, 900*time.Millisecond
		}
		rc.SnapshotInterval, rc.SnapshotThreshold, rc.TrailingLogs = 200*time.Millisecond, 20, 5
		err := p.guard.Do(func() error {
			snaps := p.guard.Snapshots(MemorySnapshots())
			if err := raft.BootstrapCluster(rc, p.guard, p.guard, snaps, p.trans, conf); err != nil {
				return err
			}
			r, err := raft.NewRaft(rc, p.guard.FSM(p.fsm), p.guard, p.guard, snaps, p.trans)
			p.raft = r
			return err
		})
		mustDo(t, err)
	}
	return c
}

// isolateLeader cuts the leader off for d while it takes a proposal of its own.
func (c *trio) isolateLeader(d time.Duration) {
	connect := func(p *peer, on bool) {
		for _, q := range c.peers {
			select {
			case <-q.poisoned: // stays cut
				continue
			case <-p.poisoned:
				continue
			default:
			}
			if q != p && on {
				p.trans.Connect(raft.ServerAddress(q.id), q.trans)
				q.trans.Connect(raft.ServerAddress(p.id), p.trans)
			} else if q != p {
				p.trans.Disconnect(raft.ServerAddress(q.id))
				q.trans.Disconnect(raft.ServerAddress(p.id))
			}
		}
	}
	for _, p := range c.peers {
		if p.raft.State() == raft.Leader {
			connect(p, false)
			p.raft.Apply(binary.BigEndian.AppendUint64(nil, 1<<40), time.Second)
			time.Sleep(d)
			connect(p, true)
			return
		}
	}
}

// apply proposes n on whoever leads until it is applied there.
func (c *trio) apply(n uint64, among []*peer) {
	c.t.Helper()
	for range 2000 {
		for _, p := range among {
			if p.raft.State() != raft.Leader {
				continue
			}
			f := p.raft.Apply(binary.BigEndian.AppendUint64(nil, n), time.Second)
			done := make(chan error, 1)
			go func() { done <- f.Error() }()
			select {
			case err := <-done:
				if err == nil && f.Response() == any(n) {
					return
				}
			case <-time.After(time.Second): // its main loop is gone
			}
		}
		time.Sleep(10 * time.Millisecond) // virtual
	}
	c.t.Fatalf("%d was not applied", n)
}

// stop shuts p down as the node does and fails if that takes 5 seconds.
func (c *trio) stop(p *peer) {
	c.t.Helper()
	start := time.Now()
	f := p.raft.Shutdown()
	p.guard.Release()
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		c.t.Fatalf("%s: shutdown hangs", p.id)
	}
	p.guard.Close()
	if took := time.Since(start); took > 5*time.Second {
		c.t.Fatalf("%s: shutdown took %s", p.id, took)
	}
}

func (c *trio) close() {
	for _, p := range c.peers {
		c.stop(p)
	}
	time.Sleep(2 * time.Hour) // until the disk that hangs has answered
}

// agree fails unless each list is a prefix of the longest, apart from repetitions that a resent proposal makes.
func (c *trio) agree() {
	c.t.Helper()
	var longest []uint64
	for _, p := range c.peers {
		if l := p.fsm.list(); len(l) > len(longest) {
			longest = l
		}
	}
	for _, p := range c.peers {
		if l := p.fsm.list(); !slices.Equal(l, longest[:len(l)]) {
			c.t.Fatalf("%s applied %v, another %v", p.id, l, longest)
		}
	}
}

// Hazard 8. The k-th operation of each kind fails on one of three members, which leads or follows, under load: the process lives (a panic in
// Raft's goroutines would end this test), that member shuts down, the other two go on, and no state machine has missed an entry.
func TestRaftSurvivesEveryFailingOperation(t *testing.T) {
	hows := map[string]func() error{
		"error": func() error { return errDisk },
		"panic": func() error { panic("page 7 is damaged") },
		"hang":  func() error { time.Sleep(time.Hour); return errDisk },
	}
	ks := map[string][]int{"error": {1, 3, 9}, "panic": {2}, "hang": {1, 5}}
	if os.Getenv("DISTLOCK_FAULTS") != "" { // every k, some minutes
		for how := range hows {
			ks[how] = nil
			for k := range 60 {
				ks[how] = append(ks[how], k+1)
			}
		}
	}
	hit := map[string]int{}
	for _, op := range []string{"StoreLogs", "SetUint64", "Set", "GetLog", "DeleteRange"} {
		for how, fail := range hows {
			for _, leads := range []bool{true, false} {
				for _, k := range ks[how] {
					name := fmt.Sprintf("%s/%s/leads=%v/%d", op, how, leads, k)
					t.Run(name, func(t *testing.T) {
						bubble.Test(t, func(t *testing.T) {
							if failAt(t, op, k, leads, fail) {
								hit[op]++
							}
						})
					})
				}
			}
		}
	}
	t.Log("poisoned:", hit)
	for _, op := range []string{"StoreLogs", "SetUint64", "Set", "GetLog", "DeleteRange"} {
		if hit[op] < 3 {
			t.Errorf("%s hardly ever failed: the test tests nothing", op)
		}
	}
}

// failAt runs one cluster and says whether the failure came.
func failAt(t *testing.T, op string, k int, leads bool, fail func() error) bool {
	c := newTrio(t, leads)
	defer c.close()
	victim, rest := c.peers[0], c.peers[1:]
	var mu sync.Mutex
	count := 0
	victim.store.fail(func(o string) error {
		mu.Lock()
		if o == op {
			count++
		}
		now := o == op && count >= k // all later ones too, as a bad disk does
		mu.Unlock()
		if now {
			return fail()
		}
		return nil
	})
	n := uint64(0)
	for range 60 {
		n++
		c.apply(n, c.peers)
		time.Sleep(20 * time.Millisecond)
		if n%15 == 0 { // elections and truncated logs come in too
			c.isolateLeader(2 * time.Second)
		}
	}
	time.Sleep(15 * time.Second) // for what hangs, and for snapshots
	poisoned := false
	select {
	case <-victim.poisoned:
		poisoned = true
		c.stop(victim)
	default:
		rest = c.peers // the failure did not come
	}
	for range 10 {
		n++
		c.apply(n, rest)
	}
	time.Sleep(15 * time.Second) // the failure may have come only now
	c.agree()
	for _, p := range rest {
		if got := p.fsm.list(); p.guard.Err() == nil && got[len(got)-1] != n {
			t.Fatalf("%s did not follow to %d: %v", p.id, n, got)
		}
	}
	return poisoned
}

// The same while Raft is being made: the caller gets an error, not a panic.
func TestRaftSurvivesFailuresInItsConstructors(t *testing.T) {
	conf := raft.Configuration{Servers: []raft.Server{{ID: "n", Address: "n"}}}
	for _, op := range []string{"StoreLogs", "SetUint64", "GetLog", "GetUint64"} {
		t.Run(op, func(t *testing.T) {
			f := &faulty{Store: Memory()}
			_, trans := raft.NewInmemTransport("n")
			rc := raft.DefaultConfig()
			rc.LocalID, rc.Logger = "n", hclog.NewNullLogger()
			if op == "GetLog" {
				mustDo(t, raft.BootstrapCluster(rc, f, f, MemorySnapshots(), trans, conf))
			}
			f.fail(func(o string) error {
				if o == op {
					return errDisk
				}
				return nil
			})
			g := Guard(f, GuardConfig{})
			defer g.Close()
			err := g.Do(func() error {
				if op != "GetLog" {
					if err := raft.BootstrapCluster(rc, g, g, MemorySnapshots(), trans, conf); err != nil {
						return err
					}
				}
				_, err := raft.NewRaft(rc, g.FSM(&listFSM{}), g, g, MemorySnapshots(), trans)
				return err
			})
			if err == nil || !errors.Is(g.Err(), errDisk) {
				t.Fatal(err, g.Err())
			}
		})
	}
}

// A state machine that panics stops its member only.
func TestPanickingStateMachine(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newTrio(t, true)
		defer c.close()
		c.peers[0].fsm.apply = func(n uint64) {
			if n == 5 {
				panic("a bug")
			}
		}
		for n := range uint64(10) {
			c.apply(n, c.peers)
		}
		<-c.peers[0].poisoned
		c.stop(c.peers[0])
		c.apply(10, c.peers[1:])
		time.Sleep(time.Second)
		c.agree()
	})
}

// Hazard 15: a snapshot that can't be taken in stops the member; Raft would log it and carry on.
func TestFailedRestorePoisons(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newTrio(t, true)
		defer c.close()
		last := c.peers[2]
		last.fsm.restore = errors.New("a newer version")
		for _, p := range c.peers {
			p.trans.Disconnect(raft.ServerAddress(last.id))
		}
		for n := range uint64(100) { // compacted meanwhile
			c.apply(n, c.peers[:2])
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Second)
		for _, p := range c.peers[:2] {
			p.trans.Connect(raft.ServerAddress(last.id), last.trans)
		}
		<-last.poisoned
		c.stop(last)
		c.apply(100, c.peers[:2])
	})
}

// Hazard 14: a result of another length would make Raft panic.
func TestWrongNumberOfResults(t *testing.T) {
	for _, results := range [][]any{nil, {1}, {1, 2, 3}} {
		g := Guard(Memory(), GuardConfig{})
		out := g.FSM(batchFSM{results}).ApplyBatch([]*raft.Log{{Index: 1}, {Index: 2, Type: raft.LogConfiguration}})
		if err, ok := out[1].(error); len(out) != 2 || !ok || !errors.Is(err, ErrPoisoned) {
			t.Fatal(out)
		}
		g.Close()
	}
}

type batchFSM struct{ results []any }

func (b batchFSM) ApplyBatch([]*raft.Log) []any        { return b.results }
func (b batchFSM) Apply(*raft.Log) any                 { return nil }
func (b batchFSM) Snapshot() (raft.FSMSnapshot, error) { return nil, errDisk }
func (b batchFSM) Restore(io.ReadCloser) error         { return nil }
