package node

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/wire"
)

// callTimeout bounds one call to another process where the caller's context doesn't.
const callTimeout = 2 * time.Second

// noHandler serves a connection that was opened for one call: the other side asks nothing on it.
type noHandler struct{}

var errNoCalls = errors.New("this connection takes no calls")

func (noHandler) Call(context.Context, *rpc.Conn, uint8, []byte) ([]byte, error) {
	return nil, errNoCalls
}
func (noHandler) Message(*rpc.Conn, uint8, []byte) {}
func (noHandler) Closed(*rpc.Conn)                 {}

// call makes one call to a server of the cluster, through another member if need be.
func (n *Node) call(ctx context.Context, server wire.UUID, kind uint8, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c, _, err := n.reach(ctx, server, noHandler{}, detourAfter, nil, new(atomic.Bool))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Call(ctx, kind, body)
}

// callAddr makes one call to an address; a zero target takes whoever is there.
func (n *Node) callAddr(ctx context.Context, addr string, target wire.UUID, kind uint8, body []byte) ([]byte, error) {
	reply, _, err := n.callAt(ctx, addr, target, kind, body)
	return reply, err
}

// callAt is callAddr that says who has answered, too.
func (n *Node) callAt(ctx context.Context, addr string, target wire.UUID, kind uint8, body []byte) ([]byte, wire.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, who, err := n.dial(ctx, addr, wire.KindCall, target)
	if err != nil {
		return nil, who, err
	}
	c := rpc.New(conn, noHandler{}, rpc.Options{})
	defer c.Close()
	reply, err := c.Call(ctx, kind, body)
	return reply, who, err
}
