package session

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
)

// Request is what to lock.
type Request struct {
	Keys          []string // ascending, each once, 1 to wire.MaxKeys
	Mode          wire.Mode
	Limit, Weight uint32 // Units only
	Try           bool   // don't wait for a key
	// At most wire.MaxTime; 0: none. The leader counts whole milliseconds.
	TTL, Cooldown, Detached time.Duration
	Value                   []byte // shown beside the holder; not to be changed afterwards
	Where                   string // in the code, for messages
	Owner                   *Owner // nil: whoever asks has asked for nothing before
}

// more is what few requests have. Its Manager's mu guards it, except that mode and keys are as key in Grant.
type more struct {
	req    *Request     // of a request that is not plain
	owner  *Owner       // nil until somebody asks for it
	ask    *wire.Ask    // what is sent under the present numbers; nil: an OpAcquire says it all
	handle *wire.Handle // of OpRelease and OpAdopt, and of an adopted grant
	keys   []string     // if it was an OpRequest or was adopted
	mode   wire.Mode

	late  bool          // the request began while there was no link
	began time.Duration // late: when
	text  string        // whom it waits for, as the leader said when it was asked
	since int64         // text: µs since 1970, when the grant of the one in the way began; 0: it is none

	ttl      time.Duration // from when Lock returns; 0: none
	deadline time.Duration // on cfg.Clock, when Done closes; of a grant in Manager.times
	index    int           // in Manager.times, plus one; 0: it isn't there

	detached *detached     // of a detached grant
	down     bool          // an OpDowngrade is not answered
	refusal  error         // why the last Downgrade was refused; nil if it was not
	turn     chan struct{} // closed when an order is answered or the grant is lost; nil when nobody waits
}

// extraLocked is g.more, made if need be.
func (g *Grant) extraLocked() *more {
	if g.more == nil {
		g.more = &more{}
	}
	return g.more
}

// epoch is a session that was: what the handles of its grants are made of.
type epoch struct {
	session uint64
	nonce   wire.UUID
}

// Lock is Acquire for every kind of request.
func (m *Manager) Lock(ctx context.Context, r Request) (*Grant, error) {
	if err := r.fault(); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	g := &Grant{m: m, key: r.Keys[0], try: r.Try}
	switch {
	case !r.isPlain():
		g.more = &more{req: &r, owner: r.Owner, keys: r.Keys, mode: r.Mode, ttl: r.TTL}
		if r.Detached > 0 {
			g.more.detached = &detached{time: lifetime(&r)}
		}
	case r.Owner != nil:
		g.more = &more{owner: r.Owner}
	}
	if err := m.await(ctx, g); err != nil {
		return nil, err
	}
	return g, nil
}

// isPlain says that an OpAcquire says all of r but its owner.
func (r *Request) isPlain() bool {
	return len(r.Keys) == 1 && r.Mode == wire.Exclusive && r.TTL|r.Cooldown|r.Detached == 0 && len(r.Value) == 0 && r.Where == ""
}

// fault says what the leader would not even read: a message that it can't read ends the link, and would be sent again on the next.
func (r *Request) fault() error {
	switch {
	case len(r.Keys) == 0:
		return fmt.Errorf("%w: no key", lockerr.ErrInvalid)
	case len(r.Keys) > wire.MaxKeys:
		return fmt.Errorf("%w: %d keys at once, at most %d", lockerr.ErrLimit, len(r.Keys), wire.MaxKeys)
	case r.Mode > wire.Units:
		return fmt.Errorf("%w: mode %d", lockerr.ErrInvalid, r.Mode)
	case r.Mode == wire.Units && (r.Weight == 0 || r.Weight > r.Limit || r.Limit > wire.MaxUnits), r.Mode != wire.Units && (r.Limit|r.Weight) != 0:
		return fmt.Errorf("%w: %d units of %d", lockerr.ErrInvalid, r.Weight, r.Limit)
	case len(r.Value) > wire.MaxValue:
		return fmt.Errorf("%w: a value of %d bytes, at most %d", lockerr.ErrLimit, len(r.Value), wire.MaxValue)
	case len(r.Where) > wire.MaxWhere:
		return fmt.Errorf("%w: a place in the code of %d bytes, at most %d", lockerr.ErrLimit, len(r.Where), wire.MaxWhere)
	}
	for i, k := range r.Keys {
		switch {
		case k == "" || i > 0 && k <= r.Keys[i-1]:
			return fmt.Errorf("%w: keys that are empty or don't ascend", lockerr.ErrInvalid)
		case len(k) > wire.MaxKey:
			return fmt.Errorf("%w: a key of %d bytes, at most %d", lockerr.ErrLimit, len(k), wire.MaxKey)
		}
	}
	for _, d := range []time.Duration{r.TTL, r.Cooldown, r.Detached} {
		if err := timeFault(d); err != nil {
			return err
		}
	}
	return nil
}

func timeFault(d time.Duration) error {
	switch {
	case d < 0:
		return fmt.Errorf("%w: a time of %s", lockerr.ErrInvalid, d)
	case d > wire.MaxTime*time.Millisecond:
		return fmt.Errorf("%w: a time of %s, at most %s", lockerr.ErrLimit, d, wire.MaxTime*time.Millisecond)
	}
	return nil
}

// millis is d as the leader counts it: what is more than nothing is at least one.
func millis(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

// askLocked makes what is sent for g, which has just got its number.
func (m *Manager) askLocked(g *Grant) {
	x := g.more
	if x == nil || g.errand != toLock {
		return
	}
	owner := x.owner.number(m, g.seq)
	r := x.req
	switch {
	case r == nil && owner == 0:
		x.ask = nil
	case r == nil:
		x.ask = &wire.Ask{Keys: []string{g.key}, Owner: owner}
	default:
		x.ask = &wire.Ask{
			Keys: r.Keys, Mode: r.Mode, Limit: r.Limit, Weight: r.Weight, Owner: owner,
			TTL: millis(r.TTL), Cooldown: millis(r.Cooldown), Detached: millis(r.Detached), Value: r.Value, Where: r.Where,
		}
		if g.state == resuming {
			x.ask.Origin, x.ask.Only = x.detached.origin, true
		}
	}
}

// Keys are all that is locked, ascending.
func (g *Grant) Keys() []string {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	if g.more == nil || g.more.keys == nil {
		return []string{g.key}
	}
	return slices.Clone(g.more.keys)
}

// Mode is how it is locked.
func (g *Grant) Mode() wire.Mode {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	return g.modeLocked()
}

func (g *Grant) modeLocked() wire.Mode {
	if g.more == nil {
		return wire.Exclusive
	}
	return g.more.mode
}
