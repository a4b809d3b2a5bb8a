package distlock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// What the signatures leave open, for what is built: see the doc comments of Lock and Locker.

// pair is two members of a cluster of three, and a context for the test.
func pair(t *testing.T, opts ...func(int, *Config)) (ctx context.Context, a, b *Cluster) {
	t.Helper()
	ms := newMembers(t, 3, opts...)
	return testContext(t, 60*time.Second), ms.all[0], ms.all[1]
}

// alone is a cluster of one.
func alone(t *testing.T, env surroundings) (context.Context, *Cluster) {
	t.Helper()
	c, err := join(t.Context(), Config{Bind: "127.0.0.1:0", Logger: testLogger(t)}, env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return testContext(t, 60*time.Second), c
}

// atOnce is how long something may take that waits for nothing, on a machine that does much else; what it must not wait for takes longer.
const atOnce = 5 * time.Second

func ended(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

// wantDone wants l to have ended by why.
func wantDone(t *testing.T, l *Lock, why error) {
	t.Helper()
	select {
	case <-l.Done():
	default:
		t.Errorf("Done of %q is open", l.Key())
	}
	if !errors.Is(l.Err(), why) {
		t.Errorf("Err of %q is %v; want %v", l.Key(), l.Err(), why)
	}
}

// wantHeld wants l to be held here, and so to say everybody.
func wantHeld(t *testing.T, ctx context.Context, c *Cluster, l *Lock) {
	t.Helper()
	select {
	case <-l.Done():
		t.Errorf("Done of %q is closed: %v", l.Key(), l.Err())
	default:
	}
	if l.Err() != nil {
		t.Errorf("Err of %q is %v", l.Key(), l.Err())
	}
	if err := c.CheckFence(ctx, l.Key(), l.Fence()); err != nil {
		t.Error(err)
	}
}

func TestUnlock(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	t.Run("twice", func(t *testing.T) {
		l := mustLock(t, ctx, a, "twice")
		for range 3 {
			mustUnlock(t, ctx, l)
			wantDone(t, l, ErrUnlocked)
		}
		if err := l.Unlock(ended(ctx)); err != nil { // what is done is done
			t.Errorf("a later Unlock with a context that has ended: %v", err)
		}
		next := mustLock(t, ctx, b, "twice")
		mustUnlock(t, ctx, l) // still nil, and not of the next one's grant
		wantHeld(t, ctx, a, next)
	})
	t.Run("of a lost lock", func(t *testing.T) {
		l := mustLock(t, ctx, a, "lost")
		if err := b.ForceUnlock(ctx, "lost"); err != nil {
			t.Fatal(err)
		}
		wantDone(t, l, ErrForced)
		next := mustLock(t, ctx, b, "lost")
		for range 2 {
			err := l.Unlock(ctx)
			wantFaults(t, "Unlock", err, ErrNotHeld, `"lost"`)
			wantFaults(t, "Unlock", err, ErrForced)
			if errors.Is(err, ErrUnlocked) {
				t.Errorf("it says that it was unlocked: %v", err)
			}
		}
		wantHeld(t, ctx, a, next)
	})
	t.Run("with a context that has ended", func(t *testing.T) {
		l := mustLock(t, ctx, a, "late")
		err := l.Unlock(ended(ctx))
		wantDone(t, l, ErrUnlocked)
		if err != nil { // the release goes on; a later one waits for it
			wantFaults(t, "Unlock", err, context.Canceled, `"late"`)
			if errors.Is(err, ErrNotHeld) || errors.Is(err, ErrNoQuorum) {
				t.Errorf("it was held, and there is a leader: %v", err)
			}
		}
		mustUnlock(t, ctx, l)
		if err := b.CheckFence(ctx, "late", l.Fence()); !errors.Is(err, ErrStaleFence) {
			t.Errorf("after Unlock: %v", err)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		l := mustLock(t, ctx, a, "many")
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if err := l.Unlock(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		wantDone(t, l, ErrUnlocked)
	})
}

func TestDo(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	errOwn := errors.New("the caller's own")
	free := func(t *testing.T, key string) {
		t.Helper()
		l, err := b.TryLock(ctx, key)
		if err != nil {
			t.Errorf("after Do: %v", err)
			return
		}
		mustUnlock(t, ctx, l)
	}
	t.Run("runs under the lock", func(t *testing.T) {
		type value struct{}
		deadline := time.Now().Add(time.Hour)
		parent, cancel := context.WithDeadline(context.WithValue(ctx, value{}, 42), deadline)
		defer cancel()
		want, _ := parent.Deadline()
		err := a.Do(parent, "do", func(under context.Context, fence Fence) error {
			if got, ok := FenceFrom(under); !ok || got != fence || fence == 0 {
				t.Errorf("fence %d, in the context %d, %v", fence, got, ok)
			}
			if got, ok := under.Deadline(); !ok || !got.Equal(want) {
				t.Errorf("deadline %v, %v", got, ok)
			}
			if under.Value(value{}) != 42 {
				t.Error("the parent's values are gone")
			}
			if err := b.CheckFence(ctx, "do", fence); err != nil {
				t.Error(err)
			}
			if _, err := b.TryLock(ctx, "do"); !errors.Is(err, ErrHeld) {
				t.Errorf("in the middle of Do: %v", err)
			}
			if _, err := a.Lock(under, "do"); !errors.Is(err, ErrDeadlock) {
				t.Errorf("asked for again: %v", err)
			}
			return errOwn
		})
		if err != errOwn {
			t.Errorf("Do: %v; want fn's error as it is", err)
		}
		free(t, "do")
	})
	t.Run("panic", func(t *testing.T) {
		func() {
			defer func() {
				if p := recover(); p != errOwn {
					t.Errorf("recovered %v", p)
				}
			}()
			_ = a.Do(ctx, "panic", func(context.Context, Fence) error { panic(errOwn) })
			t.Error("Do returned")
		}()
		free(t, "panic")
	})
	t.Run("Goexit", func(t *testing.T) {
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_ = a.Do(ctx, "goexit", func(context.Context, Fence) error {
				(&testing.T{}).FailNow() // what a test's fn does
				return nil
			})
		}()
		<-gone
		free(t, "goexit")
	})
	t.Run("loss in the middle", func(t *testing.T) {
		forced := make(chan error, 1)
		err := a.Do(ctx, "lost", func(under context.Context, fence Fence) error {
			go func() { forced <- b.ForceUnlock(ctx, "lost") }()
			<-under.Done()
			if cause := context.Cause(under); !errors.Is(cause, ErrForced) {
				t.Errorf("cause %v", cause)
			}
			if !errors.Is(under.Err(), context.Canceled) {
				t.Errorf("the context's error: %v", under.Err())
			}
			return errOwn
		})
		for _, want := range []error{errOwn, ErrNotHeld, ErrForced} {
			wantFaults(t, "Do", err, want, `"lost"`)
		}
		if err := <-forced; err != nil {
			t.Error(err)
		}
		free(t, "lost")
	})
	t.Run("release after fn", func(t *testing.T) {
		parent, cancel := context.WithCancel(ctx)
		err := a.Do(parent, "kept", func(under context.Context, fence Fence) error {
			cancel()
			<-under.Done()
			if err := b.CheckFence(ctx, "kept", fence); err != nil { // fn goes on, so the lock stays
				t.Error(err)
			}
			return under.Err()
		})
		if err != context.Canceled { // the unlock has nothing to add: it waited for its commit all the same
			t.Errorf("Do whose context was cancelled: %v", err)
		}
		free(t, "kept")
	})
	t.Run("not locked", func(t *testing.T) {
		err := a.Do(ended(ctx), "never", func(context.Context, Fence) error {
			t.Error("fn ran without the lock")
			return nil
		})
		wantFaults(t, "Do", err, context.Canceled, `"never"`)
	})
}

func TestContext(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	type value struct{}
	parent, cancelParent := context.WithCancelCause(context.WithValue(ctx, value{}, "v"))
	l := mustLock(t, ctx, a, "k")
	under := l.Context(parent)
	if got, ok := FenceFrom(under); !ok || got != l.Fence() {
		t.Errorf("fence %d, %v; want %d", got, ok, l.Fence())
	}
	if under.Value(value{}) != "v" {
		t.Error("the parent's values are gone")
	}
	if got, ok := under.Deadline(); !ok {
		t.Errorf("the parent's deadline is gone: %v", got)
	}
	inner := mustLock(t, under, a, "inner")
	both := inner.Context(under)
	if got, _ := FenceFrom(both); got != inner.Fence() {
		t.Errorf("fence %d; want the innermost, %d", got, inner.Fence())
	}
	mustUnlock(t, ctx, inner)
	<-both.Done()
	if !errors.Is(context.Cause(both), ErrUnlocked) || under.Err() != nil {
		t.Errorf("the inner one ended by %v, the outer one by %v", context.Cause(both), context.Cause(under))
	}
	if err := b.ForceUnlock(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	<-under.Done()
	if cause := context.Cause(under); !errors.Is(cause, ErrForced) || cause != l.Err() {
		t.Errorf("cause %v; want %v", cause, l.Err())
	}
	if late := l.Context(parent); late.Err() == nil || !errors.Is(context.Cause(late), ErrForced) {
		t.Errorf("of a lock that is over: %v, cause %v", late.Err(), context.Cause(late))
	}
	l = mustLock(t, ctx, a, "k")
	under = l.Context(parent)
	why := errors.New("the parent's reason")
	cancelParent(why)
	<-under.Done()
	if context.Cause(under) != why {
		t.Errorf("cause %v; want the parent's", context.Cause(under))
	}
	wantHeld(t, ctx, b, l) // a context's end is not the lock's
}

func TestOwners(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	l := mustLock(t, ctx, a, "k")
	under := l.Context(ctx)
	_, err := a.Lock(under, "k")
	wantFaults(t, "Lock", err, ErrDeadlock, `"k"`, fmt.Sprint(l.Fence()))
	_, err = a.TryLock(under, "k")
	wantFaults(t, "TryLock", err, ErrHeld, `"k"`)
	if errors.Is(err, ErrDeadlock) {
		t.Errorf("TryLock waits for nobody: %v", err)
	}
	type something struct{}
	deeper := mustLock(t, under, a, "deeper").Context(context.WithValue(under, something{}, ""))
	for _, key := range []string{"k", "deeper"} { // all that the owner holds, not only the innermost
		if _, err := a.Lock(deeper, key); !errors.Is(err, ErrDeadlock) {
			t.Errorf("%q asked for again: %v", key, err)
		}
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := a.Lock(short, "k"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrDeadlock) {
		t.Errorf("a context that carries no owner: %v", err)
	}
	if _, err := b.TryLock(l.Context(ctx), "k"); !errors.Is(err, ErrHeld) {
		t.Errorf("on another member: %v", err)
	}
	mustUnlock(t, ctx, l)
	again := mustLock(t, context.WithoutCancel(under), a, "k") // free again, so it is no cycle
	mustUnlock(t, ctx, again)
}

// A Lock whose context has ended sends nothing and says so at once; so does everything else that takes a context.
func TestContextThatHasEnded(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	held := mustLock(t, ctx, b, "held")
	over := ended(ctx)
	late, cancel := context.WithDeadline(ctx, time.Now().Add(-time.Second))
	defer cancel()
	for name, call := range map[string]func(context.Context) error{
		"Lock":        func(ctx context.Context) error { _, err := a.Lock(ctx, "free"); return err },
		"Lock held":   func(ctx context.Context) error { _, err := a.Lock(ctx, "held"); return err },
		"TryLock":     func(ctx context.Context) error { _, err := a.TryLock(ctx, "free"); return err },
		"Do":          func(ctx context.Context) error { return a.Do(ctx, "free", nil) },
		"Locks":       func(ctx context.Context) error { _, err := a.Locks(ctx, ""); return err },
		"CheckFence":  func(ctx context.Context) error { return a.CheckFence(ctx, "held", held.Fence()) },
		"ForceUnlock": func(ctx context.Context) error { return a.ForceUnlock(ctx, "held") },
	} {
		for want, over := range map[error]context.Context{context.Canceled: over, context.DeadlineExceeded: late} {
			began := time.Now()
			err := call(over)
			if !errors.Is(err, want) || errors.Is(err, ErrNoQuorum) {
				t.Errorf("%s: %v; want one that matches %v and nothing else", name, err, want)
			}
			if took := time.Since(began); took > atOnce {
				t.Errorf("%s took %s", name, took)
			}
		}
	}
	wantHeld(t, ctx, a, held)
	if infos, err := a.Locks(ctx, ""); err != nil || len(infos) != 1 {
		t.Errorf("left behind: %+v, %v", infos, err)
	}
}

// Every error of a key names it.
func TestErrorsNameTheKey(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	const key = "sku-42"
	l := mustLock(t, ctx, a, key)
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, waited := b.Lock(short, key)
	_, try := b.TryLock(ctx, key)
	_, again := a.Lock(l.Context(ctx), key)
	_, option := a.Lock(ctx, key, Limit(3))
	_, nonsense := a.Lock(ctx, key, TTL(-1))
	mustUnlock(t, ctx, l)
	for what, err := range map[string]error{
		"a wait": waited, "TryLock": try, "deadlock": again, "an option": option, "nonsense": nonsense,
		"a stale fence": a.CheckFence(ctx, key, l.Fence()), "a fence of 0": a.CheckFence(ctx, key, 0),
		"force": a.ForceUnlock(ctx, key),
	} {
		if err == nil || !strings.Contains(err.Error(), `"`+key+`"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestKeysThatAreNoKeys(t *testing.T) {
	t.Parallel()
	ctx, c := alone(t, machine())
	long := strings.Repeat("k", 1025)
	for what, call := range map[string]func(key string) error{
		"Lock":        func(key string) error { _, err := c.Lock(ctx, key); return err },
		"TryLock":     func(key string) error { _, err := c.TryLock(ctx, key); return err },
		"Do":          func(key string) error { return c.Do(ctx, key, nil) },
		"CheckFence":  func(key string) error { return c.CheckFence(ctx, key, 7) },
		"ForceUnlock": func(key string) error { return c.ForceUnlock(ctx, key) },
	} {
		wantFaults(t, what, call(""), ErrInvalid, "empty")
		wantFaults(t, what, call(long), ErrLimit, "1025 bytes", "at most 1024", "hash")
	}
	for _, key := range []string{"\x00", "\xff\xfe", long[:1024], "ключ"} {
		mustUnlock(t, ctx, mustLock(t, ctx, c, key))
	}
}

// What is declared and not built says so by name; after Close it says ErrClosed as all do.
func TestNotBuiltYet(t *testing.T) {
	t.Parallel()
	ctx, c := alone(t, machine())
	l := mustLock(t, ctx, c, "k")
	calls := map[string]func() error{
		"Backup":  func() error { return c.Backup(ctx, nil) },
		"Restore": func() error { return c.Restore(ctx, nil) },
		"Reform":  func() error { return c.Reform(ctx) },
	}
	for name, call := range calls {
		wantFaults(t, name, call(), errors.ErrUnsupported, name)
	}
	wantHeld(t, ctx, c, l)
	if infos, err := c.Locks(ctx, ""); err != nil || len(infos) != 1 {
		t.Errorf("something was taken: %+v, %v", infos, err)
	}
	c.Close()
	for name, call := range calls {
		wantFaults(t, name+" after Close", call(), ErrClosed)
	}
}

// After Close, Leave or a failure everything but Status, Done, Err and Close answers ErrClosed at once.
func TestStoppedClusterSaysSo(t *testing.T) {
	for how, stop := range map[string]func(context.Context, *Cluster, *disk) error{
		"Close": func(_ context.Context, c *Cluster, _ *disk) error { return c.Close() },
		"Leave": func(ctx context.Context, c *Cluster, _ *disk) error { return c.Leave(ctx) },
		"failure": func(ctx context.Context, c *Cluster, d *disk) error {
			d.failFrom(1)
			lockUntilItStops(ctx, c)
			return nil
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			d := &disk{}
			ctx, c := alone(t, d.under(machine()))
			l := mustLock(t, ctx, c, "k")
			under := l.Context(ctx)
			if how == "Leave" { // it would wait for the lock
				mustUnlock(t, ctx, l)
			}
			if err := stop(ctx, c, d); err != nil {
				t.Fatal(err)
			}
			<-c.Done()
			why := ErrClosed
			if how == "Leave" {
				why = ErrUnlocked
			}
			wantDone(t, l, why)
			<-under.Done()
			if !errors.Is(context.Cause(under), why) {
				t.Errorf("the lock's context ended by %v", context.Cause(under))
			}
			for name, call := range map[string]func() error{
				"Lock":        func() error { _, err := c.Lock(ctx, "k"); return err },
				"Lock nokey":  func() error { _, err := c.Lock(ctx, ""); return err },
				"Lock shared": func() error { _, err := c.Lock(ctx, "k", Shared()); return err },
				"Lock ended":  func() error { _, err := c.Lock(ended(ctx), "k"); return err },
				"TryLock":     func() error { _, err := c.TryLock(ctx, "k"); return err },
				"LockAll":     func() error { _, err := c.LockAll(ctx, []string{"k"}); return err },
				"Do":          func() error { return c.Do(ctx, "k", nil) },
				"Locks":       func() error { _, err := c.Locks(ctx, ""); return err },
				"Stats":       func() error { _, err := c.Stats(ctx); return err },
				"CheckFence":  func() error { return c.CheckFence(ctx, "k", l.Fence()) },
				"ForceUnlock": func() error { return c.ForceUnlock(ctx, "k") },
				"Leave":       func() error { return c.Leave(ctx) },
				"Err":         c.Err,
			} {
				began := time.Now()
				wantFaults(t, name, call(), ErrClosed)
				if took := time.Since(began); took > atOnce {
					t.Errorf("%s took %s", name, took)
				}
			}
			for range 2 {
				if err := c.Close(); err != nil {
					t.Errorf("Close again: %v", err)
				}
			}
			if s := c.Status(); s.Ready || s.Name == "" || s.Addr == "" {
				t.Errorf("status of a stopped Cluster: %+v", s)
			}
			err := l.Unlock(ctx)
			if how == "Leave" {
				if err != nil {
					t.Errorf("Unlock again: %v", err)
				}
			} else {
				wantFaults(t, "Unlock", err, ErrNotHeld)
				wantFaults(t, "Unlock", err, ErrClosed)
			}
		})
	}
}

// While it leaves, a Cluster refuses new locks and serves the rest.
func TestLeaving(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	held := mustLock(t, ctx, a, "held")
	under := held.Context(ctx)
	waits := make(chan error, 1)
	mine := mustLock(t, ctx, b, "b's")
	left := make(chan error, 1)
	go func() { left <- a.Leave(ctx) }()
	<-a.leaving
	eventually(t, ctx, "new locks are refused", func() bool {
		l, err := a.TryLock(ctx, "new")
		if err == nil {
			mustUnlock(t, ctx, l)
		}
		return errors.Is(err, ErrLeaving)
	})
	_, err := a.Lock(ctx, "new")
	wantFaults(t, "Lock", err, ErrLeaving, `"new"`)
	wantFaults(t, "Do", a.Do(under, "new", nil), ErrLeaving)
	if s := a.Status(); s.Ready {
		t.Error("ready to take locks while it leaves")
	}
	wantHeld(t, ctx, a, held) // reads are served too
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if err := a.Leave(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second Leave that waits for the first: %v", err)
	}
	go func() { waits <- a.Leave(ctx) }()
	mustUnlock(t, ctx, held)
	for _, ch := range []chan error{left, waits} {
		if err := <-ch; err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
	wantHeld(t, ctx, b, mine)
	mustUnlock(t, ctx, mustLock(t, ctx, b, "held"))
}

// Without a leader a call ends with its context, at once, and says why: no quorum.
func TestNoLeader(t *testing.T) {
	t.Parallel()
	ms := newMembers(t, 3, func(_ int, c *Config) { c.SessionTTL = maxSessionTTL }) // what it holds stays
	ctx := testContext(t, 60*time.Second)
	held := mustLock(t, ctx, ms.all[0], "held")
	ms.crash(1)
	ms.crash(2)
	a := ms.all[0]
	eventually(t, ctx, "it sees that nobody leads", func() bool { return !a.Status().Ready })
	var calls sync.WaitGroup
	for name, call := range map[string]func(context.Context) error{
		"Lock":        func(ctx context.Context) error { _, err := a.Lock(ctx, "k"); return err },
		"TryLock":     func(ctx context.Context) error { _, err := a.TryLock(ctx, "k"); return err },
		"Do":          func(ctx context.Context) error { return a.Do(ctx, "k", nil) },
		"Unlock":      held.Unlock,
		"Locks":       func(ctx context.Context) error { _, err := a.Locks(ctx, ""); return err },
		"CheckFence":  func(ctx context.Context) error { return a.CheckFence(ctx, "held", held.Fence()) },
		"ForceUnlock": func(ctx context.Context) error { return a.ForceUnlock(ctx, "k") },
	} {
		for _, how := range []error{context.DeadlineExceeded, context.Canceled} {
			calls.Go(func() {
				short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
				defer cancel()
				if how == context.Canceled {
					short, cancel = context.WithCancel(ctx)
					time.AfterFunc(100*time.Millisecond, cancel)
				}
				began := time.Now()
				err := call(short)
				if took := time.Since(began); took > atOnce {
					t.Errorf("%s returned only after %s", name, took)
				}
				wantFaults(t, name, err, ErrNoQuorum)
				wantFaults(t, name, err, how)
			})
		}
	}
	calls.Wait()
}

// JoinContext's context bounds only the joining.
func TestJoinContextBoundsTheJoiningOnly(t *testing.T) {
	t.Parallel()
	joining, cancel := context.WithCancel(t.Context())
	c, err := JoinContext(joining, Config{Bind: "127.0.0.1:0", SessionTTL: minSessionTTL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := testContext(t, 30*time.Second)
	l := mustLock(t, ctx, c, "k")
	cancel()
	beyond := time.NewTimer(minSessionTTL) // its session would have run out by then
	defer beyond.Stop()
	select {
	case <-c.Done():
		t.Fatal(c.Err())
	case <-l.Done():
		t.Fatal(l.Err())
	case <-beyond.C:
	}
	mustUnlock(t, ctx, l)
	mustUnlock(t, ctx, mustLock(t, ctx, c, "k"))
}

func TestHandler(t *testing.T) {
	t.Parallel()
	ms := newMembers(t, 3)
	ctx := testContext(t, 60*time.Second)
	a := ms.all[0]
	server := httptest.NewServer(a.Handler())
	defer server.Close()
	get := func(path string) (int, string, string) {
		t.Helper()
		r := httptest.NewRecorder()
		a.Handler().ServeHTTP(r, httptest.NewRequest(http.MethodGet, path, nil))
		return r.Code, r.Header().Get("Content-Type"), r.Body.String()
	}
	want := func(path string, code int, says string) {
		t.Helper()
		if got, _, body := get(path); got != code || !strings.Contains(body, says) {
			t.Errorf("%s answers %d %q; want %d with %q", path, got, body, code, says)
		}
	}
	eventually(t, ctx, "it sees all", func() bool { return len(a.Status().Members) == 3 && a.Status().Leader != "" })
	want("/livez", 200, "ok")
	eventually(t, ctx, "it is ready: its role stands", func() bool { code, _, body := get("/readyz"); return code == 200 && strings.Contains(body, "ok") })
	want("/", http.StatusNotImplemented, "not built")
	want("/nowhere", 404, "")
	code, kind, body := get("/status")
	var s Status
	if err := json.Unmarshal([]byte(body), &s); err != nil || code != 200 || kind != "application/json" {
		t.Fatalf("/status answers %d %s %q: %v", code, kind, body, err)
	}
	if s.Name != "m0" || s.Addr != ms.configs[0].Bind || s.Leader == "" || !s.Ready || len(s.Members) != 3 || s.Role == "" {
		t.Errorf("/status tells %+v", s)
	}
	post, err := http.Post(server.URL+"/status", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	post.Body.Close()
	if post.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST is answered with %d", post.StatusCode)
	}
	held := mustLock(t, ctx, a, "k")
	left := make(chan error, 1)
	go func() { left <- a.Leave(ctx) }()
	<-a.leaving
	want("/livez", 200, "ok") // it lives as long as it serves what it holds
	want("/readyz", 503, "leaving")
	mustUnlock(t, ctx, held)
	<-left
	want("/livez", 503, "closed")
	want("/readyz", 503, "closed")
	if code, _, _ := get("/status"); code != 200 {
		t.Errorf("/status of a stopped Cluster answers %d", code)
	}
	ms.crash(1)
	last := httptest.NewRecorder()
	eventually(t, ctx, "the last one is not ready", func() bool {
		last = httptest.NewRecorder()
		ms.all[2].Handler().ServeHTTP(last, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return last.Code == 503
	})
	if !strings.Contains(last.Body.String(), ErrNoQuorum.Error()) {
		t.Errorf("/readyz without a majority: %q", last.Body)
	}
}

// Followers apply late; what any member reads is all the same what the leader has answered before, to whomever.
func TestReadsSeeWhatWasAnswered(t *testing.T) {
	t.Parallel()
	ms := newMembers(t, 3)
	ctx := testContext(t, 60*time.Second)
	for i := range 30 {
		a, b := ms.all[i%3], ms.all[(i+1)%3]
		l := mustLock(t, ctx, a, "k")
		wantHeld(t, ctx, b, l)
		if infos, err := b.Locks(ctx, "k"); err != nil || len(infos) != 1 || infos[0].Holders[0].Fence != l.Fence() {
			t.Fatalf("round %d: after Lock: %+v, %v", i, infos, err)
		}
		mustUnlock(t, ctx, l)
		if err := b.CheckFence(ctx, "k", l.Fence()); !errors.Is(err, ErrStaleFence) {
			t.Fatalf("round %d: after Unlock: %v", i, err)
		}
		if infos, err := b.Locks(ctx, ""); err != nil || len(infos) != 0 {
			t.Fatalf("round %d: after Unlock: %+v, %v", i, infos, err)
		}
	}
}
