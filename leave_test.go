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
