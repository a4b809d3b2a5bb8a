package distlock

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/node"
	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/raftfsm"
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
				leavesNothing(t, func(tr *traces) {
					tr.ports = []string{bind}
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
			}, durable(t), func(_ int, c *Config) { c.SessionTTL = 6 * time.Second }) // the lock has to end by the disk, not by a busy machine
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

// A disk that hangs under the leader: the others elect one of them, all sessions move there, the leader's own too, and nobody loses a lock.
// Then it comes back, or its Cluster is closed while it still hangs.
func TestDiskThatHangs(t *testing.T) {
	for _, end := range []string{"comes back", "is closed"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			disks := make([]*disk, 3)
			leavesNothing(t, func(tr *traces) {
				ms := newMembersIn(t, 3, func(i int) surroundings {
					disks[i] = &disk{}
					return disks[i].under(machine())
				}, func(_ int, c *Config) { tr.of(*c) })
				ctx := testContext(t, 60*time.Second)
				i := ms.leader(ctx)
				victim, other := ms.all[i], ms.all[(i+1)%3]
				held := []*Lock{mustLock(t, ctx, victim, "its own"), mustLock(t, ctx, other, "another's")}
				goOn := disks[i].hangs(t)
				began := time.Now()
				next := mustLock(t, ctx, other, "k")
				t.Logf("next grant after %s", time.Since(began))
				mustUnlock(t, ctx, next)
				mustUnlock(t, ctx, mustLock(t, ctx, victim, "k"))
				t.Logf("and to the process whose disk hangs after %s", time.Since(began))
				eventually(t, ctx, "the old leader knows the new one", func() bool {
					s := victim.Status()
					return s.Ready && s.Leader != "" && s.Leader != s.Name
				})
				for _, l := range held {
					if err := l.Err(); err != nil {
						t.Errorf("lock %q: %v", l.Key(), err)
					}
				}
				if end == "comes back" {
					goOn()
					mustUnlock(t, ctx, mustLock(t, ctx, victim, "k"))
					ms.crash((i + 1) % 3) // now it is needed
					mustUnlock(t, ctx, mustLock(t, ctx, ms.all[(i+2)%3], "k"))
				}
				closesQuickly(t, victim)
				if err := held[0].Err(); !errors.Is(err, ErrClosed) {
					t.Errorf("a lock of the closed Cluster: %v", err)
				}
				if end == "is closed" {
					mustUnlock(t, ctx, mustLock(t, ctx, other, "k"))
				}
				goOn() // what the kernel held ends now
				ms.closeAll()
			})
		})
	}
}

// A panic while an entry is applied ends the member and no more, on whichever entry it comes.
func TestPanicWhileApplying(t *testing.T) {
	for k := 1; k <= 8; k++ {
		t.Run(fmt.Sprintf("entry %d", k), func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t, 30*time.Second)
			leavesNothing(t, func(tr *traces) {
				cfg := Config{Bind: freePorts(t, 1)[0], Logger: testLogger(t)}
				tr.of(cfg)
				applied := 0 // on the applying goroutine only
				c, err := join(ctx, cfg, hooked(node.Hooks{Applied: func(*raftfsm.Result) {
					if applied++; applied == k {
						panic("a bug")
					}
				}}))
				if err != nil {
					wantFaults(t, "Join", err, raftlog.ErrStateMachine, "a bug", "start this process again", "report")
					return
				}
				held := mustLockOrStopped(ctx, c, "held")
				lockUntilItStops(ctx, c)
				wantStopped(t, c, held, "a bug", "start this process again", "report")
				closesQuickly(t, c)
			})
		})
	}
}

// A panic where the leader tells others of an entry, with its lock held, is no different.
func TestPanicOfOneOfThree(t *testing.T) {
	t.Parallel()
	leavesNothing(t, func(tr *traces) {
		var broken atomic.Int32 // the member that panics; -1 for none
		broken.Store(-1)
		ms := newMembersIn(t, 3, func(i int) surroundings {
			return hooked(node.Hooks{Applied: func(*raftfsm.Result) {
				if int(broken.Load()) == i {
					panic("a bug")
				}
			}})
		}, func(_ int, c *Config) {
			c.SessionTTL = 6 * time.Second // as above
			tr.of(*c)
		})
		ctx := testContext(t, 60*time.Second)
		i := ms.leader(ctx)
		held := mustLock(t, ctx, ms.all[i], "k")
		broken.Store(int32(i))
		next := mustLock(t, ctx, ms.all[(i+1)%3], "k")
		wantStopped(t, ms.all[i], []*Lock{held}, "a bug")
		if next.Fence() <= held.Fence() {
			t.Errorf("fence %d after %d", next.Fence(), held.Fence())
		}
		ms.closeAll()
	})
}

// Close while all sorts of things are under way: it returns within seconds, what waits ends at once with ErrClosed, and nothing is left.
func TestCloseLeavesNothing(t *testing.T) {
	for _, mode := range []string{"memory", "durable"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			nets := make([]*countingNetwork, 3)
			leavesNothing(t, func(tr *traces) {
				ms := newMembersIn(t, 3, func(i int) surroundings {
					env := machine()
					nets[i] = newCountingNetwork()
					env.network = nets[i]
					return env
				}, func(i int, c *Config) {
					if mode == "durable" {
						c.DataDir = t.TempDir()
					}
					tr.of(*c)
				})
				ctx := testContext(t, 60*time.Second)
				held := make([]*Lock, 3)
				var work sync.WaitGroup
				for i, c := range ms.all {
					held[i] = mustLock(t, ctx, c, fmt.Sprintf("held%d", i))
				}
				for i, c := range ms.all {
					under := held[i].Context(ctx)
					work.Go(func() {
						<-under.Done()
						if err := context.Cause(under); !errors.Is(err, ErrClosed) {
							t.Errorf("a context of a lock ended by %v", err)
						}
					})
					work.Go(func() { // a waiter
						_, err := c.Lock(ctx, fmt.Sprintf("held%d", (i+1)%3)) // granted, if it outlives the holder by a TTL
						if err != nil && !errors.Is(err, ErrClosed) {
							t.Errorf("a wait that Close ended: %v", err)
						}
					})
					work.Go(func() { lockUntilItStops(ctx, c) })
					work.Go(func() { // reads
						for c.Err() == nil {
							if _, err := c.Locks(ctx, ""); err != nil && !errors.Is(err, ErrClosed) {
								t.Errorf("a listing that Close ended: %v", err)
								return
							}
						}
					})
				}
				for i, n := range nets {
					if listens, l, p, _ := n.counts(); listens != 1 || l != 1 || p != 1 {
						t.Errorf("member %d: %d calls of Listen; open: %d listeners, %d packet sockets", i, listens, l, p)
					}
				}
				closing := make(chan struct{})
				for _, c := range ms.all {
					work.Go(func() {
						<-closing
						closesQuickly(t, c)
					})
					work.Go(func() { // two at once
						<-closing
						c.Close()
					})
				}
				close(closing)
				work.Wait()
				for i, l := range held {
					if !errors.Is(l.Err(), ErrClosed) {
						t.Errorf("lock %d: %v", i, l.Err())
					}
				}
				for i := range ms.configs {
					wantFree(t, ms.configs[i].Bind)
				}
			})
			for i, n := range nets {
				if listens, l, p, d := n.counts(); listens != 1 || l != 0 || p != 0 || d != 0 {
					t.Errorf("member %d: %d calls of Listen; open: %d listeners, %d packet sockets, %d dialed streams", i, listens, l, p, d)
				}
			}
		})
	}
}

// A Close beside a Join, at any moment of it, through the Join's context.
func TestJoinCutShortLeavesNothing(t *testing.T) {
	t.Parallel()
	leavesNothing(t, func(tr *traces) {
		for i := range 30 {
			cfg := Config{Bind: freePorts(t, 1)[0], DataDir: filepath.Join(t.TempDir(), "d")}
			tr.of(cfg)
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*2*time.Millisecond)
			c, err := JoinContext(ctx, cfg)
			cancel()
			if err != nil {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a Join cut short: %v", err)
				}
				continue
			}
			mustUnlock(t, t.Context(), mustLock(t, t.Context(), c, "k")) // its context bounded the joining only
			closesQuickly(t, c)
		}
	})
}

// Several clusters live in one process: their keys have nothing to do with each other, and one's end is not the others'.
func TestSeveralClustersInOneProcess(t *testing.T) {
	t.Parallel()
	leavesNothing(t, func(tr *traces) {
		ctx := testContext(t, 60*time.Second)
		var all []*Cluster
		for i := range 4 {
			cfg := Config{Bind: freePorts(t, 1)[0], Group: fmt.Sprintf("g%d", i), Name: "same"}
			tr.of(cfg)
			c, err := Join(cfg)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
		under := ctx
		var locks []*Lock
		for _, c := range all {
			l := mustLock(t, under, c, "k") // of one owner, in four clusters
			locks, under = append(locks, l), l.Context(under)
		}
		all[1].Close()
		if !errors.Is(locks[1].Err(), ErrClosed) {
			t.Errorf("a lock of the closed one: %v", locks[1].Err())
		}
		for _, i := range []int{0, 2, 3} {
			if err := locks[i].Err(); err != nil {
				t.Errorf("another's lock: %v", err)
			}
			if _, err := all[i].Lock(under, "k"); under.Err() == nil && !errors.Is(err, ErrDeadlock) {
				t.Errorf("asked for again: %v", err)
			}
			mustUnlock(t, ctx, locks[i])
			closesQuickly(t, all[i])
		}
	})
}
