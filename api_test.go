package distlock_test

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/godistlock/distlock"
)

// What follows fails to compile when a name or a signature of the public surface changes: programs are built against them.
var (
	_ func(distlock.Config) (*distlock.Cluster, error)                                         = distlock.Join
	_ func(context.Context, distlock.Config) (*distlock.Cluster, error)                        = distlock.JoinContext
	_ func(context.Context, *distlock.Cluster, time.Duration, ...os.Signal) error              = distlock.LeaveOnSignal
	_ func(*distlock.Cluster, context.Context) error                                           = (*distlock.Cluster).Leave
	_ func(*distlock.Cluster) error                                                            = (*distlock.Cluster).Close
	_ func(*distlock.Cluster) <-chan struct{}                                                  = (*distlock.Cluster).Done
	_ func(*distlock.Cluster) error                                                            = (*distlock.Cluster).Err
	_ func(*distlock.Cluster) distlock.Status                                                  = (*distlock.Cluster).Status
	_ func(*distlock.Cluster) http.Handler                                                     = (*distlock.Cluster).Handler
	_ func(*distlock.Cluster, context.Context, string) ([]distlock.LockInfo, error)            = (*distlock.Cluster).Locks
	_ func(*distlock.Cluster, context.Context) (distlock.Stats, error)                         = (*distlock.Cluster).Stats
	_ func(*distlock.Cluster, context.Context, string, distlock.Fence) error                   = (*distlock.Cluster).CheckFence
	_ func(*distlock.Cluster, context.Context, string) error                                   = (*distlock.Cluster).ForceUnlock
	_ func(*distlock.Cluster, context.Context, distlock.Handle) error                          = (*distlock.Cluster).Release
	_ func(*distlock.Cluster, context.Context, distlock.Handle) (*distlock.Lock, error)        = (*distlock.Cluster).Adopt
	_ func(*distlock.Cluster, context.Context, string) (<-chan distlock.Event, error)          = (*distlock.Cluster).Watch
	_ func(*distlock.Cluster, context.Context, io.Writer) error                                = (*distlock.Cluster).Backup
	_ func(*distlock.Cluster, context.Context, io.Reader) error                                = (*distlock.Cluster).Restore
	_ func(*distlock.Cluster, context.Context) error                                           = (*distlock.Cluster).Reform
	_ func(string) func(context.Context) ([]string, error)                                     = distlock.PeersFile
	_ func(distlock.Config) string                                                             = distlock.Config.String
	_ func(distlock.Config) string                                                             = distlock.Config.GoString
	_ func(distlock.Config, fmt.State, rune)                                                   = distlock.Config.Format
	_ func(distlock.Config) slog.Value                                                         = distlock.Config.LogValue
	_ func(distlock.Config) ([]byte, error)                                                    = distlock.Config.MarshalJSON
	_ func(context.Context) (distlock.Fence, bool)                                             = distlock.FenceFrom
	_ func() distlock.Guard                                                                    = distlock.NewGuard
	_ func(distlock.Guard, func(*http.Request) string, http.Handler) http.Handler              = distlock.RequireFence
	_ func(distlock.SQLGuard, context.Context, distlock.SQLTx) error                           = distlock.SQLGuard.CreateTable
	_ func(distlock.SQLGuard, context.Context, distlock.SQLTx, string, distlock.Fence) error   = distlock.SQLGuard.Admit
	_ func(distlock.SQLGuard, context.Context, distlock.SQLTx, []string, distlock.Fence) error = distlock.SQLGuard.AdmitAll

	_ func(*distlock.Lock) string                                = (*distlock.Lock).Key
	_ func(*distlock.Lock) []string                              = (*distlock.Lock).Keys
	_ func(*distlock.Lock) distlock.Fence                        = (*distlock.Lock).Fence
	_ func(*distlock.Lock) <-chan struct{}                       = (*distlock.Lock).Done
	_ func(*distlock.Lock) error                                 = (*distlock.Lock).Err
	_ func(*distlock.Lock, context.Context) context.Context      = (*distlock.Lock).Context
	_ func(*distlock.Lock, context.Context) error                = (*distlock.Lock).Unlock
	_ func(*distlock.Lock, context.Context, time.Duration) error = (*distlock.Lock).Extend
	_ func(*distlock.Lock, context.Context) error                = (*distlock.Lock).Downgrade
	_ func(*distlock.Lock) distlock.Handle                       = (*distlock.Lock).Handle

	_ func() distlock.LockOption              = distlock.Shared
	_ func(int) distlock.LockOption           = distlock.Limit
	_ func(int) distlock.LockOption           = distlock.Weight
	_ func(time.Duration) distlock.LockOption = distlock.TTL
	_ func(time.Duration) distlock.LockOption = distlock.Detached
	_ func(time.Duration) distlock.LockOption = distlock.Cooldown
	_ func([]byte) distlock.LockOption        = distlock.Value
	_ func() distlock.LockOption              = distlock.Caller
)

// An interface with these methods and no others, so that users' fakes go on compiling.
type (
	locker interface {
		Lock(ctx context.Context, key string, opts ...distlock.LockOption) (*distlock.Lock, error)
		TryLock(ctx context.Context, key string, opts ...distlock.LockOption) (*distlock.Lock, error)
		LockAll(ctx context.Context, keys []string, opts ...distlock.LockOption) (*distlock.Lock, error)
		Do(ctx context.Context, key string, fn func(ctx context.Context, fence distlock.Fence) error, opts ...distlock.LockOption) error
	}
	guard interface {
		Admit(ctx context.Context, key string, fence distlock.Fence) error
	}
	sqlTx interface {
		ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
		QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	}
)

var (
	_ distlock.Locker   = locker(nil)
	_ locker            = distlock.Locker(nil)
	_ distlock.Locker   = (*distlock.Cluster)(nil)
	_ distlock.Guard    = guard(nil)
	_ guard             = distlock.Guard(nil)
	_ distlock.SQLTx    = sqlTx(nil)
	_ sqlTx             = distlock.SQLTx(nil)
	_ distlock.SQLTx    = (*sql.Tx)(nil)
	_ http.RoundTripper = distlock.FenceTransport{}
	_ http.RoundTripper = &distlock.FenceTransport{Base: http.DefaultTransport}
)

// Every field, by name and type; a program may name all of them or none.
var (
	_ = distlock.Config{
		Name: "", Bind: "", Advertise: "", Peers: []string(nil), Discover: (func(context.Context) ([]string, error))(nil), Group: "",
		Expect: int(0), Voters: int(0), NoVote: false, DataDir: "", Secret: "", Secrets: []string(nil), TLS: (*tls.Config)(nil),
		Insecure: false, SessionTTL: time.Duration(0), JoinTimeout: time.Duration(0), MaxPending: int(0), Logger: (*slog.Logger)(nil),
	}
	_ = distlock.Status{Name: "", Addr: "", Role: distlock.Voter, Leader: "", Ready: false, Members: []distlock.Member(nil)}
	_ = distlock.Member{Name: "", Addr: "", Role: distlock.Client, Leader: false, State: distlock.Alive}
	_ = distlock.LockInfo{Key: "", Mode: distlock.Exclusive, Limit: int(0), Holders: []distlock.Holder(nil), Waiters: []distlock.Waiter(nil)}
	_ = distlock.Holder{Member: "", Fence: distlock.Fence(0), Weight: int(0), Since: time.Time{}, Detached: false, Value: []byte(nil)}
	_ = distlock.Waiter{Member: "", Since: time.Time{}}
	_ = distlock.Stats{
		Keys: int(0), Holders: int(0), Waiters: int(0), Sessions: int(0), Grants: uint64(0), Releases: uint64(0), Expirations: uint64(0),
		LastFence: distlock.Fence(0),
	}
	_ = distlock.Event{Type: distlock.EventType(""), Index: uint64(0), Key: "", Member: "", Fence: distlock.Fence(0), Time: time.Time{}}
	_ = distlock.SQLGuard{Dialect: distlock.Dialect(""), Table: ""}
	_ = distlock.FenceTransport{Base: http.RoundTripper(nil)}
)

// Types that users convert from and to.
var (
	_ = uint64(distlock.Fence(0))
	_ = string(distlock.Handle(""))
)

func TestConstants(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{string(distlock.Voter), "voter"},
		{string(distlock.Standby), "standby"},
		{string(distlock.Client), "client"},
		{string(distlock.Alive), "alive"},
		{string(distlock.Suspect), "suspect"},
		{string(distlock.Failed), "failed"},
		{string(distlock.Left), "left"},
		{string(distlock.Exclusive), "exclusive"},
		{string(distlock.SharedMode), "shared"},
		{string(distlock.LimitMode), "limit"},
		{string(distlock.EventQueued), "queued"},
		{string(distlock.EventGranted), "granted"},
		{string(distlock.EventReleased), "released"},
		{string(distlock.EventExpired), "expired"},
		{string(distlock.EventForced), "forced"},
		{string(distlock.EventMoved), "moved"},
		{string(distlock.EventCancelled), "cancelled"},
		{string(distlock.EventMissed), "missed"},
		{string(distlock.Postgres), "postgres"},
		{string(distlock.MySQL), "mysql"},
		{string(distlock.SQLite), "sqlite"},
		{distlock.FenceHeader, "Distlock-Fence"},
	} {
		if c.got != c.want {
			t.Errorf("constant is %q, want %q", c.got, c.want)
		}
	}
}

// The sentinels are different errors: none is matched by another.
func TestErrorsAreDistinct(t *testing.T) {
	all := []error{
		distlock.ErrHeld, distlock.ErrUnlocked, distlock.ErrExpired, distlock.ErrForced, distlock.ErrMoved, distlock.ErrSessionLost, distlock.ErrNotHeld,
		distlock.ErrNoQuorum, distlock.ErrDeadlock, distlock.ErrStaleFence, distlock.ErrLeaving, distlock.ErrClosed, distlock.ErrInvalid, distlock.ErrLimit,
		distlock.ErrNameTaken, errors.ErrUnsupported, context.Canceled, context.DeadlineExceeded,
	}
	for i, a := range all {
		for j, b := range all {
			if errors.Is(a, b) != (i == j) {
				t.Errorf("errors.Is(%q, %q) = %v", a, b, i != j)
			}
		}
	}
}
