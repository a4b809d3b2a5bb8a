package distlock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/godistlock/distlock/internal/fault"
	"github.com/godistlock/distlock/internal/session"
	"github.com/godistlock/distlock/internal/wire"
)

// Locker is what a handler needs; *Cluster implements it. Adding a method to it is a breaking change.
type Locker interface {
	// Lock waits in first-come order until key is granted or ctx ends. A wait that ends leaves nothing behind: it returns at once
	// with an error that matches ctx's (and ErrNoQuorum where no leader was the reason), and its request is gone from the cluster
	// one commit later. A wait outlives this process's session: it is queued again under the new one, behind those who wait.
	// A context from Lock.Context or Do makes it a request of the same owner; one that would close a circle of owners that wait for each
	// other is ErrDeadlock, as is asking again for what one holds exclusively. Every error of a wait says who held the key and how many
	// waited before when it began.
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
	keys    []string // of a LockAll, as they were named, each once; else nil
}

// Key is the locked key; of a LockAll it is the first.
func (l *Lock) Key() string {
	if l.keys != nil {
		return l.keys[0]
	}
	return l.grant.Key()
}

// Keys are all locked keys, each once.
func (l *Lock) Keys() []string {
	if l.keys != nil {
		return slices.Clone(l.keys)
	}
	return l.grant.Keys()
}

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
	l.grant.Owner() // from here on requests may be its owner's
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
func (l *Lock) Unlock(ctx context.Context) error { return l.grant.Release(ctx) }

// Extend sets the lock's time to ttl from now, more than zero and at most 30 days; a lock that had none gets one. That of a Detached lock is
// set in the cluster: ctx bounds the wait for the commit, and until then the earlier of both times counts here. Any other's is kept
// here, and Extend returns at once. Of a lost lock it matches ErrNotHeld and the reason that Err gives.
func (l *Lock) Extend(ctx context.Context, ttl time.Duration) error {
	var f fault.List
	checkTime(&f, "Extend", ttl, 1)
	if err := f.Err(); err != nil {
		return err
	}
	return l.grant.Extend(ctx, ttl)
}

// Downgrade turns an exclusive lock into a shared one, with no gap and with the same fence; shared requests that wait are granted with it. It
// returns once that is committed; if ctx ends first it happens all the same. Of a shared lock it is nil, of a semaphore's units
// ErrInvalid, of a lost lock it matches ErrNotHeld and the reason that Err gives.
func (l *Lock) Downgrade(ctx context.Context) error { return l.grant.Downgrade(ctx) }

// Handle names the grant: whoever has the text can Release or Adopt it, in any process of the cluster. It can't be made from the fence. It
// stays the same when the grant is adopted, and means nothing once the grant has ended.
func (l *Lock) Handle() Handle { return Handle(l.grant.Handle().String()) }

// Handle is opaque text that names a grant; whoever has it can Release or Adopt.
type Handle string

func (h Handle) parse() (wire.Handle, error) {
	w, err := wire.ParseHandle(string(h))
	if err != nil {
		return wire.Handle{}, fmt.Errorf("%w handle of %d bytes: it is not one that Lock.Handle gave", ErrInvalid, len(h))
	}
	return w, nil
}

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
	if err := checkKey(key); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	owner := ownerFrom(ctx)
	if len(opts) == 0 && owner == nil {
		grant, err := c.sessions.Acquire(ctx, key, try)
		if err != nil {
			return nil, err
		}
		return &Lock{cluster: c, grant: grant}, nil
	}
	r, err := request(opts, owner)
	if err != nil {
		return nil, fmt.Errorf("lock %q: %w", key, err)
	}
	r.Keys, r.Try = []string{key}, try
	grant, err := c.sessions.Lock(ctx, r)
	if err != nil {
		return nil, err
	}
	return &Lock{cluster: c, grant: grant}, nil
}

// request is what opts ask for, by owner.
func request(opts []LockOption, owner *Lock) (session.Request, error) {
	o, err := buildLockOptions(opts)
	if err != nil {
		return session.Request{}, err
	}
	r := o.request()
	if owner != nil {
		r.Owner = owner.grant.Owner()
	}
	return r, nil
}

// LockAll is Locker's.
func (c *Cluster) LockAll(ctx context.Context, keys []string, opts ...LockOption) (*Lock, error) {
	if err := c.usable(); err != nil {
		return nil, fmt.Errorf("lock all: %w", err)
	}
	named, sorted, err := eachOnce(keys)
	if err != nil {
		return nil, fmt.Errorf("lock all: %w", err)
	}
	r, err := request(opts, ownerFrom(ctx))
	if err != nil {
		return nil, fmt.Errorf("lock all %q and so on: %w", named[0], err)
	}
	r.Keys = sorted
	grant, err := c.sessions.Lock(ctx, r)
	if err != nil {
		return nil, err
	}
	return &Lock{cluster: c, grant: grant, keys: named}, nil
}

// eachOnce judges the keys of a LockAll and answers each once, as they were named and sorted.
func eachOnce(keys []string) (named, sorted []string, err error) {
	if len(keys) == 0 {
		return nil, nil, fmt.Errorf("%w: no key is named; name what is to be locked", ErrInvalid)
	}
	seen := make(map[string]bool, len(keys))
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return nil, nil, err
		}
		if !seen[key] {
			seen[key] = true
			named = append(named, key)
		}
	}
	if len(named) > maxLockAll {
		return nil, nil, fmt.Errorf("%w: %d keys at once; at most %d: lock what they have in common", ErrLimit, len(named), maxLockAll)
	}
	return named, slices.Sorted(slices.Values(named)), nil
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
