package node

import (
	"context"
	"log/slog"
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
