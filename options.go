package distlock

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/godistlock/distlock/internal/lockerr"
)

// Errors to branch on, all matched by errors.Is. What a call returns wraps them and says what happened, to what, and what to do.
var (
	ErrHeld        = lockerr.ErrHeld        // TryLock: the key cannot be granted at once
	ErrUnlocked    = lockerr.ErrUnlocked    // Lock.Err: it was unlocked, here or by its handle
	ErrExpired     = lockerr.ErrExpired     // Lock.Err: its own time (TTL, Detached) is up
	ErrForced      = lockerr.ErrForced      // Lock.Err: somebody called ForceUnlock
	ErrMoved       = lockerr.ErrMoved       // Lock.Err: somebody adopted it
	ErrSessionLost = lockerr.ErrSessionLost // Lock.Err: no renewal was answered until 0.8 SessionTTL after the last answered one was sent
	ErrNotHeld     = lockerr.ErrNotHeld     // what should be ended or moved is not held
	ErrNoQuorum    = lockerr.ErrNoQuorum    // no leader with a majority was reached in time
	ErrDeadlock    = lockerr.ErrDeadlock    // the request would close a cycle of owners
	ErrStaleFence  = lockerr.ErrStaleFence  // a newer grant has been seen, or the grant is not held any more
	ErrLeaving     = lockerr.ErrLeaving     // this process is leaving and takes no new locks
	ErrClosed      = lockerr.ErrClosed      // the Cluster has stopped
	ErrInvalid     = lockerr.ErrInvalid     // nonsense; said before anything is sent
	ErrLimit       = lockerr.ErrLimit       // a bound of the library; the message names it
	ErrNameTaken   = lockerr.ErrNameTaken   // a living process has this Name
)

// Config says how a process takes part. "all" = every member must be given the same; "own" = may differ. The zero Config is a
// cluster of one on loopback.
type Config struct {
	Name        string                                  // own; unique and stable; default: host name and port
	Bind        string                                  // own; host:port, TCP and UDP: the one port of everything; default 127.0.0.1:7950; port 0 picks one
	Advertise   string                                  // own; host:port peers use; default from Bind
	Peers       []string                                // own; host:port, or DNS names that resolve to many
	Discover    func(context.Context) ([]string, error) // own; asked at Join and again from time to time
	Group       string                                  // all; clusters of different groups never mix; default "distlock"
	Expect      int                                     // all; processes that must find each other before the first cluster forms; default 1 without Peers and Discover, else 3; no matter once a cluster is known
	Voters      int                                     // all (the committed value wins, and a difference is logged); size of the Raft group, 1, 3, 5 or 7; default 3
	NoVote      bool                                    // own; never make this process a voter
	DataDir     string                                  // own; durable Raft log and snapshots; "" keeps all in memory
	Secret      string                                  // all; shared random secret, at least 32 characters: mutual TLS and gossip encryption with no PKI
	Secrets     []string                                // all; for rotation, beside or instead of Secret: the first is used, all are accepted
	TLS         *tls.Config                             // all; or a PKI of your own
	Insecure    bool                                    // own; allow a Bind beyond loopback with neither
	SessionTTL  time.Duration                           // own; default 10s, 2s to 60s
	JoinTimeout time.Duration                           // own; default 30s
	Logger      *slog.Logger                            // own; default: nothing is logged
}

// LockOption changes what one Lock asks for.
type LockOption func(*lockOptions)

type lockOptions struct {
	shared   bool
	value    []byte
	limit    int
	weight   int
	ttl      time.Duration
	detached time.Duration
	cooldown time.Duration
}

// Shared asks for a shared grant: many shared holders, or one exclusive.
func Shared() LockOption { return func(o *lockOptions) { o.shared = true } }

// Limit makes the key a semaphore: up to n units at once.
func Limit(n int) LockOption { return func(o *lockOptions) { o.limit = n } }

// Weight is how many units of the limit this grant takes; default 1.
func Weight(n int) LockOption { return func(o *lockOptions) { o.weight = n } }

// TTL makes the grant expire after d even while the process lives, unless extended.
func TTL(d time.Duration) LockOption { return func(o *lockOptions) { o.ttl = d } }

// Detached makes the grant belong to no process: it lives d, by Handle, whoever dies.
func Detached(d time.Duration) LockOption { return func(o *lockOptions) { o.detached = d } }

// Cooldown keeps the key blocked d longer when the grant is lost without Unlock.
func Cooldown(d time.Duration) LockOption { return func(o *lockOptions) { o.cooldown = d } }

// Value is shown in Locks; it is copied.
func Value(b []byte) LockOption {
	b = bytes.Clone(b)
	return func(o *lockOptions) { o.value = b }
}

// unsupported is the answer of what is declared but not built yet.
func unsupported(feature string) error {
	return fmt.Errorf("distlock: %s is not built yet: %w", feature, errors.ErrUnsupported)
}
