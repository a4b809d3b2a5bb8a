// Package gossip finds the processes of a group and tells which of them live: hashicorp/memberlist behind types of ours, over a
// socket and streams that belong to the one port. What it says is a hint. It never authorises, never ends a session and never removes
// a voter.
package gossip

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/godistlock/distlock/internal/discover"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/hashicorp/memberlist"
)

// Config says how to take part. Self.Instance, Self.Name and Self.Addr stay what they are for the life of a Gossip.
type Config struct {
	Self  Meta
	Group string // processes of other groups are neither heard nor answered

	// Keys encrypt all packets and streams, KeySize bytes each: the first one encrypts, all decrypt, at most eight. What none of them decrypts is
	// dropped. Nil: all is plain, and what is encrypted is dropped.
	Keys [][]byte

	// Packets carries UDP. It must not be read by anybody else; the caller closes it after Close.
	Packets net.PacketConn
	// Dial opens a gossip stream to an IP:port. It must end with ctx.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Accept answers the next gossip stream that came in, or an error once there will be none or ctx has ended.
	Accept func(ctx context.Context) (net.Conn, error)

	// Seeds answers where others may be, and what it could not find out (a name that doesn't resolve) as an error beside them. Names among
	// them are looked up. It is asked again from time to time, with a ctx that ends after lookupTimeout.
	Seeds func(ctx context.Context) ([]string, error)
	// Remembered answers where others once were; nil: nowhere. It is tried beside the seeds, with turns of its own: however many of these
	// addresses are out of date, no seed is tried any later.
	Remembered func() []string
	// Resolver answers names among both; nil: the machine's.
	Resolver discover.Resolver

	// Advertise is the IP:port that others send packets to. When empty it is taken from Self.Addr, whose name is looked up.
	Advertise string

	Logger *slog.Logger // nil: nothing is logged

	// Simulated is for programs that let one process stand for many; nil in earnest.
	Simulated *Simulated
}

// Simulated makes a process one of a large fleet whose others hear of it, and which costs little: it is told of few of them itself.
type Simulated struct {
	Knows func(Meta) bool // who else is let in
	Probe time.Duration   // instead of probeInterval, so that those few are not probed more often than in a fleet of which all are told
}

// Gossip is this process's part. Its methods are safe for concurrent use; none but Leave and Close blocks.
type Gossip struct {
	cfg  Config
	log  *slog.Logger
	node string // our name in memberlist
	ml   *memberlist.Memberlist
	tr   *transport

	members table
	seeds   seedBook

	changed chan struct{} // cap 1
	update  chan struct{} // cap 1: Self has changed
	wake    chan struct{} // cap 1: whether to look for others may have changed
	hurry   chan struct{} // cap 1: Hurry was called

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // updater, joiner and its attempts

	life   turn // Update's, Leave's and Close's calls of memberlist, one after the other
	left   bool
	closed bool
}

// Start begins to take part and to look for others. It blocks only to look Self.Addr up, for at most lookupTimeout.
func Start(cfg Config) (*Gossip, error) {
	if err := cfg.Self.check(); err != nil {
		return nil, err
	}
	if cfg.Packets == nil || cfg.Dial == nil || cfg.Accept == nil {
		return nil, errors.New("gossip: Packets, Dial and Accept must be set")
	}
	if cfg.Group == "" || len(cfg.Group) > wire.MaxGroup {
		return nil, fmt.Errorf("gossip: group of %d bytes, it must have 1 to %d", len(cfg.Group), wire.MaxGroup)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	keys, err := newSeals(cfg.Keys)
	if err != nil {
		return nil, err
	}
	advertise, err := advertised(cfg)
	if err != nil {
		return nil, err
	}
	g := &Gossip{
		cfg: cfg, log: cfg.Logger, node: cfg.Self.Instance.String(),
		changed: make(chan struct{}, 1), update: make(chan struct{}, 1), wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
		life: make(turn, 1),
	}
	g.members.init(cfg.Self, cfg.Logger)
	if cfg.Simulated != nil {
		g.members.knows = cfg.Simulated.Knows
	}
	g.seeds.init(advertise, cfg.Packets.LocalAddr())
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.tr = newTransport(cfg, keys, advertise, g.members.heard, cfg.Logger)
	settings, err := g.settings()
	if err == nil {
		g.ml, err = memberlist.Create(settings)
	}
	if err != nil {
		g.cancel()
		_ = g.tr.Shutdown()
		return nil, fmt.Errorf("gossip: %w", err)
	}
	g.wg.Go(g.updater) // ends with ctx
	g.wg.Go(g.joiner)  // ends with ctx
	return g, nil
}

// The pace of failure detection: a process that stops is Failed after about three seconds among few, six among a thousand.
const (
	probeInterval = 500 * time.Millisecond
	probeTimeout  = 250 * time.Millisecond
	streamTimeout = 2 * time.Second
	lookupTimeout = 2 * time.Second
	maxLeave      = 5 * time.Second

	awarenessMax = 4 // how far memberlist stretches the probes' interval while it finds itself slow
)

// label keeps groups apart on packets and streams: at most 73 of 255 bytes.
func label(group string) string { return "distlock/" + group }

// label is that of the group; where packets are encrypted, which it is not, it doesn't tell the group's name.
func (cfg Config) label(sealed bool) string {
	if !sealed {
		return label(cfg.Group)
	}
	sum := sha256.Sum256([]byte("distlock group " + cfg.Group))
	return label(hex.EncodeToString(sum[:12]))
}

func (g *Gossip) settings() (c *memberlist.Config, err error) {
	c = memberlist.DefaultLANConfig()
	c.Name = g.node // a restarted process is a new node, so no node is ever taken for its predecessor
	c.Transport = g.tr
	c.Label = g.tr.label
	c.TCPTimeout = streamTimeout
	c.ProbeInterval, c.ProbeTimeout = probeInterval, probeTimeout
	c.AwarenessMaxMultiplier = awarenessMax
	c.GossipInterval = 100 * time.Millisecond
	c.PushPullInterval = 15 * time.Second
	if s := g.cfg.Simulated; s != nil {
		c.ProbeInterval, c.PushPullInterval = s.Probe, 0
	}
	c.DeadNodeReclaimTime = time.Second // 0 would refuse a node at a new address for as long as it is remembered
	c.EnableCompression = false         // states are small, and a compressed message is refused (see judgePacket)
	c.Keyring, err = keyring(g.cfg.Keys)
	c.GossipVerifyIncoming, c.GossipVerifyOutgoing = true, true
	c.Delegate, c.Events, c.Alive, c.Merge, c.Ping = g, g, g, g, g
	c.DisableTcpPingsForNode = func(node string) bool { // asked exactly when a direct probe went unanswered
		g.members.missed(node)
		return false
	}
	c.Logger = log.New(&logWriter{to: g.log}, "", 0)
	return c, err
}

// Members lists the processes that are known, this one included, by name and instance. The dead stay for some minutes. It is shared by all who
// ask: it must not be changed.
func (g *Gossip) Members() []Member { return g.members.list() }

// Conflicts lists processes of another open cluster of our group, seen in the last minutes. Two open clusters never merge.
func (g *Gossip) Conflicts() []Member { return g.members.conflicting() }

// Strangers lists the machines whose gossip was dropped in the last minutes, by address.
func (g *Gossip) Strangers() []Stranger { return g.tr.strange.list() }

// Changed has a value when Members may have changed.
func (g *Gossip) Changed() <-chan struct{} { return g.changed }

// Hurry has others looked for soon even though enough are seen: whoever calls it does not find whom it needs. Calls that go on make it ever
// less soon.
func (g *Gossip) Hurry() { hint(g.hurry) }

// Update changes what this process says of itself. It returns at once; a burst of updates is sent as one.
func (g *Gossip) Update(m Meta) {
	if g.members.setSelf(m) {
		hint(g.update)
		hint(g.wake)
		hint(g.changed)
	}
}

// updater says what has changed, at once and again a few times: memberlist sends a change four times within some hundred milliseconds, and to
// whom all four are lost it is news only with the next exchange of everything, PushPullInterval or two later.
func (g *Gossip) updater() {
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	said := len(sayAgain) // how often the last change has been repeated
	for {
		select {
		case <-g.update:
			said = g.members.firstAgain()
		case <-again.C:
			said++
		case <-g.ctx.Done():
			return
		}
		g.life.take()
		if !g.left && !g.closed { // memberlist panics when it is asked after it has forgotten a node that left
			// The wait is for the last copy to be sent, which is nothing to us: the shortest there is.
			_ = g.ml.UpdateNode(time.Nanosecond)
		}
		g.life.give()
		if said < len(sayAgain) {
			again.Reset(sayAgain[said])
		}
		select {
		case <-time.After(10 * time.Millisecond): // what changes meanwhile goes with the next one
		case <-g.ctx.Done():
			return
		}
	}
}

// sayAgain is how long after a change, and after its repetitions, it is repeated. In a large fleet only the last is made: there memberlist has each
// process pass a change on eight times and more, so that all copies are lost to those only who hear nothing at all, and when many come at once
// what they say fills everybody's packets for as long as it is repeated.
var sayAgain = [...]time.Duration{400 * time.Millisecond, time.Second, 3 * time.Second}

const largeFleet = 32 // others that live

// Leave tells the others that this process goes, so that they list it as Left and not as Failed. It takes a few hundred milliseconds, and
// at most timeout or maxLeave. Close must follow.
func (g *Gossip) Leave(timeout time.Duration) error {
	timeout = max(2, min(timeout, maxLeave)) // memberlist takes 0 for no limit
	self := g.members.selfMeta()
	self.Leaving = true
	g.members.setSelf(self)
	g.life.take()
	defer g.life.give()
	if g.left || g.closed {
		return nil
	}
	g.left = true
	// First that we are leaving, then that we are gone: others tell Left from Failed by the first, since memberlist's own mark of it
	// is not visible to them.
	_ = g.ml.UpdateNode(timeout / 2)
	if err := g.ml.Leave(timeout / 2); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	return nil
}

// Close stops at once. Without Leave the others find out by probing. It waits for all goroutines that it started.
func (g *Gossip) Close() error {
	g.cancel()
	err := g.shutdown()
	g.wg.Wait() // not under life, which the updater may be waiting for
	return err
}

func (g *Gossip) shutdown() error {
	g.life.take() // waits for a Leave, which has its limit
	defer g.life.give()
	if g.closed {
		return nil
	}
	g.closed = true
	g.members.close()
	return g.ml.Shutdown()
}

func hint(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// turn is a lock that is held while its owner waits for time to pass. A mutex would do but for virtual time, which stands still while
// anybody waits for one.
type turn chan struct{} // cap 1

func (t turn) take() { t <- struct{}{} }
func (t turn) give() { <-t }
