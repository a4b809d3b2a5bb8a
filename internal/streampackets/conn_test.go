package streampackets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/simnet"
)

// world is a network in virtual time; process i has the address 10.0.0.i+1:7950.
type world struct {
	t    *testing.T
	net  *simnet.Net
	open []func()
}

func virtual(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		w := &world{t: t, net: simnet.New(1)}
		f(t, w)
		for _, end := range w.open {
			end()
		}
		synctest.Wait()
		if left := inBubble(); strings.Contains(left, "streampackets.(*") {
			t.Errorf("still running:\n%s", left)
		}
	})
}

// inBubble is the stacks of the goroutines of the caller's bubble but its own.
func inBubble() string {
	buf := make([]byte, 4<<20)
	stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	head, _, _ := strings.Cut(stacks[0], "\n")
	_, bubble, _ := strings.Cut(head, "synctest bubble ")
	var all []string
	for _, s := range stacks[1:] {
		if head, _, _ := strings.Cut(s, "\n"); strings.HasSuffix(head, "synctest bubble "+bubble) && !strings.Contains(s, "synctest.Run") {
			all = append(all, s)
		}
	}
	return strings.Join(all, "\n\n")
}

func ip(i int) string { return fmt.Sprintf("10.0.%d.%d", (i+1)/250, (i+1)%250) }

func at(i int) *net.UDPAddr { return &net.UDPAddr{IP: net.ParseIP(ip(i)), Port: 7950} }

// accept is l as Config.Accept wants it.
func accept(l net.Listener) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		stop := context.AfterFunc(ctx, func() { _ = l.Close() })
		defer stop()
		return l.Accept()
	}
}

func (w *world) start(i int) *Conn {
	h := w.net.Host(ip(i))
	l, udp, err := h.Listen(":7950")
	if err != nil {
		w.t.Fatal(err)
	}
	_ = udp.Close()
	c := New(Config{Local: at(i), Dial: h.Dial, Accept: accept(l)})
	w.open = append(w.open, func() { _ = c.Close() })
	return c
}

func mustSend(t *testing.T, c *Conn, to net.Addr, text string) {
	t.Helper()
	if n, err := c.WriteTo([]byte(text), to); err != nil || n != len(text) {
		t.Fatalf("WriteTo: %d, %v", n, err)
	}
}

// heard is the next packet, "" when none comes within a second.
func heard(t *testing.T, c *Conn) string {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	defer func() { _ = c.SetReadDeadline(time.Time{}) }()
	b := make([]byte, MaxPacket)
	n, from, err := c.ReadFrom(b)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ""
	case err != nil:
		t.Fatal(err)
	case from == nil || from.Network() != "udp":
		t.Fatalf("a packet from %v", from)
	}
	return string(b[:n])
}

func (c *Conn) counts() (peers, running, dialing, sources int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.peers {
		if p.running {
			running++
		}
	}
	return len(c.peers), running, c.dialing, len(c.sources)
}

func TestPacketsArrive(t *testing.T) {
	virtual(t, func(t *testing.T, w *world) {
		a, b := w.start(0), w.start(1)
		long := strings.Repeat("x", MaxPacket)
		for _, text := range []string{"one", "two", long, "four"} {
			mustSend(t, a, at(1), text)
		}
		mustSend(t, b, at(0), "back")
		for _, want := range []string{"one", "two", long, "four"} {
			if got := heard(t, b); got != want {
				t.Errorf("got %.20q of %d bytes, want %.20q", got, len(got), want)
			}
		}
		if got := heard(t, a); got != "back" {
			t.Errorf("got %q", got)
		}
		if _, running, _, sources := a.counts(); running != 1 || sources != 1 {
			t.Errorf("%d streams out and %d in, for four packets one way and one the other", running, sources)
		}
		if _, err := a.WriteTo(make([]byte, MaxPacket+1), at(1)); err == nil {
			t.Error("a packet beyond the bound is taken")
		}
		for _, to := range []net.Addr{nil, &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2)}, &net.UnixAddr{Name: "x"}} {
			if _, err := a.WriteTo([]byte("x"), to); err == nil {
				t.Errorf("a packet to %v is taken", to)
			}
		}
	})
}

func TestDeadlinesAreASockets(t *testing.T) {
	virtual(t, func(t *testing.T, w *world) {
		a, b := w.start(0), w.start(1)
		failed := make(chan error, 1)
		read := func() {
			_, _, err := b.ReadFrom(make([]byte, 10))
			failed <- err
		}
		go read() // ends with the deadline
		synctest.Wait()
		_ = b.SetDeadline(time.Unix(1, 0))
		if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a read under way: %v", err)
		}
		read()
		if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a read after it: %v", err)
		}
		_ = b.SetDeadline(time.Now().Add(time.Second))
		_ = b.SetDeadline(time.Time{})
		time.Sleep(2 * time.Second)
		mustSend(t, a, at(1), "still there")
		if got := heard(t, b); got != "still there" {
			t.Errorf("after the deadline was lifted: %q", got)
		}
		go read() // ends with Close
		synctest.Wait()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if err := <-failed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a read while it was closed: %v", err)
		}
		if _, err := b.WriteTo([]byte("x"), at(0)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write after Close: %v", err)
		}
		if err := b.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a second Close: %v", err)
		}
	})
}

// Streams live as long as they are used.
func TestIdleStreamsAreClosed(t *testing.T) {
	virtual(t, func(t *testing.T, w *world) {
		a, b := w.start(0), w.start(1)
		for range 4 {
			mustSend(t, a, at(1), "x")
			if heard(t, b) != "x" {
				t.Fatal("lost")
			}
			time.Sleep(idleOut / 2)
		}
		if _, _, _, sources := b.counts(); sources != 1 {
			t.Errorf("%d streams, want one", sources)
		}
		time.Sleep(idleOut)
		peers, running, _, _ := a.counts()
		if _, _, _, sources := b.counts(); peers+running+sources != 0 {
			t.Errorf("when nothing was sent for %s, %d addresses are remembered, and %d streams in", idleOut, peers, sources)
		}
		mustSend(t, a, at(1), "again")
		if got := heard(t, b); got != "again" {
			t.Errorf("after that: %q", got)
		}
	})
}

// Hazard 25: WriteTo must not block, whoever is or isn't there, and what waits is bounded.
func TestWritesNeverWait(t *testing.T) {
	virtual(t, func(t *testing.T, w *world) {
		a := w.start(0)
		for i := range 2 * maxPeers {
			w.net.Host(ip(i + 1))
			w.net.Cut(ip(0), ip(i+1)) // whoever dials it waits
		}
		began := time.Now()
		for i := range 2 * maxPeers {
			for range 2 * packetsWait {
				mustSend(t, a, at(i+1), "x")
			}
		}
		synctest.Wait()
		if took := time.Since(began); took != 0 {
			t.Errorf("writing took %s", took)
		}
		if peers, _, dialing, _ := a.counts(); dialing != maxDials || peers > maxPeers {
			t.Errorf("%d dials under way and %d addresses, want %d and at most %d", dialing, peers, maxDials, maxPeers)
		}
		for range 100 { // ten a second to those that don't answer
			for i := range 10 {
				mustSend(t, a, at(i+1), "x")
			}
			time.Sleep(100 * time.Millisecond)
		}
		if _, _, dialing, _ := a.counts(); dialing > 10 {
			t.Errorf("%d dials for ten addresses", dialing)
		}
	})
}

// A stream whose other side was cut off is given up, though the system would go on with it, and packets arrive soon after the cut is mended.
func TestACutIsSurvived(t *testing.T) {
	for _, lasted := range []time.Duration{time.Second, 10 * time.Second, 2 * time.Minute} {
		t.Run(lasted.String(), func(t *testing.T) {
			virtual(t, func(t *testing.T, w *world) {
				a, b := w.start(0), w.start(1)
				mustSend(t, a, at(1), "before")
				if heard(t, b) != "before" {
					t.Fatal("lost")
				}
				w.net.Cut(ip(0), ip(1))
				send := func() {
					mustSend(t, a, at(1), "x")
					time.Sleep(probe)
				}
				for began := time.Now(); time.Since(began) < lasted; {
					send()
				}
				old := a.stream(at(1))
				w.net.HealAll()
				mended := time.Now()
				for {
					send()
					if heard(t, b) == "x" {
						break
					}
					if time.Since(mended) > 10*time.Second {
						t.Fatal("nothing arrives within 10 s")
					}
				}
				t.Logf("after a cut of %s, packets arrived again within %s (stream there when it was mended: %v)", lasted, time.Since(mended), old)
				if took := time.Since(mended); took > lastRetry+2*time.Second {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

const probe = 500 * time.Millisecond // gossip's

// stream says whether there is one to addr.
func (c *Conn) stream(addr *net.UDPAddr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	to, _ := addrPort(addr)
	p := c.peers[to]
	return p != nil && p.running && !p.dialing
}

// A side that reads and never answers is no use: its stream is given up for another.
func TestASilentStreamIsGivenUp(t *testing.T) {
	virtual(t, func(t *testing.T, w *world) {
		a := w.start(0)
		l, _, err := w.net.Host(ip(1)).Listen(":7950")
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan net.Conn, 10)
		w.open = append(w.open, func() {
			_ = l.Close()
			for nc := range accepted {
				_ = nc.Close()
			}
		})
		go func() { // ends with l
			for {
				nc, err := l.Accept()
				if err != nil {
					close(accepted)
					return
				}
				accepted <- nc
				go io.Copy(io.Discard, nc) // ends with nc
			}
		}()
		for range 20 {
			mustSend(t, a, at(1), "x")
			time.Sleep(probe)
		}
		if n := len(accepted); n < 3 || n > 6 {
			t.Errorf("%d streams in 10 s, want a new one every %s", n, ackTimeout)
		}
	})
}

// What a member can make this process hold is bounded, also when it sends what makes no sense.
func TestSourcesAreBounded(t *testing.T) {
	virtual(t, func(t *testing.T, w *world) {
		a := w.start(0)
		dial := func(i int) net.Conn {
			nc, err := w.net.Host(ip(i)).Dial(t.Context(), at(0).String())
			if err != nil {
				t.Fatal(err)
			}
			w.open = append(w.open, func() { _ = nc.Close() })
			return nc
		}
		closed := func(nc net.Conn) bool {
			_ = nc.SetReadDeadline(time.Now().Add(time.Millisecond))
			for {
				_, err := nc.Read(make([]byte, 10))
				if err != nil {
					return !errors.Is(err, os.ErrDeadlineExceeded)
				}
			}
		}
		frame := func(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
		for name, p := range map[string][]byte{"an empty packet": frame(0), "one too long": frame(MaxPacket + 1)} {
			nc := dial(1)
			if _, err := nc.Write(append(p, 1, 2, 3)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
			if !closed(nc) {
				t.Errorf("%s: the stream stays", name)
			}
		}
		slow := dial(1)
		_, _ = slow.Write(frame(100))
		for range int(frameTimeout / time.Second) {
			_, _ = slow.Write([]byte{0})
			time.Sleep(time.Second + time.Millisecond)
		}
		silent := dial(1)
		if !closed(slow) {
			t.Error("a packet of which a byte comes each second is waited for")
		}
		time.Sleep(idleIn + time.Second)
		if !closed(silent) {
			t.Error("a stream on which nothing comes stays")
		}
		var all []net.Conn
		for i := range maxSources + 10 {
			nc := dial(1 + i%5)
			all = append(all, nc)
			if _, err := nc.Write(append(frame(1), 'x')); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
			for i > 0 && len(a.in) > 0 {
				<-a.in
			}
			if _, _, _, sources := a.counts(); sources > maxSources {
				t.Fatalf("%d streams", sources)
			}
		}
		for i, nc := range all {
			if got, want := closed(nc), i < 10; got != want {
				t.Errorf("stream %d of %d closed: %v; want those that were silent longest to be", i, len(all), got)
				break
			}
		}
	})
}

// A member that floods is not read any faster than the others.
func TestAFloodHoldsUpNobody(t *testing.T) {
	virtual(t, func(t *testing.T, w *world) {
		a := w.start(0)
		nc, err := w.net.Host(ip(1)).Dial(t.Context(), at(0).String())
		if err != nil {
			t.Fatal(err)
		}
		go func() { // ends with nc
			for {
				if _, err := nc.Write(appendFrame(nil, []byte("flood"))); err != nil {
					return
				}
			}
		}()
		go io.Copy(io.Discard, nc) // ends with nc
		synctest.Wait()
		b := w.start(2)
		mustSend(t, b, at(0), "ordinary")
		time.Sleep(100 * time.Millisecond)
		for n := 0; heard(t, a) != "ordinary"; n++ {
			if n > 2*packetsRead {
				t.Fatalf("after %d packets of the flood the other's has not come", n)
			}
		}
		_ = nc.Close()
	})
}

// An address at which nobody listens is not dialed for every packet.
func TestFailedDialsAreNotRepeatedAtOnce(t *testing.T) {
	virtual(t, func(t *testing.T, w *world) {
		h := w.net.Host(ip(0))
		l, _, err := h.Listen(":7950")
		if err != nil {
			t.Fatal(err)
		}
		w.net.Host(ip(1))
		dials := 0
		c := New(Config{Local: at(0), Accept: accept(l), Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			dials++ // one at a time
			return h.Dial(ctx, addr)
		}})
		w.open = append(w.open, func() { _ = c.Close() })
		for range 200 {
			mustSend(t, c, at(1), "x")
			time.Sleep(50 * time.Millisecond)
		}
		if dials < 5 || dials > 10 {
			t.Errorf("%d dials in 10 s", dials)
		}
		b := w.start(1)
		began := time.Now()
		for heard(t, b) == "" {
			mustSend(t, c, at(1), "x")
			if time.Since(began) > lastRetry+time.Second {
				t.Fatalf("nothing within %s of its start", time.Since(began))
			}
		}
	})
}

// Close waits for nobody else, also when the other side takes nothing and so a write is under way.
func TestCloseEndsWritesUnderWay(t *testing.T) {
	virtual(t, func(t *testing.T, w *world) {
		a := w.start(0)
		l, _, err := w.net.Host(ip(1)).Listen(":7950")
		if err != nil {
			t.Fatal(err)
		}
		w.open = append(w.open, func() { _ = l.Close() })
		for range 100 {
			mustSend(t, a, at(1), strings.Repeat("x", MaxPacket))
			time.Sleep(time.Millisecond)
			if strings.Contains(inBubble(), "simnet.(*conn).Write") {
				break
			}
		}
		if !strings.Contains(inBubble(), "simnet.(*conn).Write") {
			t.Fatalf("no write is under way:\n%s", inBubble())
		}
		began := time.Now()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("Close took %s", took)
		}
	})
}
