package distlock

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// A holder is cut off at any moment, in every way, with a clock that runs up to a fifth slower or faster than the leader's: its Done closes
// with ErrSessionLost before anybody else is granted, and somebody else is granted soon after. In each round another member holds.
func TestVirtualDoneClosesBeforeTheNextGrant(t *testing.T) {
	const rounds = 12
	virtual(t, 10, func(w *world) {
		w.add(3)
		w.startVoters(3)
		var mu sync.Mutex // guards least
		least := time.Hour
		for range rounds {
			holder := w.members[w.rng.IntN(3)]
			rate := 0.81 + 0.39*w.rng.Float64()
			holder.clock.setRate(rate)
			w.net.SetDelays(time.Duration(w.rng.Int64N(int64(20*time.Millisecond))), time.Duration(1+w.rng.Int64N(int64(10*time.Millisecond))))
			time.Sleep(time.Second) // renewals have come under the new rate
			l := holder.lock("k")
			done := l.Done()
			var closed time.Time // readable once recorded is closed
			recorded := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				<-done
				closed = time.Now()
				close(recorded)
			})
			for _, o := range w.others(holder) {
				wg.Go(func() {
					next := o.lock("k")
					select {
					case <-done:
						<-recorded
						mu.Lock()
						least = min(least, time.Since(closed))
						mu.Unlock()
					default:
						w.errorf("%s was granted %q while it was %s's, whose clock has the rate %.2f", o.cfg.Name, "k", holder.cfg.Name, rate)
					}
					if !errors.Is(l.Err(), ErrSessionLost) {
						w.errorf("the holder's lock ended with %v", l.Err())
					}
					w.unlock(next)
				})
			}
			pauseFor(w.rng, 700*time.Millisecond)
			cut := time.Now()
			how := w.rng.IntN(4)
			switch how {
			case 0:
				w.net.Isolate(holder.ip)
			case 1:
				w.net.Freeze(holder.ip)
			default:
				for _, o := range w.others(holder) {
					if how == 2 {
						w.net.CutOneWay(holder.ip, o.ip)
					} else {
						w.net.CutOneWay(o.ip, holder.ip)
					}
				}
			}
			w.note("%s is cut off (%d), rate %.2f", holder.cfg.Name, how, rate)
			wg.Wait()
			if took := time.Since(cut); took > 6*time.Second {
				w.errorf("it took %s", took)
			}
			holder.clock.setRate(1)
			w.net.HealAll()
			w.net.Thaw(holder.ip)
			w.net.SetDelays(200*time.Microsecond, 0)
			w.recovers(5 * time.Second)
		}
		w.t.Logf("the next grant came %s after the end of Done, at the least", least)
	})
}

// The same with a holder that keeps its way to the leader while the leader has lost its way to the others: the sessions of both move to the next
// leader or end, and what ended is granted again only then.
func TestVirtualHolderBesideALeaderThatIsCutOff(t *testing.T) {
	virtual(t, 10, func(w *world) {
		w.add(3)
		w.startVoters(3)
		w.add(2)
		w.start()
		leader := w.leader()
		client := w.members[3]
		l := client.lock("k")
		done := l.Done()
		pauseFor(w.rng, time.Second)
		// The client and the leader are one side.
		w.net.Partition([]string{leader.ip, client.ip})
		var wg sync.WaitGroup
		for _, o := range w.others(leader) {
			if o == client {
				continue
			}
			wg.Go(func() {
				next := o.lock("k")
				select {
				case <-done:
				default:
					w.errorf("granted while the holder's Done is open")
				}
				w.unlock(next)
			})
		}
		wg.Wait()
		if !errors.Is(l.Err(), ErrSessionLost) {
			w.errorf("the lock ended with %v", l.Err())
		}
		w.net.HealAll()
		w.recovers(5 * time.Second)
	})
}

// A Lock that waits outlives its session: it is queued again and granted, behind those who waited; and a session that was lost is never used
// again.
func TestVirtualWaitingLockOutlivesItsSession(t *testing.T) {
	virtual(t, 8, func(w *world) {
		w.add(3)
		w.startVoters(3)
		holder := w.leader()
		unlucky, patient := w.others(holder)[0], w.others(holder)[1]
		l := holder.lock("k")
		type grant struct {
			m *member
			l *Lock
		}
		grants := make(chan grant, 2)
		var wg sync.WaitGroup
		wait := func(m *member) {
			wg.Go(func() { grants <- grant{m, m.lock("k")} })
			w.within(time.Second, "it is listed", func() bool {
				infos, err := holder.cluster().Locks(w.until(time.Second), "k")
				if err != nil {
					return false
				}
				for _, waiter := range infos[0].Waiters {
					if waiter.Member == m.cfg.Name {
						return true
					}
				}
				return false
			})
		}
		wait(unlucky)
		pauseFor(w.rng, time.Second)
		w.net.Isolate(unlucky.ip)
		time.Sleep(2500*time.Millisecond + time.Duration(w.rng.Int64N(int64(time.Second))))
		wait(patient)
		w.net.HealAll()
		w.within(5*time.Second, "a session again", func() bool { return unlucky.cluster().Status().Ready })
		time.Sleep(100 * time.Millisecond)
		if unlucky.cluster().sessions.Losses() != 1 {
			w.fatalf("%d sessions were lost", unlucky.cluster().sessions.Losses())
		}
		w.unlock(l)
		for _, want := range []*member{patient, unlucky} {
			got := <-grants
			if got.m != want {
				w.errorf("granted to %s, it was %s's turn", got.m.cfg.Name, want.cfg.Name)
			}
			w.unlock(got.l)
		}
		wg.Wait()
		w.recovers(5 * time.Second)
	})
}

// A process that wakes from a pause past its deadline knows at its first look that the lock is gone, whatever lies in its sockets: a renewal that
// was answered, a grant, a ForceUnlock.
func TestVirtualPausedHolder(t *testing.T) {
	virtual(t, 10, func(w *world) {
		w.add(3)
		w.startVoters(3)
		w.add(1)
		w.start()
		holder := w.members[w.rng.IntN(4)]
		other := w.others(holder)[w.rng.IntN(3)]
		l := holder.lock("k")
		blocker := other.lock("waited")
		var wg sync.WaitGroup
		wg.Go(func() { // its grant comes while the process is paused
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			got, err := holder.cluster().Lock(ctx, "waited")
			if err != nil {
				w.errorf("the lock that was waited for: %v", err)
				return
			}
			if err := got.Err(); err != nil {
				w.errorf("a lock that was lost (%v) was returned", err)
			}
			if err := other.cluster().CheckFence(ctx, "waited", got.Fence()); err != nil {
				w.errorf("the lock that was returned: %v", err)
			}
			w.unlock(got)
		})
		pauseFor(w.rng, time.Second)
		holder.pause()
		paused := time.Now()
		pauseFor(w.rng, 500*time.Millisecond)
		w.unlock(blocker)
		next := other.lock("k")
		if took := time.Since(paused); took < 1200*time.Millisecond || took > 6*time.Second {
			w.errorf("the key of a paused process was granted again after %s", took)
		}
		pauseFor(w.rng, 2*time.Second)
		holder.thaw()
		if err := l.Err(); !errors.Is(err, ErrSessionLost) {
			w.errorf("it wakes and thinks of its lock: %v", err)
		}
		select {
		case <-l.Done():
		default:
			w.errorf("Done is open")
		}
		if err := l.Unlock(w.until(10 * time.Second)); !errors.Is(err, ErrNotHeld) || !errors.Is(err, ErrSessionLost) {
			w.errorf("unlock: %v", err)
		}
		wg.Wait()
		if next.Err() != nil {
			w.errorf("the lock of the one who is awake: %v", next.Err())
		}
		if err := other.cluster().CheckFence(w.until(10*time.Second), "k", next.Fence()); err != nil {
			w.errorf("the lock of the one who is awake: %v", err)
		}
		w.unlock(next)
		w.recovers(5 * time.Second)
	})
}

// Thousands of Locks whose context ends about when they are granted, from all members, over a network with delays: what was returned is unlocked,
// what was not is nowhere.
func TestVirtualCancelAgainstGrant(t *testing.T) {
	const each = 150
	virtual(t, 4, func(w *world) {
		w.add(3)
		w.startVoters(3)
		w.add(1)
		w.start()
		w.net.SetDelays(200*time.Microsecond, 300*time.Microsecond)
		l := &load{w: w, workers: 3, keys: 2, hold: 300 * time.Microsecond, stop: make(chan struct{})}
		var wg sync.WaitGroup
		for _, m := range w.members {
			for k := range l.workers {
				rng := w.rngFor(m.i, k)
				wg.Go(func() {
					for range each {
						ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rng.Int64N(int64(6*time.Millisecond))))
						l.lock(ctx, m, m.cluster(), []string{"a", "b"}[rng.IntN(2)], rng.IntN(5) == 0, rng)
						cancel()
					}
				})
			}
		}
		wg.Wait()
		w.recovers(5 * time.Second)
		w.history.judge()
		w.t.Logf("%d of %d were granted in time", w.history.count(), 4*l.workers*each)
	})
}
