package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godistlock/distlock/internal/rpc"
)

const (
	maxRelayed = 256         // connections that this process passes on for others at a time
	relayDial  = time.Second // to reach who is wanted; who asks mostly gives up sooner
)

var (
	errRelayBusy  = &rpc.RemoteError{Text: fmt.Sprintf("this process passes on %d connections already", maxRelayed), Code: codeLimit}
	errNoRelay    = errors.New("this process passes nothing on: it leaves, or is of another cluster")
	errRelayTwice = errors.New("this connection is in use")
	errRelayOver  = errors.New("this process passes nothing on any more")
)

// relay makes the connection one to the server that body names, if this process reaches that itself: all that comes from now on is passed on. It is
// how a process that can't reach the leader goes through another member. Only servers of this cluster are dialed, at addresses that this
// process knows by itself; the wanted server sees this process as the one who speaks.
func (p *peerConn) relay(ctx context.Context, c *rpc.Conn, body []byte) ([]byte, error) {
	server, err := decodeUUID(body)
	if err != nil {
		return nil, err
	}
	n := p.node
	if server == n.serverID() {
		return nil, nil // it is here
	}
	if cluster := n.clusterID(); cluster.IsZero() || p.hello.Cluster != cluster || n.resigned.Load() {
		return nil, errNoRelay
	}
	p.mu.Lock()
	used := p.lead != nil || p.watching != nil || p.relayed
	p.relayed = true
	p.mu.Unlock()
	if used {
		return nil, errRelayTwice
	}
	if !n.takeRelay() {
		return nil, errRelayBusy
	}
	ctx, cancel := context.WithTimeout(ctx, relayDial)
	w := n.dialServer(ctx, server)
	cancel()
	if w.err != nil {
		n.giveRelay()
		if provesGone(w.err) {
			return nil, &rpc.RemoteError{Text: w.err.Error(), Code: codeGone}
		}
		return nil, w.err
	}
	far := c.Splice(w.stream, rpc.Options{})
	if !n.spawn(func() { n.watchRelay(c, far) }) { // ends with either, with the node, or when it leaves
		far.Close()
		n.giveRelay()
		return nil, errRelayOver
	}
	n.logger.Debug("passing on", "for", p.hello.Name, "server", server)
	return nil, nil
}

// watchRelay ends what is passed on when either side ends, or when this process leaves.
func (n *Node) watchRelay(near, far *rpc.Conn) {
	defer n.giveRelay()
	select {
	case <-near.Done():
	case <-far.Done():
	case <-n.leaving:
	case <-n.ctx.Done():
	}
	near.Fail(errRelayOver)
	far.Close()
}

func (n *Node) takeRelay() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.relayed >= maxRelayed {
		return false
	}
	n.relayed++
	return true
}

func (n *Node) giveRelay() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.relayed--
}

// Relayed is how many connections this process passes on for others now.
func (n *Node) Relayed() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.relayed
}
