package mux

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/alloctest"
	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/wire"
)

// pipes is a network of one host made of net.Pipe, for bubbles of virtual time.
type pipes struct {
	conns chan net.Conn
	errs  chan error
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), errs: make(chan error), done: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case err := <-p.errs:
		return nil, err
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1} }

func (p *pipes) dial(ctx context.Context, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.done:
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type identity struct{ cluster, server, instance wire.UUID }

func newIdentity() identity { return identity{wire.NewUUID(), wire.NewUUID(), wire.NewUUID()} }

func (id identity) self(wire.Kind, wire.UUID) wire.Hello {
	return wire.Hello{Group: "g", Cluster: id.cluster, Server: id.server, Instance: id.instance, Name: "n-" + id.server.String()[:4]}
}

// start runs a Mux over pipes; it dials itself.
func start(t *testing.T, change func(*Config)) (*Mux, *pipes, identity) {
	t.Helper()
	p, id := newPipes(), newIdentity()
	cfg := Config{Listener: p, Dial: p.dial, Self: id.self}
	if change != nil {
		change(&cfg)
	}
	m := New(cfg)
	t.Cleanup(func() { m.Close() })
	return m, p, id
}

func mustDial(t *testing.T, m *Mux, kind wire.Kind, target wire.UUID) *Conn {
	t.Helper()
	nc, _, err := m.Dial(t.Context(), "peer:1", kind, target)
	if err != nil {
		t.Fatal(err)
	}
	return nc.(*Conn)
}

// ended reports whether a stream is closed, without waiting for it to be used.
func ended(c net.Conn) error {
	_, err := c.Read(make([]byte, 1))
	return err
}

func TestStreamsAreRoutedByKind(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m, _, id := start(t, nil)
		for _, kind := range []wire.Kind{wire.KindRaft, wire.KindCall, wire.KindGossip} {
			near := mustDial(t, m, kind, id.server)
			far := <-m.Accept(kind)
			if h := far.Hello(); h.Kind != kind || h.Group != "g" || h.Target != id.server || h.Version != wire.ProtocolVersion {
				t.Errorf("kind %q: hello %+v", kind, h)
			}
			want := Peer{id.cluster, id.server, id.instance, id.self(0, wire.UUID{}).Name}
			if near.Peer() != want || far.Peer() != want {
				t.Errorf("kind %q: peers %+v, %+v, want %+v", kind, near.Peer(), far.Peer(), want)
			}
			time.Sleep(2 * HandshakeTimeout) // virtual: the handshake's deadline must be gone from both ends
			go near.Write([]byte("over"))
			p := make([]byte, 4)
			if _, err := io.ReadFull(far, p); err != nil || string(p) != "over" {
				t.Errorf("kind %q: read %q, %v", kind, p, err)
			}
			near.Close()
			if err := ended(far); err != io.EOF {
				t.Errorf("kind %q: after the peer's close: %v", kind, err)
			}
			far.Close()
		}
		if len(m.streams) != 0 || m.load.total != (count{}) || len(m.load.hosts) != 0 {
			t.Errorf("left over: %d streams, %+v", len(m.streams), m.load)
		}
	})
}

func TestRefusals(t *testing.T) {
	other := wire.NewUUID()
	tests := []struct {
		name   string
		kind   wire.Kind
		target wire.UUID // zero: the server itself
		admit  wire.Refusal
		mute   bool
		want   wire.Refusal
		text   string
	}{
		{name: "group", kind: wire.KindCall, admit: wire.RefusedGroup, want: wire.RefusedGroup, text: "another group: because"},
		{name: "cluster", kind: wire.KindGossip, admit: wire.RefusedCluster, want: wire.RefusedCluster, text: "another cluster"},
		{name: "busy", kind: wire.KindGossip, admit: wire.RefusedBusy, want: wire.RefusedBusy, text: "too many"},
		{name: "raft for another (HAZARDS 4)", kind: wire.KindRaft, target: other, want: wire.RefusedTarget, text: other.String()},
		{name: "a call for another", kind: wire.KindCall, target: other, want: wire.RefusedTarget, text: "not the server"},
		{name: "an unknown kind", kind: 'X', want: wire.RefusedMuted, text: `kind 'X'`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				m, _, id := start(t, func(c *Config) {
					c.Admit = func(wire.Hello) wire.Welcome { return wire.Welcome{Refusal: tt.admit, Text: "because"} }
				})
				if tt.target.IsZero() {
					tt.target = id.server
				}
				_, w, err := m.Dial(t.Context(), "peer:1", tt.kind, tt.target)
				var refused *RefusedError
				if !errors.As(err, &refused) || refused.Welcome.Refusal != tt.want || refused.Addr != "peer:1" || w != refused.Welcome {
					t.Fatalf("got %v, want refusal %d", err, tt.want)
				}
				if w.Server != id.server || w.Name == "" {
					t.Errorf("the refusal does not say who refuses: %+v", w)
				}
				if !strings.Contains(err.Error(), tt.text) {
					t.Errorf("message %q lacks %q", err, tt.text)
				}
			})
		})
	}
}

func TestRaftStreamsNameTheirTarget(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m, _, _ := start(t, nil)
		_, _, err := m.Dial(t.Context(), "peer:1", wire.KindRaft, wire.UUID{})
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Welcome.Refusal != wire.RefusedTarget {
			t.Fatalf("a Raft stream without a target: %v", err)
		}
	})
}

func TestAnotherVersionIsToldSo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, p, id := start(t, nil)
		nc, err := p.dial(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		h := id.self(wire.KindCall, wire.UUID{})
		h.Version, h.Kind = wire.ProtocolVersion+1, wire.KindCall
		go nc.Write(encodeHello(h))
		w, err := readWelcome(nc)
		if err != nil || w.Refusal != wire.RefusedVersion {
			t.Fatalf("welcome %+v, %v", w, err)
		}
		if err := ended(nc); err != io.EOF {
			t.Errorf("the stream stays open: %v", err)
		}
	})
}

func TestDialerFindsAnotherVersion(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		m, _, _ := start(t, func(c *Config) {
			c.Dial = func(context.Context, string) (net.Conn, error) { return near, nil }
		})
		go func() {
			readHello(far)
			far.Write(encodeWelcome(wire.Welcome{Version: 9, Text: "hi"}))
		}()
		_, _, err := m.Dial(t.Context(), "peer:1", wire.KindCall, wire.UUID{})
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Welcome.Refusal != wire.RefusedVersion || !strings.Contains(err.Error(), "(9, here 1)") {
			t.Fatalf("got %v", err)
		}
	})
}

func TestDialerChecksWhoAnswers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m, _, _ := start(t, func(c *Config) {
			c.Admit = func(wire.Hello) wire.Welcome { return wire.Welcome{Server: wire.NewUUID()} }
		})
		_, _, err := m.Dial(t.Context(), "peer:1", wire.KindCall, wire.NewUUID())
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Welcome.Refusal != wire.RefusedTarget {
			t.Fatalf("got %v", err)
		}
	})
}

func TestStrangersAreClosed(t *testing.T) {
	for name, opening := range map[string]string{
		"http":            "GET / HTTP/1.1\r\n\r\n",
		"an empty hello":  "DLK1C\x00\x00",
		"too long":        "DLK1C\xff\xff",
		"garbage":         "DLK1C\x00\x03\xc1\xc1\xc1",
		"bytes left over": string(encodeHello(wire.Hello{Version: 1, Kind: 'C'})[:5]) + "\x00\x01\x00",
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				_, p, _ := start(t, nil)
				nc, err := p.dial(t.Context(), "")
				if err != nil {
					t.Fatal(err)
				}
				begin := time.Now()
				go nc.Write([]byte(opening))
				if err := ended(nc); err != io.EOF {
					t.Errorf("read %v", err)
				}
				if d := time.Since(begin); d != 0 {
					t.Errorf("closed after %v", d)
				}
			})
		})
	}
}

func TestSlowHandshakeIsClosed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, p, _ := start(t, nil)
		nc, err := p.dial(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		go nc.Write([]byte("DLK1"))
		if err := ended(nc); err != io.EOF {
			t.Errorf("read %v", err)
		}
		if d := time.Since(begin); d != HandshakeTimeout {
			t.Errorf("closed after %v", d)
		}
	})
}

func TestNobodyTakesAStream(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m, _, _ := start(t, nil)
		begin := time.Now()
		c := mustDial(t, m, wire.KindCall, wire.UUID{})
		if err := ended(c); err != io.EOF {
			t.Errorf("read %v", err)
		}
		if d := time.Since(begin); d != HandshakeTimeout {
			t.Errorf("closed after %v", d)
		}
	})
}

func TestDialHonoursItsContext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var far net.Conn
		m, _, _ := start(t, func(c *Config) {
			c.Dial = func(context.Context, string) (net.Conn, error) { // accepts, and never says a word
				var near net.Conn
				near, far = net.Pipe()
				return near, nil
			}
		})
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err := m.Dial(ctx, "peer:1", wire.KindCall, wire.UUID{})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(begin))
		}
		if err := ended(far); err != io.EOF {
			t.Errorf("the raw stream is left open: %v", err)
		}
		begin = time.Now()
		_, _, err = m.Dial(t.Context(), "peer:1", wire.KindCall, wire.UUID{})
		if err == nil || time.Since(begin) != HandshakeTimeout {
			t.Errorf("without a deadline: %v after %v", err, time.Since(begin))
		}
		if len(m.streams) != 0 {
			t.Errorf("%d streams left", len(m.streams))
		}
	})
}

func TestMute(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m, p, id := start(t, nil)
		near := mustDial(t, m, wire.KindRaft, id.server)
		far := <-m.Accept(wire.KindRaft)
		call := mustDial(t, m, wire.KindCall, id.server)
		<-m.Accept(wire.KindCall)
		waiting := mustDial(t, m, wire.KindRaft, id.server) // nobody has taken it yet

		m.Mute(wire.KindRaft, true)
		for _, c := range []net.Conn{near, far, waiting} {
			if err := ended(c); err == nil {
				t.Error("a muted stream lives")
			}
			c.Close()
		}
		if _, _, err := m.Dial(t.Context(), "peer:1", wire.KindRaft, id.server); !errors.Is(err, ErrMuted) {
			t.Errorf("dial while muted: %v", err)
		}
		other := New(Config{Listener: newPipes(), Dial: p.dial, Self: newIdentity().self})
		defer other.Close()
		_, _, err := other.Dial(t.Context(), "peer:1", wire.KindRaft, id.server)
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Welcome.Refusal != wire.RefusedMuted {
			t.Errorf("incoming while muted: %v", err)
		}
		call.SetReadDeadline(time.Now())
		if err := ended(call); err == io.EOF || errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("a stream of another kind: %v", err)
		}

		m.Mute(wire.KindRaft, false)
		mustDial(t, m, wire.KindRaft, id.server)
		m.CloseStreams(wire.KindCall)
		if err := ended(call); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("after CloseStreams: %v", err)
		}
	})
}

// A stream in the middle of its handshake must not slip through a Mute.
func TestMuteDuringHandshake(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var m *Mux
		var id identity
		m, _, id = start(t, func(c *Config) {
			c.Admit = func(wire.Hello) wire.Welcome { m.Mute(wire.KindRaft, true); return wire.Welcome{} }
		})
		_, _, err := m.Dial(t.Context(), "peer:1", wire.KindRaft, id.server)
		if !errors.Is(err, ErrMuted) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		if len(m.streams) != 0 {
			t.Errorf("%d streams left", len(m.streams))
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	bubble.Test(t, func(t *testing.T) { // a goroutine that is left makes synctest fail
		m, p, id := start(t, nil)
		near := mustDial(t, m, wire.KindRaft, id.server)
		far := <-m.Accept(wire.KindRaft)
		waiting := mustDial(t, m, wire.KindCall, id.server)
		silent, err := p.dial(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		m.Close()
		m.Close()
		for _, c := range []net.Conn{near, far, waiting, silent} {
			if err := ended(c); err == nil {
				t.Error("a stream lives")
			}
		}
		if _, ok := <-m.Accept(wire.KindRaft); ok {
			t.Error("the channel is open")
		}
		if _, ok := <-m.Accept(wire.KindGossip); ok {
			t.Error("a channel asked for later is open")
		}
		if _, _, err := m.Dial(t.Context(), "peer:1", wire.KindRaft, id.server); !errors.Is(err, net.ErrClosed) {
			t.Errorf("dial after Close: %v", err)
		}
		if len(m.streams) != 0 || m.load.total != (count{}) {
			t.Errorf("left over: %d streams, %+v", len(m.streams), m.load.total)
		}
	})
}

func TestCloseEndsADial(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m, _, _ := start(t, func(c *Config) {
			c.Dial = func(ctx context.Context, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
		})
		go func() { time.Sleep(time.Second); m.Close() }()
		begin := time.Now()
		_, _, err := m.Dial(t.Context(), "peer:1", wire.KindCall, wire.UUID{})
		if !errors.Is(err, net.ErrClosed) || time.Since(begin) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(begin))
		}
	})
}

func TestAcceptLoopSurvivesTemporaryErrors(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		m, p, _ := start(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		begin := time.Now()
		for range 10 {
			p.errs <- syscall.EMFILE
		}
		mustDial(t, m, wire.KindCall, wire.UUID{})
		<-m.Accept(wire.KindCall)
		if d := time.Since(begin); d < time.Second || d > 10*time.Second {
			t.Errorf("ten errors took %v: no backoff, or one without bound", d)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("%d log lines for one trouble:\n%s", n, &log)
		}
		p.errs <- syscall.EMFILE
		m.Close() // in the middle of a backoff
	})
}

func TestPendingHandshakesAreCapped(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m, p, _ := start(t, nil)
		for range MaxPendingPerHost {
			if _, err := p.dial(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
		}
		one, err := p.dial(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := ended(one); err != io.EOF || time.Since(begin) != 0 {
			t.Errorf("one handshake too many: %v after %v", err, time.Since(begin))
		}
		time.Sleep(HandshakeTimeout)
		synctest.Wait()
		mustDial(t, m, wire.KindCall, wire.UUID{}) // the slow ones are gone
	})
}

// from is a stream of a certain host.
type from struct {
	net.Conn
	host string
}

func (f from) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(f.host), Port: 1} }

// dialFrom opens a stream as a host would, and says nothing.
func (p *pipes) dialFrom(t *testing.T, host string) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	p.conns <- from{far, host}
	return near
}

// Strangers with several addresses can take all places for a handshake, and yet nobody who has few is kept out: the address with the most gives
// one up.
func TestACrowdMakesRoom(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m, p, _ := start(t, nil)
		crowd := []string{"10.9.9.1", "10.9.9.2", "10.9.9.3"}
		for i := range MaxPending {
			p.dialFrom(t, crowd[i%len(crowd)])
		}
		synctest.Wait()
		m.mu.Lock()
		all := m.load.total.pending
		m.mu.Unlock()
		if all != MaxPending {
			t.Fatalf("%d handshakes are under way", all)
		}
		ordinary := p.dialFrom(t, "10.0.0.7")
		begin := time.Now()
		h := newIdentity().self(wire.KindCall, wire.UUID{})
		h.Version, h.Kind = wire.ProtocolVersion, wire.KindCall
		go ordinary.Write(encodeHello(h))
		if a, err := readWelcome(ordinary); err != nil || time.Since(begin) > 0 {
			t.Errorf("who has one stream is answered with %+v, %v after %s", a, err, time.Since(begin))
		}
		p.dialFrom(t, "10.0.0.8") // the place that is free again
		synctest.Wait()
		m.mu.Lock()
		if len(m.pending) != m.load.total.pending { // else one that is through would be closed
			t.Errorf("%d handshakes are under way, and %d could make room", m.load.total.pending, len(m.pending))
		}
		m.mu.Unlock()
		// One of the crowd itself gets no place by this.
		one := p.dialFrom(t, crowd[0])
		if err := ended(one); err != io.EOF || time.Since(begin) > 0 {
			t.Errorf("one of the crowd: %v after %s", err, time.Since(begin))
		}
		time.Sleep(HandshakeTimeout)
		synctest.Wait()
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.pending) != 0 || m.load.total.pending != 0 {
			t.Errorf("left over: %d, %+v", len(m.pending), m.load)
		}
	})
}

func TestHosts(t *testing.T) {
	for addr, want := range map[string]string{
		"10.0.0.1": "10.0.0.1", "::1": "::1", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "2001:db8:1:2::9": "2001:db8:1:2::/64", "fe80::1": "fe80::1",
	} {
		if got := hostOf(from{host: addr}); got != want {
			t.Errorf("%s counts as %s, want %s", addr, got, want)
		}
	}
}

func TestOpenStreamsAreCapped(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m, _, _ := start(t, nil)
		m.mu.Lock()
		m.load.add("pipe", count{open: MaxStreamsPerHost - 1})
		m.mu.Unlock()
		first := mustDial(t, m, wire.KindCall, wire.UUID{})
		far := <-m.Accept(wire.KindCall)
		_, _, err := m.Dial(t.Context(), "peer:1", wire.KindCall, wire.UUID{})
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Welcome.Refusal != wire.RefusedBusy {
			t.Fatalf("one stream too many: %v", err)
		}
		first.Close()
		far.Close()
		mustDial(t, m, wire.KindCall, wire.UUID{})
	})
}

// Raft's streams are few and dear: more are refused, and one that ends makes room.
func TestRaftStreamsAreCapped(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m, _, id := start(t, nil)
		var first *Conn
		for range MaxRaftStreams {
			mustDial(t, m, wire.KindRaft, id.server)
			if far := <-m.Accept(wire.KindRaft); first == nil {
				first = far
			}
		}
		_, _, err := m.Dial(t.Context(), "peer:1", wire.KindRaft, id.server)
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Welcome.Refusal != wire.RefusedBusy {
			t.Fatalf("one stream too many: %v", err)
		}
		mustDial(t, m, wire.KindCall, wire.UUID{}) // others are not meant
		<-m.Accept(wire.KindCall)
		first.Close()
		mustDial(t, m, wire.KindRaft, id.server)
	})
}

func TestLimitsInTotal(t *testing.T) {
	l := load{total: count{pending: MaxPending}}
	if l.begin("h") {
		t.Error("a handshake beyond MaxPending")
	}
	l = load{total: count{open: MaxStreams}}
	if !l.begin("h") || l.open("h") {
		t.Error("a stream beyond MaxStreams")
	}
}

func TestRefusalsAreLoggedOnceAMinute(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		m, _, _ := start(t, func(c *Config) {
			c.Admit = func(wire.Hello) wire.Welcome { return wire.Welcome{Refusal: wire.RefusedGroup, Text: "group x, not y"} }
			c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		})
		for range 5 {
			m.Dial(t.Context(), "peer:1", wire.KindCall, wire.UUID{})
		}
		m.Dial(t.Context(), "peer:1", wire.KindRaft, wire.UUID{}) // another reason
		synctest.Wait()
		counts := func(want map[string]int) {
			t.Helper()
			for text, n := range want { // who was refused says so too, where the reason is no passing one
				if got := strings.Count(log.String(), text); got != n {
					t.Errorf("%q is said %d times, not %d:\n%s", text, got, n, &log)
				}
			}
		}
		counts(map[string]int{"\n": 3, "refused\" remote": 2, "does not talk with this one": 1})
		time.Sleep(quietFor)
		m.Dial(t.Context(), "peer:1", wire.KindCall, wire.UUID{})
		synctest.Wait()
		counts(map[string]int{"\n": 5, "text=\"group x, not y\"": 2, "does not talk with this one": 2})
		if s := m.Strangers(); len(s) != 2 || s[0].Addr != "peer:1" || s[0].Incoming || s[0].Reason != "group" || !s[1].Incoming {
			t.Errorf("strangers: %+v", s)
		}
		time.Sleep(strangerFor)
		if s := m.Strangers(); len(s) != 0 {
			t.Errorf("strangers of long ago: %+v", s)
		}
	})
}

func TestQuietIsBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var q quiet
		for i := range 2 * quietMax {
			q.may(strings.Repeat("x", i), "r")
		}
		if len(q.last) != quietMax {
			t.Errorf("%d remembered", len(q.last))
		}
		time.Sleep(quietFor)
		if !q.may("new", "r") || len(q.last) != 1 {
			t.Errorf("%d remembered after a minute", len(q.last))
		}
	})
}

// upper stands for TLS: a stream whose bytes are changed on the way.
type upper struct{ net.Conn }

func (upper) Proves(string, string, wire.UUID) error { return nil }
func (upper) Trust()                                 {}

func (u upper) Write(p []byte) (int, error) { return u.Conn.Write(flip(p)) }
func (u upper) Read(p []byte) (int, error) {
	n, err := u.Conn.Read(p)
	copy(p, flip(p[:n]))
	return n, err
}

func flip(p []byte) []byte {
	q := make([]byte, len(p))
	for i, b := range p {
		q[i] = b ^ 0xff
	}
	return q
}

func TestSecureWrapsBeforeTheHello(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		sides := map[bool]int{}
		fail := false
		m, p, _ := start(t, func(c *Config) {
			c.Secure = func(nc net.Conn, server bool) (Secured, error) {
				mu.Lock()
				defer mu.Unlock()
				if sides[server]++; fail {
					return nil, errors.New("bad certificate")
				}
				return upper{nc}, nil
			}
		})
		mustDial(t, m, wire.KindCall, wire.UUID{})
		<-m.Accept(wire.KindCall)
		if sides[true] != 1 || sides[false] != 1 {
			t.Errorf("secured %v", sides)
		}
		plain, err := p.dial(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		go plain.Write(encodeHello(wire.Hello{Version: wire.ProtocolVersion, Kind: wire.KindCall}))
		if err := ended(plain); err != io.EOF {
			t.Errorf("a stream in the open: %v", err)
		}
		mu.Lock()
		fail = true
		mu.Unlock()
		if _, _, err := m.Dial(t.Context(), "peer:1", wire.KindCall, wire.UUID{}); err == nil || !strings.Contains(err.Error(), "bad certificate") {
			t.Errorf("a stream that could not be secured: %v", err)
		}
	})
}

// Who is not whom it says it is gets no stream, and is told so on the side that found it out, where it dials as where it is dialed.
func TestIdentitiesMustBeProven(t *testing.T) {
	for _, liar := range []string{"who dials", "who is dialed"} {
		bubble.Test(t, func(t *testing.T) {
			proven := map[bool]string{} // whose words were judged, by side
			trusted := 0
			m, _, id := start(t, func(c *Config) {
				c.Secure = func(nc net.Conn, server bool) (Secured, error) {
					return judged{nc, func(group, name string, peer wire.UUID) error {
						proven[server] = group + " " + name + " " + peer.String()
						if server == (liar == "who dials") {
							return errors.New("it is another")
						}
						return nil
					}, &trusted}, nil
				}
			})
			_, _, err := m.Dial(t.Context(), "peer:1", wire.KindCall, wire.UUID{})
			var refused *RefusedError
			var stranger *StrangerError
			switch {
			case liar == "who dials" && (!errors.As(err, &refused) || refused.Welcome.Refusal != wire.RefusedIdentity || trusted != 0):
				t.Errorf("who dials under another name: %v, trusted %d times", err, trusted)
			case liar == "who is dialed" && (!errors.As(err, &stranger) || stranger.Reason != "identity" || trusted != 1):
				t.Errorf("who answers under another name: %v, trusted %d times", err, trusted)
			}
			synctest.Wait()
			if s := m.Strangers(); len(s) == 0 || s[0].Reason != "identity" {
				t.Errorf("strangers: %+v", s)
			}
			self := id.self(0, wire.UUID{})
			if want := self.Group + " " + self.Name + " " + self.Server.String(); proven[liar == "who dials"] != want {
				t.Errorf("judged was %q, want %q", proven[liar == "who dials"], want)
			}
		})
	}
}

// judged is a stream whose other side is judged by a test.
type judged struct {
	net.Conn
	proves  func(group, name string, server wire.UUID) error
	trusted *int
}

func (j judged) Proves(group, name string, server wire.UUID) error {
	return j.proves(group, name, server)
}
func (j judged) Trust() { *j.trusted++ }

func TestLongRefusalTextIsCut(t *testing.T) {
	p := encodeWelcome(wire.Welcome{Version: wire.ProtocolVersion, Refusal: wire.RefusedBusy, Text: strings.Repeat("é", wire.MaxText), Name: strings.Repeat("n", wire.MaxName)})
	a, err := readWelcome(bytes.NewReader(p))
	if err != nil || len(a.Text) != wire.MaxText {
		t.Fatalf("%d bytes, %v", len(a.Text), err)
	}
}

func FuzzHello(f *testing.F) {
	f.Add(encodeHello(wire.Hello{Version: wire.ProtocolVersion, Kind: wire.KindCall, Group: "g", Name: "n"}))
	f.Add(encodeHello(wire.Hello{Version: 2, Kind: wire.KindCall}))
	f.Add(encodeHello(wire.Hello{Version: wire.ProtocolVersion, Kind: wire.KindRaft, Target: wire.UUID{1}}))
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		alloctest.PaidWith(t, 0, alloctest.Constant, func() { _, _ = readHello(bytes.NewReader(p)) }) // of whatever length
		rest := bytes.NewReader(p)
		h, err := readHello(rest)
		if read := len(p) - rest.Len(); read > helloHeader+MaxHello {
			t.Fatalf("%d bytes were read", read)
		}
		if err == nil && h.Kind != KindOf(p) {
			t.Fatalf("a stream of kind %q is taken for one of %q", h.Kind, KindOf(p))
		}
		if err != nil || h.Version != wire.ProtocolVersion {
			return
		}
		again, err := readHello(bytes.NewReader(encodeHello(h)))
		if err != nil || again != h {
			t.Fatalf("%+v came back as %+v, %v", h, again, err)
		}
	})
}

func FuzzWelcome(f *testing.F) {
	f.Add(encodeWelcome(wire.Welcome{Version: wire.ProtocolVersion, Text: "t", Name: "n"}))
	f.Add(encodeWelcome(wire.Welcome{Version: wire.ProtocolVersion, Refusal: wire.RefusedCluster, Cluster: wire.UUID{1}, Name: "n"}))
	f.Fuzz(func(t *testing.T, p []byte) {
		alloctest.PaidWith(t, 0, alloctest.Constant, func() { _, _ = readWelcome(bytes.NewReader(p)) })
		a, err := readWelcome(bytes.NewReader(p))
		if err == nil { // what is said of a refusal is for logs
			_ = (&RefusedError{Addr: "a:1", Welcome: a}).Error()
		}
		if err != nil || a.Version != wire.ProtocolVersion {
			return
		}
		again, err := readWelcome(bytes.NewReader(encodeWelcome(a)))
		if err != nil || again != a {
			t.Fatalf("%+v came back as %+v, %v", a, again, err)
		}
	})
}
