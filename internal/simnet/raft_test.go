package simnet

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// member is one process on the one port of a host of its own, with as much of Raft as a test needs.
type member struct {
	ip    string
	id    wire.UUID
	mux   *mux.Mux
	udp   net.PacketConn
	raft  *raft.Raft
	trans *raft.NetworkTransport
	quit  chan struct{}
	peers map[wire.UUID]string // addresses by identity; filled before Raft starts
}

func newMember(t *testing.T, n *Net, ip string) *member {
	t.Helper()
	m := &member{ip: ip, id: wire.NewUUID(), quit: make(chan struct{}), peers: map[wire.UUID]string{}}
	host := n.Host(ip)
	l, p, err := host.Listen(":7950")
	if err != nil {
		t.Fatal(err)
	}
	m.udp = p
	m.mux = mux.New(mux.Config{
		Listener: l, Dial: host.Dial,
		Self: func(wire.Kind, wire.UUID) wire.Hello { return wire.Hello{Server: m.id, Name: ip} },
	})
	return m
}

// The member as raft.StreamLayer.
func (m *member) Accept() (net.Conn, error) {
	select {
	case c, ok := <-m.mux.Accept(wire.KindRaft):
		if ok {
			return c, nil
		}
	case <-m.quit:
	}
	return nil, net.ErrClosed
}

func (m *member) Close() error   { close(m.quit); return nil }
func (m *member) Addr() net.Addr { return name(m.id.String()) }

type name string

func (name) Network() string  { return "distlock" }
func (n name) String() string { return string(n) }

func (m *member) Dial(target raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, err := wire.ParseUUID(string(target))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	nc, _, err := m.mux.Dial(ctx, m.peers[id], wire.KindRaft, id)
	return nc, err
}

func (m *member) start(t *testing.T, all []*member) {
	t.Helper()
	var conf raft.Configuration
	for _, o := range all {
		m.peers[o.id] = o.mux.Addr().String()
		conf.Servers = append(conf.Servers, raft.Server{ID: raft.ServerID(o.id.String()), Address: raft.ServerAddress(o.id.String())})
	}
	m.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: m, MaxPool: 2, MaxRPCsInFlight: 1, Timeout: time.Second, Logger: hclog.NewNullLogger(),
	})
	cfg := raft.DefaultConfig()
	cfg.LocalID = raft.ServerID(m.id.String())
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = 300*time.Millisecond, 300*time.Millisecond, 200*time.Millisecond
	cfg.Logger = hclog.NewNullLogger()
	store := raft.NewInmemStore()
	if err := raft.BootstrapCluster(cfg, store, store, raft.NewInmemSnapshotStore(), m.trans, conf); err != nil {
		t.Fatal(err)
	}
	r, err := raft.NewRaft(cfg, counter{new(int)}, store, store, raft.NewInmemSnapshotStore(), m.trans)
	if err != nil {
		t.Fatal(err)
	}
	m.raft = r
}

func (m *member) stop(t *testing.T) {
	t.Helper()
	if m.raft != nil {
		if err := m.raft.Shutdown().Error(); err != nil {
			t.Errorf("%s: %v", m.ip, err)
		}
		m.trans.Close()
	}
	m.mux.Close()
	m.udp.Close()
}

// counter counts the entries it applied.
type counter struct{ n *int }

func (c counter) Apply(*raft.Log) any                { *c.n++; return *c.n }
func (counter) Snapshot() (raft.FSMSnapshot, error)  { return nil, fmt.Errorf("no snapshots") }
func (counter) Restore(snapshot io.ReadCloser) error { return snapshot.Close() }

// leader waits until one of members leads in a term above the given one.
func leader(t *testing.T, members []*member, above uint64) *member {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(10 * time.Millisecond) { // virtual
		for _, m := range members {
			if m.raft.State() == raft.Leader && m.raft.CurrentTerm() > above {
				return m
			}
		}
	}
	t.Fatal("no leader in a minute")
	return nil
}

// Three processes with Raft on the one port, in virtual time: they elect, commit, lose their leader to a cut and to a freeze, and take it back.
func TestRaftInVirtualTime(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		n.SetDelays(time.Millisecond, time.Millisecond)
		var all []*member
		for i := range 3 {
			m := newMember(t, n, fmt.Sprintf("10.0.0.%d", i+1))
			all = append(all, m)
			defer m.stop(t)
		}
		for _, m := range all {
			m.start(t, all)
		}
		first := leader(t, all, 0)
		if got := first.raft.Apply([]byte("x"), time.Second); got.Error() != nil || got.Response() != 1 {
			t.Fatalf("apply: %v, %v", got.Response(), got.Error())
		}
		steps := []struct {
			what       string
			fault, end func(ip string)
		}{
			{"cut", n.Isolate, func(string) { n.HealAll() }},
			{"frozen", n.Freeze, n.Thaw},
		}
		for i, step := range steps {
			old := leader(t, all, 0)
			step.fault(old.ip)
			var rest []*member
			for _, m := range all {
				if m != old {
					rest = append(rest, m)
				}
			}
			begin := time.Now()
			next := leader(t, rest, old.raft.CurrentTerm())
			t.Logf("%s: %s after %s in %v", step.what, next.ip, old.ip, time.Since(begin))
			if got := next.raft.Apply([]byte("x"), time.Second); got.Error() != nil || got.Response() != i+2 {
				t.Fatalf("%s: apply: %v, %v", step.what, got.Response(), got.Error())
			}
			step.end(old.ip)
			for old.raft.AppliedIndex() < next.raft.LastIndex() {
				time.Sleep(10 * time.Millisecond) // virtual
			}
		}
	})
}

// A process that comes back on its old port without its log is nobody that the others know: what is meant for its predecessor it refuses
// (HAZARDS 4), so it cannot vote in that one's name.
func TestRestartedVoterIsRefused(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		var all []*member
		for i := range 3 {
			all = append(all, newMember(t, n, fmt.Sprintf("10.0.0.%d", i+1)))
		}
		for _, m := range all {
			m.start(t, all)
		}
		lead := leader(t, all, 0)
		var down []*member
		for _, m := range all {
			if m != lead {
				down = append(down, m)
			}
		}
		for i, m := range down {
			m.stop(t)
			n.CloseHost(m.ip)
			down[i] = newMember(t, n, m.ip) // the same address, another identity
			down[i].start(t, []*member{down[i]})
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if lead.raft.State() == raft.Leader {
			t.Error("a leader without any of its voters leads on")
		}
		for range 5 {
			if got := lead.raft.Apply([]byte("x"), time.Second); got.Error() == nil {
				t.Fatal("committed by voters who have lost their log")
			}
			time.Sleep(time.Second)
		}
		lead.stop(t)
		for _, m := range down {
			m.stop(t)
		}
		for _, m := range all {
			if open := n.Open(m.ip); open != 0 {
				t.Errorf("%s: %d sockets open", m.ip, open)
			}
		}
	})
}
