package streampackets_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/simnet"
	"github.com/godistlock/distlock/internal/streampackets"
	"github.com/godistlock/distlock/internal/wire"
)

// proc is one process: gossip over one TCP port, with packets over streams or (to compare) UDP.
type proc struct {
	*gossip.Gossip
	mux     *mux.Mux
	packets net.PacketConn
}

// network is how streams are dialed, and what they are wrapped in; secure nil: in nothing.
type network struct {
	dial   func(context.Context, string) (net.Conn, error)
	secure func(net.Conn, bool) (mux.Secured, error)
}

// begin starts name at l; udp nil means over streams.
func begin(t *testing.T, name string, l net.Listener, udp net.PacketConn, n network, seeds []string) *proc {
	t.Helper()
	id := wire.Hello{Group: "test", Instance: wire.NewUUID(), Server: wire.NewUUID(), Name: name}
	m := mux.New(mux.Config{Listener: l, Dial: n.dial, Secure: n.secure, Self: func(wire.Kind, wire.UUID) wire.Hello { return id }})
	dialer := func(kind wire.Kind) func(context.Context, string) (net.Conn, error) {
		return func(ctx context.Context, addr string) (net.Conn, error) {
			nc, _, err := m.Dial(ctx, addr, kind, wire.UUID{})
			return nc, err
		}
	}
	acceptor := func(kind wire.Kind) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			select {
			case nc, ok := <-m.Accept(kind):
				if !ok {
					return nil, net.ErrClosed
				}
				return nc, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	p := &proc{mux: m, packets: udp}
	if udp == nil {
		p.packets = streampackets.New(streampackets.Config{Local: l.Addr(), Dial: dialer(wire.KindPacket), Accept: acceptor(wire.KindPacket)})
	}
	var err error
	p.Gossip, err = gossip.Start(gossip.Config{
		Self:  gossip.Meta{Instance: id.Instance, Server: id.Server, Name: name, Addr: l.Addr().String(), MayVote: true, Expect: uint8(min(len(seeds), 3))},
		Group: "test", Packets: p.packets, Dial: dialer(wire.KindGossip), Accept: acceptor(wire.KindGossip),
		Seeds: func(context.Context) ([]string, error) { return seeds, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// end is the order in which a process closes: gossip, then what it goes over.
func (p *proc) end() {
	_ = p.Close()
	_ = p.packets.Close()
	_ = p.mux.Close()
}

func (p *proc) sees() string {
	var all []string
	for _, m := range p.Members() {
		all = append(all, fmt.Sprint(m.Name, " ", m.State))
	}
	return strings.Join(all, ", ")
}

// fleet is processes in virtual time; process i has the host 10.0.0.i+1 and the name pi.
type fleet struct {
	t     *testing.T
	net   *simnet.Net
	udp   bool
	seeds []string
	procs map[int]*proc
}

func inBubble(t *testing.T, n int, udp bool, f func(t *testing.T, w *fleet)) {
	bubble.Test(t, func(t *testing.T) {
		w := &fleet{t: t, net: simnet.New(1), udp: udp, procs: map[int]*proc{}}
		for i := range min(n, 3) {
			w.seeds = append(w.seeds, w.ip(i)+":7950")
		}
		for i := range n {
			w.start(i)
		}
		f(t, w)
		for i := range w.procs {
			w.procs[i].end()
		}
		synctest.Wait()
		if left := running(); left != "" {
			t.Errorf("still running:\n%s", left)
		}
	})
}

// running is the stacks of this bubble's goroutines that belong to gossip or what it goes over.
func running() string {
	buf := make([]byte, 8<<20)
	stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	head, _, _ := strings.Cut(stacks[0], "\n") // the caller's comes first
	_, bubble, _ := strings.Cut(head, "synctest bubble ")
	return strings.Join(slices.DeleteFunc(stacks[1:], func(s string) bool {
		head, _, _ := strings.Cut(s, "\n")
		return !strings.HasSuffix(head, "synctest bubble "+bubble) || strings.Contains(s, "synctest.Run(") ||
			!strings.Contains(s, "streampackets.(") && !strings.Contains(s, "memberlist") && !strings.Contains(s, "mux.(")
	}), "\n\n")
}

func (w *fleet) ip(i int) string { return fmt.Sprintf("10.0.0.%d", i+1) }

func (w *fleet) start(i int) {
	w.t.Helper()
	h := w.net.Host(w.ip(i))
	l, udp, err := h.Listen(w.ip(i) + ":7950")
	if err != nil {
		w.t.Fatal(err)
	}
	if !w.udp {
		_ = udp.Close()
		udp = nil
	}
	w.procs[i] = begin(w.t, fmt.Sprintf("p%02d", i), l, udp, network{dial: h.Dial}, w.seeds)
}

// after waits until every process of who sees want.
func (w *fleet) after(limit time.Duration, want string, who ...int) time.Duration {
	w.t.Helper()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) { // virtual: the step of what is measured
		late := slices.IndexFunc(who, func(i int) bool { return w.procs[i].sees() != want })
		if late < 0 {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			w.t.Fatalf("after %s p%d sees %s, want %s", limit, who[late], w.procs[who[late]].sees(), want)
		}
	}
}

const (
	allThree = "p00 alive, p01 alive, p02 alive"
	oneDead  = "p00 alive, p01 alive, p02 failed"
)

// Who dies, or is cut off and comes back, is seen as soon as over UDP.
func TestGossipOverStreamsFailsAndFinds(t *testing.T) {
	for _, over := range []string{"udp", "streams"} {
		t.Run(over, func(t *testing.T) {
			inBubble(t, 3, over == "udp", func(t *testing.T, w *fleet) {
				t.Logf("found after %s", w.after(2*time.Second, allThree, 0, 1, 2))
				time.Sleep(time.Minute)
				w.after(0, allThree, 0, 1, 2)
				if n := strings.Count(running(), "streampackets.(*Conn).hear("); !w.udp && n != 6 {
					t.Errorf("%d streams for packets among three, want one from each to each", n)
				}
				for _, lasts := range []time.Duration{0, 20 * time.Second} {
					w.net.Partition([]string{w.ip(0), w.ip(1)})
					took := w.after(10*time.Second, oneDead, 0, 1)
					if took > 9*time.Second {
						t.Errorf("who is cut off has failed after %s", took)
					}
					time.Sleep(lasts)
					w.net.HealAll()
					t.Logf("cut off for %s: failed after %s, back after %s", lasts, took, w.after(40*time.Second, allThree, 0, 1, 2))
					time.Sleep(time.Minute)
				}
				w.net.CloseHost(w.ip(2))
				took := w.after(10*time.Second, oneDead, 0, 1)
				if took > 9*time.Second {
					t.Errorf("who has died has failed after %s", took)
				}
				t.Logf("died: failed after %s", took)
			})
		})
	}
}

// A machine that is slow to answer, or a network with losses of whole streams' beginnings, makes nobody fail.
func TestGossipOverStreamsBearsDelays(t *testing.T) {
	inBubble(t, 5, false, func(t *testing.T, w *fleet) {
		w.net.SetDelays(20*time.Millisecond, 60*time.Millisecond)
		for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(100 * time.Millisecond) {
			for i, p := range w.procs {
				if strings.Contains(p.sees(), "failed") {
					t.Fatalf("after %s p%d sees %s", time.Since(began), i, p.sees())
				}
			}
		}
		for i, p := range w.procs {
			if strings.Count(p.sees(), "alive") != 5 {
				t.Errorf("p%d sees %s", i, p.sees())
			}
		}
	})
}

// A process that can't be reached by another directly is probed by way of a third.
func TestGossipOverStreamsProbesByWayOfOthers(t *testing.T) {
	inBubble(t, 3, false, func(t *testing.T, w *fleet) {
		w.after(2*time.Second, allThree, 0, 1, 2)
		w.net.Cut(w.ip(0), w.ip(2))
		for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(50 * time.Millisecond) {
			for i, p := range w.procs {
				if strings.Contains(p.sees(), "failed") {
					t.Fatalf("after %s p%d sees %s", time.Since(began), i, p.sees())
				}
			}
		}
	})
}

// A fleet keeps as many streams as it uses.
func TestGossipOverStreamsInAFleet(t *testing.T) {
	const n = 50
	inBubble(t, n, false, func(t *testing.T, w *fleet) {
		began := time.Now()
		for {
			late := 0
			for _, p := range w.procs {
				if strings.Count(p.sees(), "alive") != n {
					late++
				}
			}
			if late == 0 {
				break
			}
			if time.Since(began) > 2*time.Minute { // mostly a second; an exchange of everything finds who was missed, over UDP too
				t.Fatalf("%d of %d don't see all", late, n)
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Logf("all of %d see all after %s", n, time.Since(began))
		most, goroutines := 0, 0
		for range 5 {
			time.Sleep(time.Second)
			streams := strings.Count(running(), "streampackets.(*Conn).hear(")
			most, goroutines = max(most, streams), max(goroutines, runtime.NumGoroutine())
		}
		t.Logf("at most %d streams in all, %d a process, %d goroutines", most, most/n, goroutines)
		if most > n*(n-1) {
			t.Errorf("%d streams among %d processes: more than one from each to each", most, n)
		}
		w.net.CloseHost(w.ip(n - 1))
		for began := time.Now(); strings.Contains(w.procs[0].sees(), fmt.Sprintf("p%d alive", n-1)); time.Sleep(50 * time.Millisecond) {
			if time.Since(began) > 30*time.Second {
				t.Fatal("one that died has not failed after 30 s")
			}
		}
	})
}

// Real sockets, and TLS as it is in earnest.
func TestGossipOverStreamsOnLoopback(t *testing.T) {
	t.Parallel()
	secured := network{mux.System().Dial, tlsOf(t)}
	var all []*proc
	var seeds []string
	var listeners []net.Listener
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners, seeds = append(listeners, l), append(seeds, l.Addr().String())
	}
	for i, l := range listeners {
		p := begin(t, fmt.Sprintf("p%02d", i), l, nil, secured, seeds)
		t.Cleanup(p.end)
		all = append(all, p)
	}
	until := func(want string, who ...*proc) time.Duration {
		t.Helper()
		began := time.Now()
		for slices.ContainsFunc(who, func(p *proc) bool { return p.sees() != want }) {
			if time.Since(began) > 20*time.Second {
				t.Fatalf("%s: not within 20 s; seen: %s", want, who[0].sees())
			}
			select {
			case <-who[0].Changed():
			case <-time.After(20 * time.Millisecond): // Suspect comes with no hint
			}
		}
		return time.Since(began)
	}
	t.Logf("found after %s", until(allThree, all...))
	all[2].end()
	t.Logf("failed after %s", until(oneDead, all[:2]...))
}

// tlsOf wraps streams in TLS with one certificate for all, which nobody checks.
func tlsOf(t *testing.T) func(net.Conn, bool) (mux.Secured, error) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, form, form, public, private)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
	}
	return func(nc net.Conn, server bool) (mux.Secured, error) {
		c := tls.Client(nc, cfg)
		if server {
			c = tls.Server(nc, cfg)
		}
		return anybody{c}, c.Handshake()
	}
}

// anybody is a stream whose other side is believed.
type anybody struct{ *tls.Conn }

func (anybody) Proves(string, string, wire.UUID) error { return nil }
func (anybody) Trust()                                 {}
