package distlock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/godistlock/distlock/internal/session"
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
	cluster *Cluster
	grant   *session.Grant

	mu    sync.Mutex // guards owner
	owner *owner     // nil until a context carried one in or out
}

// owner is who asks: all Lock calls with contexts that come from one another. It knows what it holds here, to see when it asks for that
// again.
type owner struct {
	mu    sync.Mutex // guards locks
	locks map[place]*Lock
}

// place is a key of a cluster: a process may be in several, and their keys have nothing to do with each other.
type place struct {
	cluster *Cluster
	key     string
}

func (l *Lock) place() place { return place{l.cluster, l.Key()} }

func (o *owner) add(l *Lock) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.locks[l.place()] = l
}

func (o *owner) remove(l *Lock) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.locks[l.place()] == l {
		delete(o.locks, l.place())
	}
}

// holding is o's lock of p, if it still holds it.
func (o *owner) holding(p place) *Lock {
	o.mu.Lock()
	defer o.mu.Unlock()
	if l := o.locks[p]; l != nil && l.Err() == nil {
		return l
	}
	return nil
}

// asOwner is l's owner, which begins with l when no context carried one in.
func (l *Lock) asOwner() *owner {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.owner == nil {
		l.owner = &owner{locks: map[place]*Lock{l.place(): l}}
	}
	return l.owner
}

// Key is the locked key; of a LockAll it is the first.
func (l *Lock) Key() string { return l.grant.Key() }

// Keys are all locked keys, each once.
func (l *Lock) Keys() []string { return []string{l.grant.Key()} }

// Fence is the grant's fence: greater than that of every earlier grant in the cluster. Hand it to whatever the lock protects and
// let that refuse smaller ones: it is the only protection from a process that slept through its deadline.
func (l *Lock) Fence() Fence { return Fence(l.grant.Fence()) }

// Done is closed when the grant may no longer be relied on, and before anybody else is granted, as long as this process runs and
// clocks differ in rate by less than a fifth.
func (l *Lock) Done() <-chan struct{} { return l.grant.Done() }

// Err says why Done is closed: ErrUnlocked, ErrExpired, ErrForced, ErrMoved, ErrSessionLost or ErrClosed. It is nil before.
func (l *Lock) Err() error { return l.grant.Err() }

// Context is parent, ending with l as well (its cause is then l.Err()). It carries l as owner and l's fence: see Locker.Lock and
// FenceFrom.
func (l *Lock) Context(parent context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(parent)
	l.asOwner()
	if err := l.Err(); err != nil {
		cancel(err)
		return withLock(ctx, l)
	}
	l.cluster.watch(func() { // ends with the lock, which Close ends at the latest, or with parent
		select {
		case <-l.Done():
			cancel(l.Err())
		case <-ctx.Done():
			cancel(nil)
		}
	})
	return withLock(ctx, l)
}

// Unlock closes Done, then sends the release, even when ctx has ended; ctx bounds only the wait for its commit. After a successful
// Unlock it is nil, so a deferred one beside an early one is fine. Unlock of a lost lock matches ErrNotHeld and the reason that Err
// gives. If ctx ends first it returns ctx's error, the release goes on, and a later Unlock waits for that same release.
func (l *Lock) Unlock(ctx context.Context) error {
	l.mu.Lock()
	o := l.owner
	l.mu.Unlock()
	if o != nil {
		o.remove(l)
	}
	return l.grant.Release(ctx)
}

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

// Lock is Locker's.
func (c *Cluster) Lock(ctx context.Context, key string, opts ...LockOption) (*Lock, error) {
	return c.acquire(ctx, key, false, opts)
}

// TryLock is Locker's.
func (c *Cluster) TryLock(ctx context.Context, key string, opts ...LockOption) (*Lock, error) {
	return c.acquire(ctx, key, true, opts)
}

func (c *Cluster) acquire(ctx context.Context, key string, try bool, opts []LockOption) (*Lock, error) {
	if err := c.usable(); err != nil {
		return nil, fmt.Errorf("lock %q: %w", key, err)
	}
	if len(opts) > 0 {
		if _, err := buildLockOptions(opts); err != nil {
			return nil, fmt.Errorf("lock %q: %w", key, err)
		}
	}
	if err := checkKey(key); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	var own *owner
	if outer := ownerFrom(ctx); outer != nil {
		own = outer.asOwner()
		if l := own.holding(place{c, key}); l != nil {
			if try {
				return nil, fmt.Errorf("lock %q: %w by the same owner, fence %d", key, ErrHeld, l.Fence())
			}
			return nil, fmt.Errorf("lock %q: %w: the owner that this context carries holds it already, fence %d, and would wait for itself", key, ErrDeadlock, l.Fence())
		}
	}
	grant, err := c.sessions.Acquire(ctx, key, try)
	if err != nil {
		return nil, err
	}
	l := &Lock{cluster: c, grant: grant, owner: own}
	if own != nil {
		own.add(l)
	}
	return l, nil
}

// LockAll is Locker's. Not built yet: its error matches errors.ErrUnsupported.
func (c *Cluster) LockAll(ctx context.Context, keys []string, opts ...LockOption) (*Lock, error) {
	return nil, c.stillUnsupported("LockAll")
}

// Do is Locker's. Its error joins fn's with that of the unlock: when the lock was lost while fn ran it matches ErrNotHeld and the reason.
// The unlock waits for its commit even when ctx has ended, at the longest until the session would have run out.
func (c *Cluster) Do(ctx context.Context, key string, fn func(ctx context.Context, fence Fence) error, opts ...LockOption) (err error) {
	l, err := c.Lock(ctx, key, opts...)
	if err != nil {
		return err
	}
	defer func() {
		if uerr := l.Unlock(context.WithoutCancel(ctx)); uerr != nil {
			err = errors.Join(err, uerr)
		}
	}()
	return fn(l.Context(ctx), l.Fence())
}
