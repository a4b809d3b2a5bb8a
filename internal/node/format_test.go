package node

import (
	"context"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

func request(seq uint64, a wire.Ask) wire.Op { return wire.Op{Kind: wire.OpRequest, Seq: seq, Ask: &a} }

// Who has a seat must have said that it reads the format; so must all who are here and may get one.
func TestFormatOfAll(t *testing.T) {
	a, b, c := wire.UUID{1}, wire.UUID{2}, wire.UUID{3}
	ours, theirs := wire.UUID{11}, wire.UUID{12}
	m := func(server wire.UUID, name string, format uint64, state gossip.State) gossip.Member {
		return gossip.Member{Meta: gossip.Meta{Server: server, Name: name, Format: format, Cluster: ours, Open: true}, State: state}
	}
	of := func(cluster wire.UUID, open bool, x gossip.Member) gossip.Member {
		x.Cluster, x.Open = cluster, open
		return x
	}
	since := func(at int64, x gossip.Member) gossip.Member {
		x.Since = time.Unix(at, 0)
		return x
	}
	seats := []wire.UUID{a, b}
	for _, k := range []struct {
		name    string
		members []gossip.Member
		want    uint64
		blames  string
	}{
		{"all are new", []gossip.Member{m(a, "a", 2, gossip.Alive), m(b, "b", 2, gossip.Alive), m(c, "c", 2, gossip.Alive)}, 2, ""},
		{"one is of the future", []gossip.Member{m(a, "a", 2, gossip.Alive), m(b, "b", 3, gossip.Alive)}, 2, ""},
		{"one that is away said it before", []gossip.Member{m(a, "a", 2, gossip.Alive), m(b, "b", 2, gossip.Failed)}, 2, ""},
		{"one that left may come back as another version", []gossip.Member{m(a, "a", 2, gossip.Alive), m(b, "b", 2, gossip.Left)}, 1, b.String()},
		{"one that nobody knows", []gossip.Member{m(a, "a", 2, gossip.Alive)}, 1, b.String()},
		{"an old voter", []gossip.Member{m(a, "a", 2, gossip.Alive), m(b, "b", 0, gossip.Alive)}, 1, `"b"`},
		{"an old voter that is away", []gossip.Member{m(a, "a", 2, gossip.Alive), m(b, "b", 0, gossip.Failed)}, 1, `"b"`},
		{"an old client", []gossip.Member{m(a, "a", 2, gossip.Alive), m(b, "b", 2, gossip.Alive), m(c, "c", 1, gossip.Alive)}, 1, `"c"`},
		{"an old client that is suspect", []gossip.Member{m(a, "a", 2, gossip.Alive), m(b, "b", 2, gossip.Alive), m(c, "c", 0, gossip.Suspect)}, 1, `"c"`},
		{"an old client that is gone", []gossip.Member{m(a, "a", 2, gossip.Alive), m(b, "b", 2, gossip.Alive), m(c, "c", 0, gossip.Failed)}, 2, ""},
		{"an old one that knows no cluster yet", []gossip.Member{m(a, "a", 2, gossip.Alive), m(b, "b", 2, gossip.Alive), of(wire.UUID{}, false, m(c, "c", 0, gossip.Alive))}, 1, `"c"`},
		{"an old one of a cluster that has not opened", []gossip.Member{m(a, "a", 2, gossip.Alive), m(b, "b", 2, gossip.Alive), of(theirs, false, m(c, "c", 0, gossip.Alive))}, 1, `"c"`},
		{"an old one of another open cluster", []gossip.Member{m(a, "a", 2, gossip.Alive), m(b, "b", 2, gossip.Alive), of(theirs, true, m(c, "c", 0, gossip.Alive))}, 2, ""},
		{"one that came back updated", []gossip.Member{m(a, "a", 2, gossip.Alive), m(b, "b", 2, gossip.Alive), m(b, "was b", 0, gossip.Failed)}, 2, ""},
		{"of two that are away the later counts", []gossip.Member{m(a, "a", 2, gossip.Alive), since(9, m(b, "b", 0, gossip.Failed)), since(5, m(b, "was b", 2, gossip.Failed))}, 1, `"b"`},
	} {
		for range 2 {
			got, tooOld := formatOfAll(2, ours, seats, k.members)
			if got != k.want || !strings.Contains(tooOld, k.blames) || (k.blames == "") != (tooOld == "") {
				t.Errorf("%s: format %d, %q; want %d, %s", k.name, got, tooOld, k.want, k.blames)
			}
			slices.Reverse(k.members)
		}
	}
	mixed := []gossip.Member{m(a, "a", 3, gossip.Alive), m(b, "b", 2, gossip.Alive), m(c, "c", 1, gossip.Alive)}
	for range 2 {
		if got, tooOld := formatOfAll(3, ours, seats, mixed); got != 1 || !strings.Contains(tooOld, `"c"`) {
			t.Errorf("of three versions: format %d, %q; want the oldest's", got, tooOld)
		}
		slices.Reverse(mixed)
	}
}

// oldCluster is newFakeCluster with a member that is too old.
func oldCluster(t *testing.T) (*fakeLog, *lead) {
	f, l := newFakeCluster(t)
	if v := l.group.fsm.View().Format(); v != wire.Format {
		t.Fatalf("a new cluster has format %d", v)
	}
	l.end()
	f.mu.Lock()
	f.fsm, f.oldest, f.index = raftfsm.New(), "web-2", 0
	f.mu.Unlock()
	g := &group{fsm: f.fsm}
	f.fsm.Observe(func(r *raftfsm.Result) { f.lead.observe(r) })
	f.lead = startLead(g, fakeTerm, f.propose, f.allowed, l.logger)
	f.commitAll(true)
	for _, c := range []raftfsm.Command{
		raftfsm.Found{Cluster: wire.UUID{1}, Expect: 1, Voters: 1}, raftfsm.Confirm{Cluster: wire.UUID{1}, Server: wire.UUID{2}, Name: "m", Clock: 1},
	} {
		if _, err := f.lead.propose(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.lead.begin(); err != nil {
		t.Fatal(err)
	}
	last := f.lead
	t.Cleanup(last.end)
	return f, f.lead
}

// A member that is too old keeps the log in format 1: what can be said in it is, the rest is refused with its name. Once it is updated, or gone,
// the very next request is served, and the log never goes back.
func TestAnOldMemberKeepsTheLogReadable(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, l := oldCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Minute, &sink)
		ops := []wire.Op{
			request(1, wire.Ask{Keys: []string{"plain"}, Owner: 7, Where: "main.go:9"}),
			request(2, wire.Ask{Keys: []string{"shared"}, Mode: wire.Shared}),
			request(3, wire.Ask{Keys: []string{"a", "b"}}),
			request(4, wire.Ask{Keys: []string{"ttl"}, TTL: 1000}),
			{Kind: wire.OpAdopt, Seq: 5, Ask: &wire.Ask{Handle: wire.NewHandle(wire.UUID{1}, wire.Origin{Session: 1, Seq: 1}, 1)}},
			{Kind: wire.OpDowngrade, Seq: 1},
			{Kind: wire.OpTime, Seq: 1, Ask: &wire.Ask{Time: 1, Nth: 1}},
			{Kind: wire.OpAcquire, Seq: 6, Key: "old"},
			{Kind: wire.OpRequest, Seq: 7, Try: true, Ask: &wire.Ask{Keys: []string{"old"}}},
		}
		sent := slices.Clone(ops)
		l.give(id, ops, &sink)
		synctest.Wait()
		_, outs := sink.got()
		for _, o := range outs {
			switch {
			case o.Kind == wire.OutGranted && (o.Seq == 1 || o.Seq == 6):
			case o.Kind == wire.OutEnded && o.Seq == 1:
			case o.Kind == wire.OutFailed && o.Seq == 7 && o.Code == wire.CodeHeld:
			case o.Kind == wire.OutFailed && o.Seq <= 5 && o.Code == wire.CodeUnsupported && strings.Contains(o.Text, `"web-2"`) && strings.Contains(o.Text, "update it"):
			default:
				t.Errorf("told %+v", o)
			}
		}
		if len(outs) != 9 {
			t.Errorf("%d outcomes of 9 operations", len(outs))
		}
		for i := range ops {
			if ops[i].Kind != sent[i].Kind {
				t.Error("what the session may send again has changed")
			}
		}
		l.give(id, []wire.Op{{Kind: wire.OpExpire, Seq: 1}}, &sink)
		synctest.Wait()
		if isHeld(l, "plain") {
			t.Error("a grant whose time is over, by its holder's word, is held")
		}
		if v := l.group.fsm.View().Format(); v != 1 || l.format() != 1 {
			t.Fatalf("format %d, %d", v, l.format())
		}

		f.mu.Lock()
		f.oldest = ""
		f.mu.Unlock()
		l.give(id, []wire.Op{request(8, wire.Ask{Keys: []string{"shared"}, Mode: wire.Shared})}, &sink)
		synctest.Wait()
		if !isHeld(l, "shared") || l.group.fsm.View().Format() != wire.Format {
			t.Error("refused though all are updated")
		}
		f.mu.Lock()
		f.oldest = "web-3"
		f.mu.Unlock()
		l.checkFormat()
		next := succeed(t, f, l)
		if next.format() != wire.Format {
			t.Errorf("the next lead writes format %d", next.format())
		}
	})
}

// A lead that comes to a log of format 2 in which it has not applied everything yet begins in what is allowed, and goes on in what the log has.
func TestALeadTakesTheFormatOfTheLog(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, l := newFakeCluster(t)
		f.mu.Lock()
		f.oldest = "web-2"
		f.mu.Unlock()
		l.endAsync()
		synctest.Wait()
		fresh := raftfsm.New()
		next := startLead(&group{fsm: fresh}, fakeTerm, f.propose, f.allowed, l.logger)
		if next.format() != 1 {
			t.Errorf("it begins in format %d", next.format())
		}
		next.end()
		next = startLead(l.group, fakeTerm, f.propose, f.allowed, l.logger)
		defer next.end()
		if next.format() != wire.Format {
			t.Errorf("over a log of format 2 it begins in %d", next.format())
		}
	})
}

// A process that is alone has every kind of lock from its first entry on.
func TestALoneProcessHasAllKinds(t *testing.T) {
	var mu sync.Mutex // guards formats
	formats := map[uint64]bool{}
	var n *Node
	ready := make(chan struct{})
	n, _ = loneNode(t, Hooks{Applied: func(*raftfsm.Result) {
		<-ready
		mu.Lock()
		defer mu.Unlock()
		formats[n.group.Load().fsm.View().Format()] = true
	}})
	close(ready)
	awaitLead(t, n)
	askForAllKinds(t, n)
	mu.Lock()
	defer mu.Unlock()
	if len(formats) != 1 || !formats[wire.Format] {
		t.Errorf("formats %v, from the first entry on", formats)
	}
}

// So has a new cluster of several, wherever the request comes from, and the moment that it has opened.
func TestANewClusterHasAllKinds(t *testing.T) {
	f := startFleet(t, 3, Hooks{}, Hooks{}, Hooks{})
	for _, n := range f {
		askForAllKinds(t, n)
	}
}

func askForAllKinds(t *testing.T, n *Node) {
	t.Helper()
	var sink fakeSink
	key := func(s string) []string { return []string{n.cfg.Name + s} }
	ask := n.link(t, &sink)
	ask(
		request(1, wire.Ask{Keys: key("s"), Mode: wire.Shared}),
		request(2, wire.Ask{Keys: key("u"), Mode: wire.Units, Limit: 3, Weight: 2}),
		request(3, wire.Ask{Keys: append(key("a"), n.cfg.Name+"b")}),
		request(4, wire.Ask{Keys: key("d"), Detached: 60_000}),
		wire.Op{Kind: wire.OpTime, Seq: 4, Ask: &wire.Ask{Time: 60_000, Nth: 1}},
	)
	await(t, n, "all are answered", func() bool {
		_, outs := sink.got()
		return len(outs) >= 5
	})
	_, outs := sink.got()
	for _, o := range outs {
		if o.Kind != wire.OutGranted && o.Kind != wire.OutNoted {
			t.Errorf("%s is told %+v", n.cfg.Name, o)
		}
	}
}

// One process of three that is old keeps the others from more; once it has left they have all.
func TestAnOldProcessOfThree(t *testing.T) {
	f := startFleet(t, 1, Hooks{}, Hooks{}, Hooks{Format: 1}) // it has no seat, but may get one
	old := f[2]
	leader, l := f.leader(t)
	var sink fakeSink
	ask := f.others(old).others(leader)[0].link(t, &sink)
	seq := uint64(0)
	tell := func() wire.Outcome {
		seq++
		ask(request(seq, wire.Ask{Keys: []string{"k"}, Mode: wire.Shared}))
		await(t, leader, "it is answered", func() bool { _, outs := sink.got(); return len(outs) >= int(seq) })
		_, outs := sink.got()
		return outs[seq-1]
	}
	if o := tell(); o.Code != wire.CodeUnsupported || !strings.Contains(o.Text, `"c"`) {
		t.Errorf("told %+v", o)
	}
	if l.group.fsm.View().Format() != 1 {
		t.Error("written in a format that one can't read")
	}
	if err := old.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, leader, "all kinds are served", func() bool { return tell().Kind == wire.OutGranted })
}

// A leader that is too old would take operations that it doesn't know for nonsense, and end the connection: it is sent none.
func TestAnOldLeaderIsSentWhatItKnows(t *testing.T) {
	here, there := net.Pipe()
	old := &recorder{got: make(chan []wire.Op, 1)}
	var sink fakeSink
	k := &remoteLink{name: "web-1", sink: &sink, done: make(chan struct{})}
	k.conn = rpc.New(here, k, rpc.Options{})
	k.pacer = newPacer(askToPace(k.conn))
	defer k.Close()
	defer rpc.New(there, old, rpc.Options{}).Close()
	err := k.Submit(1, []wire.Op{
		request(1, wire.Ask{Keys: []string{"plain"}, Owner: 7}),
		request(2, wire.Ask{Keys: []string{"shared"}, Mode: wire.Shared}),
		{Kind: wire.OpDowngrade, Seq: 1},
		{Kind: wire.OpFinish, Seq: 9},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []wire.Op{{Kind: wire.OpAcquire, Seq: 1, Key: "plain"}, {Kind: wire.OpFinish, Seq: 9}}
	if got := <-old.got; !reflect.DeepEqual(got, want) {
		t.Errorf("sent %+v", got)
	}
	_, outs := sink.got()
	for _, o := range outs {
		if o.Kind != wire.OutFailed || o.Code != wire.CodeUnsupported || !strings.Contains(o.Text, `"web-1"`) {
			t.Errorf("told %+v", o)
		}
	}
	if len(outs) != 2 {
		t.Errorf("%d refusals", len(outs))
	}
}

// recorder hears the operations that come over a connection.
type recorder struct{ got chan []wire.Op }

func (*recorder) Call(context.Context, *rpc.Conn, uint8, []byte) ([]byte, error) { return nil, nil }
func (*recorder) Closed(*rpc.Conn)                                               {}

func (h *recorder) Message(_ *rpc.Conn, kind uint8, body []byte) {
	r := wire.NewReader(body)
	if r.Uint(); kind == msgOps {
		h.got <- wire.DecodeOps(r)
	}
}

// Who says which format it reads is told the leader's; who says nothing gets the answer that old processes read.
func TestFormatOfTheLeaderIsTold(t *testing.T) {
	f := startFleet(t, 1, Hooks{}, Hooks{})
	leader, _ := f.leader(t)
	n := f.others(leader)[0]
	var sink fakeSink
	k, err := n.Link(t.Context(), &sink)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if got := k.(*remoteLink).format; got != wire.Format {
		t.Errorf("format %d", got)
	}
	body, err := n.call(t.Context(), leader.serverID(), callLead, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := wire.NewReader(body).Array(16); n != 8 {
		t.Errorf("an old process is answered by %d fields", n)
	}
}
