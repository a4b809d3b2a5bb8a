package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// host is one process's sockets on the loopback interface: TCP and UDP on one port.
type host struct {
	tcp     net.Listener
	udp     net.PacketConn
	addr    string
	streams chan net.Conn
	done    chan struct{}
}

func newHost(t *testing.T) *host {
	t.Helper()
	for range 20 { // the port that TCP got may be taken for UDP
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err != nil {
			_ = tcp.Close()
			continue
		}
		return serveHost(tcp, udp)
	}
	t.Fatal("no port is free for both TCP and UDP")
	return nil
}

func serveHost(tcp net.Listener, udp net.PacketConn) *host {
	h := &host{tcp: tcp, udp: udp, addr: tcp.Addr().String(), streams: make(chan net.Conn), done: make(chan struct{})}
	go func() { // ends with the listener
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			select {
			case h.streams <- c:
			case <-h.done:
				_ = c.Close()
			}
		}
	}()
	return h
}

func (h *host) close() {
	close(h.done)
	_ = h.tcp.Close()
	_ = h.udp.Close()
}

func (h *host) accept(ctx context.Context) (net.Conn, error) {
	select {
	case c := <-h.streams:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

// config is that of a process called name on h that knows seeds.
func config(h *host, name string, seeds ...string) Config {
	return Config{
		Self:    Meta{Instance: wire.NewUUID(), Server: wire.NewUUID(), Name: name, Addr: h.addr, MayVote: true},
		Group:   "test",
		Packets: h.udp, Dial: dialTCP, Accept: h.accept,
		Seeds:  func(context.Context) ([]string, error) { return seeds, nil },
		Logger: testLogger(),
	}
}

func testLogger() *slog.Logger {
	if os.Getenv("GOSSIP_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func start(t *testing.T, cfg Config) *Gossip {
	t.Helper()
	g, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// see is what g's list says, as "name state" lines.
func see(g *Gossip) string {
	var b strings.Builder
	for _, m := range g.Members() {
		fmt.Fprintf(&b, "%s %s, ", m.Name, m.State)
	}
	return strings.TrimSuffix(b.String(), ", ")
}

// until waits for Changed until ok, for at most 20 s. A hint may be merged into another's, and Suspect comes with none: it looks
// again now and then.
func until(t *testing.T, g *Gossip, what string, ok func() bool) {
	t.Helper()
	limit := time.After(20 * time.Second)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-g.Changed():
		case <-look.C:
		case <-limit:
			t.Fatalf("%s: not within 20 s; members: %s", what, see(g))
		}
	}
}

func untilSees(t *testing.T, g *Gossip, want string) {
	t.Helper()
	until(t, g, want, func() bool { return see(g) == want })
}

func TestThreeProcessesFindEachOtherAtOnce(t *testing.T) {
	hosts := []*host{newHost(t), newHost(t), newHost(t)}
	seeds := []string{hosts[0].addr, hosts[1].addr, hosts[2].addr}
	began := time.Now()
	var all []*Gossip
	for i, h := range hosts {
		t.Cleanup(h.close)
		cfg := config(h, fmt.Sprint("p", i), seeds...)
		cfg.Self.Expect = 3
		all = append(all, start(t, cfg))
	}
	for _, g := range all {
		untilSees(t, g, "p0 alive, p1 alive, p2 alive")
	}
	t.Logf("everybody saw everybody after %s", time.Since(began)) // TestVirtualConvergence has the bound
	for _, g := range all {
		until(t, g, "all seeds answered", func() bool { return len(g.KnownUnanswered()) == 0 })
	}
}

// A process that answers while another looks around is in what that one finds: among the members, or else as an address that has not answered.
// Who found neither would found a cluster beside the one that is there.
func TestSurveyMissesNobody(t *testing.T) {
	a := newHost(t)
	t.Cleanup(a.close)
	start(t, config(a, "a"))
	for range 20 {
		b := newHost(t)
		t.Cleanup(b.close)
		g := start(t, config(b, "b", a.addr))
		began := time.Now()
		for seen := 1; seen == 1; {
			members, unanswered := g.Survey()
			if seen = len(members); seen == 1 && len(unanswered) == 0 {
				t.Fatal("nobody else is there, and nobody has not answered")
			}
			if time.Since(began) > 20*time.Second {
				t.Fatal("a is not found")
			}
		}
		_ = g.Close()
	}
}
