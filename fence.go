package distlock

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

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

// FenceFrom is the fence of the innermost lock whose Do or Lock.Context made ctx; false when there is none. It says nothing of the locks
// around that one: a process that has lost an outer lock and then takes an inner one carries a fence that no guard of the outer's key would
// refuse. So what an outer lock protects is written with the outer's context, or both keys are taken by LockAll.
func FenceFrom(ctx context.Context) (Fence, bool) {
	c, _ := ctx.Value(grantKey{}).(carried)
	return c.fence, c.fence != 0
}

// Guard keeps out what a newer grant has overtaken: of each key it knows the greatest fence that it admitted, and refuses smaller ones. It
// knows nothing of locks: an old fence is admitted until the newer holder has shown its own. So who holds a lock to read, think and write
// has its fence admitted before it reads, and again with the write. If it were shown with the write only, the holder before, when it wakes
// up between the two, could still write, and what was made of the value before that would be written over it.
//
// Admit and the write that it allows are two steps. A write that was admitted and then takes long may come after that of a newer holder who
// was admitted meanwhile. Where that must not be, make one of them: Admit and write under one mutex, or in one transaction, as with
// SQLGuard. Requests of one grant all have its fence, and a guard puts them in no order. Whoever may call Admit can shut everybody
// out by a great number: a guard is for clients that are honest and late, behind whatever says who they are.
//
// Guards are for exclusive grants:
//
//   - Shared holders have a fence each, and all are right: the first to show a greater one would shut the others out. So shared
//     holders don't ask Admit. A writer that was admitted can expect that no writer before it is admitted any more, but not that an
//     earlier shared holder, who was paused, has stopped reading: that takes a comparison that raises nothing, as SELECT … WHERE fence <=
//     the reader's. A shared holder can't expect that a writer before it writes no more: that one is kept out only by the next writer.
//   - Holders of a semaphore have a fence each as well, and no order of them means anything: a guard can't serve them. Either give each
//     place a key of its own and lock one of those exclusively, or ask Cluster.CheckFence before the write, which says who held a moment
//     ago, and use Cooldown.
//   - A lock of LockAll has one fence for all its keys: ask Admit for each key that is touched.
//   - Extend and Downgrade keep the fence. Who has downgraded would still be admitted, so must not write.
//   - Adopt keeps the fence, also of a Detached lock: no guard can tell the process that took it from the one that has it now. Where the
//     first may be paused, rather than done, Release or ForceUnlock the lock and take it anew, for a fence of its own.
//   - Fences of different clusters, so of different Groups, are in no order: each cluster has guards of its own. A key that moves to
//     another cluster needs a fresh guard, once the old cluster's holders are done: the new one's fences may be smaller.
type Guard interface {
	// Admit answers ErrStaleFence when a newer fence of key was seen. Equal fences are admitted: one grant may write many times.
	Admit(ctx context.Context, key string, fence Fence) error
}

// NewGuard is a Guard in memory, bounded to 64 MiB. It never admits a fence older than one that it admitted for that key: when it forgets a
// key, of those granted longest ago, it remembers the greatest fence forgotten, and refuses unknown keys below it. With keys of 20 bytes it
// knows 400,000 or so; who holds one lock while that many newer ones come may then be refused though nobody has overtaken it, and has to
// take its lock anew. It never blocks, and its errors match ErrStaleFence, ErrInvalid (what is no fence or no key), ErrLimit (a key that is
// too long) or ctx's.
//
// A restart forgets everything: until a newer fence of a key has come, an old one is admitted again. And it is one process's: of several
// that serve the same resource each knows only what came to itself. Where either matters, use StoredGuard, or SQLGuard.
func NewGuard() Guard { return memoryGuard{guard.New(guardMemory)} }

const guardMemory = 64 << 20 // bytes

type memoryGuard struct{ *guard.Guard }

func (g memoryGuard) Admit(ctx context.Context, key string, fence Fence) error {
	if err := checkAdmit(ctx, key, fence); err != nil {
		return err
	}
	if !g.Guard.Admit(key, uint64(fence)) {
		return fmt.Errorf("key %q: %w: fence %d is older than one that was admitted, or than what was forgotten", key, ErrStaleFence, fence)
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
	// Raise stores fence as key's unless a greater one is stored, in one step that is durable when it returns, and answers which is stored
	// then.
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
		return fmt.Errorf("key %q: its store is broken: it has fence %d after it was given %d", key, stored, fence)
	}
	return nil
}

// FenceHeader carries a fence in an HTTP request, as a bare decimal number.
const FenceHeader = "Distlock-Fence"

// FenceOf is the fence in r's FenceHeader. ok is false when there is none; an error, which matches ErrInvalid, says that what is there is
// no fence.
func FenceOf(r *http.Request) (fence Fence, ok bool, err error) {
	values := r.Header[FenceHeader]
	switch {
	case len(values) == 0:
		return 0, false, nil
	case len(values) > 1:
		return 0, true, fmt.Errorf("%w %s: it is there %d times", ErrInvalid, FenceHeader, len(values))
	}
	if fence, err = ParseFence(values[0]); err != nil {
		err = fmt.Errorf("%s: %w", FenceHeader, err)
	}
	return fence, true, err
}

// ParseFence reads a fence as it travels: a bare decimal number from 1 to 2^53-1, with no sign, no space and no zero before it. The error
// matches ErrInvalid. strconv.FormatUint writes what it reads.
func ParseFence(text string) (Fence, error) {
	if len(text) == 0 || len(text) > len("9007199254740991") || text[0] == '0' {
		return 0, errFenceText
	}
	var fence Fence
	for i := range len(text) {
		d := text[i] - '0'
		if d > 9 {
			return 0, errFenceText
		}
		fence = 10*fence + Fence(d)
	}
	if fence > maxFence {
		return 0, errFenceText
	}
	return fence, nil
}

var errFenceText = fmt.Errorf("%w fence: it must be a bare decimal number from 1 to %d", ErrInvalid, uint64(maxFence))

// RequireFence lets a request through to next when g admits the fence in its FenceHeader. It answers 428 without a fence, 400 to a
// malformed one, or to a key that is none, 412 to a stale one, and 503 where g can't tell, with Retry-After. It allocates nothing for what
// it lets through.
//
// key names what the request touches, by what the server itself knows, never by what the client says beside it; nil is the URL's path, as
// it was decoded: "/a%2Fb" and "/a/b" are one key. What can be reached by several paths needs a key function, such as r.PathValue with a
// pattern around this handler: else who comes by another path is compared with nobody. A request that touches several keys calls FenceOf
// and Guard.Admit itself.
//
// It belongs around all that is done under an exclusive lock, also what a holder reads in order to write (see Guard), and behind what says
// who the client is, since a client can shut out others. The request is admitted before next begins; see Guard for what may happen while it
// runs.
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

// FenceTransport adds FenceHeader from the request's context (see FenceFrom) and hands the request to Base, by default
// http.DefaultTransport. A request that has the header already keeps it, also one that has it without a value and so goes without a fence,
// and one whose context has no fence goes as it is. It changes no request that it is given.
//
// What is sent again has the same fence, and is admitted again. An http.Client that follows a redirect sends the fence there too, to
// another host as well: it may be where the resource is now, and a fence is no secret; it tells about when its lock was taken.
// http.Client.CheckRedirect can forbid it.
type FenceTransport struct{ Base http.RoundTripper }

var _ http.RoundTripper = FenceTransport{}

// RoundTrip implements http.RoundTripper.
func (t FenceTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	base := t.Base
	if base == nil {
		base = http.DefaultTransport
	}
	fence, ok := FenceFrom(r.Context())
	if !ok || hasFence(r.Header) {
		return base.RoundTrip(r)
	}
	r = r.Clone(r.Context())
	if r.Header == nil {
		r.Header = http.Header{}
	}
	r.Header[FenceHeader] = []string{strconv.FormatUint(uint64(fence), 10)}
	return base.RoundTrip(r)
}

// hasFence says whether FenceHeader is there, however it is written: a server takes every spelling for the same.
func hasFence(h http.Header) bool {
	for name := range h {
		if strings.EqualFold(name, FenceHeader) {
			return true
		}
	}
	return false
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
