package distlock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// What API.md says of the kinds of locks, sentence by sentence, in a real cluster. What many must do at once, over faults or in any order is
// tested where it is decided: raftfsm, internal/session, internal/node.

func mustLockAs(t testing.TB, ctx context.Context, l Locker, key string, opts ...LockOption) *Lock {
	t.Helper()
	lock, err := l.Lock(ctx, key, opts...)
	if err != nil {
		t.Fatalf("lock %q: %v", key, err)
	}
	return lock
}

// waiting begins a Lock and returns once it is in the queue: it is told of the lock, or its error, by the channel.
func waiting(t testing.TB, ctx context.Context, c *Cluster, key string, lock func() (*Lock, error)) <-chan any {
	t.Helper()
	before := waiters(t, ctx, c, key)
	got := make(chan any, 1)
	go func() { // ends with ctx
		l, err := lock()
		if err != nil {
			got <- err
			return
		}
		got <- l
	}()
	eventually(t, ctx, "it waits for "+key, func() bool { return waiters(t, ctx, c, key) == before+1 })
	return got
}

func waiters(t testing.TB, ctx context.Context, c *Cluster, key string) int {
	t.Helper()
	info, _ := lockInfoOf(t, ctx, c, key)
	return len(info.Waiters)
}

func lockInfoOf(t testing.TB, ctx context.Context, c *Cluster, key string) (LockInfo, bool) {
	t.Helper()
	all, err := c.Locks(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range all {
		if info.Key == key {
			return info, true
		}
	}
	return LockInfo{}, false
}

func granted(t testing.TB, ctx context.Context, got <-chan any) *Lock {
	t.Helper()
	select {
	case v := <-got:
		l, ok := v.(*Lock)
		if !ok {
			t.Fatal(v)
		}
		return l
	case <-ctx.Done():
		t.Fatal("not granted in time")
	}
	return nil
}

func stillWaits(t testing.TB, got <-chan any) {
	t.Helper()
	select {
	case v := <-got:
		t.Errorf("it should wait, and came to %v", v)
	default:
	}
}

func TestShared(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	one, two := mustLockAs(t, ctx, a, "k", Shared()), mustLockAs(t, ctx, b, "k", Shared())
	if one.Fence() >= two.Fence() {
		t.Errorf("fences %d, %d: each has its own, and they rise", one.Fence(), two.Fence())
	}
	info, _ := lockInfoOf(t, ctx, a, "k")
	if info.Mode != SharedMode || len(info.Holders) != 2 || info.Limit != 0 {
		t.Errorf("%+v", info)
	}
	wantHeld(t, ctx, b, one)
	wantHeld(t, ctx, a, two)
	writer := waiting(t, ctx, a, "k", func() (*Lock, error) { return a.Lock(ctx, "k") })
	late := waiting(t, ctx, a, "k", func() (*Lock, error) { return b.Lock(ctx, "k", Shared()) }) // a writer that waits is not starved
	if _, err := b.TryLock(ctx, "k", Shared()); !errors.Is(err, ErrHeld) {
		t.Errorf("TryLock while others wait: %v", err)
	}
	mustUnlock(t, ctx, one)
	stillWaits(t, writer)
	mustUnlock(t, ctx, two)
	w := granted(t, ctx, writer)
	stillWaits(t, late)
	mustUnlock(t, ctx, w)
	mustUnlock(t, ctx, granted(t, ctx, late))
}

func TestDowngrade(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	l := mustLock(t, ctx, a, "k")
	reader := waiting(t, ctx, a, "k", func() (*Lock, error) { return b.Lock(ctx, "k", Shared()) })
	fence := l.Fence()
	for range 2 { // of what is shared it is nil
		if err := l.Downgrade(ctx); err != nil {
			t.Fatal(err)
		}
	}
	r := granted(t, ctx, reader)
	if l.Fence() != fence {
		t.Errorf("fence %d before, %d after", fence, l.Fence())
	}
	wantHeld(t, ctx, b, l)
	if _, err := b.TryLock(ctx, "k"); !errors.Is(err, ErrHeld) {
		t.Error(err)
	}
	mustUnlock(t, ctx, l)
	mustUnlock(t, ctx, r)
	err := l.Downgrade(ctx)
	wantFaults(t, "Downgrade", err, ErrNotHeld)
	wantFaults(t, "Downgrade", err, ErrUnlocked)
	s := mustLockAs(t, ctx, a, "s", Limit(2))
	wantFaults(t, "Downgrade of a semaphore", s.Downgrade(ctx), ErrInvalid)
}

func TestSemaphore(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	one, two := mustLockAs(t, ctx, a, "k", Limit(3)), mustLockAs(t, ctx, b, "k", Limit(3), Weight(2))
	info, _ := lockInfoOf(t, ctx, a, "k")
	if info.Mode != LimitMode || info.Limit != 3 || len(info.Holders) != 2 || info.Holders[0].Weight != 1 || info.Holders[1].Weight != 2 {
		t.Errorf("%+v", info)
	}
	if one.Fence() >= two.Fence() {
		t.Errorf("fences %d, %d", one.Fence(), two.Fence())
	}
	heavy := waiting(t, ctx, a, "k", func() (*Lock, error) { return a.Lock(ctx, "k", Limit(3), Weight(3)) })
	light := waiting(t, ctx, a, "k", func() (*Lock, error) { return b.Lock(ctx, "k", Limit(3)) })
	mustUnlock(t, ctx, one)
	stillWaits(t, light) // there is room, but a heavy one waits before it
	mustUnlock(t, ctx, two)
	h := granted(t, ctx, heavy)
	stillWaits(t, light)
	mustUnlock(t, ctx, h)
	mustUnlock(t, ctx, granted(t, ctx, light))
}

func TestKindsDoNotMix(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	s := mustLockAs(t, ctx, a, "k", Limit(2))
	for name, opts := range map[string][]LockOption{"exclusive": nil, "shared": {Shared()}, "another limit": {Limit(3)}} {
		_, err := b.Lock(ctx, "k", opts...)
		wantFaults(t, name, err, ErrInvalid, `"k"`, "semaphore of 2")
		_, err = b.TryLock(ctx, "k", opts...)
		wantFaults(t, name, err, ErrInvalid)
	}
	_, err := b.LockAll(ctx, []string{"free", "k"})
	wantFaults(t, "LockAll", err, ErrInvalid, `"k"`)
	mustUnlock(t, ctx, s)
	l := mustLockAs(t, ctx, b, "k", Shared()) // what is not in use may be anything
	_, err = a.Lock(ctx, "k", Limit(2))
	wantFaults(t, "limit", err, ErrInvalid, `"k"`, "lock")
	mustUnlock(t, ctx, l)
	mustUnlock(t, ctx, mustLockAs(t, ctx, a, "k", Limit(5)))
}

func TestLockAll(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	l, err := a.LockAll(ctx, []string{"z", "x", "z", "y"})
	if err != nil {
		t.Fatal(err)
	}
	if l.Key() != "z" || !slices.Equal(l.Keys(), []string{"z", "x", "y"}) {
		t.Errorf("Key %q, Keys %q", l.Key(), l.Keys())
	}
	for _, key := range l.Keys() {
		info, _ := lockInfoOf(t, ctx, b, key)
		if len(info.Holders) != 1 || info.Holders[0].Fence != l.Fence() {
			t.Errorf("%q: %+v, want one fence for all, %d", key, info, l.Fence())
		}
		if err := b.CheckFence(ctx, key, l.Fence()); err != nil {
			t.Error(err)
		}
	}
	both := waiting(t, ctx, a, "y", func() (*Lock, error) { return b.LockAll(ctx, []string{"y", "w"}) })
	w := waiting(t, ctx, a, "w", func() (*Lock, error) { return b.Lock(ctx, "w") }) // w is free, but it came later
	stillWaits(t, w)
	if err := b.ForceUnlock(ctx, "x"); err != nil { // of one key: that ends the whole grant
		t.Fatal(err)
	}
	wantDone(t, l, ErrForced)
	second := granted(t, ctx, both)
	mustUnlock(t, ctx, second)
	mustUnlock(t, ctx, granted(t, ctx, w))
	for _, c := range []struct {
		keys []string
		is   error
	}{{nil, ErrInvalid}, {[]string{"a", ""}, ErrInvalid}, {make([]string, 65), ErrInvalid}, {manyKeys(65), ErrLimit}} {
		_, err := a.LockAll(ctx, c.keys)
		wantFaults(t, fmt.Sprintf("%d keys", len(c.keys)), err, c.is)
	}
	most, err := a.LockAll(ctx, append(manyKeys(64), manyKeys(64)...)) // each counts once
	if err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, ctx, most)
}

func manyKeys(n int) (keys []string) {
	for i := range n {
		keys = append(keys, fmt.Sprint("many-", i))
	}
	return keys
}

// A waiting LockAll does not hold back a request from a process that has what it waits for.
func TestLockAllHoldsBackNobodyItWaitsFor(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	first := mustLock(t, ctx, a, "one")
	both := waiting(t, ctx, a, "two", func() (*Lock, error) { return b.LockAll(ctx, []string{"one", "two"}) })
	second := mustLock(t, ctx, a, "two")
	stillWaits(t, both)
	mustUnlock(t, ctx, first)
	mustUnlock(t, ctx, second)
	mustUnlock(t, ctx, granted(t, ctx, both))
}

func TestTTL(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	const ttl = 300 * time.Millisecond
	events, err := b.Watch(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	l := mustLockAs(t, ctx, a, "k", TTL(ttl))
	next := mustLock(t, ctx, b, "k")
	if took := time.Since(began); took < ttl {
		t.Errorf("the next grant came after %v", took)
	}
	wantDone(t, l, ErrExpired)
	for range 2 {
		err := l.Unlock(ctx)
		wantFaults(t, "Unlock", err, ErrNotHeld)
		wantFaults(t, "Unlock", err, ErrExpired)
	}
	err = l.Extend(ctx, ttl)
	wantFaults(t, "Extend", err, ErrNotHeld)
	wantFaults(t, "Extend", err, ErrExpired)
	mustUnlock(t, ctx, next)
	if got := types(t, ctx, events, 5); !slices.Equal(got, []EventType{EventGranted, EventQueued, EventExpired, EventGranted, EventReleased}) {
		t.Errorf("events %q", got)
	}
	for _, d := range []time.Duration{0, -1} {
		wantFaults(t, "Extend", next.Extend(ctx, d), ErrInvalid)
	}
	wantFaults(t, "Extend", next.Extend(ctx, maxLockTime+1), ErrLimit)
}

func TestExtend(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	l := mustLockAs(t, ctx, a, "k", TTL(500*time.Millisecond))
	if err := l.Extend(ctx, time.Hour); err != nil {
		t.Fatal(err)
	}
	plain := mustLock(t, ctx, a, "plain")
	const short = 200 * time.Millisecond
	began := time.Now()
	if err := plain.Extend(ctx, short); err != nil { // it had no time and gets one
		t.Fatal(err)
	}
	mustUnlock(t, ctx, mustLock(t, ctx, b, "plain"))
	wantDone(t, plain, ErrExpired)
	if took := time.Since(began); took < short {
		t.Errorf("it ended after %v", took)
	}
	if l.Err() != nil {
		t.Error(l.Err())
	}
	mustUnlock(t, ctx, l)
}

// A lock taken on one process is released on another after the first is gone, at once.
func TestDetachedReleasedElsewhere(t *testing.T) {
	t.Parallel()
	ms := newMembers(t, 4)
	ctx := testContext(t, 60*time.Second)
	taker := (ms.leader(ctx) + 1) % 4
	a, b := ms.all[taker], ms.all[(taker+1)%4]
	l := mustLockAs(t, ctx, a, "k", Detached(time.Hour), Value([]byte("order 7")))
	h := l.Handle()
	info, _ := lockInfoOf(t, ctx, b, "k")
	if len(info.Holders) != 1 || !info.Holders[0].Detached || info.Holders[0].Member != "" || string(info.Holders[0].Value) != "order 7" {
		t.Errorf("%+v", info)
	}
	ms.crash(taker)
	wantDone(t, l, ErrClosed)
	if err := b.CheckFence(ctx, "k", l.Fence()); err != nil {
		t.Errorf("the taker is gone: %v", err)
	}
	next := waiting(t, ctx, b, "k", func() (*Lock, error) { return b.Lock(ctx, "k") })
	if err := b.Release(ctx, h); err != nil {
		t.Fatal(err)
	}
	n := granted(t, ctx, next)
	if n.Fence() <= l.Fence() {
		t.Errorf("fence %d after %d", n.Fence(), l.Fence())
	}
	wantFaults(t, "a handle whose grant is gone", b.Release(ctx, h), ErrNotHeld)
	_, err := b.Adopt(ctx, h)
	wantFaults(t, "a handle whose grant is gone", err, ErrNotHeld)
	mustUnlock(t, ctx, n)
}

func TestDetachedEndsByItsTime(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	const time0 = 500 * time.Millisecond
	began := time.Now()
	l := mustLockAs(t, ctx, a, "k", Detached(time0))
	next := mustLock(t, ctx, b, "k")
	if took := time.Since(began); took < time0 {
		t.Errorf("ended after %v", took)
	}
	wantDone(t, l, ErrExpired)
	mustUnlock(t, ctx, next)
	long := mustLockAs(t, ctx, a, "long", Detached(time0))
	if err := long.Extend(ctx, time.Hour); err != nil {
		t.Fatal(err)
	}
	other := mustLockAs(t, ctx, a, "other", Detached(time0)) // later than long's first time
	mustUnlock(t, ctx, mustLock(t, ctx, b, "other"))
	wantDone(t, other, ErrExpired)
	wantHeld(t, ctx, b, long)
	mustUnlock(t, ctx, long)
	mustUnlock(t, ctx, mustLock(t, ctx, b, "long"))
}

// Leave does not wait for a detached lock, and closes its Done; the grant lives on by its handle.
func TestDetachedOutlivesLeave(t *testing.T) {
	t.Parallel()
	ms := newMembers(t, 4)
	ctx := testContext(t, 60*time.Second)
	leaver := (ms.leader(ctx) + 1) % 4
	a, b := ms.all[leaver], ms.all[(leaver+1)%4]
	l := mustLockAs(t, ctx, a, "k", Detached(time.Hour))
	if err := a.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	wantDone(t, l, ErrClosed)
	got, err := b.Adopt(ctx, l.Handle())
	if err != nil {
		t.Fatal(err)
	}
	if got.Fence() != l.Fence() || got.Key() != "k" || got.Handle() != l.Handle() {
		t.Errorf("adopted %q with fence %d, handle %q; it was %d, %q", got.Key(), got.Fence(), got.Handle(), l.Fence(), l.Handle())
	}
	info, _ := lockInfoOf(t, ctx, b, "k")
	if len(info.Holders) != 1 || info.Holders[0].Detached || info.Holders[0].Member != b.Status().Name {
		t.Errorf("%+v: a detached lock becomes an ordinary one", info)
	}
	mustUnlock(t, ctx, got)
}

func TestAdopt(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	events, err := b.Watch(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	l := mustLockAs(t, ctx, a, "k", TTL(time.Hour))
	got, err := b.Adopt(ctx, l.Handle())
	if err != nil {
		t.Fatal(err)
	}
	wantDone(t, l, ErrMoved)
	if got.Fence() != l.Fence() {
		t.Errorf("fence %d, it was %d", got.Fence(), l.Fence())
	}
	wantHeld(t, ctx, a, got)
	err = l.Unlock(ctx)
	wantFaults(t, "Unlock of what was moved", err, ErrNotHeld)
	wantFaults(t, "Unlock of what was moved", err, ErrMoved)
	wantHeld(t, ctx, a, got)
	again, err := b.Adopt(ctx, l.Handle()) // in the same process too, and by the first handle
	if err != nil {
		t.Fatal(err)
	}
	wantDone(t, got, ErrMoved)
	if err := a.Release(ctx, got.Handle()); err != nil {
		t.Fatal(err)
	}
	wantDone(t, again, ErrUnlocked)
	err = again.Unlock(ctx)
	wantFaults(t, "Unlock of what was released elsewhere", err, ErrNotHeld)
	wantFaults(t, "Unlock of what was released elsewhere", err, ErrUnlocked)
	want := []EventType{EventGranted, EventMoved, EventMoved, EventReleased}
	if got := types(t, ctx, events, len(want)); !slices.Equal(got, want) {
		t.Errorf("events %q", got)
	}
}

func TestHandlesCannotBeForged(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	l := mustLock(t, ctx, a, "k")
	h := []byte(l.Handle())
	for i := len(h) - 1; i > 8; i -= 5 { // the last character of all has bits that mean nothing, so it is not changed alone
		forged := slices.Clone(h)
		if forged[i]++; i == len(h)-1 {
			forged[i-1]++
		}
		if err := b.Release(ctx, Handle(forged)); !errors.Is(err, ErrNotHeld) && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s forged at %d: %v", h, i, err)
		}
	}
	for _, nonsense := range []Handle{"", "dl1-", "k", Handle(fmt.Sprint(l.Fence())), Handle(h[:len(h)-1])} {
		wantFaults(t, string(nonsense), b.Release(ctx, nonsense), ErrInvalid, "handle")
		_, err := b.Adopt(ctx, nonsense)
		wantFaults(t, string(nonsense), err, ErrInvalid)
	}
	wantHeld(t, ctx, b, l)
	mustUnlock(t, ctx, l)
}

func TestCooldown(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	const cool = 400 * time.Millisecond
	l := mustLockAs(t, ctx, a, "k", Cooldown(cool))
	mustUnlock(t, ctx, l) // not after Unlock
	l, err := b.TryLock(ctx, "k", Cooldown(cool))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := a.ForceUnlock(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	_, err = a.TryLock(ctx, "k")
	wantFaults(t, "TryLock", err, ErrHeld, "cooldown")
	wantFaults(t, "ForceUnlock", a.ForceUnlock(ctx, "k"), ErrNotHeld) // nobody holds it
	wantFaults(t, "CheckFence", a.CheckFence(ctx, "k", l.Fence()), ErrStaleFence)
	next := mustLock(t, ctx, a, "k")
	if took := time.Since(began); took < cool {
		t.Errorf("granted %v after it was lost", took)
	}
	mustUnlock(t, ctx, next)
	mustLockAs(t, ctx, a, "e", TTL(100*time.Millisecond), Cooldown(cool)) // and after expiry
	began = time.Now()
	mustUnlock(t, ctx, mustLock(t, ctx, b, "e"))
	if took := time.Since(began); took < cool {
		t.Errorf("granted %v after its time began", took)
	}
	released := mustLockAs(t, ctx, a, "r", Cooldown(time.Hour))
	if err := b.Release(ctx, released.Handle()); err != nil { // not after Release
		t.Fatal(err)
	}
	mustUnlock(t, ctx, mustLock(t, ctx, b, "r"))
}

func TestStats(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	before, err := a.Stats(ctx)
	if err != nil || before.Sessions != 3 {
		t.Fatal(before, err)
	}
	l, all := mustLock(t, ctx, a, "k"), mustLockAs(t, ctx, b, "s", Shared())
	got := waiting(t, ctx, a, "k", func() (*Lock, error) { return b.Lock(ctx, "k") })
	s, err := b.Stats(ctx)
	want := Stats{Keys: 2, Holders: 2, Waiters: 1, Sessions: 3, Grants: before.Grants + 2, Releases: before.Releases, LastFence: all.Fence()}
	if err != nil || s != want {
		t.Errorf("%+v, want %+v; %v", s, want, err)
	}
	mustUnlock(t, ctx, l)
	mustUnlock(t, ctx, granted(t, ctx, got))
	mustUnlock(t, ctx, all)
	s, err = a.Stats(ctx)
	if err != nil || s.Keys+s.Holders+s.Waiters != 0 || s.Releases != s.Grants {
		t.Errorf("%+v; %v", s, err)
	}
}

// types are those of the next n events.
func types(t testing.TB, ctx context.Context, events <-chan Event, n int) (got []EventType) {
	t.Helper()
	index := uint64(0)
	for range n {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatalf("the channel is closed after %q", got)
			}
			if e.Index < index {
				t.Errorf("index %d after %d", e.Index, index)
			}
			index = e.Index
			got = append(got, e.Type)
		case <-ctx.Done():
			t.Fatalf("not in time: only %q came", got)
		}
	}
	return got
}

func TestWatch(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := a.Watch(watch, "order/")
	if err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, ctx, mustLock(t, ctx, b, "other"))
	l := mustLock(t, ctx, b, "order/7")
	cancelled, stop := context.WithCancel(ctx)
	waits := waiting(t, ctx, a, "order/7", func() (*Lock, error) { return a.Lock(cancelled, "order/7") })
	stop()
	<-waits
	eventually(t, ctx, "its request is gone", func() bool { return waiters(t, ctx, a, "order/7") == 0 })
	if err := a.ForceUnlock(ctx, "order/7"); err != nil {
		t.Fatal(err)
	}
	want := []Event{
		{Type: EventGranted, Key: "order/7", Member: b.Status().Name, Fence: l.Fence()},
		{Type: EventQueued, Key: "order/7", Member: a.Status().Name},
		{Type: EventCancelled, Key: "order/7", Member: a.Status().Name},
		{Type: EventForced, Key: "order/7", Member: b.Status().Name, Fence: l.Fence()},
	}
	for _, w := range want {
		select {
		case e := <-events:
			if time.Since(e.Time).Abs() > time.Minute || e.Index == 0 {
				t.Errorf("%+v", e)
			}
			e.Time, e.Index = time.Time{}, 0
			if e != w {
				t.Errorf("%+v, want %+v", e, w)
			}
		case <-ctx.Done():
			t.Fatalf("not in time: %+v", w)
		}
	}
	cancel()
	for range events {
	} // it is closed with its context
	other, err := a.Watch(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	for range other {
	} // or with the Cluster
	_, err = a.Watch(ctx, "")
	wantFaults(t, "Watch", err, ErrClosed)
}

func TestDeadlock(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	la, lb := mustLock(t, ctx, a, "one"), mustLock(t, ctx, b, "two")
	ca, cb := la.Context(ctx), lb.Context(ctx)
	waits := waiting(t, ctx, a, "two", func() (*Lock, error) { return a.Lock(ca, "two") })
	_, err := b.Lock(cb, "one")
	wantFaults(t, "the circle", err, ErrDeadlock, `"one"`, `"two"`, a.Status().Name, b.Status().Name)
	stillWaits(t, waits)
	unrelated := waiting(t, ctx, a, "one", func() (*Lock, error) { return b.Lock(ctx, "one") }) // another goroutine's is no circle
	_, err = b.TryLock(cb, "one")
	wantFaults(t, "TryLock", err, ErrHeld)
	_, err = b.Lock(cb, "two")
	wantFaults(t, "what one holds", err, ErrDeadlock, `"two"`)
	_, err = b.TryLock(cb, "two")
	wantFaults(t, "TryLock of what one holds", err, ErrHeld)
	mustUnlock(t, ctx, lb)
	mustUnlock(t, ctx, granted(t, ctx, waits))
	mustUnlock(t, ctx, la)
	mustUnlock(t, ctx, granted(t, ctx, unrelated))

	shared := mustLockAs(t, ctx, a, "s", Shared())
	again := mustLockAs(t, shared.Context(ctx), a, "s", Shared()) // granted if nobody waits
	writer := waiting(t, ctx, a, "s", func() (*Lock, error) { return b.Lock(ctx, "s") })
	_, err = a.Lock(shared.Context(ctx), "s", Shared()) // else the circle
	wantFaults(t, "a shared one again", err, ErrDeadlock)
	mustUnlock(t, ctx, again)
	mustUnlock(t, ctx, shared)
	mustUnlock(t, ctx, granted(t, ctx, writer))
}

// Every error of a wait says who holds the key, since when, and how many wait before; where in the code it was taken, if the holder recorded that.
func TestErrorsOfAWaitNameTheHolder(t *testing.T) {
	t.Parallel()
	ctx, a, b := pair(t)
	l := mustLockAs(t, ctx, a, "k", Caller())
	info, _ := lockInfoOf(t, ctx, b, "k")
	if len(info.Holders) != 1 || !strings.Contains(info.Holders[0].Caller, "kinds_test.go:") {
		t.Errorf("%+v", info)
	}
	says := []string{`"k"`, `"` + a.Status().Name + `"`, fmt.Sprint(l.Fence()), "kinds_test.go:", "since 20", "0 waiting"}
	_, err := b.TryLock(ctx, "k")
	wantFaults(t, "TryLock", err, ErrHeld, says...)
	eventually(t, ctx, "it waits until it has been told whom for", func() bool { // which comes a moment after it is in the queue
		short, cancel := context.WithCancel(ctx)
		got := waiting(t, ctx, a, "k", func() (*Lock, error) { return b.Lock(short, "k") })
		cancel()
		err, _ = (<-got).(error)
		eventually(t, ctx, "its request is gone", func() bool { return waiters(t, ctx, a, "k") == 0 })
		return strings.Contains(err.Error(), "held by")
	})
	wantFaults(t, "Lock", err, context.Canceled, says...)
	mustUnlock(t, ctx, l)
}

// All kinds at once, from all members: in the end nothing is left.
func TestKindsTogether(t *testing.T) {
	t.Parallel()
	ms := newMembers(t, 3)
	ctx := testContext(t, 90*time.Second)
	var all sync.WaitGroup
	for i, c := range ms.all {
		for g := range 6 {
			all.Go(func() {
				for round := range 15 {
					key := fmt.Sprint("k", (i+g+round)%3)
					var l *Lock
					var err error
					switch (g + round) % 6 {
					case 0:
						l, err = c.Lock(ctx, key)
					case 1:
						l, err = c.Lock(ctx, key, Shared(), Caller())
					case 2:
						l, err = c.Lock(ctx, "s"+key, Limit(3), Weight(1+round%3))
					case 3:
						l, err = c.LockAll(ctx, []string{"k2", "k0", key})
					case 4:
						l, err = c.Lock(ctx, key, Detached(time.Minute), Value([]byte("v")))
					case 5:
						l, err = c.Lock(ctx, key, TTL(time.Minute), Cooldown(time.Second))
					}
					if err == nil && (g+round)%6 == 0 {
						err = l.Downgrade(ctx)
					}
					if err == nil {
						err = l.Unlock(ctx)
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	all.Wait()
	s, err := ms.all[0].Stats(ctx)
	if err != nil || s.Keys+s.Holders+s.Waiters != 0 || s.Grants != s.Releases {
		t.Errorf("%+v; %v", s, err)
	}
}
