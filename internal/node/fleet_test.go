package node

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/wire"
)

// fleet is several nodes of one cluster, over real sockets.
type fleet []*Node

// dialer is how a process dials.
type dialer func(ctx context.Context, addr string) (net.Conn, error)

// startFleet starts a node for each of hooks, with so many voters, and waits until all know that their cluster has opened.
func startFleet(t *testing.T, voters int, hooks ...Hooks) fleet {
	t.Helper()
	return startFleetOn(t, func(int) dialer { return mux.System().Dial }, len(hooks), voters, hooks...)
}

// startFleetOn is startFleet with a network, where only the first so many may vote.
func startFleetOn(t *testing.T, dial func(i int) dialer, mayVote, voters int, hooks ...Hooks) fleet {
	t.Helper()
	return startFleetWith(t, len(hooks), func(i int, c *Config) {
		c.Dial, c.MayVote, c.Voters, c.Hooks = dial(i), i < mayVote, voters, hooks[i]
	})
}

// startFleetWith is startFleet with so many nodes of which change says what is special of them.
func startFleetWith(t *testing.T, count int, change func(i int, c *Config)) fleet {
	t.Helper()
	var addrs []string
	var all fleet
	var starts []func()
	for i := range count {
		c := memberConfig(t, string(rune('a'+i)), func() []string { return addrs })
		c.Expect, c.Voters = count, count
		change(i, &c)
		addrs = append(addrs, c.Addr)
		starts = append(starts, func() { all = append(all, startMember(t, c)) })
	}
	for _, start := range starts {
		start()
	}
	for _, n := range all {
		await(t, n, "the cluster is open", n.Open)
	}
	return all
}

// memberConfig is that of one process of a fleet, who finds the others at addrs.
func memberConfig(t *testing.T, name string, addrs func() []string) Config {
	t.Helper()
	l, p, err := mux.System().Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	return Config{
		Name: name, Group: "g", Instance: wire.NewUUID(), Addr: addr, Listener: l, Packets: p, Dial: mux.System().Dial,
		Expect: 1, Voters: 1, MayVote: true, Loopback: true, SelfAddr: addr,
		Seeds: func(context.Context) ([]string, error) {
			return slices.DeleteFunc(slices.Clone(addrs()), func(a string) bool { return a == addr }), nil
		},
		Logger: slog.New(slog.DiscardHandler), Failed: func(err error) { t.Errorf("%s failed: %v", name, err) },
	}
}

func startMember(t *testing.T, c Config) *Node {
	t.Helper()
	n, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// addrs are those of all.
func (f fleet) addrs() (out []string) {
	for _, n := range f {
		out = append(out, n.cfg.Addr)
	}
	return out
}

// await waits until n's news make is true.
func await(t *testing.T, n *Node, what string, is func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	look := time.NewTicker(10 * time.Millisecond) // not all that is awaited is news
	defer look.Stop()
	for {
		changed := n.Changed()
		if is() {
			return
		}
		select {
		case <-changed:
		case <-look.C:
		case <-deadline.C:
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// leader is the node that leads, and its lead.
func (f fleet) leader(t *testing.T) (*Node, *lead) {
	t.Helper()
	var leader *Node
	var l *lead
	await(t, f[0], "one leads", func() bool {
		for _, n := range f {
			if x := n.lead.Load(); x != nil && x.isReady() {
				leader, l = n, x
			}
		}
		return l != nil
	})
	return leader, l
}

// others are all but n.
func (f fleet) others(n *Node) fleet {
	return slices.DeleteFunc(slices.Clone(f), func(x *Node) bool { return x == n })
}

// link is n's way to the leader, with a session.
func (n *Node) link(t *testing.T, sink *fakeSink) (ask func(ops ...wire.Op)) {
	t.Helper()
	k, err := n.Link(t.Context(), sink)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	r, err := k.Create(t.Context(), wire.CreateSession{Nonce: wire.NewUUID(), Name: n.cfg.Name, Server: n.serverID(), Instance: n.cfg.Instance, TTL: 60_000})
	if err != nil || r.Code != wire.CodeOK {
		t.Fatalf("create: %+v, %v", r, err)
	}
	if err := k.Attach(r.Session); err != nil {
		t.Fatal(err)
	}
	return func(ops ...wire.Op) {
		if err := k.Submit(r.Session, ops); err != nil {
			t.Errorf("submit: %v", err)
		}
	}
}

// Who becomes a voter later tells the others, also those that run no Raft.
func TestAPromotedVoterSaysSo(t *testing.T) {
	f := startFleet(t, 3, Hooks{}, Hooks{}, Hooks{}, Hooks{})
	leader, _ := f.leader(t)
	await(t, leader, "three voters", func() bool { voters, _ := leader.voterSet(); return len(voters) == 3 })
	voters, _ := leader.voterSet()
	leaves := f.others(leader)
	leaves = slices.DeleteFunc(leaves, func(n *Node) bool { return !voters[n.Server()] })[:1]
	newcomer := slices.DeleteFunc(f.others(leader), func(n *Node) bool { return voters[n.Server()] })[0]
	if err := leaves[0].Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := leaves[0].Close(); err != nil {
		t.Fatal(err)
	}
	for _, n := range f.others(leaves[0]) {
		await(t, n, "the newcomer votes, by its own word", func() bool {
			return slices.ContainsFunc(n.gossip.Members(), func(m gossip.Member) bool { return m.Server == newcomer.Server() && m.Voter })
		})
	}
}

// A process that was asked to run Raft before it knew that its cluster is open, and was not given the seat after all, still hears of it: no
// leader speaks to its Raft.
func TestEnlistedInVain(t *testing.T) {
	f := startFleet(t, 3, Hooks{}, Hooks{}, Hooks{}, Hooks{}, Hooks{})
	leader, _ := f.leader(t)
	await(t, leader, "three voters and two standbys", func() bool { seats, _ := leader.seats(); return len(seats) == 5 })
	l, p, err := mux.System().Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	n, err := Start(Config{
		Name: "late", Group: "g", Instance: wire.NewUUID(), Addr: addr, Listener: l, Packets: p, Dial: mux.System().Dial,
		Expect: 5, Voters: 3, MayVote: true, Loopback: true, SelfAddr: addr,
		Seeds:  func(context.Context) ([]string, error) { return []string{leader.cfg.Addr}, nil },
		Logger: slog.New(slog.DiscardHandler), Failed: func(err error) { t.Errorf("it failed: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	for n.life.enlist(t.Context(), leader.clusterID()) != nil { // until it belongs to the cluster
		if t.Context().Err() != nil {
			t.Fatal("it does not come to belong to the cluster")
		}
	}
	if n.Open() {
		t.Fatal("it knew that the cluster is open before it was enlisted: that is another case")
	}
	await(t, n, "it knows that its cluster is open", n.Open)
	await(t, n, "its Raft has stopped", func() bool { return n.group.Load() == nil })
}
