package simnet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/wire"
)

const (
	ipA = "10.0.0.1"
	ipB = "10.0.0.2"
)

// virtual runs a test in a bubble, on a network where one way takes 10 ms.
func virtual(t *testing.T, f func(t *testing.T, n *Net)) {
	bubble.Test(t, func(t *testing.T) {
		n := New(1)
		n.SetDelays(10*time.Millisecond, 0)
		f(t, n)
	})
}

func listen(t *testing.T, n *Net, ip string) (net.Listener, net.PacketConn) {
	t.Helper()
	l, p, err := n.Host(ip).Listen(":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); p.Close() })
	return l, p
}

// streams is a listener on B and a stream from A to it.
func streams(t *testing.T, n *Net) (l net.Listener, near, far net.Conn) {
	t.Helper()
	l, _ = listen(t, n, ipB)
	near = dial(t, n, ipA, l)
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return l, near, far
}

func dial(t *testing.T, n *Net, from string, l net.Listener) net.Conn {
	t.Helper()
	c, err := n.Host(from).Dial(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func wrote(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if n, err := io.WriteString(c, s); n != len(s) || err != nil {
		t.Fatalf("wrote %d bytes of %q: %v", n, s, err)
	}
}

func reads(t *testing.T, c net.Conn, want string) {
	t.Helper()
	p := make([]byte, len(want))
	if n, err := io.ReadFull(c, p); err != nil || string(p) != want {
		t.Fatalf("read %q, %v, want %q", p[:n], err, want)
	}
}

func readError(t *testing.T, c net.Conn, want error) {
	t.Helper()
	if k, err := c.Read(make([]byte, 1)); k != 0 || !errors.Is(err, want) {
		t.Fatalf("read %d bytes, %v, want %v", k, err, want)
	}
}

func took(t *testing.T, what string, begin time.Time, want time.Duration) {
	t.Helper()
	if d := time.Since(begin); d != want {
		t.Errorf("%s took %v, want %v", what, d, want)
	}
}

func TestStreamTakesItsTime(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		begin := time.Now()
		l, near, far := streams(t, n)
		took(t, "dialing", begin, 20*time.Millisecond)
		if near.RemoteAddr().String() != l.Addr().String() || far.RemoteAddr().String() != near.LocalAddr().String() ||
			!strings.HasPrefix(near.LocalAddr().String(), ipA+":") || far.LocalAddr().(*net.TCPAddr).Port == 0 {
			t.Errorf("%v -> %v, %v <- %v", near.LocalAddr(), near.RemoteAddr(), far.LocalAddr(), far.RemoteAddr())
		}
		begin = time.Now()
		wrote(t, near, "hello")
		took(t, "writing", begin, 0)
		reads(t, far, "hello")
		took(t, "one way", begin, 10*time.Millisecond)
		wrote(t, far, "bye")
		far.Close()
		reads(t, near, "bye")
		readError(t, near, io.EOF)
		took(t, "and back", begin, 20*time.Millisecond)
		readError(t, far, net.ErrClosed)
		if err := far.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second close: %v", err)
		}
		wrote(t, near, "anybody there?")
		time.Sleep(20 * time.Millisecond)
		synctest.Wait() // the reset arrives at this very instant
		if _, err := near.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("writing to nobody: %v", err)
		}
		readError(t, near, syscall.ECONNRESET)
		near.Close()
		if a, b := n.Open(ipA), n.Open(ipB); a != 0 || b != 2 { // B still listens
			t.Errorf("open: %d and %d", a, b)
		}
		if len(n.streams) != 0 {
			t.Errorf("%d streams remembered", len(n.streams))
		}
	})
}

func TestStreamsStayInOrder(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	virtual(t, func(t *testing.T, n *Net) {
		n.SetDelays(time.Millisecond, 50*time.Millisecond)
		_, near, far := streams(t, n)
		rng := rand.New(rand.NewPCG(seed, 0))
		const total = 4 << 20
		sent, got := sha256.New(), sha256.New()
		go func() {
			for left := total; left > 0; {
				p := make([]byte, min(left, 1+rng.IntN(window*3/2)))
				for i := range p {
					p[i] = byte(rng.Uint32())
				}
				sent.Write(p)
				near.Write(p)
				left -= len(p)
				time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond)
			}
			near.Close()
		}()
		if k, err := io.Copy(got, far); err != nil || k != total || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
			t.Errorf("%d bytes, %v, equal %t", k, err, bytes.Equal(sent.Sum(nil), got.Sum(nil)))
		}
	})
}

func TestBackPressure(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		_, near, far := streams(t, n)
		near.SetWriteDeadline(time.Now().Add(time.Second))
		begin := time.Now()
		k, err := near.Write(make([]byte, 2*window))
		if k != window || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("wrote %d bytes, %v", k, err)
		}
		took(t, "the deadline", begin, time.Second)
		near.SetWriteDeadline(time.Time{})
		go func() {
			time.Sleep(time.Second)
			io.CopyN(io.Discard, far, window/2)
		}()
		begin = time.Now()
		if k, err := near.Write(make([]byte, window/2)); k != window/2 || err != nil {
			t.Fatalf("wrote %d bytes, %v", k, err)
		}
		took(t, "waiting for room", begin, time.Second)
		go func() { time.Sleep(time.Second); near.Close() }()
		if _, err := near.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write that waited while the stream was closed: %v", err)
		}
	})
}

func TestDeadlines(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		_, near, far := streams(t, n)
		begin := time.Now()
		near.SetReadDeadline(begin.Add(time.Second))
		readError(t, near, os.ErrDeadlineExceeded)
		took(t, "the deadline", begin, time.Second)
		_, err := near.Read(make([]byte, 1))
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%v is no time-out", err)
		}
		near.SetDeadline(time.Now().Add(time.Hour)) // a later one takes its place
		go func() { time.Sleep(time.Second); near.SetDeadline(time.Now()) }()
		begin = time.Now()
		readError(t, near, os.ErrDeadlineExceeded)
		took(t, "a deadline moved under the reader", begin, time.Second)
		if _, err := near.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		near.SetDeadline(time.Time{})
		wrote(t, far, "on")
		reads(t, near, "on")
		go func() { time.Sleep(time.Second); near.Close() }()
		readError(t, near, net.ErrClosed)
		if err := near.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a deadline for a closed stream: %v", err)
		}
	})
}

func TestDialRefusedAndWaiting(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		l, _ := listen(t, n, ipB)
		begin := time.Now()
		if _, err := n.Host(ipA).Dial(t.Context(), "10.0.0.9:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody: %v", err)
		}
		took(t, "a refusal", begin, 20*time.Millisecond)
		for range backlog {
			dial(t, n, ipA, l)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Host(ipA).Dial(ctx, l.Addr().String()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a full backlog: %v", err)
		}
		go func() { time.Sleep(time.Second); l.Accept() }()
		begin = time.Now()
		dial(t, n, ipA, l)
		took(t, "waiting for room", begin, time.Second)
		first := dialLater(t, n, l)
		l.Close()
		if err := <-first; !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the listener closed: %v", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v", err)
		}
		if open := n.Open(ipB); open != 2 { // the packets, and the stream that was accepted
			t.Errorf("%d sockets open", open)
		}
	})
}

func dialLater(t *testing.T, n *Net, l net.Listener) <-chan error {
	errs := make(chan error, 1)
	go func() {
		c, err := n.Host(ipA).Dial(t.Context(), l.Addr().String())
		if err == nil {
			c.Close()
		}
		errs <- err
	}()
	synctest.Wait()
	return errs
}

func TestListen(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		h := n.Host(ipA)
		for _, bind := range []string{":7950", "0.0.0.0:7951", ipA + ":7952", "[::]:7953"} {
			l, p, err := h.Listen(bind)
			if err != nil {
				t.Errorf("%s: %v", bind, err)
				continue
			}
			if l.Addr().String() != p.LocalAddr().String() || !strings.HasPrefix(l.Addr().String(), ipA+":795") {
				t.Errorf("%s: %v, %v", bind, l.Addr(), p.LocalAddr())
			}
		}
		for bind, want := range map[string]error{":7950": syscall.EADDRINUSE, ipB + ":0": syscall.EADDRNOTAVAIL} {
			if _, _, err := h.Listen(bind); !errors.Is(err, want) {
				t.Errorf("%s: %v", bind, err)
			}
		}
		for _, bind := range []string{"nonsense", ":70000", ":x"} {
			if _, _, err := h.Listen(bind); err == nil {
				t.Errorf("%s: no error", bind)
			}
		}
		n.CloseHost(ipA)
		if open := n.Open(ipA); open != 0 {
			t.Errorf("%d sockets open", open)
		}
		if _, _, err := h.Listen(":7950"); err != nil {
			t.Errorf("the next process: %v", err)
		}
	})
}

func TestCutStallsStreamsAndDials(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		l, near, far := streams(t, n)
		wrote(t, near, "under way")
		n.Cut(ipA, ipB)
		wrote(t, near, " and later")
		far.SetReadDeadline(time.Now().Add(time.Minute))
		readError(t, far, os.ErrDeadlineExceeded)
		far.SetReadDeadline(time.Time{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if _, err := n.Host(ipA).Dial(ctx, l.Addr().String()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial: %v", err)
		}
		took(t, "a dial into the void", begin, time.Second)
		later := dialLater(t, n, l)
		time.Sleep(time.Hour)
		n.Heal(ipA, ipB)
		reads(t, far, "under way and later")
		if err := <-later; err != nil {
			t.Errorf("a dial that waited: %v", err)
		}
	})
}

func TestCutOneWay(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		_, near, far := streams(t, n)
		n.CutOneWay(ipA, ipB)
		wrote(t, far, "to A")
		reads(t, near, "to A")
		wrote(t, near, "to B")
		far.SetReadDeadline(time.Now().Add(time.Second))
		readError(t, far, os.ErrDeadlineExceeded)
		far.SetReadDeadline(time.Time{})
		near.Close() // the end is held too
		n.HealAll()
		reads(t, far, "to B")
		readError(t, far, io.EOF)
	})
}

func TestPartition(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		for i := range 5 {
			n.Host(fmt.Sprintf("10.0.0.%d", i+1))
		}
		n.Partition([]string{"10.0.0.1", "10.0.0.2"})
		n.Isolate("10.0.0.5")
		for i := range 5 {
			for j := range 5 {
				a, b := n.host(fmt.Sprintf("10.0.0.%d", i+1)), n.host(fmt.Sprintf("10.0.0.%d", j+1))
				want := i == j || i < 2 && j < 2 || (i == 2 || i == 3) && (j == 2 || j == 3)
				if got := n.passable(a, b); got != want {
					t.Errorf("%s to %s passable: %t", a.ip, b.ip, got)
				}
			}
		}
	})
}

func TestFreeze(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		l, near, far := streams(t, n)
		_, pa := listen(t, n, ipA)
		pb, err := packetsOf(n, ipB)
		if err != nil {
			t.Fatal(err)
		}
		wrote(t, near, "came before")
		time.Sleep(time.Second)
		n.Freeze(ipB)
		wrote(t, near, ", came after")
		wrote(t, far, "from the ice")
		pa.WriteTo([]byte("packet"), pb.LocalAddr())
		pb.WriteTo([]byte("lost"), pa.LocalAddr())
		later := dialLater(t, n, l)
		for _, c := range []net.Conn{near, far} {
			c.SetReadDeadline(time.Now().Add(time.Minute))
			readError(t, c, os.ErrDeadlineExceeded)
			c.SetReadDeadline(time.Time{})
		}
		pb.SetReadDeadline(time.Now().Add(time.Second))
		if _, _, err := pb.ReadFrom(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a packet in the ice: %v", err)
		}
		pb.SetReadDeadline(time.Time{})
		n.Thaw(ipB)
		reads(t, far, "came before, came after")
		reads(t, near, "from the ice")
		if err := <-later; err != nil {
			t.Errorf("a dial that waited: %v", err)
		}
		p := make([]byte, 10)
		if k, _, err := pb.ReadFrom(p); err != nil || string(p[:k]) != "packet" {
			t.Errorf("packet %q, %v", p[:k], err)
		}
		pb.WriteTo([]byte("thawed"), pa.LocalAddr())
		if k, _, err := pa.ReadFrom(p); err != nil || string(p[:k]) != "thawed" {
			t.Errorf("packet from the thawed host: %q, %v", p[:k], err)
		}
	})
}

// packetsOf is the packet socket that a host has.
func packetsOf(n *Net, ip string) (*packetConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.hosts[ip].packets {
		return p, nil
	}
	return nil, errors.New("no packet socket")
}

func TestCloseHost(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		l, near, far := streams(t, n)
		waiting := dial(t, n, ipA, l)
		back := dialLater(t, n, l) // under way when the host crashes
		wrote(t, far, "last words")
		n.Freeze(ipB) // paused, then killed
		n.CloseHost(ipB)
		readError(t, far, net.ErrClosed)
		if _, err := far.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write on the dead host: %v", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v", err)
		}
		reads(t, near, "last words")
		readError(t, near, syscall.ECONNRESET)
		readError(t, waiting, syscall.ECONNRESET)
		if err := <-back; !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a dial under way: %v", err)
		}
		if open := n.Open(ipB); open != 0 {
			t.Errorf("%d sockets open", open)
		}

		l2, _, err := n.Host(ipB).Listen(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		out := dialLater(t, n, l2)
		n.CloseHost(ipA) // the dialer's crash
		if err := <-out; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a dial of a dead process: %v", err)
		}
		n.CloseHost(ipB)
	})
}

func TestPackets(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		_, a := listen(t, n, ipA)
		_, b := listen(t, n, ipB)
		p := make([]byte, 100)
		begin := time.Now()
		a.WriteTo([]byte("hello"), b.LocalAddr())
		k, from, err := b.ReadFrom(p)
		if err != nil || string(p[:k]) != "hello" || from.String() != a.LocalAddr().String() {
			t.Errorf("%q from %v, %v", p[:k], from, err)
		}
		took(t, "a packet", begin, 10*time.Millisecond)
		if _, err := a.WriteTo(make([]byte, maxPacket+1), b.LocalAddr()); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("too large: %v", err)
		}
		for _, addr := range []net.Addr{&net.UDPAddr{}, &net.UDPAddr{IP: net.ParseIP("10.9.9.9"), Port: 1}} {
			if _, err := a.WriteTo(p, addr); err != nil {
				t.Errorf("to nobody: %v", err)
			}
		}
		n.CutOneWay(ipA, ipB)
		a.WriteTo([]byte("lost"), b.LocalAddr())
		n.HealAll()
		for range packetQue + 10 {
			a.WriteTo([]byte("many"), b.LocalAddr())
		}
		time.Sleep(time.Second)
		for i := range packetQue {
			if k, _, err := b.ReadFrom(p); err != nil || string(p[:k]) != "many" {
				t.Fatalf("packet %d: %q, %v", i, p[:k], err)
			}
		}
		b.SetReadDeadline(time.Now().Add(time.Second))
		if _, _, err := b.ReadFrom(p); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("more than the queue holds: %v", err)
		}
		b.SetReadDeadline(time.Time{})
		go func() { time.Sleep(time.Second); b.Close() }()
		if _, _, err := b.ReadFrom(p); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
		if _, err := b.WriteTo(p, a.LocalAddr()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
	})
}

// One seed loses the same packets every time, another seed others.
func TestLossIsDecidedBySeed(t *testing.T) {
	lost := func(seed uint64) (got string) {
		bubble.Test(t, func(t *testing.T) {
			n := New(seed)
			n.SetLosses(0.3)
			_, a := listen(t, n, ipA)
			_, b := listen(t, n, ipB)
			for i := range 200 {
				a.WriteTo([]byte{byte(i)}, b.LocalAddr())
				time.Sleep(time.Millisecond)
			}
			p := make([]byte, 1)
			b.SetReadDeadline(time.Now().Add(time.Second))
			for {
				if _, _, err := b.ReadFrom(p); err != nil {
					return
				}
				got += string(rune(p[0]))
			}
		})
		return got
	}
	first := lost(1)
	if k := len([]rune(first)); k < 110 || k > 170 {
		t.Errorf("%d of 200 arrived", k)
	}
	if lost(1) != first {
		t.Error("the same seed lost others")
	}
	if lost(2) == first {
		t.Error("another seed lost the same")
	}
}

func TestLoseReplies(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		l, other, _ := streams(t, n)
		wrote(t, other, "DLK1G another kind")
		near := dial(t, n, ipA, l)
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		wrote(t, near, "DLK1C request")
		reads(t, far, "DLK1C request")
		loss := n.LoseReplies(ipB, ipA, wire.KindCall, 7)
		wrote(t, far, "first")
		reads(t, near, "first")
		wrote(t, near, "not concerned")
		reads(t, far, "not concerned")
		select {
		case <-loss.Done():
			t.Error("lost too early")
		default:
		}
		wrote(t, far, "second") // two bytes of it pass
		<-loss.Done()
		wrote(t, far, "third")
		reads(t, near, "se")
		readError(t, near, syscall.ECONNRESET)
		readError(t, far, syscall.ECONNRESET)
		wrote(t, other, "lives")
	})
}

func TestLoseRequests(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		loss := n.LoseRequests(ipA, ipB, 0, 0)
		_, near, far := streams(t, n)
		wrote(t, near, "lost")
		<-loss.Done()
		readError(t, far, syscall.ECONNRESET)
		readError(t, near, syscall.ECONNRESET)
	})
}

func TestTap(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		var mu sync.Mutex
		var seen []string
		n.Tap(func(w Write) (int, Fate) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprintf("%s %t %q %d %s", w.From, w.Dialer, w.Kind, w.Offset, w.Data))
			if string(w.Data) == "lose me" {
				return 4, Lose
			}
			return 0, Deliver
		})
		_, near, far := streams(t, n)
		wrote(t, near, "DLK1R")
		reads(t, far, "DLK1R")
		wrote(t, far, "answer")
		reads(t, near, "answer")
		wrote(t, near, "lose me")
		n.Tap(nil)
		wrote(t, near, "and me")
		near.Close() // so is the end
		reads(t, far, "lose")
		far.SetReadDeadline(time.Now().Add(time.Second))
		readError(t, far, os.ErrDeadlineExceeded)
		want := `10.0.0.1 true 'R' 0 DLK1R|10.0.0.2 false 'R' 0 answer|10.0.0.1 true 'R' 5 lose me`
		if got := strings.Join(seen, "|"); got != want {
			t.Errorf("saw %s", got)
		}
	})
}

func TestAHostReachesItself(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		begin := time.Now()
		l, _ := listen(t, n, ipB)
		near := dial(t, n, ipB, l)
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		n.Isolate(ipB)
		wrote(t, near, "me")
		reads(t, far, "me")
		took(t, "all that", begin, 0)
		far.Close()
	})
}
