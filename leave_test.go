package distlock

import (
	"context"
	"errors"
	"testing"
	"time"
)

// LeaveOnSignal without a signal: its context, or the Cluster's own end.
func TestLeaveOnContext(t *testing.T) {
	t.Parallel()
	ctx, c := alone(t, machine())
	l := mustLock(t, ctx, c, "k")
	mustUnlock(t, ctx, l)
	if err := LeaveOnSignal(ended(ctx), c, 10*time.Second); err != nil {
		t.Errorf("by context: %v", err)
	}
	wantFaults(t, "after LeaveOnSignal", c.Err(), ErrClosed)
	wantFaults(t, "LeaveOnSignal of a stopped Cluster", LeaveOnSignal(ctx, c, time.Second), ErrClosed)

	_, c = alone(t, machine())
	left := make(chan error, 1)
	go func() { left <- LeaveOnSignal(ctx, c, time.Second) }()
	c.Close()
	wantFaults(t, "LeaveOnSignal beside Close", <-left, ErrClosed)
}

// Two of three voters with directories leave at the same time. The second stays until the first is back in its seat: the third alone would be
// no majority.
func TestDurableVotersLeaveInTurn(t *testing.T) {
	t.Parallel()
	ms := newMembers(t, 3, durable(t))
	ctx := testContext(t, 60*time.Second)
	lead := ms.leader(ctx)
	eventually(t, ctx, "the log has the leaving slot", ms.all[lead].node.HasSlot)
	type departure struct {
		i   int
		err error
	}
	gone := make(chan departure, 2)
	for _, i := range []int{lead, (lead + 1) % 3} {
		go func() { gone <- departure{i, ms.all[i].Leave(ctx)} }() // ends with Leave
	}
	stays := ms.all[(lead+2)%3]
	first := <-gone
	if first.err != nil {
		t.Fatalf("the first to leave: %v", first.err)
	}
	for range 20 { // a majority is there
		mustUnlock(t, ctx, mustLock(t, ctx, stays, "k"))
	}
	select {
	case second := <-gone:
		t.Fatalf("the second left (%v) before the first was back", second.err)
	default:
	}
	ms.join(first.i)
	second := <-gone
	if second.err != nil {
		t.Errorf("the second to leave: %v", second.err)
	}
	mustUnlock(t, ctx, mustLock(t, ctx, stays, "k"))
	ms.join(second.i)
	eventually(t, ctx, "all vote: a voter with a directory keeps its seat", func() bool {
		votes := 0
		for _, m := range stays.Status().Members {
			if m.State == Alive && m.Role == Voter {
				votes++
			}
		}
		return votes == 3
	})
}

// Where the others are gone there is nobody to hand anything to: leaving takes no longer than it was given, whether locks are held or not.
func TestLeaveOnSignalKeepsItsTime(t *testing.T) {
	t.Parallel()
	ms := newMembers(t, 3, func(_ int, c *Config) { c.SessionTTL = maxSessionTTL }) // it can't be waited for
	ctx := testContext(t, 60*time.Second)
	l := mustLock(t, ctx, ms.all[0], "k")
	ms.crash(1)
	ms.crash(2)
	const timeout = 3 * time.Second
	began := time.Now()
	err := LeaveOnSignal(ended(ctx), ms.all[0], timeout)
	took := time.Since(began)
	t.Logf("after %s: %v", took, err)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("LeaveOnSignal: %v", err)
	}
	if took > timeout+atOnce {
		t.Errorf("left after %s, with a timeout of %s", took, timeout)
	}
	wantDone(t, l, ErrClosed)
	ms.all[0] = nil
}
