package node

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/internal/wire"
)

// run is one process as gossip has it.
func run(server wire.UUID, addr string, s gossip.State, since int) gossip.Member {
	return gossip.Member{
		Meta: gossip.Meta{Instance: wire.NewUUID(), Server: server, Addr: addr}, State: s, Since: time.Unix(int64(since), 0),
	}
}

func started(m gossip.Member, at uint64) gossip.Member {
	m.Started = at
	return m
}

// A durable server that has moved is listed twice until gossip has seen its former process end. Whatever the order of the list, the living one
// that came last counts; what is remembered counts before where a process has failed.
func TestAddressOfAServerSeenTwice(t *testing.T) {
	server, other := wire.NewUUID(), wire.NewUUID()
	for _, c := range []struct {
		name       string
		runs       []gossip.Member
		remembered string
		want       string // "" = not known
	}{
		{name: "nowhere"},
		{name: "remembered", remembered: "r", want: "r"},
		{name: "one", runs: []gossip.Member{run(server, "a", gossip.Alive, 1)}, remembered: "r", want: "a"},
		{name: "another server", runs: []gossip.Member{run(other, "a", gossip.Alive, 1)}},
		{name: "the former is not seen to be gone", want: "new",
			runs: []gossip.Member{run(server, "old", gossip.Alive, 1), run(server, "new", gossip.Alive, 2), run(other, "x", gossip.Alive, 3)}},
		{name: "the former is suspected and was heard of later", want: "new",
			runs: []gossip.Member{run(server, "old", gossip.Suspect, 2), run(server, "new", gossip.Alive, 1)}},
		{name: "both are suspected", want: "new",
			runs: []gossip.Member{run(server, "old", gossip.Suspect, 1), run(server, "new", gossip.Suspect, 2)}},
		{name: "the former failed after the new one came", want: "new",
			runs: []gossip.Member{run(server, "old", gossip.Failed, 2), run(server, "new", gossip.Alive, 1)}},
		{name: "the former left", want: "new",
			runs: []gossip.Member{run(server, "old", gossip.Left, 2), run(server, "new", gossip.Suspect, 1)}},
		{name: "all are gone, and somebody told of a newer one", remembered: "r", want: "r",
			runs: []gossip.Member{run(server, "old", gossip.Failed, 1), run(server, "new", gossip.Left, 2)}},
		{name: "all are gone", want: "new",
			runs: []gossip.Member{run(server, "old", gossip.Failed, 1), run(server, "new", gossip.Left, 2)}},
		{name: "both came with one exchange", want: "new",
			runs: []gossip.Member{started(run(server, "old", gossip.Alive, 2), 1), started(run(server, "new", gossip.Alive, 2), 9)}},
		{name: "the new one's clock is behind", want: "new",
			runs: []gossip.Member{started(run(server, "old", gossip.Alive, 1), 9), started(run(server, "new", gossip.Alive, 5), 1)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range len(c.runs) + 1 {
				var b addressBook
				b.learn(server, c.remembered)
				addr, ok := b.find(server, c.runs)
				if addr != c.want || ok != (c.want != "") {
					t.Errorf("got %q, %t; want %q, of %+v", addr, ok, c.want, c.runs)
				}
				if len(c.runs) > 0 {
					c.runs = append(c.runs[1:], c.runs[0])
				}
			}
		})
	}
}

// What is found is remembered, and of too many servers those that were heard of last are.
func TestAddressesAreBounded(t *testing.T) {
	var b addressBook
	b.learn(wire.UUID{}, "nobody")
	b.learn(wire.NewUUID(), "")
	if len(b.places) != 0 {
		t.Fatalf("remembered %v", b.places)
	}
	kept := wire.NewUUID()
	b.find(kept, []gossip.Member{run(kept, "kept", gossip.Alive, 1)})
	var all []wire.UUID
	for i := range 5 * maxAddrs {
		u := wire.NewUUID()
		all = append(all, u)
		b.learn(u, fmt.Sprintf("10.0.0.1:%d", i+1))
		b.learn(kept, "kept")
	}
	if len(b.places) != maxAddrs {
		t.Errorf("%d are remembered, want %d", len(b.places), maxAddrs)
	}
	if addr, ok := b.find(kept, nil); addr != "kept" || !ok {
		t.Errorf("who is heard of all the time is at %q, %t", addr, ok)
	}
	for i, u := range all {
		if _, ok := b.find(u, nil); ok != (i > len(all)-maxAddrs) {
			t.Fatalf("number %d of %d is remembered: %t", i, len(all), ok)
		}
	}
	if stored := b.byName(); len(stored) != maxAddrs || stored[kept.String()] != "kept" {
		t.Errorf("%d would be stored", len(stored))
	}
}

// Addresses are stored when there is news, now and then; what the process has promised stays as it is, and a store that fails ends nothing.
func TestAddressesAreStored(t *testing.T) {
	peer := wire.NewUUID()
	was := raftlog.Identity{Server: wire.NewUUID(), Group: "g", Name: "m", Cluster: wire.NewUUID(), Founding: []byte("promises")}
	n := &Node{cfg: Config{Dir: t.TempDir()}, logger: slog.New(slog.DiscardHandler)}
	n.addrs.learn(peer, "10.0.0.1:1")
	stored := func() string {
		t.Helper()
		id, known, err := raftlog.LoadIdentity(n.cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if !known {
			return "nothing"
		}
		if id.Server != was.Server || id.Cluster != was.Cluster || id.Group != was.Group || string(id.Founding) != string(was.Founding) {
			t.Fatalf("stored %+v, was %+v", id, was)
		}
		return id.Peers[peer.String()]
	}
	later := func() { n.storedAt = n.storedAt.Add(-storeEvery) }

	n.storeAddresses()
	if got := stored(); got != "nothing" {
		t.Errorf("before there is an identity, %s is stored", got)
	}
	if err := n.store(was); err != nil {
		t.Fatal(err)
	}
	n.storeAddresses()
	if got := stored(); got != "" {
		t.Errorf("at once after the identity, %s is stored", got)
	}
	later()
	n.storeAddresses()
	if got := stored(); got != "10.0.0.1:1" {
		t.Errorf("%q is stored", got)
	}
	file := filepath.Join(n.cfg.Dir, "identity")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	later()
	n.storeAddresses()
	if got := stored(); got != "nothing" {
		t.Errorf("with no news, %s is stored", got)
	}
	n.addrs.learn(peer, "10.0.0.2:2")
	n.storeAddresses()
	if got := stored(); got != "10.0.0.2:2" {
		t.Errorf("after it has moved, %q is stored", got)
	}

	dir := n.cfg.Dir
	n.cfg.Dir = filepath.Join(dir, "gone")
	n.addrs.learn(peer, "10.0.0.3:3")
	later()
	n.storeAddresses()
	later()
	n.cfg.Dir = dir
	n.storeAddresses()
	if got := stored(); got != "10.0.0.2:2" {
		t.Errorf("so soon after a failure, %q is stored", got)
	}
	for range time.Minute / storeEvery {
		later()
	}
	n.storeAddresses()
	if got := stored(); got != "10.0.0.3:3" {
		t.Errorf("after a failure that is over, %q is stored", got)
	}
}
