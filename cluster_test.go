package distlock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestOneProcessIsQuick(t *testing.T) {
	const runs = 50
	var took []time.Duration
	for range runs {
		began := time.Now()
		c, err := Join(Config{Bind: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		l := mustLock(t, testContext(t, 10*time.Second), c, "k")
		took = append(took, time.Since(began))
		if l.Fence() == 0 {
			t.Error("fence 0")
		}
		c.Close()
	}
	slices.Sort(took)
	t.Logf("first lock after: median %s, worst %s", took[runs/2], took[runs-1])
	if took[runs/2] > 300*time.Millisecond {
		t.Errorf("median %s, more than 300ms", took[runs/2])
	}
}

func TestStatusTellsTheRealAddress(t *testing.T) {
	ms := newMembers(t, 1, func(_ int, c *Config) { c.Bind, c.Peers, c.Name = "127.0.0.1:0", nil, "" })
	s := ms.all[0].Status()
	if s.Addr == "" || s.Addr == "127.0.0.1:0" || s.Name == "" || s.Leader != s.Name || !s.Ready || s.Role != Voter || len(s.Members) != 1 {
		t.Errorf("status %+v", s)
	}
}

func TestThreeProcessesExcludeEachOther(t *testing.T) {
	inBothModes(t, func(t *testing.T, ms *members) {
		ctx := testContext(t, 60*time.Second)
		const perMember, callers = 40, 4
		inside := 0 // what the lock protects: two at a time would race, and -race would tell
		var last Fence
		var wg sync.WaitGroup
		for _, c := range ms.all {
			for range callers {
				wg.Go(func() {
					for range perMember {
						l, err := c.Lock(ctx, "k")
						if err != nil {
							t.Error(err)
							return
						}
						inside++
						if inside != 1 {
							t.Errorf("%d inside", inside)
						}
						if l.Fence() <= last {
							t.Errorf("fence %d after %d", l.Fence(), last)
						}
						last = l.Fence()
						inside--
						if err := l.Unlock(ctx); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
		wg.Wait()
		eventually(t, ctx, "all three are voters in each one's eyes", func() bool {
			for _, c := range ms.all {
				voters := 0
				for _, m := range c.Status().Members {
					if m.Role == Voter && m.State == Alive {
						voters++
					}
				}
				if voters != 3 {
					return false
				}
			}
			return true
		})
	})
}

func TestThousandsOfLocksPerProcess(t *testing.T) {
	ms := newMembers(t, 3)
	ctx := testContext(t, 60*time.Second)
	const each = 2000
	var wg sync.WaitGroup
	var held [3][each]*Lock
	for i, c := range ms.all {
		for k := range each {
			wg.Go(func() { held[i][k] = mustLock(t, ctx, c, fmt.Sprintf("%d/%d", i, k)) })
		}
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	infos, err := ms.all[0].Locks(ctx, "1/")
	if err != nil || len(infos) != each {
		t.Fatalf("%d locks listed, %v", len(infos), err)
	}
	for _, info := range infos {
		if len(info.Holders) != 1 || info.Holders[0].Member != "m1" || info.Mode != Exclusive {
			t.Fatalf("listed as %+v", info)
		}
	}
	for i := range ms.all {
		for k := range each {
			wg.Go(func() { mustUnlock(t, ctx, held[i][k]) })
		}
	}
	wg.Wait()
	if infos, err = ms.all[2].Locks(ctx, ""); err != nil || len(infos) != 0 {
		t.Errorf("%d keys left behind, %v", len(infos), err)
	}
}

func TestLocksNamesHolderAndWaiters(t *testing.T) {
	ms := newMembers(t, 3)
	ctx := testContext(t, 30*time.Second)
	l := mustLock(t, ctx, ms.all[0], "k")
	var wg sync.WaitGroup
	for i := 1; i < 3; i++ {
		wg.Go(func() { mustUnlock(t, ctx, mustLock(t, ctx, ms.all[i], "k")) })
		eventually(t, ctx, "the waiter is listed", func() bool {
			infos, err := ms.all[0].Locks(ctx, "k")
			return err == nil && len(infos) == 1 && len(infos[0].Waiters) == i
		})
	}
	infos, err := ms.all[1].Locks(ctx, "")
	if err != nil || len(infos) != 1 {
		t.Fatal(infos, err)
	}
	got := infos[0]
	if got.Holders[0].Member != "m0" || got.Holders[0].Fence != l.Fence() || time.Since(got.Holders[0].Since).Abs() > time.Minute {
		t.Errorf("holder %+v", got.Holders[0])
	}
	if got.Waiters[0].Member != "m1" || got.Waiters[1].Member != "m2" {
		t.Errorf("waiters %+v", got.Waiters)
	}
	mustUnlock(t, ctx, l)
	wg.Wait()
}

func TestTryLockCheckFenceForceUnlock(t *testing.T) {
	ms := newMembers(t, 3)
	ctx := testContext(t, 30*time.Second)
	a, b := ms.all[0], ms.all[1]
	l := mustLock(t, ctx, a, "k")
	if _, err := b.TryLock(ctx, "k"); !errors.Is(err, ErrHeld) {
		t.Errorf("TryLock of a held key: %v", err)
	}
	if err := b.CheckFence(ctx, "k", l.Fence()); err != nil {
		t.Errorf("fence held: %v", err)
	}
	if err := b.CheckFence(ctx, "k", l.Fence()-1); !errors.Is(err, ErrStaleFence) {
		t.Errorf("another fence: %v", err)
	}
	if err := b.ForceUnlock(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-l.Done():
	default:
		t.Error("ForceUnlock returned before the holder's Done was closed")
	}
	if !errors.Is(l.Err(), ErrForced) {
		t.Errorf("the holder's Err is %v", l.Err())
	}
	if err := l.Unlock(ctx); !errors.Is(err, ErrNotHeld) || !errors.Is(err, ErrForced) {
		t.Errorf("Unlock of a forced lock: %v", err)
	}
	if err := b.CheckFence(ctx, "k", l.Fence()); !errors.Is(err, ErrStaleFence) {
		t.Errorf("fence after ForceUnlock: %v", err)
	}
	if err := b.ForceUnlock(ctx, "k"); !errors.Is(err, ErrNotHeld) {
		t.Errorf("ForceUnlock of a free key: %v", err)
	}
	next, err := b.TryLock(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	if next.Fence() <= l.Fence() {
		t.Errorf("fence %d after %d", next.Fence(), l.Fence())
	}
}

func TestCancelledWaitLeavesNothing(t *testing.T) {
	ms := newMembers(t, 3)
	ctx := testContext(t, 30*time.Second)
	l := mustLock(t, ctx, ms.all[0], "k")
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := ms.all[1].Lock(short, "k"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNoQuorum) {
		t.Errorf("a wait that timed out: %v", err)
	}
	eventually(t, ctx, "the waiter is gone", func() bool {
		infos, err := ms.all[0].Locks(ctx, "k")
		return err == nil && len(infos) == 1 && len(infos[0].Waiters) == 0
	})
	mustUnlock(t, ctx, l)
	if infos, err := ms.all[0].Locks(ctx, ""); err != nil || len(infos) != 0 {
		t.Errorf("left behind: %v, %v", infos, err)
	}
}

// A fourth process that may not vote is a client: it holds no Raft state and locks like the others. One that may stands by.
func TestLateProcessBecomesClient(t *testing.T) {
	ms := newMembers(t, 3)
	ms.configs[0].NoVote = true // of which those that come are copies
	ctx := testContext(t, 30*time.Second)
	c := ms.add("late")
	if c == nil {
		return
	}
	for range 20 {
		mustUnlock(t, ctx, mustLock(t, ctx, c, "k"))
	}
	eventually(t, ctx, "all agree that it is a client", func() bool {
		for _, seen := range ms.all {
			found := false
			for _, m := range seen.Status().Members {
				found = found || m.Name == "late" && m.Role == Client && m.State == Alive
			}
			if !found {
				return false
			}
		}
		return c.Status().Role == Client
	})
	if c.node.RunsRaft() {
		t.Error("a client runs Raft")
	}
	ms.configs[0].NoVote = false
	s := ms.add("later")
	if s == nil {
		return
	}
	eventually(t, ctx, "one that may vote stands by", func() bool { return s.Status().Role == Standby && s.node.RunsRaft() })
}

// While there are fewer voters than wanted, a process that comes later becomes one.
func TestLateProcessBecomesVoter(t *testing.T) {
	ms := newMembers(t, 1, func(_ int, c *Config) { c.Expect = 1 })
	ctx := testContext(t, 30*time.Second)
	held := mustLock(t, ctx, ms.all[0], "k")
	for i := 1; i < 3; i++ {
		if ms.add(fmt.Sprintf("m%d", i)) == nil {
			return
		}
	}
	for _, c := range ms.all {
		eventually(t, ctx, "it votes", func() bool { return c.Status().Role == Voter })
	}
	ms.crash(0) // the founder: what it granted must have reached the others
	if l := mustLock(t, ctx, ms.all[1], "other"); l.Fence() <= held.Fence() {
		t.Errorf("fence %d after %d", l.Fence(), held.Fence())
	}
	infos, err := ms.all[2].Locks(ctx, "k")
	if err != nil || len(infos) != 1 || infos[0].Holders[0].Fence != held.Fence() {
		t.Errorf("the grant of the process that crashed: %+v, %v", infos, err)
	}
}

// The process that holds a lock dies with it; the next waiter gets it after the TTL, never before the holder's Done could have closed.
func TestLockOfDeadProcessPassesOn(t *testing.T) {
	const ttl = 2 * time.Second
	ms := newMembers(t, 3, func(_ int, c *Config) { c.SessionTTL = ttl })
	ctx := testContext(t, 30*time.Second)
	victim := ms.leader(ctx)
	old := mustLock(t, ctx, ms.all[victim], "k")
	ms.crash(victim)
	died := time.Now()
	l := mustLock(t, ctx, ms.all[(victim+1)%3], "k")
	waited := time.Since(died)
	// The last renewal that was answered went out at most TTL/6 (and a little) before the end.
	if least := ttl*4/5 - ttl/6 - ttl/12; waited < least {
		t.Errorf("granted %s after the holder's end, its Done could have closed as late as %s", waited, least)
	}
	if waited > 3*ttl+time.Second {
		t.Errorf("granted only %s after the holder's end", waited)
	}
	if l.Fence() <= old.Fence() {
		t.Errorf("fence %d after %d", l.Fence(), old.Fence())
	}
}

// A process that restarts where its predecessor ran takes its name back at once, and its predecessor's locks are free.
func TestRestartProvesDeath(t *testing.T) {
	inBothModes(t, func(t *testing.T, ms *members) {
		ctx := testContext(t, 30*time.Second)
		for round := range 4 {
			i := round % 3
			old := mustLock(t, ctx, ms.all[i], "k")
			ms.crash(i)
			began := time.Now()
			ms.join(i)
			l := mustLock(t, ctx, ms.all[(i+1)%3], "k")
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("round %d: the key was free only after %s; the session would have run out after 10s", round, took)
			}
			if l.Fence() <= old.Fence() {
				t.Errorf("fence %d after %d", l.Fence(), old.Fence())
			}
			mustUnlock(t, ctx, l)
			eventually(t, ctx, "it votes again", func() bool { return ms.all[i].Status().Role == Voter })
		}
	})
}

func TestNameOfLivingProcessIsTaken(t *testing.T) {
	ms := newMembers(t, 3, func(_ int, c *Config) { c.SessionTTL = 2 * time.Second })
	cfg := ms.configs[1]
	cfg.Bind = freePorts(t, 1)[0]
	_, err := Join(cfg)
	if !errors.Is(err, ErrNameTaken) {
		t.Fatalf("a second process called %q: %v", cfg.Name, err)
	}
	ctx := testContext(t, 10*time.Second)
	mustUnlock(t, ctx, mustLock(t, ctx, ms.all[1], "k"))
}

// All processes killed and restarted on their directories: the log is there, the sessions of the dead are closed, fences go on.
func TestAllRestartedOnTheirDirectories(t *testing.T) {
	ms := newMembers(t, 3, durable(t))
	ctx := testContext(t, 60*time.Second)
	var last Fence
	for round := range 3 {
		l := mustLock(t, ctx, ms.all[round], fmt.Sprintf("k%d", round))
		if l.Fence() <= last {
			t.Errorf("fence %d after %d", l.Fence(), last)
		}
		last = l.Fence()
		for i := range ms.all {
			ms.crash(i)
		}
		ms.joinAll()
		infos, err := ms.all[0].Locks(ctx, "")
		if err != nil || len(infos) != 0 {
			t.Errorf("after all restarted: %+v, %v", infos, err)
		}
	}
}

func TestLeave(t *testing.T) {
	inBothModes(t, func(t *testing.T, ms *members) {
		ctx := testContext(t, 30*time.Second)
		i := ms.leader(ctx)
		leaver, other := ms.all[i], ms.all[(i+1)%3]
		held := mustLock(t, ctx, leaver, "k")
		left := make(chan error, 1)
		go func() { left <- leaver.Leave(ctx) }()
		eventually(t, ctx, "new locks are refused", func() bool {
			l, err := leaver.TryLock(ctx, "another")
			if err == nil {
				mustUnlock(t, ctx, l)
			}
			return errors.Is(err, ErrLeaving)
		})
		select {
		case err := <-left:
			t.Fatalf("Leave did not wait for the held lock: %v", err)
		case <-held.Done():
			t.Fatalf("Leave took the held lock away: %v", held.Err())
		case <-time.After(100 * time.Millisecond):
		}
		mustUnlock(t, ctx, held)
		if err := <-left; err != nil {
			t.Error(err)
		}
		began := time.Now()
		mustUnlock(t, ctx, mustLock(t, ctx, other, "k"))
		t.Logf("next grant %s after Leave", time.Since(began))
		if _, err := leaver.Lock(ctx, "k"); !errors.Is(err, ErrClosed) {
			t.Errorf("Lock after Leave: %v", err)
		}
		if !errors.Is(leaver.Err(), ErrClosed) {
			t.Errorf("Err after Leave: %v", leaver.Err())
		}
		ms.all[i] = nil
	})
}

// A lock that is still held when Leave's time is up is released: its Done closes with ErrClosed, and the others have it at once.
func TestLeaveEndsWhatIsHeldTooLong(t *testing.T) {
	ms := newMembers(t, 3)
	ctx := testContext(t, 30*time.Second)
	held := mustLock(t, ctx, ms.all[0], "k")
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := ms.all[0].Leave(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Leave that was cut short: %v", err)
	}
	if !errors.Is(held.Err(), ErrClosed) {
		t.Errorf("the held lock: %v", held.Err())
	}
	began := time.Now()
	mustLock(t, ctx, ms.all[1], "k")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the lock was free %s after Leave", took)
	}
	ms.all[0] = nil
}

func TestAllLeaveAtOnce(t *testing.T) {
	ms := newMembers(t, 3)
	ctx := testContext(t, 60*time.Second)
	var wg sync.WaitGroup
	var slowest atomic.Int64
	for i, c := range ms.all {
		wg.Go(func() {
			began := time.Now()
			c.Leave(ctx)
			slowest.Store(max(slowest.Load(), int64(time.Since(began))))
			ms.all[i] = nil
		})
	}
	wg.Wait()
	if took := time.Duration(slowest.Load()); took > 2*leaveRest+time.Second {
		t.Errorf("the last one needed %s", took)
	}
}

// Two clusters that were founded apart meet: neither changes, and both say so.
func TestTwoOpenClustersStayApart(t *testing.T) {
	alone := func(_ int, c *Config) { c.Expect, c.Peers = 1, nil }
	one, two := newMembers(t, 1, alone), newMembers(t, 1, func(_ int, c *Config) { alone(0, c); c.Name = "stranger" })
	ctx := testContext(t, 30*time.Second)
	a := mustLock(t, ctx, one.all[0], "k")
	mustLock(t, ctx, two.all[0], "k")
	cfg := one.configs[0]
	cfg.Name, cfg.Bind, cfg.Peers, cfg.Expect = "between", freePorts(t, 1)[0], []string{one.configs[0].Bind}, 1
	cfg.Discover = func(context.Context) ([]string, error) { return []string{two.configs[0].Bind}, nil }
	between, err := Join(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer between.Close()
	ours, theirs := one, two
	if between.CheckFence(ctx, "k", a.Fence()) != nil { // it met the other one first
		ours, theirs = two, one
	}
	eventually(t, ctx, "the conflict is told of", func() bool {
		for _, m := range between.Status().Conflicts {
			if m.Addr == theirs.configs[0].Bind {
				return true
			}
		}
		return false
	})
	if _, err := between.TryLock(ctx, "k"); !errors.Is(err, ErrHeld) {
		t.Errorf("a key held in its cluster: %v", err)
	}
	for _, ms := range []*members{ours, theirs} {
		if infos, err := ms.all[0].Locks(ctx, ""); err != nil || len(infos) != 1 || infos[0].Holders[0].Member != ms.configs[0].Name {
			t.Errorf("%s: %+v, %v", ms.configs[0].Name, infos, err)
		}
	}
}
