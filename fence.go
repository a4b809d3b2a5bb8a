package distlock

import (
	"context"
	"database/sql"
	"net/http"
)

// Fence orders grants: every grant's is greater than that of every earlier grant in the cluster's life, also across the loss of all
// its state, as long as the founders' clocks are not behind the fences given before (microseconds since 1970; under 10^6 grants a
// second on average). It fits a signed 64-bit column and a JSON number (below 2^53). 0 is never a fence.
type Fence uint64

// grantKey is the context key of the grant that a context of Lock.Context or Do carries.
type grantKey struct{}

type carried struct {
	fence Fence
	owner *Lock
}

// withLock is parent carrying l as owner, and its fence. It does not end with l.
func withLock(parent context.Context, l *Lock) context.Context {
	return withGrant(parent, l.Fence(), l)
}

func withGrant(parent context.Context, fence Fence, owner *Lock) context.Context {
	return context.WithValue(parent, grantKey{}, carried{fence, owner})
}

// ownerFrom is the innermost lock that ctx carries: a request made with ctx is one of the same owner. It is nil when ctx carries none.
func ownerFrom(ctx context.Context) *Lock {
	c, _ := ctx.Value(grantKey{}).(carried)
	return c.owner
}

// FenceFrom is the fence of the innermost lock whose Do or Lock.Context made ctx; false when there is none.
func FenceFrom(ctx context.Context) (Fence, bool) {
	c, _ := ctx.Value(grantKey{}).(carried)
	return c.fence, c.fence != 0
}

// Guard keeps out what a newer grant has overtaken. Guards are for exclusive grants: shared holders and semaphore holders have
// fences of their own and would shut each other out.
type Guard interface {
	// Admit answers ErrStaleFence when a newer fence of key was seen. Equal fences are admitted: one grant may write many times.
	Admit(ctx context.Context, key string, fence Fence) error
}

// NewGuard is a Guard in memory, bounded to 64 MiB. It never admits a fence older than one that it admitted for that key: when it
// forgets a key it remembers the greatest fence forgotten, and refuses unknown keys below it.
//
// Not built yet: its Admit answers an error that matches errors.ErrUnsupported, so it lets nothing through.
func NewGuard() Guard { return memoryGuard{} }

type memoryGuard struct{}

func (memoryGuard) Admit(context.Context, string, Fence) error { return unsupported("NewGuard") }

// SQLGuard keeps the greatest admitted fence of each key in a table of the user's own database, checked inside the user's own
// transaction: Admit first, then write, roll back on error. It is no Guard, since it needs that transaction.
//
// Not built yet: its methods answer errors that match errors.ErrUnsupported.
type SQLGuard struct {
	Dialect Dialect
	Table   string // default "distlock_fences"; a plain name, with a schema at most
}

// Dialect is a database's kind of SQL.
type Dialect string

const (
	Postgres Dialect = "postgres"
	MySQL    Dialect = "mysql"
	SQLite   Dialect = "sqlite"
)

// SQLTx is what SQLGuard needs of a transaction; *sql.Tx has it.
type SQLTx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

var (
	_ SQLTx = (*sql.Tx)(nil)
	_ SQLTx = (*sql.DB)(nil) // for CreateTable only
)

// CreateTable makes the table if it is not there. tx may be a *sql.DB here.
func (g SQLGuard) CreateTable(ctx context.Context, tx SQLTx) error {
	return unsupported("SQLGuard.CreateTable")
}

// Admit answers ErrStaleFence when a newer fence of key was admitted, else it keeps fence in tx. With a *sql.DB or *sql.Conn it is
// ErrInvalid, as check and write would be two. Keys are stored as bytes.
func (g SQLGuard) Admit(ctx context.Context, tx SQLTx, key string, fence Fence) error {
	return unsupported("SQLGuard.Admit")
}

// AdmitAll is Admit for each of keys, in a fixed order, so that two transactions cannot wait for each other.
func (g SQLGuard) AdmitAll(ctx context.Context, tx SQLTx, keys []string, fence Fence) error {
	return unsupported("SQLGuard.AdmitAll")
}

// FenceHeader carries a fence in an HTTP request, as a bare decimal number.
const FenceHeader = "Distlock-Fence"

// RequireFence lets a request through to next when g admits the fence in its FenceHeader. It answers 428 without a fence, 400 to a
// malformed one, 412 to a stale one. key names what the request touches; nil is its URL path.
//
// Not built yet: every request is answered with 501, and next is never called.
func RequireFence(g Guard, key func(*http.Request) string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, unsupported("RequireFence").Error(), http.StatusNotImplemented)
	})
}

// FenceTransport adds FenceHeader from the request's context (see FenceFrom) and hands the request to Base, by default
// http.DefaultTransport.
//
// Not built yet: every request fails with an error that matches errors.ErrUnsupported, and nothing is sent.
type FenceTransport struct{ Base http.RoundTripper }

var _ http.RoundTripper = FenceTransport{}

// RoundTrip implements http.RoundTripper.
func (t FenceTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_ = r.Body.Close() // a RoundTripper closes the body also when it fails
	}
	return nil, unsupported("FenceTransport")
}
