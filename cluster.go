package distlock

import (
	"context"
	"io"
	"net/http"
	"os"
	"time"
)

// Join discovers peers by gossip, boots or joins the in-process Raft group and returns once this process can take locks (a leader
// is known and this process has a session), or fails by cfg.JoinTimeout with an error that matches ErrNoQuorum and
// context.DeadlineExceeded and lists who was seen and who was missing.
func Join(cfg Config) (*Cluster, error) { return JoinContext(context.Background(), cfg) }

// JoinContext is Join; ctx bounds the joining only, not the Cluster's life.
func JoinContext(ctx context.Context, cfg Config) (*Cluster, error) {
	return nil, unsupported("Join")
}

// Cluster is this process's membership. It implements Locker. It is safe for concurrent use. After Close or Leave everything but
// Status, Done, Err and Close answers ErrClosed at once.
type Cluster struct{}

// Lock is Locker's.
func (c *Cluster) Lock(ctx context.Context, key string, opts ...LockOption) (*Lock, error) {
	return nil, unsupported("Lock")
}

// TryLock is Locker's.
func (c *Cluster) TryLock(ctx context.Context, key string, opts ...LockOption) (*Lock, error) {
	return nil, unsupported("TryLock")
}

// LockAll is Locker's.
func (c *Cluster) LockAll(ctx context.Context, keys []string, opts ...LockOption) (*Lock, error) {
	return nil, unsupported("LockAll")
}

// Do is Locker's.
func (c *Cluster) Do(ctx context.Context, key string, fn func(ctx context.Context, fence Fence) error, opts ...LockOption) error {
	return unsupported("Do")
}

// Leave goes gracefully: it refuses new locks with ErrLeaving, waits until the held ones are unlocked or expire or ctx ends,
// releases the rest, hands over leadership, leaves and stops. Done of every lock is closed before it returns, with ErrClosed.
func (c *Cluster) Leave(ctx context.Context) error { return unsupported("Leave") }

// Close stops now, as a crash would: locks expire with the session. Done of every lock is closed before it returns, with ErrClosed.
func (c *Cluster) Close() error { return unsupported("Close") }

// Done is closed once the Cluster has stopped, for whatever reason.
func (c *Cluster) Done() <-chan struct{} { return nil }

// Err says why the Cluster has stopped; it is nil before.
func (c *Cluster) Err() error { return nil }

// Status is what this process knows, and never blocks.
func (c *Cluster) Status() Status { return Status{} }

// Handler serves the dashboard at /, JSON at /status, health at /livez and /readyz.
func (c *Cluster) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, unsupported("Handler").Error(), http.StatusNotImplemented)
	})
}

// LeaveOnSignal blocks until one of sig (default SIGINT, SIGTERM) or ctx, then leaves within timeout.
func LeaveOnSignal(ctx context.Context, c *Cluster, timeout time.Duration, sig ...os.Signal) error {
	return unsupported("LeaveOnSignal")
}

// Status is a process's view of the cluster.
type Status struct {
	Name, Addr string
	Role       Role
	Leader     string // name of the leader as known here, "" when none is
	Ready      bool   // this process can take locks now
	Members    []Member
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

// Locks lists the keys in use that begin with prefix, linearizably.
func (c *Cluster) Locks(ctx context.Context, prefix string) ([]LockInfo, error) {
	return nil, unsupported("Locks")
}

// Stats counts, linearizably. Not built yet: its error matches errors.ErrUnsupported.
func (c *Cluster) Stats(ctx context.Context) (Stats, error) { return Stats{}, unsupported("Stats") }

// CheckFence answers ErrStaleFence unless that very grant of that key is held now. It goes through the log.
func (c *Cluster) CheckFence(ctx context.Context, key string, fence Fence) error {
	return unsupported("CheckFence")
}

// ForceUnlock ends all grants of key; waiters stay. It returns once the holders have closed Done, or their sessions ended. A free
// key is ErrNotHeld.
func (c *Cluster) ForceUnlock(ctx context.Context, key string) error {
	return unsupported("ForceUnlock")
}

// Release ends a lock taken elsewhere, by its handle. Not built yet: its error matches errors.ErrUnsupported.
func (c *Cluster) Release(ctx context.Context, h Handle) error { return unsupported("Release") }

// Adopt makes a lock taken elsewhere this process's own, with the same fence. Not built yet: its error matches
// errors.ErrUnsupported.
func (c *Cluster) Adopt(ctx context.Context, h Handle) (*Lock, error) {
	return nil, unsupported("Adopt")
}

// Watch tells what happens to keys that begin with prefix. The channel is closed with ctx or with the Cluster. For a gap-free view:
// Watch first, then Locks. Not built yet: its error matches errors.ErrUnsupported.
func (c *Cluster) Watch(ctx context.Context, prefix string) (<-chan Event, error) {
	return nil, unsupported("Watch")
}

// Backup writes the cluster's state. Not built yet: its error matches errors.ErrUnsupported.
func (c *Cluster) Backup(ctx context.Context, w io.Writer) error { return unsupported("Backup") }

// Restore replaces the cluster's state by a backup. Not built yet: its error matches errors.ErrUnsupported.
func (c *Cluster) Restore(ctx context.Context, r io.Reader) error { return unsupported("Restore") }

// Reform is the operator's: a memory cluster whose majority is gone for good begins a new epoch. Not built yet: its error matches
// errors.ErrUnsupported.
func (c *Cluster) Reform(ctx context.Context) error { return unsupported("Reform") }

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
