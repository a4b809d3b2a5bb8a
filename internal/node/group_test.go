package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/alloctest"
	"github.com/godistlock/distlock/internal/hclogx"
	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// loneNode is a node that is alone, and leads.
func loneNode(t *testing.T, hooks Hooks) (*Node, chan error) {
	t.Helper()
	l, p, err := mux.System().Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	failed := make(chan error, 1)
	n, err := Start(Config{
		Name: "m", Group: "g", Instance: wire.NewUUID(), Addr: addr, Listener: l, Packets: p, Dial: mux.System().Dial,
		Expect: 1, Voters: 1, MayVote: true, Alone: true, Loopback: true, SelfAddr: addr,
		Seeds:  func(context.Context) ([]string, error) { return nil, nil },
		Logger: slog.New(slog.DiscardHandler), Hooks: hooks, Failed: func(err error) { failed <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n, failed
}

// awaitLead waits until n leads.
func awaitLead(t *testing.T, n *Node) *lead {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for {
		changed := n.Changed()
		if l := n.lead.Load(); l != nil && l.isReady() && n.Open() {
			return l
		}
		select {
		case <-changed:
		case <-deadline.C:
			t.Fatal("it does not lead")
		}
	}
}

// What raft must never be set to, and what it must.
func TestRaftConfig(t *testing.T) {
	conf := raftConfig(groupConfig{server: wire.UUID{1}, logger: hclogx.New(nil)})
	if err := raft.ValidateConfig(conf); err != nil {
		t.Fatal(err)
	}
	if conf.NotifyCh != nil {
		t.Error("NotifyCh blocks raft's main loop")
	}
	if conf.NoSnapshotRestoreOnStart {
		t.Error("the state machine would begin empty")
	}
	if !conf.BatchApplyCh || conf.MaxAppendEntries < 256 || conf.MaxAppendEntries > 1024 {
		t.Errorf("batching: %v, %d entries", conf.BatchApplyCh, conf.MaxAppendEntries)
	}
	if conf.MaxAppendEntries > raftlog.MaxEntries || raftfsm.MaxEntry > raftlog.MaxData {
		t.Error("what a leader sends is refused by those who read it")
	}
	if conf.LogOutput != nil || conf.Logger == nil {
		t.Error("it would log to stderr")
	}
	if conf.ShutdownOnRemove {
		t.Error("a member that lost its seat must be able to get another")
	}
	if string(conf.LocalID) != (wire.UUID{1}).String() {
		t.Errorf("its id is %q", conf.LocalID)
	}
	// An election, even one that fails once, fits into half of the shortest session.
	if d := 2 * (conf.HeartbeatTimeout*2 + conf.ElectionTimeout*2); d > 3*time.Second {
		t.Errorf("two elections may take %s", d)
	}
	tr := transportConfig(groupConfig{logger: hclogx.New(nil)})
	if tr.MaxRPCsInFlight != 1 {
		t.Errorf("%d requests in flight: pipelined replication can leave a follower behind", tr.MaxRPCsInFlight)
	}
	if tr.Logger == nil || tr.Timeout <= 0 {
		t.Error("the transport logs to stderr, or waits for ever")
	}
}

// An entry that this version can't read ends the member before it does anything more with the log: nothing after it is applied, told or
// saved in a snapshot.
func TestEntryOfAFutureVersion(t *testing.T) {
	var mu sync.Mutex // guards seen
	var seen []uint64
	n, failed := loneNode(t, Hooks{Applied: func(r *raftfsm.Result) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.Index)
	}})
	awaitLead(t, n)
	g := n.group.Load()
	future := g.raft.Apply(raftfsm.Entry{Version: raftfsm.Version + 1}.Encode(), time.Second)
	var later []raft.ApplyFuture
	for range 10 {
		later = append(later, g.raft.Apply(raftfsm.Entry{Version: raftfsm.Version}.Encode(), time.Second))
	}
	_ = future.Error()
	err := <-failed
	if !errors.Is(err, raftfsm.ErrVersion) || !errors.Is(err, raftlog.ErrStateMachine) {
		t.Errorf("it stops for %v", err)
	}
	for _, f := range later {
		if f.Error() != nil {
			continue // not committed, as far as Raft says
		}
		if r, ok := f.Response().(*raftfsm.Result); ok && r.Index > future.Index() {
			t.Logf("entry %d was applied in the same batch; nobody may hear of it", r.Index)
		}
	}
	if err := g.raft.Snapshot().Error(); err == nil {
		t.Error("a snapshot was taken of a state that lacks an entry")
	}
	mu.Lock()
	defer mu.Unlock()
	for _, index := range seen {
		if index >= future.Index() {
			t.Errorf("entry %d was told of, after %d", index, future.Index())
		}
	}
}

// What a peer sends to Raft can be anything. Raft panics on a configuration that can't be decoded, and that is the host's process.
func TestGarbageForRaft(t *testing.T) {
	n, failed := loneNode(t, Hooks{})
	l := awaitLead(t, n)
	g := n.group.Load()
	self := g.cfg.streams.self()
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(wire.NewUUID().String()), Addr: []byte(wire.NewUUID().String())}
	last, term := g.raft.LastIndex(), g.raft.CurrentTerm()
	garbage := []byte{0xdd, 0xff, 0xff, 0xff, 0xff, 1, 2, 3}
	for _, entry := range []*raft.Log{
		{Index: last + 1, Term: term, Type: raft.LogConfiguration, Data: garbage},
		{Index: last + 1, Term: term, Type: raft.LogAddPeerDeprecated, Data: garbage},
		{Index: last + 1, Term: term, Type: raft.LogType(77), Data: garbage},
		{Index: last + 7, Term: term, Type: raft.LogCommand, Data: garbage},
	} {
		req := &raft.AppendEntriesRequest{RPCHeader: header, Term: term, PrevLogEntry: last, PrevLogTerm: term, Entries: []*raft.Log{entry}}
		var resp raft.AppendEntriesResponse
		if err := g.transport.AppendEntries(raft.ServerID(self), self, req, &resp); err == nil {
			t.Errorf("an entry of type %d at %d was taken: %+v", entry.Type, entry.Index, resp)
		}
	}
	conn, _, err := n.mux.Dial(t.Context(), n.cfg.SelfAddr, wire.KindRaft, n.serverID())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for rpc := range 8 { // each kind of request, and some that are none, with a body that is none
		if _, err := conn.Write(append([]byte{byte(rpc)}, garbage...)); err != nil && !errors.Is(err, net.ErrClosed) {
			break // it was closed on us, which is the right answer
		}
	}
	alloctest.PaidWith(t, 10, 4<<20, func() { // a time of 4 GiB, in a field that nobody knows, and a member's own work
		conn, _, err := n.mux.Dial(t.Context(), n.cfg.SelfAddr, wire.KindRaft, n.serverID())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("\x00\x81\xa1x\xc9\xff\xff\xff\xff\xff")); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the stream goes on: %v", err)
		}
	})
	if err := l.prove(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	select {
	case err := <-failed:
		t.Errorf("a stranger stopped it: %v", err)
	default:
	}
}

// Raft's channels are hints that merge and drop: the lead follows Raft's state, and each term is one lead.
func TestLeadFollowsRaftWithoutHints(t *testing.T) {
	n, _ := loneNode(t, Hooks{})
	first := awaitLead(t, n)
	g := n.group.Load()
	hints := make(chan struct{})
	go func() { // takes the hints away, as far as it is quicker
		for {
			select {
			case <-g.raft.LeaderCh():
			case <-g.news:
			case <-hints:
				return
			}
		}
	}()
	defer close(hints)
	first.endAsync() // as when a proposal failed
	second := awaitLead(t, n)
	if second == first {
		t.Fatal("a lead that is over goes on")
	}
	if err := second.prove(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := first.propose(t.Context(), raftfsm.Noop{}); !errors.Is(err, errNotLeading) {
		t.Errorf("the first lead answers %v", err)
	}
}

// advise tells apart what the user can do something about.
func TestAdvice(t *testing.T) {
	disk := &Node{cfg: Config{Dir: "/data/m"}}
	for _, c := range []struct {
		n    *Node
		err  error
		want string
	}{
		{disk, fmt.Errorf("%w: input/output error", raftlog.ErrPoisoned), `check the disk under "/data/m"`},
		{&Node{}, fmt.Errorf("%w: out of memory", raftlog.ErrPoisoned), "start it again"},
		{disk, fmt.Errorf("%w: %w: apply: panic", raftlog.ErrPoisoned, raftlog.ErrStateMachine), "report"},
	} {
		got := c.n.advise(c.err)
		if !errors.Is(got, c.err) || !strings.Contains(got.Error(), c.want) {
			t.Errorf("%q; want it to say %q", got, c.want)
		}
	}
	said := fmt.Errorf("raft did not start: the log is corrupt: move the directory away")
	if got := disk.advise(said); got != said {
		t.Errorf("%q has advice already", got)
	}
}

// A change of membership that was decided on another configuration than Raft has is refused: the index that goes with it is the real one.
func TestStaleMembershipChangesAreRefused(t *testing.T) {
	f := startFleet(t, 3, Hooks{}, Hooks{}, Hooks{})
	_, l := f.leader(t)
	nobody := wire.NewUUID().String()
	before, index, err := l.group.configuration()
	if err != nil || index == 0 || index > l.group.raft.LastIndex() {
		t.Fatalf("the configuration %v is at %d: %v", before, index, err)
	}
	add := func(index uint64) error {
		return l.group.raft.AddNonvoter(raft.ServerID(nobody), raft.ServerAddress(nobody), index, 10*time.Second).Error()
	}
	if err := add(index + 1); err == nil {
		t.Error("a change on a configuration that there is not was made")
	}
	if err := add(index); err != nil {
		t.Fatalf("a change on the configuration at %d: %v", index, err)
	}
	if err := l.group.raft.RemoveServer(raft.ServerID(nobody), index, 10*time.Second).Error(); err == nil {
		t.Error("a change on the configuration before the last was made")
	}
}
