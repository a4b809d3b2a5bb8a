package distlock

import (
	"context"
	"time"
)

// Locker is what a handler needs; *Cluster implements it. Adding a method to it is a breaking change.
type Locker interface {
	// Lock waits in first-come order until key is granted or ctx ends. A wait that ends leaves nothing behind: it returns at once
	// with an error that matches ctx's (and ErrNoQuorum where no leader was the reason), and its request is gone from the cluster
	// one commit later. A wait outlives this process's session: it is queued again under the new one, behind those who wait.
	// A context from Lock.Context or Do makes it a request of the same owner: asking again for what that owner holds exclusively
	// is ErrDeadlock.
	Lock(ctx context.Context, key string, opts ...LockOption) (*Lock, error)
	// TryLock never queues: it answers ErrHeld whenever key cannot be granted at once, be it held (by the same owner too), waited
	// for or in cooldown. Without a leader it waits for one until ctx ends.
	TryLock(ctx context.Context, key string, opts ...LockOption) (*Lock, error)
	// LockAll grants all keys in one committed entry, with one fence, or waits holding none of them. The options hold for all
	// keys; a key named twice counts once. At most 64 keys.
	LockAll(ctx context.Context, keys []string, opts ...LockOption) (*Lock, error)
	// Do locks key, runs fn under a context that ends when the lock is lost, and unlocks once fn returned or panicked.
	Do(ctx context.Context, key string, fn func(ctx context.Context, fence Fence) error, opts ...LockOption) error
}

var _ Locker = (*Cluster)(nil)

// Lock is one grant. It is safe for concurrent use.
type Lock struct {
	fence Fence
}

// Key is the locked key; of a LockAll it is the first.
func (l *Lock) Key() string { return "" }

// Keys are all locked keys, each once.
func (l *Lock) Keys() []string { return nil }

// Fence is the grant's fence: greater than that of every earlier grant in the cluster. Hand it to whatever the lock protects and
// let that refuse smaller ones: it is the only protection from a process that slept through its deadline.
func (l *Lock) Fence() Fence { return l.fence }

// Done is closed when the grant may no longer be relied on, and before anybody else is granted, as long as this process runs and
// clocks differ in rate by less than a fifth.
func (l *Lock) Done() <-chan struct{} { return nil }

// Err says why Done is closed: ErrUnlocked, ErrExpired, ErrForced, ErrMoved, ErrSessionLost or ErrClosed. It is nil before.
func (l *Lock) Err() error { return nil }

// Context is parent, ending with l as well (its cause is then l.Err()). It carries l as owner and l's fence: see Locker.Lock and
// FenceFrom.
func (l *Lock) Context(parent context.Context) context.Context { return withLock(parent, l) }

// Unlock closes Done, then sends the release, even when ctx has ended; ctx bounds only the wait for its commit. After a successful
// Unlock it is nil, so a deferred one beside an early one is fine. Unlock of a lost lock matches ErrNotHeld and the reason that Err
// gives. If ctx ends first it returns ctx's error, the release goes on, and a later Unlock waits for that same release.
func (l *Lock) Unlock(ctx context.Context) error { return unsupported("Unlock") }

// Extend sets the lock's time to ttl from now; a lock that had none gets one. Not built yet: its error matches
// errors.ErrUnsupported.
func (l *Lock) Extend(ctx context.Context, ttl time.Duration) error { return unsupported("Extend") }

// Downgrade turns an exclusive lock into a shared one, with no gap and with the same fence. Not built yet: its error matches
// errors.ErrUnsupported.
func (l *Lock) Downgrade(ctx context.Context) error { return unsupported("Downgrade") }

// Handle names the grant in a text that another process can Release or Adopt it by. Not built yet: it is empty.
func (l *Lock) Handle() Handle { return "" }

// Handle is opaque text that names a grant; whoever has it can Release or Adopt.
type Handle string
