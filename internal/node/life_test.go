package node

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/founding"
	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/wire"
)

// idleNode is a node that waits for others for ever, so that its own life loop does nothing.
func idleNode(t *testing.T) *Node {
	t.Helper()
	l, p, err := mux.System().Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	n, err := Start(Config{
		Name: "m", Group: "g", Instance: wire.NewUUID(), Addr: addr, Listener: l, Packets: p, Dial: mux.System().Dial,
		Expect: 2, Voters: 1, Loopback: true, SelfAddr: addr,
		Seeds:  func(context.Context) ([]string, error) { return nil, nil },
		Logger: slog.New(slog.DiscardHandler), Failed: func(err error) { t.Errorf("the node failed: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// Who looks whether its log is empty, finds that it isn't and goes on must go on with that log, in memory too: the same server without it
// would vote again in terms in which it has voted, and for those who lack what was committed with its help.
func TestRaftThatIsStoppedAndStartedKeepsItsLog(t *testing.T) {
	n := idleNode(t)
	f := newLife(n, founding.Saved{Server: n.serverID()})
	cluster, alone := wire.NewUUID(), []wire.UUID{n.serverID()}
	if err := f.start(cluster, true, alone); err != nil {
		t.Fatal(err)
	}
	for limit := time.After(30 * time.Second); f.group.raft.Barrier(0).Error() != nil; { // until it leads and has its own entry
		select {
		case <-f.group.news:
		case <-time.After(time.Millisecond): // the leadloop may have taken the news
		case <-limit:
			t.Fatal("it does not lead")
		}
	}
	last, term := f.group.raft.LastIndex(), f.group.raft.CurrentTerm()

	if err := f.stopRaft(founding.StopRaft{Cluster: cluster}); err != nil {
		t.Fatal(err)
	}
	if ev, ok := (<-f.events).(founding.Stopped); !ok || ev.Empty || ev.Cluster != cluster {
		t.Fatalf("it says %+v of a log with %d entries", ev, last)
	}
	if err := f.start(cluster, true, alone); err != nil {
		t.Fatal(err)
	}
	if l, c := f.group.raft.LastIndex(), f.group.raft.CurrentTerm(); l < last || c < term {
		t.Errorf("it goes on with %d entries in term %d, and had %d in term %d", l, c, last, term)
	}

	if err := f.stopRaft(founding.StopRaft{Cluster: cluster, Wipe: true}); err != nil {
		t.Fatal(err)
	}
	if err := f.start(wire.NewUUID(), false, nil); err != nil {
		t.Fatal(err)
	}
	if l := f.group.raft.LastIndex(); l != 0 {
		t.Errorf("after a wipe there are %d entries", l)
	}
}

// Who is asked to run Raft and can't says so to its own people, once, and goes on as one that runs none: whoever opens one of Raft's streams to it
// is refused, where it would wait otherwise. When the fault is mended it takes the seat.
func TestSeatThatCannotBeTaken(t *testing.T) {
	c := memberConfig(t, "a", func() []string { return nil })
	c.Voters = 3
	leader := startMember(t, c)
	await(t, leader, "the cluster is open", leader.Open)

	c = memberConfig(t, "b", leaderOnly(leader))
	c.Voters, c.Dir = 3, t.TempDir()
	obstacle := filepath.Join(c.Dir, "raft.db.new") // where a log is made before it gets its name
	if err := os.MkdirAll(filepath.Join(obstacle, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	var said lines
	c.Logger = slog.New(slog.NewTextHandler(&said, nil))
	n := startMember(t, c)
	await(t, n, "it belongs to the cluster", n.Open)
	for i := range 3 { // the leader's own wishes come besides
		if err := n.life.enlist(t.Context(), leader.clusterID()); err == nil {
			t.Fatal("it runs Raft on no log")
		}
		if id := n.raftClusterID(); !id.IsZero() {
			t.Errorf("after wish %d it takes Raft's streams and runs no Raft", i+1)
		}
	}
	if got := said.with("level=WARN", "Raft", c.Dir); len(got) != 1 {
		t.Errorf("it says %q", got)
	}
	if err := os.RemoveAll(obstacle); err != nil {
		t.Fatal(err)
	}
	if err := n.life.enlist(t.Context(), leader.clusterID()); err != nil {
		t.Fatal("mended:", err)
	}
	if id := n.raftClusterID(); id != leader.clusterID() || n.group.Load() == nil {
		t.Error("mended, it takes Raft's streams of", id)
	}
}

func leaderOnly(n *Node) func() []string {
	return func() []string { return []string{n.cfg.Addr} }
}

// lines are those of a log.
type lines struct {
	mu  sync.Mutex // guards all
	all []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(p))
	return len(p), nil
}

// with are those that contain all of words.
func (l *lines) with(words ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			found = append(found, line)
		}
	}
	return found
}

func TestSparse(t *testing.T) {
	var s sparse
	began := time.Now()
	for _, c := range []struct {
		after time.Duration
		text  string
		due   bool
	}{
		{0, "a", true}, {time.Second, "a", false}, {time.Minute - 1, "a", false}, {time.Minute, "a", true}, {90 * time.Second, "a", false},
		{91 * time.Second, "b", true}, {92 * time.Second, "b", false}, {93 * time.Second, "a", true}, {153 * time.Second, "a", true},
	} {
		if got := s.due(began.Add(c.after), c.text); got != c.due {
			t.Errorf("%q after %s: %v", c.text, c.after, got)
		}
	}
}
