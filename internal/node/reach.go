package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/wire"
)

const (
	// detourAfter is what a dial is given before another way is tried beside it, first one through another member, then one through the next.
	detourAfter = 100 * time.Millisecond
	// knownDetourAfter is that where the server was reached through another member before: enough for the direct way to come first once it is back.
	knownDetourAfter = 20 * time.Millisecond

	// goneDetourAfter is that where nobody listens, and nobody says that the server lives: all who had a leader that has died come there.
	goneDetourAfter = 500 * time.Millisecond

	maxDetours  = 3   // members through which one server is looked for at a time
	maxDetoured = 256 // servers of which it is remembered that they are reached through another member; there are few at a time

	// detourKept is how long it is remembered that a server was reached through another member.
	detourKept = time.Minute

	// What goes through another member looks for the direct way again every directAgain. Where that was found and lost again soon, twice as
	// long is waited for the next one.
	directAgain     = 4 * time.Second
	mostDirectAgain = time.Minute
)

// detour is what is remembered of a server that was reached through another member.
type detour struct {
	via    wire.UUID     // zero: it has been reached directly since
	at     time.Time     // when it was reached so
	healed time.Time     // when it was last reached directly after it was not; zero: never
	pause  time.Duration // before the direct way is looked for, if that is more than directAgain
}

// way is a connection to a server, or why there is none.
type way struct {
	stream net.Conn  // dialed directly
	conn   *rpc.Conn // through another member
	late   *lateHandler
	via    wire.UUID // that member
	err    error
}

// reach opens a connection for calls to a server of the cluster, and says through whom it goes; zero: through nobody. It dials the server, and asks
// other members for a way to it when that fails or nothing there has answered after detourAfter; the first way that is found counts. A member
// that is asked dials the server itself, so there is never more than one in between. lives, if not nil, is closed when another member says
// that it hears the server: before that, most who look for a leader in vain look for one that has died. there is set once the server's machine has
// answered: whoever asks it finds it as busy as this process does.
func (n *Node) reach(
	ctx context.Context, server wire.UUID, h rpc.Handler, detourAfter time.Duration, lives <-chan struct{}, there *atomic.Bool,
) (*rpc.Conn, wire.UUID, error) {
	ctx, cancel := context.WithCancel(ctx)
	ways := make(chan way, 1+maxDetours)
	pending := 0
	try := func(open func() way) {
		if n.spawn(func() { ways <- open() }) { // ends with ctx
			pending++
		}
	}
	defer func() {
		cancel()
		n.dropWays(ways, pending)
	}()
	try(func() way { return n.dialServer(withConnected(ctx, there), server) })
	detours, known := n.detoursTo(server)
	w := detourWait{began: time.Now(), after: detourAfter}
	if known {
		w.after = knownDetourAfter
	}
	next := time.NewTimer(w.after)
	defer next.Stop()
	var failed error         // of the direct way, if that has failed
	var over <-chan struct{} // ctx's end, while nothing is under way but a detour is still to come
	for pending > 0 || over != nil {
		more := false
		select {
		case <-over:
			over = nil
		case <-lives:
			lives, w.lives = nil, true
			more = w.tried == 0 && w.due(there.Load())
		case x := <-ways:
			pending--
			if x.err == nil {
				n.reached(server, x.via)
				return x.use(h), x.via, nil
			}
			switch {
			case x.via.IsZero():
				failed = x.err
				if w.gone = provesGone(x.err); w.gone {
					n.hasten(server)
				}
				if !detourHelps(x.err) {
					detours = nil
				}
				switch {
				case pending > 0: // a detour that is under way has its time
				case w.gone && len(detours) > 0 && !w.due(false):
					over = ctx.Done()
				default:
					more = true
				}
			case isGone(x.err): // two machines say so
				detours = nil
			default:
				n.logger.Debug("no way through another member", "server", server, "via", x.via, "error", x.err)
				more = true
			}
		case <-next.C:
			more = w.due(there.Load())
			next.Reset(w.next())
		}
		if more && len(detours) > 0 {
			over = nil
			via := detours[0]
			detours = detours[1:]
			w.tried++
			try(func() way { return n.dialVia(ctx, via, server) })
			next.Reset(detourAfter)
		}
	}
	if failed == nil { // nothing was begun
		failed = net.ErrClosed
	}
	return nil, wire.UUID{}, failed
}

// detourWait says when it is time to look for a way through another member.
type detourWait struct {
	began time.Time
	after time.Duration
	lives bool // somebody hears the server
	gone  bool // the direct dial found nobody there
	tried int
}

func (w *detourWait) due(there bool) bool {
	waited := time.Since(w.began)
	switch {
	case w.gone && w.lives:
		return true
	case w.gone:
		return waited >= goneDetourAfter
	case there:
		return false
	}
	return waited >= w.after
}

// next is how long to wait before due is asked again.
func (w *detourWait) next() time.Duration {
	if left := goneDetourAfter - time.Since(w.began); left > 0 && w.tried == 0 {
		return left
	}
	return w.after
}

type connectedKey struct{}

// withConnected has dialed note in there that the other side's machine has taken a stream.
func withConnected(ctx context.Context, there *atomic.Bool) context.Context {
	return context.WithValue(ctx, connectedKey{}, there)
}

// dialed is Config.Dial, which it tells of.
func (n *Node) dialed(ctx context.Context, addr string) (net.Conn, error) {
	nc, err := n.cfg.Dial(ctx, addr)
	if there, ok := ctx.Value(connectedKey{}).(*atomic.Bool); ok && err == nil {
		there.Store(true)
	}
	return nc, err
}

// use makes a connection of a way that was found.
func (w way) use(h rpc.Handler) *rpc.Conn {
	if w.conn == nil {
		return rpc.New(w.stream, h, rpc.Options{})
	}
	w.late.become(w.conn, h)
	return w.conn
}

// dropWays closes what comes too late.
func (n *Node) dropWays(ways <-chan way, late int) {
	collect := func() {
		for range late {
			switch w := <-ways; {
			case w.conn != nil:
				w.conn.Close()
			case w.stream != nil:
				w.stream.Close()
			}
		}
	}
	if late > 0 && !n.spawn(collect) { // ends with those it waits for
		collect()
	}
}

// dialServer is the direct way.
func (n *Node) dialServer(ctx context.Context, server wire.UUID) way {
	addr, ok := n.addrOf(server)
	if !ok {
		return way{err: fmt.Errorf("%w of server %s", errNoAddress, server)}
	}
	stream, _, err := n.dial(ctx, addr, wire.KindCall, server)
	return way{stream: stream, err: err}
}

var errNoAddress = errors.New("no address known")

// dialVia is the way through another member.
func (n *Node) dialVia(ctx context.Context, via, server wire.UUID) way {
	first := n.dialServer(ctx, via)
	if first.err != nil {
		return way{via: via, err: first.err}
	}
	w := way{via: via, late: &lateHandler{}}
	w.conn = rpc.New(first.stream, w.late, rpc.Options{})
	if _, err := w.conn.Call(ctx, callVia, encodeUUID(server)); err != nil {
		w.conn.Close()
		return way{via: via, err: err}
	}
	return w
}

// detourHelps says whether another member may reach a server where a dial from here ended so.
func detourHelps(err error) bool {
	var refused *mux.RefusedError
	if errors.As(err, &refused) { // the server said no, or another process has its address: that it is elsewhere is known sooner by some
		return refused.Welcome.Refusal == wire.RefusedTarget
	}
	return !errors.Is(err, net.ErrClosed) && !isFull(err) // who has too many to greet has no more time for those who come through others
}

// isFull says that somebody is there who has too many to greet: he closes without a word.
func isFull(err error) bool {
	var refused *mux.RefusedError
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.As(err, &refused) && refused.Welcome.Refusal == wire.RefusedBusy
}

// isGone says that the member that was asked found nobody there.
func isGone(err error) bool {
	var remote *rpc.RemoteError
	return errors.As(err, &remote) && remote.Code == codeGone
}

// detoursTo lists the members to try, the one that has worked before first, then voters, then others, and says whether one has.
func (n *Node) detoursTo(server wire.UUID) (via []wire.UUID, known bool) {
	cluster, self := n.clusterID(), n.serverID()
	if cluster.IsZero() || server == self {
		return nil, false
	}
	n.mu.Lock()
	last, ok := n.detours[server]
	n.mu.Unlock()
	if ok && time.Since(last.at) < detourKept {
		known = !last.via.IsZero()
	}
	var voters, others []wire.UUID
	for _, m := range n.members() {
		switch {
		case m.Cluster != cluster || m.Server == self || m.Server == server || m.Leaving || m.State == gossip.Failed || m.State == gossip.Left:
		case known && m.Server == last.via:
			via = append(via, m.Server)
		case m.Voter:
			voters = append(voters, m.Server)
		default:
			others = append(others, m.Server)
		}
	}
	for _, some := range [][]wire.UUID{voters, others} {
		rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		via = append(via, some...)
	}
	return via[:min(len(via), maxDetours)], known
}

// reached remembers how server was reached.
func (n *Node) reached(server, via wire.UUID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d, ok := n.detours[server]
	now := time.Now()
	switch {
	case via.IsZero() && (!ok || d.via.IsZero()):
		return
	case via.IsZero():
		d.healed = now
	case !ok && !n.roomForDetour(now):
		return
	case d.via.IsZero() && ok:
		if d.pause = 2 * max(d.pause, directAgain); now.Sub(d.healed) >= mostDirectAgain {
			d.pause = 0
		}
	}
	d.via, d.at = via, now
	n.detours[server] = d
}

// roomForDetour makes room for one more; n.mu is held.
func (n *Node) roomForDetour(now time.Time) bool {
	if len(n.detours) < maxDetoured {
		return true
	}
	for s, d := range n.detours {
		if now.Sub(d.at) >= detourKept {
			delete(n.detours, s)
		}
	}
	return len(n.detours) < maxDetoured
}

// seekDirect calls found once server can be dialed directly again, unless over is closed before. What goes through another member is made anew
// then: its requests are sent again with the same numbers, so nothing is lost.
func (n *Node) seekDirect(server wire.UUID, over <-chan struct{}, found func()) {
	for {
		t := time.NewTimer(n.directPause(server))
		select {
		case <-t.C:
		case <-over:
		case <-n.ctx.Done():
		}
		t.Stop()
		select {
		case <-over:
			return
		case <-n.ctx.Done():
			return
		default:
		}
		ctx, cancel := context.WithTimeout(n.ctx, linkTimeout)
		w := n.dialServer(ctx, server)
		cancel()
		if w.err == nil {
			w.stream.Close()
			n.reached(server, wire.UUID{})
			found()
			return
		}
	}
}

// directPause is how long to wait before the direct way is looked for.
func (n *Node) directPause(server wire.UUID) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	pause := min(max(directAgain, n.detours[server].pause), mostDirectAgain)
	return pause - rand.N(pause/4)
}

// lateHandler is the handler of a connection before it is known what that will be used for. Until then the other side says nothing but answers.
type lateHandler struct {
	h atomic.Pointer[rpc.Handler]

	mu     sync.Mutex // guards closed, and h against it
	closed bool
}

var _ rpc.Handler = (*lateHandler)(nil)

// become hands c to h.
func (l *lateHandler) become(c *rpc.Conn, h rpc.Handler) {
	l.mu.Lock()
	l.h.Store(&h)
	closed := l.closed
	l.mu.Unlock()
	if closed {
		h.Closed(c)
	}
}

func (l *lateHandler) Call(ctx context.Context, c *rpc.Conn, kind uint8, body []byte) ([]byte, error) {
	if h := l.h.Load(); h != nil {
		return (*h).Call(ctx, c, kind, body)
	}
	return nil, errNoCalls
}

func (l *lateHandler) Message(c *rpc.Conn, kind uint8, body []byte) {
	if h := l.h.Load(); h != nil {
		(*h).Message(c, kind, body)
	}
}

func (l *lateHandler) Closed(c *rpc.Conn) {
	l.mu.Lock()
	l.closed = true
	h := l.h.Load()
	l.mu.Unlock()
	if h != nil {
		(*h).Closed(c)
	}
}
