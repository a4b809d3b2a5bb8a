package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/wire"
)

// handler is made of functions; those that are nil do nothing.
type handler struct {
	call    func(ctx context.Context, c *Conn, kind uint8, body []byte) ([]byte, error)
	message func(c *Conn, kind uint8, body []byte)
	closed  func(c *Conn)
}

func (h handler) Call(ctx context.Context, c *Conn, kind uint8, body []byte) ([]byte, error) {
	return h.call(ctx, c, kind, body)
}

func (h handler) Message(c *Conn, kind uint8, body []byte) {
	if h.message != nil {
		h.message(c, kind, body)
	}
}

func (h handler) Closed(c *Conn) {
	if h.closed != nil {
		h.closed(c)
	}
}

func echo(_ context.Context, _ *Conn, kind uint8, body []byte) ([]byte, error) {
	return append([]byte{kind}, body...), nil
}

func waitForEnd(ctx context.Context, _ *Conn, _ uint8, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// pair connects two Conns by net.Pipe, which has no buffer: whatever relies on one shows.
func pair(t testing.TB, near, far Handler, opts Options) (*Conn, *Conn) {
	a, b := net.Pipe()
	x, y := New(a, near, opts), New(b, far, opts)
	t.Cleanup(func() { x.Close(); y.Close() })
	return x, y
}

// loopback connects two Conns by TCP.
func loopback(t testing.TB, near, far Handler) (*Conn, *Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	x, y := New(a, near, Options{}), New(b, far, Options{})
	t.Cleanup(func() { x.Close(); y.Close() })
	return x, y
}

func TestCallsInFlight(t *testing.T) {
	x, y := loopback(t, handler{call: echo}, handler{call: echo})
	var wg sync.WaitGroup
	for i := range 64 {
		for _, c := range []*Conn{x, y} {
			wg.Go(func() {
				for j := range 50 {
					body := bytes.Repeat([]byte{byte(i)}, j*37)
					got, err := c.Call(t.Context(), uint8(i), body)
					if err != nil || !bytes.Equal(got, append([]byte{uint8(i)}, body...)) {
						t.Errorf("call %d.%d: %d bytes, %v", i, j, len(got), err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	for _, c := range []*Conn{x, y} {
		c.Close()
		if len(c.calls) != 0 || len(c.running) != 0 || c.callBytes != 0 {
			t.Errorf("left over: %d calls, %d running, %d bytes", len(c.calls), len(c.running), c.callBytes)
		}
	}
}

func TestLargeBodies(t *testing.T) {
	x, _ := loopback(t, nil, handler{call: func(_ context.Context, _ *Conn, _ uint8, body []byte) ([]byte, error) {
		if len(body) == 0 {
			return make([]byte, MaxBody+1), nil
		}
		return body, nil
	}})
	body := bytes.Repeat([]byte("0123456789abcdef"), MaxBody/16)
	if got, err := x.Call(t.Context(), 1, body); err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := x.Call(t.Context(), 1, make([]byte, MaxBody+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a call that is too large: %v", err)
	}
	if err := x.Send(1, make([]byte, MaxBody+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a message that is too large: %v", err)
	}
	var remote *RemoteError
	if _, err := x.Call(t.Context(), 1, nil); !errors.As(err, &remote) || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a reply that is too large: %v", err)
	}
}

func TestMessagesComeInOrder(t *testing.T) {
	const senders, each = 8, 5000
	next := make([]uint32, senders) // touched by the reader's goroutine only
	all := make(chan struct{})
	left := senders * each
	_, y := loopback(t, handler{message: func(_ *Conn, kind uint8, body []byte) {
		if n := binary.BigEndian.Uint32(body); n != next[kind] {
			t.Errorf("sender %d: message %d where %d belongs", kind, n, next[kind])
		}
		next[kind]++
		if left--; left == 0 {
			close(all)
		}
	}}, nil)
	for s := range senders {
		go func() {
			for i := range uint32(each) {
				if err := y.Send(uint8(s), binary.BigEndian.AppendUint32(nil, i)); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	<-all
}

// counted counts writes and holds the first back until it is told.
type counted struct {
	net.Conn
	writes atomic.Int32
	begun  chan struct{}
	hold   chan struct{}
}

func (c *counted) Write(p []byte) (int, error) {
	if c.writes.Add(1) == 1 {
		close(c.begun)
		<-c.hold
	}
	return c.Conn.Write(p)
}

func TestQueuedFramesGoOutInOneWrite(t *testing.T) {
	a, b := net.Pipe()
	nc := &counted{Conn: a, begun: make(chan struct{}), hold: make(chan struct{})}
	got := make(chan uint8, 101)
	x := New(nc, nil, Options{})
	y := New(b, handler{message: func(_ *Conn, kind uint8, _ []byte) { got <- kind }}, Options{})
	defer x.Close()
	defer y.Close()
	x.Send(0, nil)
	<-nc.begun
	for i := range 100 {
		x.Send(uint8(i+1), []byte("small"))
	}
	close(nc.hold)
	for i := range 101 {
		if kind := <-got; kind != uint8(i) {
			t.Fatalf("message %d where %d belongs", kind, i)
		}
	}
	if n := nc.writes.Load(); n != 2 {
		t.Errorf("%d writes", n)
	}
}

func TestRemoteErrors(t *testing.T) {
	tests := []struct {
		err  error
		code uint8
		text string
	}{
		{errors.New("plain"), 0, "plain"},
		{fmt.Errorf("wrapped: %w", &RemoteError{Text: "coded", Code: 7}), 7, "coded"},
		{&RemoteError{Code: 9}, 9, ""},
		{errors.New(strings.Repeat("é", wire.MaxText)), 0, strings.Repeat("é", wire.MaxText/2)},
	}
	x, _ := pair(t, nil, handler{call: func(_ context.Context, _ *Conn, kind uint8, _ []byte) ([]byte, error) {
		return nil, tests[kind].err
	}}, Options{})
	for i, tt := range tests {
		_, err := x.Call(t.Context(), uint8(i), nil)
		var remote *RemoteError
		if !errors.As(err, &remote) || remote.Code != tt.code || remote.Text != tt.text || err.Error() == "" {
			t.Errorf("%v came as %v", tt.err, err)
		}
		if errors.Is(err, ErrBroken) {
			t.Errorf("%v is no broken connection", err)
		}
	}
}

func TestPanicsAreHeld(t *testing.T) {
	var log bytes.Buffer
	closed := make(chan struct{})
	x, y := pair(t, nil, handler{
		call:    func(context.Context, *Conn, uint8, []byte) ([]byte, error) { panic("in call") },
		message: func(*Conn, uint8, []byte) { panic("in message") },
		closed:  func(*Conn) { close(closed) },
	}, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	var remote *RemoteError
	if _, err := x.Call(t.Context(), 1, nil); !errors.As(err, &remote) || remote.Code != CodePanic {
		t.Errorf("got %v", err)
	}
	x.Send(1, nil)
	<-closed
	if y.Err() == nil || !strings.Contains(log.String(), "in call") || !strings.Contains(log.String(), "in message") {
		t.Errorf("%v, log:\n%s", y.Err(), &log)
	}
}

func TestCallIsGivenUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		told, answer := make(chan struct{}), make(chan struct{})
		x, _ := pair(t, nil, handler{call: func(ctx context.Context, _ *Conn, kind uint8, _ []byte) ([]byte, error) {
			if kind == 1 {
				<-ctx.Done()
				close(told)
				<-answer
			}
			return []byte("late"), nil
		}}, Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := x.Call(ctx, 1, nil); err != context.DeadlineExceeded {
			t.Fatalf("got %v", err)
		}
		<-told // the other side's handler hears of it
		close(answer)
		if got, err := x.Call(t.Context(), 2, nil); err != nil || string(got) != "late" { // the late reply is nobody's
			t.Fatalf("the next call: %q, %v", got, err)
		}
		if _, err := x.Call(ctx, 2, nil); err != context.DeadlineExceeded {
			t.Errorf("a call whose context has ended before: %v", err)
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.lastID != 2 || len(x.calls) != 0 {
			t.Errorf("%d calls sent, %d remembered", x.lastID, len(x.calls))
		}
	})
}

func TestBrokenConnection(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var ends []string
		returned := false
		x, y := pair(t,
			handler{closed: func(*Conn) { ends = append(ends, "near") }},
			handler{
				call: func(ctx context.Context, c *Conn, kind uint8, body []byte) ([]byte, error) {
					<-ctx.Done()
					time.Sleep(time.Second)
					returned = true
					return nil, nil
				},
				closed: func(*Conn) {
					if !returned {
						t.Error("Closed came before a handler had returned")
					}
				},
			}, Options{})
		errs := make(chan error)
		go func() {
			_, err := x.Call(t.Context(), 1, nil)
			errs <- err
		}()
		synctest.Wait()
		if x.Err() != nil || y.Err() != nil {
			t.Errorf("errors before the end: %v, %v", x.Err(), y.Err())
		}
		y.Close() // waits for its handler, whose context it ends
		if err := <-errs; !errors.Is(err, ErrBroken) {
			t.Errorf("the call under way: %v", err)
		}
		<-x.Done()
		if _, err := x.Call(t.Context(), 1, nil); !errors.Is(err, ErrBroken) {
			t.Errorf("a later call: %v", err)
		}
		if err := x.Send(1, nil); !errors.Is(err, ErrBroken) {
			t.Errorf("a later message: %v", err)
		}
		if err := y.Err(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the side that closed: %v", err)
		}
		x.Close()
		x.Close()
		if len(ends) != 1 {
			t.Errorf("Closed came %d times", len(ends))
		}
	})
}

func TestHandlersMayFailTheConnection(t *testing.T) {
	reason := errors.New("makes no sense")
	x, y := pair(t, nil, handler{message: func(c *Conn, _ uint8, _ []byte) { c.Fail(reason) }}, Options{})
	x.Send(1, nil)
	<-y.Done()
	<-x.Done()
	if err := y.Err(); !errors.Is(err, reason) || !errors.Is(err, ErrBroken) {
		t.Errorf("got %v", err)
	}
}

func TestTooManyCalls(t *testing.T) {
	for name, opts := range map[string]Options{"in number": {maxCalls: 2}, "in bytes": {maxCallBytes: 15}} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				x, y := pair(t, nil, handler{call: waitForEnd}, opts)
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				busy := 0
				for range 3 {
					wg.Go(func() {
						_, err := x.Call(ctx, 1, []byte("1234567"))
						var remote *RemoteError
						if errors.As(err, &remote) && remote.Code == CodeBusy {
							busy++ // by one goroutine at most before cancel
						} else if err != context.Canceled {
							t.Errorf("got %v", err)
						}
					})
				}
				synctest.Wait()
				if len(y.running) != 2 {
					t.Errorf("%d run", len(y.running))
				}
				cancel()
				wg.Wait()
				synctest.Wait()
				if busy != 1 || len(y.running) != 0 || y.callBytes != 0 {
					t.Errorf("%d refused; %d run, %d bytes", busy, len(y.running), y.callBytes)
				}
			})
		})
	}
}

func TestSlowPeerIsGivenUp(t *testing.T) {
	a, b := net.Pipe() // b never reads
	defer b.Close()
	x := New(a, nil, Options{maxQueued: 1000})
	defer x.Close()
	var err error
	for range 12 {
		if err = x.Send(1, make([]byte, 100)); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrSlow) || !errors.Is(err, ErrBroken) {
		t.Errorf("got %v", err)
	}
	<-x.Done()
}

func TestKeepaliveHoldsAnIdleConnection(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		x, y := pair(t, nil, handler{call: echo}, Options{})
		time.Sleep(5 * time.Minute)
		if _, err := y.Call(t.Context(), 1, nil); err == nil {
			t.Error("a call to nobody was answered")
		}
		if _, err := x.Call(t.Context(), 1, nil); err != nil {
			t.Errorf("after five idle minutes: %v", err)
		}
	})
}

// deaf swallows what is written and never has anything to read.
type deaf struct{ net.Conn }

func (deaf) Write(p []byte) (int, error) { return len(p), nil }

func TestKeepaliveBreaksASilentConnection(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		begin := time.Now()
		x := New(deaf{a}, nil, Options{})
		defer x.Close()
		busy := make(chan struct{})
		go func() { // sending is no sign of life
			defer close(busy)
			for x.Send(1, []byte("is there anybody?")) == nil {
				time.Sleep(100 * time.Millisecond)
			}
		}()
		<-x.Done()
		if d := time.Since(begin); d != BrokenAfter || !errors.Is(x.Err(), ErrSilent) {
			t.Errorf("%v after %v", x.Err(), d)
		}
		<-busy
	})
}

func TestKeepaliveBreaksAStalledWrite(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a, b := net.Pipe() // nobody reads b
		defer b.Close()
		begin := time.Now()
		x := New(a, nil, Options{PingAfter: time.Second, BrokenAfter: 1500 * time.Millisecond})
		x.Send(1, nil)
		<-x.Done()
		if d := time.Since(begin); d != 1500*time.Millisecond {
			t.Errorf("broken after %v: %v", d, x.Err())
		}
		x.Close()
	})
}

func TestPingsCannotFillTheQueue(t *testing.T) {
	a, b := net.Pipe()
	x := New(a, nil, Options{})
	defer x.Close()
	defer b.Close()
	ping := appendFrame(nil, frame{typ: framePing})
	for range 1000 { // b takes no pong
		if _, err := b.Write(ping); err != nil {
			t.Fatal(err)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := x.writing + len(x.queue); n > 2*len(ping) {
		t.Errorf("%d bytes wait", n)
	}
}

func TestNonsenseBreaksTheConnection(t *testing.T) {
	for name, p := range map[string][]byte{
		"a frame":           {0, 0, 0, 1, 99},
		"two equal calls":   appendFrame(appendFrame(nil, frame{typ: frameCall, id: 1}), frame{typ: frameCall, id: 1}),
		"an endless reason": appendFrame(nil, frame{typ: frameFailed, body: make([]byte, wire.MaxText+1)}),
	} {
		a, b := net.Pipe()
		x := New(a, handler{call: waitForEnd}, Options{})
		go io.Copy(io.Discard, b)
		b.Write(p)
		<-x.Done()
		if err := x.Err(); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		x.Close()
		b.Close()
	}
	a, b := net.Pipe()
	x := New(a, nil, Options{})
	defer x.Close()
	defer b.Close()
	b.Write(appendFrame(appendFrame(nil, frame{typ: frameReply, id: 5}), frame{typ: frameCancel, id: 5})) // nobody's: ignored
	b.Write(appendFrame(nil, frame{typ: framePing}))
	if f, err := newFrameReader(b).next(); err != nil || f.typ != framePong {
		t.Errorf("after a stray reply: type %d, %v", f.typ, err)
	}
}

func TestLargeBuffersAreGivenBack(t *testing.T) {
	x, _ := loopback(t, nil, handler{call: echo})
	if _, err := x.Call(t.Context(), 1, make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	for range 4 { // two buffers take turns
		if _, err := x.Call(t.Context(), 1, nil); err != nil {
			t.Fatal(err)
		}
		x.mu.Lock()
		if cap(x.queue) > keepQueue {
			t.Errorf("a queue of %d bytes is kept", cap(x.queue))
		}
		x.mu.Unlock()
	}
}

// A peer that goes on sending and never reads is not silent, and its queue need not be full: it is given up all the same.
func TestPeerThatNeverReadsIsGivenUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		x := New(a, nil, Options{})
		defer x.Close()
		began := time.Now()
		if err := x.Send(1, []byte("never read")); err != nil {
			t.Fatal(err)
		}
		ping := appendFrame(nil, frame{typ: framePing})
		for x.Err() == nil && time.Since(began) < time.Minute {
			_ = b.SetWriteDeadline(time.Now().Add(time.Second))
			if _, err := b.Write(ping); err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		<-x.Done()
		if took := time.Since(began); took > 2*BrokenAfter+time.Second || !errors.Is(x.Err(), ErrSlow) {
			t.Errorf("after %s: %v", took, x.Err())
		}
	})
}

// A connection that idles for longer than a write may take still writes.
func TestWritesAfterALongRest(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		x, _ := pair(t, nil, handler{call: func(context.Context, *Conn, uint8, []byte) ([]byte, error) { return make([]byte, 3*writeStep), nil }}, Options{})
		for range 3 {
			if _, err := x.Call(t.Context(), 1, make([]byte, 2*writeStep)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * BrokenAfter)
		}
	})
}
