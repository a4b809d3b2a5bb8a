// Package node is one process's part in the cluster: gossip, the first start, Raft's life, and, where this process leads, the batcher,
// the leases and the pushes. Package session is the other half: what a process does with its locks.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godistlock/distlock/internal/discover"
	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/hclogx"
	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/secure"
	"github.com/godistlock/distlock/internal/streampackets"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// Config is what a Node needs. Sockets come open: transport.go made them.
type Config struct {
	Name     string
	Group    string
	Instance wire.UUID
	Addr     string // what peers dial
	Proof    wire.Proof
	Listener net.Listener
	Packets  net.PacketConn // nil: gossip's packets go over streams
	Dial     func(ctx context.Context, addr string) (net.Conn, error)

	Credentials *secure.Credentials // nil: streams are taken and opened in the open

	Dir      string           // "" in memory
	Identity raftlog.Identity // as stored in Dir; zero for a newcomer
	Expect   int
	Voters   int
	MayVote  bool
	Alone    bool   // no Peers and no Discover
	Loopback bool   // bound to loopback: a lone process need not listen for others first
	SelfAddr string // where this process reaches its own port
	Seeds    func(context.Context) ([]string, error)
	Resolver discover.Resolver // of names among the addresses that are remembered; nil: the machine's
	Logger   *slog.Logger      // called wherever something is to be said: it must neither wait nor call back, see package aside
	Hooks    Hooks
	Failed   func(error) // the member can't go on (a store failed, …); called at most once, on a goroutine of its own

	// NamesProven says that peers' names are proven by certificates of a PKI, their server IDs are not: see names.go.
	NamesProven bool
}

// Node is one process's membership. Safe for concurrent use.
type Node struct {
	cfg     Config
	logger  *slog.Logger
	mux     *mux.Mux
	gossip  *gossip.Gossip
	packets net.PacketConn // gossip's
	life    *life

	announcer *announcer
	started   uint64 // as gossip tells it
	turn      turn   // of the goroutine that leaves

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	leaving chan struct{}  // closed when this process begins to give up what it is
	wg      sync.WaitGroup // all goroutines of this package but a group's own

	group atomic.Pointer[group]       // written by the life loop only; nil while this process runs no Raft
	fsm   atomic.Pointer[raftfsm.FSM] // the group's, from before its first stream on; written likewise
	lead  atomic.Pointer[lead]        // written by the lead loop only; nil while this process does not lead

	stored   raftlog.Identity // as it lies in Dir; of the life loop only
	storedAt time.Time        // of the life loop only

	telling   oneByOne // of those who asked who leads
	failOnce  sync.Once
	failed    atomic.Bool // fail was called: no Raft traffic any more
	claimed   atomic.Bool // no other process was found that acts as the stored server
	parting   atomic.Bool // this process wants to leave, and waits for its turn
	resigned  atomic.Bool // this process is leaving: it wants no seat
	hastening atomic.Bool // this follower is about to stand for election
	handing   atomic.Bool // a leadership transfer is under way: no lead begins
	muted     atomic.Bool // the disk hangs, and with it Raft's main loop, which may still say that it leads: no lead begins

	linked atomic.Pointer[remoteLink] // the session's way to a leader that is another process, while there is one

	mu          sync.Mutex // guards the fields below
	ident       raftlog.Identity
	open        bool          // the cluster is known to have opened
	waiting     string        // what the first start waits for, in words
	raftCluster wire.UUID     // the cluster whose Raft streams are taken and opened; zero while Raft does not run
	addrs       addressBook   // where servers were when last heard of
	last        wire.UUID     // the leader that the last link went to
	lastTerm    uint64        // of that lead
	changed     chan struct{} // closed and replaced when leadership or membership moved
	peers       map[*peerConn]*rpc.Conn
	watches     int                  // calls of Watch that have not ended
	stepped     time.Time            // when this process last tried to hand the leadership over because it may not vote
	settledAt   time.Time            // when the leader last said that this process's role stands
	relayed     int                  // connections that are passed on
	detours     map[wire.UUID]detour // servers that were reached through another member
	closed      bool
}

// Start opens the node: it listens, gossips and begins to look for its cluster.
func Start(cfg Config) (*Node, error) {
	n := &Node{
		cfg: cfg, logger: cfg.Logger, ident: cfg.Identity,
		stored: cfg.Identity, changed: make(chan struct{}), peers: make(map[*peerConn]*rpc.Conn),
		leaving: make(chan struct{}), detours: make(map[wire.UUID]detour),
	}
	n.turn.replace = cfg.Dir == ""
	n.started = gossip.Millis(cfg.Hooks.wall())
	saved, err := n.restoreIdentity()
	if err != nil {
		return nil, err
	}
	n.claimed.Store(cfg.Dir == "" || !saved.Open || cfg.Alone || cfg.Hooks.Blind)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.mux = mux.New(mux.Config{Listener: cfg.Listener, Dial: n.dialed, Self: n.hello, Admit: n.admit, Secure: n.securing(), Logger: cfg.Logger})
	n.packets = cfg.Packets
	if n.packets == nil {
		n.packets = streampackets.New(streampackets.Config{
			Local: cfg.Listener.Addr(), Dial: n.dialing(wire.KindPacket), Accept: n.accepting(wire.KindPacket), Logger: cfg.Logger,
		})
	}
	gc := gossip.Config{
		Self: n.meta(), Group: cfg.Group, Packets: n.packets, Logger: cfg.Logger,
		Seeds: cfg.Seeds, Remembered: n.remembered, Resolver: cfg.Resolver,
		Dial: n.dialing(wire.KindGossip), Accept: n.accepting(wire.KindGossip),
	}
	if cfg.Credentials != nil {
		gc.Keys = cfg.Credentials.GossipKeys()
	}
	if change := cfg.Hooks.Gossip; change != nil {
		change(&gc)
	}
	if n.gossip, err = gossip.Start(gc); err != nil {
		n.cancel()
		return nil, errors.Join(err, n.mux.Close(), n.packets.Close())
	}
	n.announcer = newAnnouncer(n.meta, n.gossip.Update)
	n.life = newLife(n, saved)
	n.waiting = n.life.machine.Waiting()
	n.wg.Go(n.acceptCalls) // all three end with ctx
	n.wg.Go(n.life.run)
	n.wg.Go(n.leadLoop)
	return n, nil
}

func (n *Node) clusterID() wire.UUID {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ident.Cluster
}

func (n *Node) serverID() wire.UUID {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ident.Server
}

// dialing opens streams of a kind to whoever has an address.
func (n *Node) dialing(kind wire.Kind) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		conn, _, err := n.mux.Dial(ctx, addr, kind, wire.UUID{})
		return conn, err
	}
}

// accepting answers the next stream of a kind that another process opened.
func (n *Node) accepting(kind wire.Kind) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		select {
		case c, ok := <-n.mux.Accept(kind):
			if !ok {
				return nil, net.ErrClosed
			}
			return c, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// securing is what package mux does to a raw stream; nil without credentials.
func (n *Node) securing() func(net.Conn, bool) (mux.Secured, error) {
	if n.cfg.Credentials == nil {
		return nil
	}
	return func(raw net.Conn, server bool) (mux.Secured, error) {
		c, err := n.cfg.Credentials.Handshake(raw, server, secure.Identity{Group: n.cfg.Group, Name: n.cfg.Name, Server: n.serverID()})
		if err != nil {
			return nil, err
		}
		return c, nil
	}
}

// Strangers lists the processes with which this one has no stream, or no packets, because they, or it, belong elsewhere; at most maxStrangers.
func (n *Node) Strangers() []mux.Stranger {
	out := n.mux.Strangers()
	for _, x := range n.gossip.Strangers() {
		out = append(out, mux.Stranger{Addr: x.Addr, Reason: x.Word, Text: "its gossip " + x.Reason, Incoming: true, Last: x.Last})
	}
	return out[:min(len(out), maxStrangers)]
}

const maxStrangers = 128

// hello is what this process says of itself when it opens a stream.
func (n *Node) hello(kind wire.Kind, target wire.UUID) wire.Hello {
	n.mu.Lock()
	defer n.mu.Unlock()
	cluster := n.ident.Cluster
	if kind == wire.KindRaft {
		cluster = n.raftCluster
	}
	return wire.Hello{
		Version: wire.ProtocolVersion, Kind: kind, Group: n.cfg.Group, Cluster: cluster, Server: n.ident.Server,
		Instance: n.cfg.Instance, Name: n.cfg.Name, Target: target,
	}
}

// admit decides on a stream that another process opened. Raft's must be of this cluster and meant for this very server.
func (n *Node) admit(h wire.Hello) wire.Welcome {
	stranger := n.stranger(h.Server, h.Name)
	n.mu.Lock()
	defer n.mu.Unlock()
	a := wire.Welcome{
		Version: wire.ProtocolVersion, Cluster: n.ident.Cluster, Server: n.ident.Server, Instance: n.cfg.Instance, Name: n.cfg.Name,
	}
	refuse := func(why wire.Refusal, text string) wire.Welcome {
		a.Refusal, a.Text = why, text
		return a
	}
	switch {
	case h.Version != wire.ProtocolVersion:
		return refuse(wire.RefusedVersion, "this process speaks another version of the protocol")
	case h.Group != n.cfg.Group:
		return refuse(wire.RefusedGroup, "this process is of group "+n.cfg.Group)
	case !h.Target.IsZero() && h.Target != n.ident.Server:
		return refuse(wire.RefusedTarget, "another server has this address now")
	case h.Kind == wire.KindRaft && n.raftCluster.IsZero():
		return refuse(wire.RefusedMuted, "this process runs no Raft")
	case h.Kind == wire.KindRaft && (h.Target.IsZero() || h.Cluster.IsZero() || h.Cluster != n.raftCluster):
		return refuse(wire.RefusedCluster, "Raft's streams are taken from this cluster only")
	case h.Kind != wire.KindGossip && stranger != nil: // gossip suggests, it decides nothing
		return refuse(wire.RefusedIdentity, stranger.Error())
	case h.Kind == wire.KindCall && n.open && !h.Cluster.IsZero() && h.Cluster != n.ident.Cluster:
		return refuse(wire.RefusedCluster, "this process is of another cluster")
	}
	return a
}

// acceptCalls serves the connections of other processes.
func (n *Node) acceptCalls() {
	calls := n.mux.Accept(wire.KindCall)
	for {
		select {
		case <-n.ctx.Done():
			return
		case c, ok := <-calls:
			if !ok {
				return
			}
			n.servePeer(c)
		}
	}
}

func (n *Node) servePeer(c *mux.Conn) {
	p := &peerConn{node: n, hello: c.Hello()}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		c.Close()
		return
	}
	n.peers[p] = rpc.New(c, p, rpc.Options{})
}

// forgetPeer is called by the connection when it is gone.
func (n *Node) forgetPeer(p *peerConn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.peers, p)
}

// notify wakes all who wait for news of leadership or membership.
func (n *Node) notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
}

// Changed is closed when leadership, openness or role moved; ask again for the next.
func (n *Node) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// startGroup runs Raft on this process. The life loop calls it.
func (n *Node) startGroup(bootstrap bool, voters []wire.UUID, kept *memory) (*group, error) {
	if n.muted.Swap(false) { // by the group before, whose store was let go while it hung: this one's guard sees for itself
		n.mux.Mute(wire.KindRaft, n.failed.Load())
	}
	server := n.serverID()
	cfg := groupConfig{
		server: server, dir: n.cfg.Dir, memory: kept, logger: hclogx.New(n.logger), fsm: raftfsm.New(),
		streams: newStreamLayer(server, n),
		observe: n.observe, poison: n.fail, hooks: n.cfg.Hooks,
		mute: n.mute,
	}
	n.fsm.Store(cfg.fsm)
	g, err := startGroup(cfg, firstConfiguration(bootstrap, voters))
	if err != nil {
		return nil, err
	}
	n.group.Store(g)
	if err := n.ctx.Err(); err != nil { // Close may have given up waiting for this
		return nil, errors.Join(err, g.shutdown())
	}
	return g, nil
}

func (n *Node) observe(r *raftfsm.Result) {
	if l := n.lead.Load(); l != nil {
		l.observe(r)
	}
	if r.Opened {
		n.notify() // the life loop tells the machine
	}
}

// Open says whether the cluster is known to have opened.
func (n *Node) Open() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open
}

// Close stops everything at once, as a crash would, and waits for it.
func (n *Node) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	peers := make([]*rpc.Conn, 0, len(n.peers))
	for _, c := range n.peers {
		peers = append(peers, c)
	}
	n.mu.Unlock()
	n.cancel()
	err := n.waitForLoops() // the lead loop ends the lead, the life loop starts no Raft any more
	for _, c := range peers {
		c.Close()
	}
	if g := n.group.Load(); g != nil {
		err = errors.Join(err, g.shutdown())
		n.group.Store(nil)
	}
	return errors.Join(err, n.gossip.Close(), n.mux.Close(), n.packets.Close())
}

// closePatience bounds the wait for the loops, which a disk that hangs may hold.
const closePatience = 5 * time.Second

func (n *Node) waitForLoops() error {
	gone := make(chan struct{})
	go func() { // ends with the loops
		n.wg.Wait()
		close(gone)
	}()
	t := time.NewTimer(closePatience)
	defer t.Stop()
	select {
	case <-gone:
		return nil
	case <-t.C:
		return fmt.Errorf("this member has not stopped within %s: the disk under %q hangs", closePatience, n.cfg.Dir)
	}
}
