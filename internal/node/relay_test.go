package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/testport"
	"github.com/godistlock/distlock/internal/wire"
)

// walls are what keeps the processes of a fleet from dialing each other.
type walls struct {
	mu    sync.Mutex                             // guards stand
	stand map[string]func(context.Context) error // by address, before whom
	of    int                                    // whose they are
}

func (w *walls) dialer(i int) dialer {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		w.mu.Lock()
		stop := w.stand[addr]
		if i != w.of {
			stop = nil
		}
		w.mu.Unlock()
		if stop != nil {
			return nil, stop(ctx)
		}
		return mux.System().Dial(ctx, addr)
	}
}

func silent(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func refusing(context.Context) error { return syscall.ECONNREFUSED }

// build puts walls before node number of, which keep it from those in before.
func (w *walls) build(of int, how func(context.Context) error, before ...*Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.of, w.stand = of, map[string]func(context.Context) error{}
	for _, n := range before {
		w.stand[n.cfg.Addr] = how
	}
}

// walled is a fleet of three voters and a client, and the walls between them.
func walled(t *testing.T) (w *walls, f fleet, leader, n *Node) {
	t.Helper()
	w = &walls{}
	f = startFleetOn(t, w.dialer, 3, 3, Hooks{}, Hooks{}, Hooks{}, Hooks{})
	leader, _ = f.leader(t)
	await(t, leader, "three voters", func() bool { voters, _ := leader.voterSet(); return len(voters) == 3 })
	n = slices.DeleteFunc(slices.Clone(f), func(n *Node) bool { return n.RunsRaft() })[0]
	for _, x := range f {
		await(t, x, "everybody is known, and who votes", func() bool {
			voters := 0
			for _, m := range x.gossip.Members() {
				if m.Voter {
					voters++
				}
			}
			return voters == 3 && len(x.Members()) == 4
		})
	}
	return w, f, leader, n
}

func (f fleet) relayed() (sum int) {
	for _, n := range f {
		sum += n.Relayed()
	}
	return sum
}

// isLeaving says that gossip tells so of a server.
func (n *Node) isLeaving(server wire.UUID) bool {
	return slices.ContainsFunc(n.gossip.Members(), func(m gossip.Member) bool { return m.Server == server && m.Leaving })
}

func remoteCode(err error) int {
	var remote *rpc.RemoteError
	if !errors.As(err, &remote) {
		return -1
	}
	return int(remote.Code)
}

// A session, a query and its errors by way of another member; and the end of the one is the end of the other.
func TestReachThroughAnother(t *testing.T) {
	w, f, leader, n := walled(t)
	for name, how := range map[string]func(context.Context) error{"silent": silent, "refusing": refusing} {
		w.build(slices.Index(f, n), how, leader)
		var sink fakeSink
		k, err := n.Link(t.Context(), &sink)
		if err != nil {
			t.Fatal(err)
		}
		via := k.(*remoteLink).via
		if via.IsZero() || via == leader.Server() || f.relayed() != 1 {
			t.Errorf("%s: through %s; %d connections are passed on", name, via, f.relayed())
		}
		r, err := k.Create(t.Context(), wire.CreateSession{Nonce: wire.NewUUID(), Name: n.cfg.Name, Server: n.serverID(), Instance: n.cfg.Instance, TTL: 60_000})
		if err != nil || r.Code != wire.CodeOK {
			t.Fatalf("%s: create: %+v, %v", name, r, err)
		}
		if err := errors.Join(k.Attach(r.Session), k.Submit(r.Session, []wire.Op{{Kind: wire.OpAcquire, Seq: 1, Key: "k"}})); err != nil {
			t.Fatal(err)
		}
		await(t, n, "the outcome is pushed", func() bool { _, outs := sink.got(); return len(outs) == 1 })
		if err := k.CloseSession(t.Context(), r.Session); err != nil {
			t.Error(err)
		}
		if a, err := n.Query(t.Context(), Query{Kind: QueryStats}); err != nil || a.Stats.LastFence == 0 {
			t.Errorf("%s: stats: %+v, %v", name, a, err)
		}
		if _, err := n.Query(t.Context(), Query{Kind: QueryLocks, Page: 99}); !errors.Is(err, ErrPageGone) {
			t.Errorf("%s: a page that is gone: %v", name, err)
		}
		k.Close()
		await(t, n, "nothing is passed on any more", func() bool { return f.relayed() == 0 })
	}
	w.build(slices.Index(f, n), silent)
	await(t, n, "the direct way is the first again", func() bool { // mostly at once, but for a machine that is very slow
		k, err := n.Link(t.Context(), &fakeSink{})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		return k.(*remoteLink).via.IsZero()
	})
}

// A member that leaves passes nothing on, and ends what it does; then another one is found.
func TestRelayThatLeaves(t *testing.T) {
	w, f, leader, n := walled(t)
	w.build(slices.Index(f, n), silent, leader)
	k, err := n.Link(t.Context(), &fakeSink{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	via := k.(*remoteLink).via
	leaves := slices.IndexFunc(f, func(n *Node) bool { return n.Server() == via })
	resigned := make(chan error, 1)
	go func() { resigned <- f[leaves].Resign(t.Context()) }()
	select {
	case <-k.Done():
	case <-time.After(time.Minute):
		t.Fatal("the link lives on")
	}
	if n.dialVia(t.Context(), via, leader.Server()).err == nil {
		t.Error("a member that leaves still passes things on")
	}
	await(t, n, "it is known to leave", func() bool { return n.isLeaving(via) })
	if ways, _ := n.detoursTo(leader.Server()); slices.Contains(ways, via) {
		t.Error("a member that leaves is asked")
	}
	next, err := n.Link(t.Context(), &fakeSink{})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if got := next.(*remoteLink).via; got == via || got.IsZero() {
		t.Errorf("through %s after %s", got, via)
	}
	if err := <-resigned; err != nil {
		t.Error(err)
	}
}

// What a member answers to who asks for a way.
func TestRelayAnswers(t *testing.T) {
	_, f, leader, n := walled(t)
	member := f.others(leader).others(n)[0]
	ask := func(from, at *Node, body []byte) (*rpc.Conn, error) {
		t.Helper()
		first := from.dialServer(t.Context(), at.Server())
		if first.err != nil {
			t.Fatal(first.err)
		}
		c := rpc.New(first.stream, nil, rpc.Options{})
		t.Cleanup(func() { c.Close() })
		_, err := c.Call(t.Context(), callVia, body)
		return c, err
	}
	// who is wanted is there
	c, err := ask(n, leader, encodeUUID(leader.Server()))
	if err != nil {
		t.Fatal(err)
	}
	if body, err := c.Call(t.Context(), callLead, nil); err != nil {
		t.Error(err)
	} else if r, err := decodeLeadReply(body); err != nil || !r.leads {
		t.Errorf("%+v, %v", r, err)
	}
	// a connection that is in use
	if _, err := c.Call(t.Context(), callVia, encodeUUID(member.Server())); remoteCode(err) != 0 {
		t.Errorf("a connection that has a lead: %v", err)
	}
	if _, err := ask(n, member, []byte{1}); remoteCode(err) != 0 {
		t.Errorf("nonsense: %v", err)
	}
	if _, err := ask(n, member, encodeUUID(wire.NewUUID())); remoteCode(err) != 0 {
		t.Errorf("a server that nobody knows: %v", err)
	}
	nobody := wire.NewUUID()
	closed := testport.Node.Pick(t, 1)[0]
	member.remember(nobody, closed)
	if _, err := ask(n, member, encodeUUID(nobody)); remoteCode(err) != int(codeGone) {
		t.Errorf("a server that is gone: %v", err)
	}
	member.remember(nobody, leader.cfg.Addr)
	if _, err := ask(n, member, encodeUUID(nobody)); remoteCode(err) != int(codeGone) {
		t.Errorf("a server whose address another has: %v", err)
	}
	if f.relayed() != 0 {
		t.Errorf("%d count as passed on", f.relayed())
	}
	// the bound
	for range maxRelayed {
		if !member.takeRelay() {
			t.Fatal("refused before the bound")
		}
	}
	if _, err := ask(n, member, encodeUUID(leader.Server())); remoteCode(err) != int(codeLimit) {
		t.Errorf("beyond the bound: %v", err)
	}
	for range maxRelayed {
		member.giveRelay()
	}
	// who is of no cluster, or of another
	n.mu.Lock()
	ours := n.ident.Cluster
	n.ident.Cluster = wire.UUID{}
	n.mu.Unlock()
	if _, err := ask(n, member, encodeUUID(leader.Server())); remoteCode(err) != 0 {
		t.Errorf("of no cluster: %v", err)
	}
	n.mu.Lock()
	n.ident.Cluster = ours
	n.mu.Unlock()
	if _, err := ask(n, member, encodeUUID(leader.Server())); err != nil || member.Relayed() != 1 {
		t.Errorf("%v; %d are passed on", err, member.Relayed())
	}
	// its end is that of what it passes on
	if err := member.Close(); err != nil {
		t.Error(err)
	}
	if member.Relayed() != 0 {
		t.Error("passed on by a process that is closed")
	}
}

// Where a server's machine says that nobody is there, and another member hears the same, nothing more is tried: a leader that has died holds up
// nobody who looks for the next one.
func TestReachOfOneThatIsGone(t *testing.T) {
	w, f, leader, n := walled(t)
	var asked atomic.Int32
	w.build(slices.Index(f, n), func(context.Context) error { asked.Add(1); return syscall.EHOSTUNREACH }, f.others(leader).others(n)...)
	nobody := wire.NewUUID()
	closed := testport.Node.Pick(t, 1)[0]
	for _, o := range []*Node{n, leader} {
		o.remember(nobody, closed)
	}
	n.mu.Lock()
	n.detours[nobody] = detour{via: leader.Server(), at: time.Now()}
	n.mu.Unlock()
	began := time.Now()
	c, _, err := n.reach(t.Context(), nobody, noHandler{}, detourAfter, nil, new(atomic.Bool))
	if !provesGone(err) || c != nil {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); asked.Load() > 0 && took < detourAfter { // on a machine that is slower than that, others are asked beside
		t.Errorf("%d more were asked", asked.Load())
	} else if took > 20*detourAfter {
		t.Errorf("given up after %s", took)
	}
}

// Another member is asked where it may know better, and not where the server itself has said no.
func TestDetourHelps(t *testing.T) {
	refused := func(why wire.Refusal) error {
		return fmt.Errorf("dial: %w", &mux.RefusedError{Welcome: wire.Welcome{Refusal: why}})
	}
	for err, want := range map[error]bool{
		refused(wire.RefusedTarget): true, refused(wire.RefusedCluster): false, refused(wire.RefusedBusy): false, refused(wire.RefusedVersion): false,
		syscall.ECONNREFUSED: true, syscall.EHOSTUNREACH: true, context.DeadlineExceeded: true, errNoAddress: true, net.ErrClosed: false,
		fmt.Errorf("handshake: %w", io.EOF): false, syscall.ECONNRESET: false,
	} {
		if detourHelps(err) != want {
			t.Errorf("%v: %v", err, !want)
		}
	}
}

// The ways are tried in order, so that what has worked before and voters come first; none is this process, the server itself, or known to be gone.
func TestDetours(t *testing.T) {
	_, f, leader, n := walled(t)
	voters := f.others(leader).others(n)
	isVoter := func(u wire.UUID) bool {
		return slices.ContainsFunc(voters, func(v *Node) bool { return v.Server() == u })
	}
	await(t, n, "the voters say so", func() bool {
		via, _ := n.detoursTo(leader.Server())
		return len(via) == 2 && isVoter(via[0]) && isVoter(via[1])
	})
	await(t, voters[0], "the client is last", func() bool {
		via, _ := voters[0].detoursTo(leader.Server())
		return len(via) == 2 && via[1] == n.Server()
	})
	if via, known := n.detoursTo(n.Server()); len(via) > 0 || known {
		t.Errorf("to itself by way of %v", via)
	}
	voters[0].reached(leader.Server(), n.Server())
	if via, known := voters[0].detoursTo(leader.Server()); !known || via[0] != n.Server() {
		t.Errorf("%v; known %v", via, known)
	}
	voters[0].reached(leader.Server(), wire.UUID{})
	if via, known := voters[0].detoursTo(leader.Server()); known || via[1] != n.Server() {
		t.Errorf("%v; known %v after it was reached directly", via, known)
	}
	for range 2 * maxDetoured {
		n.reached(wire.NewUUID(), leader.Server())
	}
	if len(n.detours) > maxDetoured {
		t.Errorf("%d are remembered", len(n.detours))
	}
}

// Where the direct way comes and goes, it is looked for less and less often; where it stayed a while, as often as at first.
func TestDirectPause(t *testing.T) {
	n := &Node{detours: map[wire.UUID]detour{}}
	server, via := wire.UUID{1}, wire.UUID{2}
	pause := func() time.Duration { return n.directPause(server) }
	between := func(what string, least, most time.Duration) {
		t.Helper()
		if got := pause(); got < least || got > most {
			t.Errorf("%s: %s; want %s to %s", what, got, least, most)
		}
	}
	n.reached(server, via)
	between("at first", directAgain*3/4, directAgain)
	n.reached(server, via)
	between("still", directAgain*3/4, directAgain)
	n.reached(server, wire.UUID{})
	n.reached(server, via)
	between("lost again", 2*directAgain*3/4, 2*directAgain)
	for range 20 {
		n.reached(server, wire.UUID{})
		n.reached(server, via)
	}
	between("again and again", mostDirectAgain*3/4, mostDirectAgain)
	n.reached(server, wire.UUID{})
	d := n.detours[server]
	d.healed = d.healed.Add(-mostDirectAgain)
	n.detours[server] = d
	n.reached(server, via)
	between("after a while", directAgain*3/4, directAgain)
}
