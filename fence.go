package distlock

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/godistlock/distlock/internal/guard"
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

// NewGuard is a Guard in memory, bounded to 64 MiB. It never admits a fence older than one that it admitted for that key: when it forgets a key, of
// those granted longest ago, it remembers the greatest fence forgotten, and refuses unknown keys below it. It never blocks, and its errors match
// ErrStaleFence, ErrInvalid (what is no fence or no key), ErrLimit (a key that is too long) or ctx's. A restart forgets everything: until a
// newer fence of a key has come, an old one is admitted again. Where that must not be, use StoredGuard, or SQLGuard.
func NewGuard() Guard { return memoryGuard{guard.New(guardMemory)} }

const guardMemory = 64 << 20 // bytes

type memoryGuard struct{ *guard.Guard }

func (g memoryGuard) Admit(ctx context.Context, key string, fence Fence) error {
	if err := checkAdmit(ctx, key, fence); err != nil {
		return err
	}
	if !g.Guard.Admit(key, uint64(fence)) {
		return fmt.Errorf("key %q: %w: fence %d is older than one that was admitted", key, ErrStaleFence, fence)
	}
	return nil
}

// maxFence is where a Fence would no longer be exact as a JSON number.
const maxFence = 1<<53 - 1

func checkAdmit(ctx context.Context, key string, fence Fence) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if fence == 0 || fence > maxFence {
		return fmt.Errorf("%w fence %d: a grant's is from 1 to %d", ErrInvalid, fence, uint64(maxFence))
	}
	return checkKey(key)
}

// FenceStore keeps fences where a restart does not forget them, for StoredGuard.
type FenceStore interface {
	// Raise stores fence as key's unless a greater one is stored, in one step that is durable when it returns, and answers which is stored then.
	Raise(ctx context.Context, key string, fence Fence) (Fence, error)
}

// StoredGuard is a Guard over a store of the user's own. It is as safe as Raise is one step, across all processes that use the store.
func StoredGuard(s FenceStore) Guard { return storedGuard{s} }

type storedGuard struct{ store FenceStore }

func (g storedGuard) Admit(ctx context.Context, key string, fence Fence) error {
	if err := checkAdmit(ctx, key, fence); err != nil {
		return err
	}
	stored, err := g.store.Raise(ctx, key, fence)
	switch {
	case err != nil:
		return fmt.Errorf("key %q: its fence could not be stored: %w", key, err)
	case stored > fence:
		return fmt.Errorf("key %q: %w: fence %d, and %d was admitted", key, ErrStaleFence, fence, stored)
	case stored < fence:
		return fmt.Errorf("key %q: %w: the store answers fence %d after it was given %d", key, ErrInvalid, stored, fence)
	}
	return nil
}

// FenceHeader carries a fence in an HTTP request, as a bare decimal number.
const FenceHeader = "Distlock-Fence"

// FenceOf is the fence in r's FenceHeader. ok is false when there is none; an error, which matches ErrInvalid, says that what is there is no fence.
func FenceOf(r *http.Request) (fence Fence, ok bool, err error) {
	values := r.Header[FenceHeader]
	switch {
	case len(values) == 0:
		return 0, false, nil
	case len(values) > 1:
		return 0, true, fmt.Errorf("%w %s: it is there %d times", ErrInvalid, FenceHeader, len(values))
	}
	text := values[0]
	if len(text) == 0 || len(text) > len("9007199254740991") || text[0] == '0' {
		return 0, true, errFenceHeader
	}
	for i := range len(text) {
		d := text[i] - '0'
		if d > 9 {
			return 0, true, errFenceHeader
		}
		fence = 10*fence + Fence(d)
	}
	if fence > maxFence {
		return 0, true, errFenceHeader
	}
	return fence, true, nil
}

var errFenceHeader = fmt.Errorf("%w %s: it must be a bare decimal number from 1 to %d", ErrInvalid, FenceHeader, uint64(maxFence))

// RequireFence lets a request through to next when g admits the fence in its FenceHeader. It answers 428 without a fence, 400 to a malformed one, or
// to a key that is none, 412 to a stale one, and 503 where g can't tell, with Retry-After. key names what the request touches, by what the server itself
// knows, never by what the client says beside it; nil is the URL's path, as it was decoded. It allocates nothing for what it lets through.
func RequireFence(g Guard, key func(*http.Request) string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fence, ok, err := FenceOf(r)
		switch {
		case !ok:
			http.Error(w, "a fence is required in "+FenceHeader, http.StatusPreconditionRequired)
			return
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		touched := r.URL.Path
		if key != nil {
			touched = key(r)
		}
		switch err := g.Admit(r.Context(), touched, fence); {
		case err == nil:
			next.ServeHTTP(w, r)
		case errors.Is(err, ErrStaleFence):
			http.Error(w, err.Error(), http.StatusPreconditionFailed)
		case errors.Is(err, ErrInvalid), errors.Is(err, ErrLimit):
			http.Error(w, err.Error(), http.StatusBadRequest)
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the fence could not be checked", http.StatusServiceUnavailable) // why is none of the client's business
		}
	})
}

// FenceTransport adds FenceHeader from the request's context (see FenceFrom) and hands the request to Base, by default http.DefaultTransport. A request
// that has the header already keeps it, and one whose context has no fence goes as it is. It changes no request that it is given.
type FenceTransport struct{ Base http.RoundTripper }

var _ http.RoundTripper = FenceTransport{}

// RoundTrip implements http.RoundTripper.
func (t FenceTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	base := t.Base
	if base == nil {
		base = http.DefaultTransport
	}
	fence, ok := FenceFrom(r.Context())
	if _, given := r.Header[FenceHeader]; !ok || given {
		return base.RoundTrip(r)
	}
	r = r.Clone(r.Context())
	if r.Header == nil {
		r.Header = http.Header{}
	}
	r.Header[FenceHeader] = []string{strconv.FormatUint(uint64(fence), 10)}
	return base.RoundTrip(r)
}

// CloseIdleConnections passes on what http.Client.CloseIdleConnections asks for.
func (t FenceTransport) CloseIdleConnections() {
	type closer interface{ CloseIdleConnections() }
	base := t.Base
	if base == nil {
		base = http.DefaultTransport
	}
	if c, ok := base.(closer); ok {
		c.CloseIdleConnections()
	}
}
