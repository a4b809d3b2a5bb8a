package distlock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/mux"
)

// traces is what a test looks for when its clusters are gone.
type traces struct {
	dirs  []string // no file below them may be open
	ports []string // addresses; nothing of this process may have a socket on their ports
}

// of adds what a member with that Config may leave.
func (tr *traces) of(c Config) {
	tr.ports = append(tr.ports, c.Bind)
	if c.DataDir != "" {
		tr.dirs = append(tr.dirs, c.DataDir)
	}
}

// leavesNothing runs use and then waits until no goroutine is left that began in it, and nothing that it said may leave traces does.
// Goroutines are told apart by a label, which they inherit, so tests may run side by side.
func leavesNothing(t *testing.T, use func(tr *traces)) {
	t.Helper()
	var tr traces
	pprof.Do(t.Context(), pprof.Labels("test", t.Name()), func(context.Context) { use(&tr) })
	if len(tr.ports) == 0 && !t.Failed() {
		t.Fatal("this test names no port: it would see nothing")
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		left := append(labelled(t), openSockets(t, tr.ports)...)
		for _, dir := range tr.dirs {
			left = append(left, openFiles(t, dir)...)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind:\n%s", strings.Join(left, "\n"))
		}
		waitABit(t.Context())
	}
}

// labelled are the stacks of the goroutines with t's label.
func labelled(t *testing.T) []string {
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, stack := range strings.Split(b.String(), "\n\n") {
		if strings.Contains(stack, fmt.Sprintf("%q:%q", "test", t.Name())) {
			found = append(found, stack)
		}
	}
	return found
}

// ownSocket is one of this process's sockets.
type ownSocket struct {
	Net           string // tcp or udp
	Local, Remote int    // ports
	Listens       bool
}

func portOf(t testing.TB, addr string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// wantFree wants both ports of addr to be free.
func wantFree(t *testing.T, addr string) {
	t.Helper()
	l, p, err := mux.System().Listen(addr)
	if err != nil {
		t.Errorf("not free: %v", err)
		return
	}
	l.Close()
	p.Close()
}

// countingNetwork is the system's network; it counts what is open. It is how sockets are counted where there is no /proc.
type countingNetwork struct {
	mux.Network
	mu                         sync.Mutex // guards the counts
	listens                    int        // calls of Listen that opened something
	listeners, packets, dialed int        // open now
}

func newCountingNetwork() *countingNetwork { return &countingNetwork{Network: mux.System()} }

func (n *countingNetwork) add(listeners, packets, dialed int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners += listeners
	n.packets += packets
	n.dialed += dialed
}

func (n *countingNetwork) counts() (listens, listeners, packets, dialed int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.listens, n.listeners, n.packets, n.dialed
}

func (n *countingNetwork) Listen(bind string) (net.Listener, net.PacketConn, error) {
	l, p, err := n.Network.Listen(bind)
	if err != nil {
		return nil, nil, err
	}
	n.mu.Lock()
	n.listens++
	n.mu.Unlock()
	n.add(1, 1, 0)
	return &countedListener{l, counted{n: func() { n.add(-1, 0, 0) }}}, &countedPackets{p, counted{n: func() { n.add(0, -1, 0) }}}, nil
}

func (n *countingNetwork) Dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := n.Network.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	n.add(0, 0, 1)
	return &countedConn{c, counted{n: func() { n.add(0, 0, -1) }}}, nil
}

type counted struct {
	once sync.Once
	n    func()
}

type countedListener struct {
	net.Listener
	counted
}

type countedPackets struct {
	net.PacketConn
	counted
}

type countedConn struct {
	net.Conn
	counted
}

func (c *countedListener) Close() error { c.once.Do(c.n); return c.Listener.Close() }
func (c *countedPackets) Close() error  { c.once.Do(c.n); return c.PacketConn.Close() }
func (c *countedConn) Close() error     { c.once.Do(c.n); return c.Conn.Close() }

// closesQuickly closes c and wants that to take at most a few seconds, whatever state c is in.
func closesQuickly(t *testing.T, c *Cluster) {
	t.Helper()
	const limit = 10 * time.Second // of a machine that does much else; in itself it is far less
	closed := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(closed)
		c.Close()
	}()
	select {
	case <-closed:
	case <-time.After(limit):
		t.Fatalf("Close has not returned after %s", limit)
	}
	if took := time.Since(began); took > limit/2 {
		t.Logf("Close took %s", took)
	}
	select {
	case <-c.Done():
	default:
		t.Error("Done is open after Close")
	}
	if !errors.Is(c.Err(), ErrClosed) {
		t.Errorf("Err after Close: %v", c.Err())
	}
}
