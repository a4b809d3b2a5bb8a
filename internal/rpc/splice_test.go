package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
)

// splicer is the one in the middle: its first call, kind 0, splices the connection to what far gives.
type splicer struct {
	handler
	far    func() net.Conn
	joined chan *Conn
}

func (s *splicer) Call(ctx context.Context, c *Conn, kind uint8, body []byte) ([]byte, error) {
	s.joined <- c.Splice(s.far(), Options{})
	return []byte("joined"), nil
}

// spliced is a chain of three: near talks through middle and onward to far.
func spliced(t testing.TB, nearH, farH Handler) (near, middle, onward, far *Conn) {
	t.Helper()
	c, d := net.Pipe()
	s := &splicer{far: func() net.Conn { return c }, joined: make(chan *Conn, 1)}
	near, middle = pair(t, nearH, s, Options{})
	far = New(d, farH, Options{})
	t.Cleanup(func() { far.Close() })
	if got, err := near.Call(t.Context(), 0, nil); err != nil || string(got) != "joined" {
		t.Fatalf("%q, %v", got, err)
	}
	onward = <-s.joined
	t.Cleanup(func() { onward.Close() })
	return near, middle, onward, far
}

func TestSplicePassesCallsBothWays(t *testing.T) {
	refuse := func(ctx context.Context, c *Conn, kind uint8, body []byte) ([]byte, error) {
		if kind == 7 {
			return nil, &RemoteError{Text: "no", Code: 42}
		}
		return echo(ctx, c, kind, body)
	}
	near, _, _, far := spliced(t, handler{call: refuse}, handler{call: refuse})
	var wg sync.WaitGroup
	for i := range 12 {
		for _, c := range []*Conn{near, far} {
			wg.Go(func() {
				for j := range 12 {
					body := bytes.Repeat([]byte{byte(i)}, j*371)
					got, err := c.Call(t.Context(), uint8(100+i), body)
					if err != nil || !bytes.Equal(got, append([]byte{uint8(100 + i)}, body...)) {
						t.Errorf("call %d.%d: %d bytes, %v", i, j, len(got), err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	for _, c := range []*Conn{near, far} {
		var remote *RemoteError
		if _, err := c.Call(t.Context(), 7, nil); !errors.As(err, &remote) || remote.Code != 42 || remote.Text != "no" {
			t.Errorf("got %v", err)
		}
	}
	body := bytes.Repeat([]byte("0123456789abcdef"), MaxBody/16-1)
	if got, err := near.Call(t.Context(), 1, body); err != nil || !bytes.Equal(got[1:], body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A caller that gives up is heard of at the far end.
func TestSplicePassesCancels(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	near, _, _, _ := spliced(t, nil, handler{call: func(ctx context.Context, c *Conn, kind uint8, body []byte) ([]byte, error) {
		close(begun)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if _, err := near.Call(ctx, 1, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-ended
}

// Messages keep their order, among each other and before a call that comes after them.
func TestSpliceKeepsTheOrder(t *testing.T) {
	const count = 20000
	next := uint32(0)
	near, _, _, _ := spliced(t, nil, handler{
		message: func(_ *Conn, _ uint8, body []byte) {
			if got := binary.BigEndian.Uint32(body); got != next {
				t.Errorf("message %d where %d belongs", got, next)
			}
			next++
		},
		call: func(context.Context, *Conn, uint8, []byte) ([]byte, error) {
			return binary.BigEndian.AppendUint32(nil, next), nil
		},
	})
	for i := range uint32(count) {
		if err := near.Send(1, binary.BigEndian.AppendUint32(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := near.Call(t.Context(), 1, nil); err != nil || binary.BigEndian.Uint32(got) != count {
		t.Errorf("%d messages came before the call, %v", got, err)
	}
}

// The end of any of the four ends all.
func TestSpliceEndsTogether(t *testing.T) {
	for i, name := range []string{"near", "middle", "onward", "far"} {
		t.Run(name, func(t *testing.T) {
			near, middle, onward, far := spliced(t, nil, nil)
			all := []*Conn{near, middle, onward, far}
			all[i].Close()
			for _, c := range all {
				<-c.Done()
			}
		})
	}
}

// Who takes nothing holds up who sends, and the one in the middle keeps no more than MaxPassing and a frame.
func TestSpliceHoldsBack(t *testing.T) {
	stuck := make(chan struct{})
	near, middle, onward, _ := spliced(t, nil, handler{message: func(*Conn, uint8, []byte) { <-stuck }})
	release := sync.OnceFunc(func() { close(stuck) })
	t.Cleanup(release)
	const size = 64 << 10
	sent := 0
	for ; sent < 4*MaxPassing; sent += size {
		if err := near.Send(1, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	waiting := func(c *Conn) int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.writing + len(c.queue)
	}
	until(t, func() bool { return waiting(onward) >= MaxPassing })
	until(t, func() bool { onward.mu.Lock(); defer onward.mu.Unlock(); return onward.room != nil }) // so it waits
	if got := waiting(onward); got > MaxPassing+2*size {
		t.Errorf("%d bytes wait in the middle", got)
	}
	if got := waiting(near); got < sent-2*MaxPassing {
		t.Errorf("only %d bytes wait at the sender", got)
	}
	if waiting(middle) > 1024 {
		t.Errorf("%d bytes wait on the way back", waiting(middle))
	}
	release()
	until(t, func() bool { return waiting(near)+waiting(onward) == 0 })
}

// One that waits for room ends with its own connection, not only with the other.
func TestSpliceEndsWhileItWaits(t *testing.T) {
	stuck := make(chan struct{})
	near, middle, onward, _ := spliced(t, nil, handler{message: func(*Conn, uint8, []byte) { <-stuck }})
	t.Cleanup(func() { close(stuck) }) // before the others'
	for range 64 {
		if err := near.Send(1, make([]byte, 64<<10)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, func() bool { onward.mu.Lock(); defer onward.mu.Unlock(); return onward.room != nil })
	middle.Close() // waits for its reader
	<-near.Done()
	<-onward.Done()
}

// A quiet splice lives on. Where one end goes on and takes nothing, the other gives up as it does with a peer that is silent.
func TestSpliceKeepsAlive(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		defer close(stuck)
		near, middle, onward, far := spliced(t, nil, handler{message: func(*Conn, uint8, []byte) { <-stuck }})
		time.Sleep(10 * BrokenAfter)
		for _, c := range []*Conn{near, middle, onward, far} {
			if err := c.Err(); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		for range 64 {
			if err := near.Send(1, make([]byte, 64<<10)); err != nil {
				t.Fatal(err)
			}
		}
		<-near.Done()
		if took := time.Since(began); took > BrokenAfter+PingAfter {
			t.Errorf("given up after %s", took)
		}
	})
}

func until(t *testing.T, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatal("not within 20s")
		}
		time.Sleep(time.Millisecond)
	}
}
