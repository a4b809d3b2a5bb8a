package distlock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/godistlock/distlock/internal/dashboard"
	"github.com/godistlock/distlock/internal/node"
	"github.com/godistlock/distlock/internal/session"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// Join discovers peers by gossip, boots or joins the in-process Raft group and returns once this process can take locks (a leader
// is known and this process has a session), or fails by cfg.JoinTimeout with an error that matches ErrNoQuorum and
// context.DeadlineExceeded and lists who was seen and who was missing.
func Join(cfg Config) (*Cluster, error) { return JoinContext(context.Background(), cfg) }

// JoinContext is Join; ctx bounds the joining only, not the Cluster's life.
func JoinContext(ctx context.Context, cfg Config) (*Cluster, error) {
	return join(ctx, cfg, machine())
}

// Cluster is this process's membership. It implements Locker. It is safe for concurrent use. After Close or Leave everything but
// Status, Done, Err and Close answers ErrClosed at once.
type Cluster struct {
	settings  *settings
	transport *transport
	node      *node.Node
	sessions  *session.Manager
	watchMu   sync.Mutex     // guards watched, and watchers against being added to while stop waits
	watched   bool           // stop waits for watchers: none is added any more
	watchers  sync.WaitGroup // the goroutines of Lock.Context

	stopOnce sync.Once
	leaving  chan struct{} // closed when Leave or Close began
	leave    sync.Once
	stopping chan struct{} // closed when stop began
	reason   error         // written before stopping is closed
	done     chan struct{}
	err      error // written before done is closed
	failed   chan error
	owner    sync.WaitGroup // the goroutine that waits for failed
}

// stop closes every Done, then gives up Raft, the port and the directory, in this order: whoever takes the port or the directory over may
// rely on it.
func (c *Cluster) stop(reason error) {
	c.stopOnce.Do(func() {
		c.leave.Do(func() { close(c.leaving) })
		c.reason = reason
		close(c.stopping)
		c.sessions.Stop(reason)
		err := c.node.Close()
		c.transport.release()
		c.watchMu.Lock()
		c.watched = true
		c.watchMu.Unlock()
		c.watchers.Wait()
		c.settings.endLog()
		c.err = errors.Join(reason, err)
		close(c.done)
	})
	<-c.done
}

// watch runs f, which ends with a lock, on a goroutine that stop waits for. Once stop has begun every lock has ended, and so does f at once.
func (c *Cluster) watch(f func()) {
	c.watchMu.Lock()
	defer c.watchMu.Unlock()
	if c.watched {
		f()
		return
	}
	c.watchers.Go(f)
}

// Leave goes gracefully: it refuses new locks with ErrLeaving, waits until the held ones are unlocked or expire or ctx ends,
// releases the rest, hands over leadership, leaves and stops. Of voters that leave at the same time each waits for the one before, at most as long
// as ctx lets it; what comes then takes at most ten seconds. Done of every lock is closed before it returns, with ErrClosed. Its error
// says what ctx cut short; the Cluster has stopped all the same.
func (c *Cluster) Leave(ctx context.Context) error { return c.leaveWithin(ctx, leaveRest) }

// Close stops now, as a crash would: locks expire with the session. Done of every lock is closed before it returns, with ErrClosed.
func (c *Cluster) Close() error {
	c.stop(ErrClosed)
	c.owner.Wait()
	return nil
}

// Done is closed once the Cluster has stopped, for whatever reason.
func (c *Cluster) Done() <-chan struct{} { return c.done }

// Err says why the Cluster has stopped; it is nil before.
func (c *Cluster) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// usable is ErrClosed once the Cluster stops.
func (c *Cluster) usable() error {
	select {
	case <-c.stopping:
		return fmt.Errorf("distlock: %w", c.reason)
	default:
		return nil
	}
}

// stillUnsupported is the answer of what is declared but not built yet.
func (c *Cluster) stillUnsupported(feature string) error {
	if err := c.usable(); err != nil {
		return err
	}
	return unsupported(feature)
}

func (c *Cluster) isLeaving() bool {
	select {
	case <-c.leaving:
		return true
	default:
		return false
	}
}

// Handler serves the state as JSON at /status, and health: /livez is 200 until the Cluster has stopped, /readyz while this process can take
// locks and its role is not about to change: who updates a cluster one process after the other waits for that before the next. The answer to
// /readyz says what is missing. The dashboard at / is not built yet: it answers 501.
func (c *Cluster) Handler() http.Handler {
	return dashboard.New(dashboard.Source{
		Status: func() any { return c.Status() },
		Live:   func(context.Context) error { return c.Err() },
		Ready: func(ctx context.Context) error {
			switch {
			case c.Err() != nil:
				return c.Err()
			case c.isLeaving():
				return ErrLeaving
			case !c.Status().Ready:
				return ErrNoQuorum
			}
			return c.settled(ctx)
		},
	})
}

// settledTimeout bounds the question to the leader that /readyz asks: below the second that orchestrators commonly wait for the answer.
const settledTimeout = 700 * time.Millisecond

// settled is nil unless this process's role is about to change.
func (c *Cluster) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settledTimeout)
	defer cancel()
	return c.node.Settled(ctx)
}

// LeaveOnSignal blocks until one of sig (default SIGINT, SIGTERM), ctx or the end of c, then leaves within timeout, of which it keeps up to a
// third for what comes after the locks. A second signal is the program's own again. It returns Leave's error.
func LeaveOnSignal(ctx context.Context, c *Cluster, timeout time.Duration, sig ...os.Signal) error {
	if len(sig) == 0 {
		sig = []os.Signal{os.Interrupt, syscall.SIGTERM}
	}
	wait, stop := signal.NotifyContext(ctx, sig...)
	defer stop()
	select {
	case <-wait.Done():
	case <-c.Done():
		return c.Err()
	}
	stop()
	rest := min(leaveRest, timeout/3)
	locks, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout-rest)
	defer cancel()
	return c.leaveWithin(locks, rest)
}

// Locks lists the keys in use that begin with prefix, in key order, as of one moment after the call began: the leader commits an entry
// first.
func (c *Cluster) Locks(ctx context.Context, prefix string) ([]LockInfo, error) {
	var out []LockInfo
	q := node.Query{Kind: node.QueryLocks, Prefix: prefix}
	for {
		a, err := c.query(ctx, "locks", q)
		if errors.Is(err, node.ErrPageGone) { // as when the leader changed in the middle of the listing: begin anew, until ctx ends
			out, q.After, q.Page = nil, "", 0
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, k := range a.Locks {
			out = append(out, lockInfo(k))
		}
		if a.Page == 0 {
			return out, nil
		}
		q.Page, q.After = a.Page, a.Locks[len(a.Locks)-1].Key
	}
}

func lockInfo(k raftfsm.LockInfo) LockInfo {
	info := LockInfo{Key: k.Key, Mode: modes[k.Mode], Limit: int(k.Limit)}
	for _, h := range k.Holders {
		info.Holders = append(info.Holders, Holder{
			Member: h.Member, Fence: Fence(h.Fence), Weight: int(max(h.Weight, 1)), Since: time.UnixMicro(h.Since), Detached: h.Detached,
			Value: h.Value, Caller: h.Where,
		})
	}
	for _, w := range k.Waiters {
		info.Waiters = append(info.Waiters, Waiter{Member: w.Member, Since: time.UnixMicro(w.Since)})
	}
	return info
}

var modes = map[wire.Mode]Mode{wire.Exclusive: Exclusive, wire.Shared: SharedMode, wire.Units: LimitMode}

func (c *Cluster) query(ctx context.Context, what string, q node.Query) (node.Answer, error) {
	if err := c.usable(); err != nil {
		return node.Answer{}, err
	}
	a, err := c.node.Query(ctx, q)
	if err != nil {
		if uerr := c.usable(); uerr != nil {
			return node.Answer{}, uerr
		}
		return node.Answer{}, fmt.Errorf("distlock: %s: %w", what, err)
	}
	return a, nil
}

// Stats counts, as of one moment after the call began: the leader commits an entry first.
func (c *Cluster) Stats(ctx context.Context) (Stats, error) {
	a, err := c.query(ctx, "stats", node.Query{Kind: node.QueryStats})
	if err != nil {
		return Stats{}, err
	}
	n := a.Stats
	return Stats{
		Keys: n.Keys, Holders: n.Holders, Waiters: n.Waiters, Sessions: n.Sessions,
		Grants: n.Grants, Releases: n.Releases, Expirations: n.Expirations, LastFence: Fence(n.LastFence),
	}, nil
}

// CheckFence answers ErrStaleFence unless that very grant of that key is held now. It goes through the log.
func (c *Cluster) CheckFence(ctx context.Context, key string, fence Fence) error {
	if err := c.usable(); err != nil {
		return err
	}
	if err := checkKey(key); err != nil {
		return err
	}
	if fence == 0 {
		return fmt.Errorf("%w fence 0 of %q: no grant has it", ErrInvalid, key)
	}
	a, err := c.query(ctx, "check fence", node.Query{Kind: node.QueryGrant, Key: key, Page: uint64(fence)})
	switch {
	case err != nil:
		return err
	case a.Found && a.Fence == uint64(fence):
	case a.Fence == 0 || a.Fence == uint64(fence):
		return fmt.Errorf("fence %d of %q: %w: the grant is not held any more", fence, key, ErrStaleFence)
	default:
		return fmt.Errorf("fence %d of %q: %w: the grant held now has fence %d", fence, key, ErrStaleFence, a.Fence)
	}
	return nil
}

// ForceUnlock ends all grants of key; waiters stay. It returns once the holders have closed Done, or their sessions ended. A free
// key is ErrNotHeld.
func (c *Cluster) ForceUnlock(ctx context.Context, key string) error {
	if err := c.usable(); err != nil {
		return err
	}
	if err := checkKey(key); err != nil {
		return err
	}
	return c.sessions.Force(ctx, key)
}

// Status is a process's view of the cluster.
type Status struct {
	Name, Addr string
	Role       Role
	Leader     string // name of the leader as known here, "" when none is
	Ready      bool   // this process can take locks now
	Members    []Member
	Conflicts  []Member // processes of another open cluster of this Group, seen in the last minutes: two that were founded apart never merge

	// Strangers are the processes with which this one had no connection in the last minutes because they, or it, belong elsewhere; at most 128.
	Strangers []Stranger
}

// Stranger is a process that was kept out of this one, or that kept this one out, for a reason that a person can mend: another Group, another
// cluster, another Secret, another version of the protocol, another identity than its certificate's. The log says so too, once a minute.
type Stranger struct {
	Addr     string // host:port where this process dialed it, its host where it dialed
	Name     string // as it says; "" where it could not say
	Reason   string // "group", "cluster", "secret", "version", "identity", or "noise" for what no release of this library sends
	Text     string // what happened and what to do
	Incoming bool   // it dialed
	Last     time.Time
}

// Member is one process of the cluster as seen from here.
type Member struct {
	Name, Addr string
	Role       Role
	Leader     bool
	State      State
}

// Role is what a process does in the cluster.
type Role string

const (
	Voter   Role = "voter"   // takes part in Raft's majority
	Standby Role = "standby" // follows the log, ready to become a voter
	Client  Role = "client"  // takes locks and holds no Raft state
)

// State is how gossip sees a process. It suggests; no session ends by it.
type State string

const (
	Alive   State = "alive"
	Suspect State = "suspect"
	Failed  State = "failed"
	Left    State = "left"
)

// Release ends a lock taken elsewhere, by its handle, also when the process that took it is gone. It returns once the holder has closed Done
// (with ErrUnlocked), or its session has ended. A handle whose grant is gone is ErrNotHeld. When ctx ends first, or the session is lost, the
// outcome is unknown.
func (c *Cluster) Release(ctx context.Context, h Handle) error {
	if err := c.usable(); err != nil {
		return err
	}
	w, err := h.parse()
	if err != nil {
		return fmt.Errorf("release: %w", err)
	}
	return c.sessions.Release(ctx, w)
}

// Adopt makes a lock taken elsewhere this process's own, with the same fence and handle; its TTL starts anew, and a detached one becomes an
// ordinary lock of this process. It returns once the old holder has closed Done (with ErrMoved), or its session has ended. A handle whose
// grant is gone is ErrNotHeld. When ctx ends first, a grant that had moved here already is released.
func (c *Cluster) Adopt(ctx context.Context, h Handle) (*Lock, error) {
	if err := c.usable(); err != nil {
		return nil, err
	}
	w, err := h.parse()
	if err != nil {
		return nil, fmt.Errorf("adopt: %w", err)
	}
	grant, err := c.sessions.Adopt(ctx, w)
	if err != nil {
		return nil, err
	}
	return &Lock{cluster: c, grant: grant}, nil
}

// Watch tells what happens to keys that begin with prefix, in commit order. It returns once all that is committed from then on will be told. The
// channel is closed with ctx or with the Cluster. A reader that is too slow does not hold up the cluster: in the place of what it lost it gets
// one event "missed" (no key), and so it does when the leader changed, which may have hidden some. For a gap-free view: Watch first, then
// Locks, and Locks again after a "missed".
func (c *Cluster) Watch(ctx context.Context, prefix string) (<-chan Event, error) {
	if err := c.usable(); err != nil {
		return nil, err
	}
	if len(prefix) > wire.MaxKey {
		return nil, fmt.Errorf("watch: %w: a prefix of %d bytes; at most %d", ErrLimit, len(prefix), wire.MaxKey)
	}
	in, err := c.node.Watch(ctx, prefix)
	if err != nil {
		if uerr := c.usable(); uerr != nil {
			return nil, uerr
		}
		return nil, fmt.Errorf("distlock: watch: %w", err)
	}
	out := make(chan Event)
	c.watch(func() { // ends with ctx or with the Cluster, which end in
		defer close(out)
		for e := range in {
			select {
			case out <- Event{
				Type: EventType(e.Type), Index: e.Index, Key: e.Key, Member: e.Member, Fence: Fence(e.Fence), Time: e.Time,
			}:
			case <-ctx.Done():
			case <-c.stopping:
			}
		}
	})
	return out, nil
}

// Backup writes the cluster's state. Not built yet: its error matches errors.ErrUnsupported.
func (c *Cluster) Backup(ctx context.Context, w io.Writer) error { return c.stillUnsupported("Backup") }

// Restore replaces the cluster's state by a backup. Not built yet: its error matches errors.ErrUnsupported.
func (c *Cluster) Restore(ctx context.Context, r io.Reader) error {
	return c.stillUnsupported("Restore")
}

// Reform is the operator's: a memory cluster whose majority is gone for good begins a new epoch. Not built yet: its error matches
// errors.ErrUnsupported.
func (c *Cluster) Reform(ctx context.Context) error { return c.stillUnsupported("Reform") }

// LockInfo is a key in use.
type LockInfo struct {
	Key     string
	Mode    Mode
	Limit   int // of a semaphore, else 0
	Holders []Holder
	Waiters []Waiter // in the order in which they will be served
}

// Mode is how a key is in use.
type Mode string

const (
	Exclusive  Mode = "exclusive"
	SharedMode Mode = "shared"
	LimitMode  Mode = "limit"
)

// Holder has a grant of a key.
type Holder struct {
	Member   string // name of the process; "" when detached
	Fence    Fence
	Weight   int
	Since    time.Time // the leader's wall clock at the grant; for people, never for decisions
	Detached bool
	Value    []byte
	Caller   string // file and line of the call that took it, if the option Caller asked for it
}

// Waiter waits for a grant of a key.
type Waiter struct {
	Member string
	Since  time.Time
}

// Stats are the cluster's figures.
type Stats struct {
	Keys, Holders, Waiters, Sessions int    // now
	Grants, Releases, Expirations    uint64 // since the cluster began
	LastFence                        Fence
}

// Event is one thing that happened to a key.
type Event struct {
	Type   EventType
	Index  uint64 // commit order
	Key    string
	Member string
	Fence  Fence
	Time   time.Time
}

// EventType says what happened.
type EventType string

const (
	EventQueued    EventType = "queued"
	EventGranted   EventType = "granted"
	EventReleased  EventType = "released"
	EventExpired   EventType = "expired"
	EventForced    EventType = "forced"
	EventMoved     EventType = "moved"
	EventCancelled EventType = "cancelled"
	EventMissed    EventType = "missed" // no key: the reader was too slow and events are missing
)
