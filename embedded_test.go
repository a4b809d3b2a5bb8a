package distlock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Whatever happens below it, a Cluster never takes the process that hosts it down: it stops, says why and what to do, closes every
// Done, and leaves nothing.

// wantStopped waits until c has stopped by itself, and wants it to say all of says and every lock to have ended.
func wantStopped(t *testing.T, c *Cluster, locks []*Lock, says ...string) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the Cluster goes on")
	}
	wantFaults(t, "Err", c.Err(), ErrClosed, says...)
	for _, l := range locks {
		select {
		case <-l.Done():
		default:
			t.Errorf("Done of %q is open after the Cluster's end", l.Key())
		}
		if !errors.Is(l.Err(), ErrClosed) {
			t.Errorf("Err of %q is %v", l.Key(), l.Err())
		}
	}
}

// lockUntilItStops locks and unlocks until c has stopped.
func lockUntilItStops(ctx context.Context, c *Cluster) {
	for i := 0; c.Err() == nil && ctx.Err() == nil; i++ {
		l, err := c.Lock(ctx, fmt.Sprintf("k%d", i))
		if err != nil {
			waitABit(ctx)
			continue
		}
		_ = l.Unlock(ctx)
	}
}

// Each write of a member's life, from its first on, may be the one that fails.
func TestStoreThatFailsAtItsKthWrite(t *testing.T) {
	for _, late := range []bool{false, true} {
		for k := 1; k <= 12; k++ {
			t.Run(fmt.Sprintf("write %d late %v", k, late), func(t *testing.T) {
				t.Parallel()
				ctx := testContext(t, 30*time.Second)
				bind := freePorts(t, 1)[0]
				leavesNothing(t, "", []string{bind}, func() {
					d := &disk{failAt: k, late: late}
					c, err := join(ctx, Config{Bind: bind, Logger: testLogger(t)}, d.under(machine()))
					if err != nil {
						wantFaults(t, "Join", err, errDisk, "check", "start")
						return
					}
					held := mustLockOrStopped(ctx, c, "held")
					lockUntilItStops(ctx, c)
					wantStopped(t, c, held, errDisk.Error(), "check", "start")
					closesQuickly(t, c)
				})
				wantFree(t, bind)
			})
		}
	}
}

// mustLockOrStopped is a lock of key, or nothing where c stops before.
func mustLockOrStopped(ctx context.Context, c *Cluster, key string) []*Lock {
	l, err := c.Lock(ctx, key)
	if err != nil {
		return nil
	}
	return []*Lock{l}
}

// One member's disk fails: that member stops, the others have its locks and go on.
func TestStoreThatFailsOnOneOfThree(t *testing.T) {
	for _, who := range []string{"leader", "follower"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			disks := make([]*disk, 3)
			ms := newMembersIn(t, 3, func(i int) surroundings {
				disks[i] = &disk{}
				return disks[i].under(machine())
			}, durable(t), func(_ int, c *Config) { c.SessionTTL = minSessionTTL })
			ctx := testContext(t, 60*time.Second)
			i := ms.leader(ctx)
			if who == "follower" {
				i = (i + 1) % 3
			}
			victim, other := ms.all[i], ms.all[(i+1)%3]
			held := mustLock(t, ctx, victim, "k")
			disks[i].failFrom(1)
			go lockUntilItStops(ctx, other) // so that there is something to write
			wantStopped(t, victim, []*Lock{held}, errDisk.Error(), ms.configs[i].DataDir, "check", "start")
			next := mustLock(t, ctx, other, "k")
			if next.Fence() <= held.Fence() {
				t.Errorf("fence %d after %d", next.Fence(), held.Fence())
			}
			closesQuickly(t, victim)
			if files := openFiles(t, ms.configs[i].DataDir); len(files) > 0 {
				t.Errorf("left behind: %s", strings.Join(files, "\n"))
			}
			disks[i].failFrom(1 << 30) // the disk was changed
			ms.all[i] = nil
			ms.join(i)
			mustUnlock(t, ctx, next)
			mustUnlock(t, ctx, mustLock(t, ctx, ms.all[i], "k"))
			ms.closeAll()
		})
	}
}
