package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/internal/wire"
)

// impostor is a port that speaks as server under a name of its own.
func impostor(t *testing.T, server, cluster wire.UUID) *mux.Mux {
	t.Helper()
	l, p, err := mux.System().Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := mux.New(mux.Config{Listener: l, Dial: mux.System().Dial, Self: func(wire.Kind, wire.UUID) wire.Hello {
		return wire.Hello{Group: "g", Cluster: cluster, Server: server, Instance: wire.UUID{9}, Name: "impostor"}
	}})
	t.Cleanup(func() { m.Close(); p.Close() })
	return m
}

// Who has a name of its own and another's server gets no stream in, and none is opened to it.
func TestImpostorGetsNoStream(t *testing.T) {
	f := startFleetWith(t, 3, proven)
	for _, n := range f {
		awaitNames(t, n, f)
	}
	leader, l := f.leader(t)
	victim := f.others(leader)[0]
	other := f.others(leader).others(victim)[0]
	cluster := leader.clusterID()
	m := impostor(t, victim.Server(), cluster)
	before := fmt.Sprint(leader.group.Load().fsm.View().Counters(), leader.names())
	term := leader.Term()
	for _, n := range f.others(victim) {
		for _, kind := range []wire.Kind{wire.KindRaft, wire.KindCall} {
			conn, w, err := m.Dial(t.Context(), n.cfg.Addr, kind, n.Server())
			if err == nil {
				conn.Close()
			}
			if w.Refusal != wire.RefusedIdentity || !strings.Contains(w.Text, fmt.Sprintf("%q", victim.cfg.Name)) {
				t.Errorf("a stream of kind %c is answered by %d, %q", kind, w.Refusal, w.Text)
			}
		}
		for _, kind := range []wire.Kind{wire.KindRaft, wire.KindCall} {
			conn, _, err := n.dial(t.Context(), m.Addr().String(), kind, victim.Server())
			var stranger *strangerError
			if !errors.As(err, &stranger) || stranger.bound != victim.cfg.Name || stranger.name != "impostor" {
				t.Errorf("a stream of kind %c to it: %v", kind, err)
			}
			if err == nil {
				conn.Close()
			}
		}
	}
	// What others say of a server is looked at too.
	k, err := other.Link(t.Context(), &fakeSink{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	for what, c := range map[string]wire.CreateSession{
		"a session as another's server":  {Nonce: wire.NewUUID(), Name: other.cfg.Name, Server: victim.Server(), Instance: other.cfg.Instance, TTL: 60_000},
		"a session under another's name": {Nonce: wire.NewUUID(), Name: "z", Server: other.Server(), Instance: other.cfg.Instance, TTL: 60_000},
	} {
		if r, err := k.Create(t.Context(), c); err == nil {
			t.Errorf("%s: %+v", what, r)
		}
	}
	confirm := confirmCall{cluster: cluster, server: victim.Server(), instance: other.cfg.Instance, name: other.cfg.Name}
	if _, err := other.call(t.Context(), leader.Server(), callConfirm, confirm.encode()); err == nil {
		t.Error("a confirmation as another's server is taken")
	}
	if err := l.prove(t.Context()); err != nil {
		t.Error(err)
	}
	if after := fmt.Sprint(leader.group.Load().fsm.View().Counters(), leader.names()); after != before || leader.Term() != term {
		t.Errorf("the state has changed, or the term (%d, was %d):\n%s\n%s", leader.Term(), term, before, after)
	}
}

// A process that is started under another name on a copy of a server's directory gets no part in the cluster, be the server itself there or not.
func TestCopyUnderAnotherName(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	durable := func(i int, c *Config) {
		c.NamesProven, c.Dir = true, dirs[i]
	}
	f := startFleetWith(t, 3, durable)
	for _, n := range f {
		awaitNames(t, n, f)
	}
	leader, l := f.leader(t)
	victim := f.others(leader)[0]
	other := f.others(leader).others(victim)[0]
	if err := victim.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(dirs[slices.Index(f, victim)])); err != nil {
		t.Fatal(err)
	}
	as := func(name, dir string, failed func(error)) *Node {
		c := memberConfig(t, name, fleet{leader, other}.addrs)
		c.NamesProven, c.Dir, c.Expect, c.Voters = true, dir, 3, 3
		var err error
		if c.Identity, _, err = raftlog.LoadIdentity(dir); err != nil {
			t.Fatal(err)
		}
		if failed != nil {
			c.Failed = failed
		}
		return startMember(t, c)
	}
	seat := raft.ServerID(victim.Server().String())
	await(t, leader, "the leader misses the server", func() bool { return l.silentFor(victim.Server(), time.Now()) > heardWithin })
	heard, _ := l.group.transport.contactWith(seat, l.term)
	index := l.group.fsm.View().Index()
	failed := make(chan error, 1)
	copied := as("impostor", dir, func(err error) { failed <- err })
	await(t, leader, "gossip has told of it, or it has stopped", func() bool {
		if len(failed) > 0 {
			return true
		}
		for _, m := range leader.gossip.Members() {
			if m.Name == "impostor" && m.Server == victim.Server() {
				return true
			}
		}
		return false
	})
	if addr, _ := leader.addrOf(victim.Server()); addr == copied.cfg.Addr {
		t.Error("the leader takes its address for the server's")
	}
	for _, m := range leader.members() {
		if m.Name == "impostor" {
			t.Error("what gossip says of it counts")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // many rounds of elections
	defer cancel()
	if k, err := copied.Link(ctx, &fakeSink{}); err == nil {
		k.Close()
		t.Error("it finds a way to the leader")
	}
	if now, _ := l.group.transport.contactWith(seat, l.term); !now.Equal(heard) {
		t.Error("the leader has heard of the server")
	}
	select {
	case <-l.done:
		t.Error("the leader has lost its term")
	default:
	}
	if g := copied.group.Load(); g != nil && g.fsm.View().Index() > index {
		t.Error("it has applied what came later")
	}
	if names := leader.names(); names[victim.Server()] != victim.cfg.Name {
		t.Errorf("bound are %v", names)
	}
	if err := copied.Close(); err != nil {
		t.Fatal(err)
	}
	back := as(victim.cfg.Name, filepath.Clean(dirs[slices.Index(f, victim)]), nil)
	await(t, leader, "the server is back in its seat", func() bool {
		return l.silentFor(back.Server(), time.Now()) < heardWithin && l.hasLog(back.Server())
	})
}
