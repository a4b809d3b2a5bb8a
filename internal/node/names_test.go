package node

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/internal/roster"
	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// names are what is bound in n's state, by server; nil while n has none.
func (n *Node) names() map[wire.UUID]string {
	fsm := n.fsm.Load()
	if fsm == nil {
		return nil
	}
	out := make(map[wire.UUID]string)
	for _, b := range fsm.Bindings().All() {
		out[b.Server] = b.Name
	}
	return out
}

// awaitNames waits until exactly those of f are bound in n's state.
func awaitNames(t *testing.T, n *Node, f fleet) {
	t.Helper()
	want := make(map[wire.UUID]string)
	for _, m := range f {
		want[m.Server()] = m.cfg.Name
	}
	await(t, n, "bound in the state of "+n.cfg.Name+" are "+fmt.Sprint(want), func() bool { return fmt.Sprint(n.names()) == fmt.Sprint(want) })
}

func proven(_ int, c *Config) { c.NamesProven = true }

// knowing is a node without sockets whose state binds server to name.
func knowing(server wire.UUID, name string) *Node {
	n := &Node{cfg: Config{Group: "g", NamesProven: true}, ident: raftlog.Identity{Server: wire.UUID{1}, Cluster: wire.UUID{11}}, raftCluster: wire.UUID{11}, open: true}
	n.fsm.Store(binding(server, name))
	return n
}

func binding(server wire.UUID, name string) *raftfsm.FSM {
	fsm := raftfsm.New()
	e := raftfsm.Entry{Version: raftfsm.Version, Term: 1, Commands: []raftfsm.Command{raftfsm.Bind{Server: server, Name: name}}}
	fsm.Apply(&raft.Log{Type: raft.LogCommand, Index: 1, Term: 1, Data: e.Encode()})
	return fsm
}

// A server is let in under the name that it is bound to only; who is bound to nothing here is let in, and all are where names are not proven.
func TestAdmitKnowsServersByName(t *testing.T) {
	web1, unknown := wire.UUID{2}, wire.UUID{3}
	n := knowing(web1, "web-1")
	unproven := knowing(web1, "web-1")
	unproven.cfg.NamesProven = false
	empty := knowing(web1, "web-1")
	empty.fsm.Store(nil)
	for _, c := range []struct {
		what   string
		n      *Node
		kind   wire.Kind
		server wire.UUID
		name   string
		want   wire.Refusal
	}{
		{"raft under its name", n, wire.KindRaft, web1, "web-1", 0},
		{"raft under another", n, wire.KindRaft, web1, "web-2", wire.RefusedIdentity},
		{"raft of who is not known", n, wire.KindRaft, unknown, "web-1", 0},
		{"a call under its name", n, wire.KindCall, web1, "web-1", 0},
		{"a call under another", n, wire.KindCall, web1, "web-2", wire.RefusedIdentity},
		{"a call of who is not known", n, wire.KindCall, unknown, "web-1", 0},
		{"gossip", n, wire.KindGossip, web1, "web-2", 0},
		{"names are not proven", unproven, wire.KindRaft, web1, "web-2", 0},
		{"no Raft here yet", empty, wire.KindRaft, web1, "web-2", 0},
	} {
		got := c.n.admit(wire.Hello{
			Version: wire.ProtocolVersion, Group: "g", Kind: c.kind, Cluster: wire.UUID{11}, Server: c.server, Name: c.name, Target: wire.UUID{1},
		})
		if got.Refusal != c.want || (got.Refusal != 0) != strings.Contains(got.Text, "web-1") {
			t.Errorf("%s: refusal %d (%s), want %d", c.what, got.Refusal, got.Text, c.want)
		}
	}
}

// What a stream was let in for may change: nothing more is heard from a stranger, or said to it.
func TestStreamOfAStranger(t *testing.T) {
	var stranger atomic.Pointer[strangerError]
	judge := func(wire.UUID, string) error {
		if e := stranger.Load(); e != nil {
			return e
		}
		return nil
	}
	s := &streamLayer{judge: judge}
	open := func() (conn, far net.Conn) {
		near, far := net.Pipe()
		t.Cleanup(func() { near.Close(); far.Close() })
		limit := time.Now().Add(10 * time.Second)
		if err := errors.Join(near.SetDeadline(limit), far.SetDeadline(limit)); err != nil {
			t.Fatal(err)
		}
		return s.known(near, wire.UUID{2}, "web-1"), far
	}
	buf := make([]byte, 8)
	reads, readFar := open()
	writes, writeFar := open()
	for range 2 { // welcome so far
		go func() { _, _ = readFar.Write([]byte("hello")) }() // ends with the pipe
		if got, err := reads.Read(buf); err != nil || string(buf[:got]) != "hello" {
			t.Fatal(got, err)
		}
		go func() { _, _ = writes.Write([]byte("hello")) }() // ends with the pipe
		if got, err := writeFar.Read(buf); err != nil || string(buf[:got]) != "hello" {
			t.Fatal(got, err)
		}
	}
	go func() { // ends with the pipe; Read waits already
		stranger.Store(&strangerError{name: "web-1", bound: "web-2"})
		_, _ = readFar.Write([]byte("hello"))
	}()
	var got *strangerError
	if n, err := reads.Read(buf); n != 0 || !errors.As(err, &got) {
		t.Errorf("of a stranger %d bytes are read, %v", n, err)
	}
	if n, err := writes.Write([]byte("hello")); n != 0 || !errors.As(err, &got) {
		t.Errorf("to a stranger %d bytes are written, %v", n, err)
	}
	for what, far := range map[string]net.Conn{"that was read": readFar, "that was written to": writeFar} {
		if n, err := far.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("the other side of the stream %s reads %d bytes, %v", what, n, err)
		}
	}
}

// Calls and messages on a connection that was let in before its server was bound are no better.
func TestCallsOfAStranger(t *testing.T) {
	p := &peerConn{node: knowing(wire.UUID{2}, "web-1"), hello: wire.Hello{Server: wire.UUID{2}, Name: "web-2"}}
	for _, kind := range []uint8{callLead, callCreate, callCloseSession, callConfirm, callResign, callDepart, callStanding, callEnlist, callFounding, callWatch, callVia, callWho} {
		var got *strangerError
		if _, err := p.Call(t.Context(), nil, kind, nil); !errors.As(err, &got) {
			t.Errorf("call %d: %v", kind, err)
		}
	}
	near, far := net.Pipe()
	c := rpc.New(near, noHandler{}, rpc.Options{})
	defer c.Close()
	defer far.Close()
	p.lead = &lead{} // which panics when it is asked for anything
	p.Message(c, msgRenew, []byte{1, 1})
	select {
	case <-c.Done():
	case <-time.After(time.Minute):
		t.Error("the connection goes on")
	}
}

// Who speaks for a server says its name; through another member it is that one's stream.
func TestMisnamed(t *testing.T) {
	web1, web2 := wire.UUID{2}, wire.UUID{3}
	n := knowing(web1, "web-1")
	for _, c := range []struct {
		what   string
		from   wire.Hello
		server wire.UUID
		name   string
		fine   bool
	}{
		{"itself", wire.Hello{Server: web1, Name: "web-1"}, web1, "web-1", true},
		{"itself, not bound yet", wire.Hello{Server: web2, Name: "web-2"}, web2, "web-2", true},
		{"itself under another name", wire.Hello{Server: web2, Name: "web-2"}, web2, "web-3", false},
		{"another, passed on", wire.Hello{Server: web2, Name: "web-2"}, web1, "web-1", true},
		{"another under a third name", wire.Hello{Server: web2, Name: "web-2"}, web1, "web-3", false},
	} {
		if err := n.misnamed(c.from, c.server, c.name); (err == nil) != c.fine {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	n.cfg.NamesProven = false
	if err := n.misnamed(wire.Hello{Server: web2, Name: "web-2"}, web2, "web-3"); err != nil {
		t.Errorf("where names are not proven: %v", err)
	}
}

// A leader binds no server to two names.
func TestBindOnce(t *testing.T) {
	_, l := newFakeCluster(t)
	n := &Node{cfg: Config{NamesProven: true}}
	if err := errors.Join(n.bind(t.Context(), l, wire.UUID{2}, "web-1"), n.bind(t.Context(), l, wire.UUID{2}, "web-1")); err != nil {
		t.Fatal(err)
	}
	if err := n.bind(t.Context(), l, wire.UUID{2}, "web-2"); err == nil || !strings.Contains(err.Error(), "web-1") || !strings.Contains(err.Error(), "web-2") {
		t.Errorf("bound to another name: %v", err)
	}
}

// Founders are bound as soon as they can be, each to the name that it answers with, and all know it.
func TestFoundersAreBound(t *testing.T) {
	f := startFleetWith(t, 3, proven)
	for _, n := range f {
		awaitNames(t, n, f)
	}
}

// Where names are not proven nobody is.
func TestNobodyIsBoundWithoutProof(t *testing.T) {
	f := startFleet(t, 2, Hooks{}, Hooks{})
	leader, l := f.leader(t)
	await(t, leader, "the log's format allows it", func() bool { return l.format() >= formatOfNames })
	if err := leader.tendNames(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if names := leader.names(); len(names) > 0 {
		t.Errorf("bound are %v", names)
	}
}

// history is what n's log says of server, in order.
func history(t *testing.T, n *Node, server wire.UUID) (out []string) {
	t.Helper()
	g := n.group.Load()
	var e raft.Log
	var seat string
	for i := uint64(1); i <= g.raft.LastIndex(); i++ {
		if err := g.store.GetLog(i, &e); err != nil {
			t.Fatal(err)
		}
		if e.Type == raft.LogConfiguration {
			now := "no seat"
			for _, s := range raft.DecodeConfiguration(e.Data).Servers {
				if string(s.ID) == server.String() {
					now = s.Suffrage.String()
				}
			}
			if now != seat {
				out = append(out, now)
			}
			seat = now
		}
		if e.Type != raft.LogCommand {
			continue
		}
		entry, err := raftfsm.DecodeEntry(e.Data)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range entry.Commands {
			switch c := c.(type) {
			case raftfsm.Bind:
				if c.Server == server {
					out = append(out, "bound to "+c.Name)
				}
			case raftfsm.Unbind:
				if c.Server == server {
					out = append(out, "unbound")
				}
			}
		}
	}
	return out
}

// A newcomer is bound before it is in the configuration, and no more once it has left that.
func TestNewcomerIsBoundBeforeItHasASeat(t *testing.T) {
	f := startFleetWith(t, 2, func(i int, c *Config) {
		c.NamesProven, c.Voters = true, 3
	})
	leader, _ := f.leader(t)
	awaitNames(t, leader, f)
	c := memberConfig(t, "newcomer", f.addrs)
	c.NamesProven, c.Voters = true, 3
	late := startMember(t, c)
	all := append(slices.Clone(f), late)
	await(t, leader, "the newcomer votes", func() bool { voters, _ := leader.voterSet(); return voters[late.Server()] })
	for _, n := range all {
		awaitNames(t, n, all)
	}
	server := late.Server()
	if err := late.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := late.Close(); err != nil {
		t.Fatal(err)
	}
	awaitNames(t, leader, f)
	want := []string{"no seat", "bound to newcomer", "Nonvoter", "Voter", "no seat", "unbound"}
	if got := history(t, leader, server); !slices.Equal(got, want) {
		t.Errorf("the log says %q, want %q", got, want)
	}
}

// What is bound survives a snapshot and a restart, and nothing is bound anew.
func TestNamesSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	start := func(name string, failed func(error)) *Node {
		c := memberConfig(t, name, func() []string { return nil })
		c.NamesProven, c.Dir, c.Alone, c.Failed = true, dir, true, failed
		var err error
		if c.Identity, _, err = raftlog.LoadIdentity(dir); err != nil {
			t.Fatal(err)
		}
		c.Identity.Group = "g"
		return startMember(t, c)
	}
	fine := func(err error) { t.Errorf("failed: %v", err) }
	n := start("web-1", fine)
	awaitLead(t, n)
	awaitNames(t, n, fleet{n})
	if err := n.group.Load().raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	last := n.group.Load().raft.LastIndex()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}

	n = start("web-1", fine)
	awaitLead(t, n)
	awaitNames(t, n, fleet{n})
	if err := errors.Join(n.tendNames(t.Context(), n.lead.Load()), n.lead.Load().prove(t.Context())); err != nil {
		t.Fatal(err)
	}
	var e raft.Log
	g := n.group.Load()
	for i := last + 1; i <= g.raft.LastIndex(); i++ {
		if err := g.store.GetLog(i, &e); err != nil || e.Type != raft.LogCommand {
			continue
		}
		if entry, err := raftfsm.DecodeEntry(e.Data); err != nil || len(entry.Commands) > 0 {
			t.Errorf("entry %d: %+v, %v", i, entry.Commands, err)
		}
	}
	server := n.Server()
	if id, _, err := raftlog.LoadIdentity(dir); err != nil || id.Name != "web-1" || id.Server != server {
		t.Errorf("the directory says %q, %v", id.Name, err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}

	// Under another name it is nobody that the others would speak with. A Cluster finds that by what is stored; here the state does.
	failed := make(chan error, 1)
	n = start("web-2", func(err error) { failed <- err })
	select {
	case err := <-failed:
		if !strings.Contains(err.Error(), "web-1") || !strings.Contains(err.Error(), "web-2") {
			t.Errorf("it stops for %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("it goes on under another name")
	}
	if names := n.names(); names[server] != "web-1" {
		t.Errorf("bound are %v", names)
	}
}

// Nobody is given a vote before it is bound: the planner waits for that as it does for the log.
func TestNobodyVotesUnbound(t *testing.T) {
	f := startFleetWith(t, 2, func(i int, c *Config) {
		c.NamesProven, c.Voters = true, 1
	})
	leader, l := f.leader(t)
	standby := f.others(leader)[0].Server()
	caughtUp := func() bool {
		conf, index, err := l.group.configuration()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range leader.rosterView(l, conf, index).Members {
			if m.Server == standby {
				return m.CaughtUp
			}
		}
		return false
	}
	await(t, leader, "the standby is ready", func() bool { seats, _ := leader.seats(); return seats[standby] == roster.Nonvoter && caughtUp() })
	await(t, leader, "it is seen unbound", func() bool { // the steward binds it again soon
		if _, err := l.propose(t.Context(), raftfsm.Unbind{Server: standby, Term: l.term}); err != nil {
			t.Fatal(err)
		}
		was := leader.names()[standby]
		ready := caughtUp()
		if was != "" || leader.names()[standby] != "" {
			return false
		}
		if ready {
			t.Error("a vote for who is bound to nothing")
		}
		return true
	})
	awaitNames(t, leader, f)
	await(t, leader, "the standby is ready again", caughtUp)
}

// While a process can't read it nothing is bound; once that one has left, all are.
func TestNobodyIsBoundBesideAnOldProcess(t *testing.T) {
	f := startFleetWith(t, 3, func(i int, c *Config) {
		c.NamesProven, c.Voters = true, 2
		if i == 2 {
			c.Hooks.Format = formatOfNames - 1
		}
	})
	old := f[2]
	leader, l := f.leader(t)
	if leader == old {
		t.Fatal("the founder is the first by name")
	}
	await(t, leader, "the log has the format of the old one", func() bool { return l.format() == formatOfNames-1 })
	await(t, leader, "another has a seat", func() bool { seats, _ := leader.seats(); return len(seats) > 1 })
	if err := leader.tendNames(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if names := leader.names(); len(names) > 0 {
		t.Errorf("bound are %v", names)
	}
	if err := old.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	for _, n := range f[:2] {
		awaitNames(t, n, f[:2])
	}
}
