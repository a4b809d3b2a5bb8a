package rpc

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/simnet"
	"github.com/godistlock/distlock/internal/wire"
)

const (
	callerIP = "10.0.0.1"
	calledIP = "10.0.0.2"
)

// across connects two processes on hosts of their own; calls are answered by h.
func across(t *testing.T, n *simnet.Net, h Handler) (*Conn, *Conn) {
	t.Helper()
	muxOn := func(ip string) *mux.Mux {
		l, p, err := n.Host(ip).Listen(":7950")
		if err != nil {
			t.Fatal(err)
		}
		m := mux.New(mux.Config{
			Listener: l, Dial: n.Host(ip).Dial,
			Self: func(wire.Kind, wire.UUID) wire.Hello { return wire.Hello{Name: ip} },
		})
		t.Cleanup(func() { m.Close(); p.Close() })
		return m
	}
	caller, called := muxOn(callerIP), muxOn(calledIP)
	nc, _, err := caller.Dial(t.Context(), called.Addr().String(), wire.KindCall, wire.UUID{})
	if err != nil {
		t.Fatal(err)
	}
	x, y := New(nc, nil, Options{}), New(<-called.Accept(wire.KindCall), h, Options{})
	t.Cleanup(func() { x.Close(); y.Close() })
	if x.Peer().Name != calledIP || y.Peer().Name != callerIP {
		t.Errorf("peers %q, %q", x.Peer().Name, y.Peer().Name)
	}
	return x, y
}

// When a reply is lost the caller learns that the outcome is unknown, although the call was done.
func TestLostReplyIsAnUnknownOutcome(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := simnet.New(1)
		var calls atomic.Int32
		x, _ := across(t, n, handler{call: func(context.Context, *Conn, uint8, []byte) ([]byte, error) {
			calls.Add(1)
			return []byte("done"), nil
		}})
		if _, err := x.Call(t.Context(), 1, nil); err != nil {
			t.Fatal(err)
		}
		loss := n.LoseReplies(calledIP, callerIP, wire.KindCall, 3) // in the middle of a frame
		if _, err := x.Call(t.Context(), 1, nil); !errors.Is(err, ErrBroken) || calls.Load() != 2 {
			t.Errorf("%v after %d calls", err, calls.Load())
		}
		<-loss.Done()
	})
}

func TestPausedPeerIsGivenUp(t *testing.T) {
	faults := map[string]func(n *simnet.Net){
		"frozen":  func(n *simnet.Net) { n.Freeze(calledIP) },
		"cut":     func(n *simnet.Net) { n.Cut(callerIP, calledIP) },
		"one way": func(n *simnet.Net) { n.CutOneWay(calledIP, callerIP) },
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				n := simnet.New(1)
				x, y := across(t, n, handler{call: echo})
				time.Sleep(5 * time.Minute)
				if _, err := x.Call(t.Context(), 1, nil); err != nil {
					t.Fatal(err)
				}
				begin := time.Now()
				fault(n)
				if _, err := x.Call(t.Context(), 1, nil); !errors.Is(err, ErrBroken) || !errors.Is(err, ErrSilent) {
					t.Errorf("got %v", err)
				}
				if d := time.Since(begin); d < BrokenAfter-PingAfter || d > BrokenAfter {
					t.Errorf("given up after %v", d)
				}
				if name != "one way" {
					<-y.Done() // the other side gives up too, by itself
				}
			})
		})
	}
}
