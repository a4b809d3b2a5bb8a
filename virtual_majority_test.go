package distlock

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// What must not cost the majority: a voter that leaves when nothing is safe, a standby that is dead and not yet known to be, members whom the
// leader can't reach.

// standby is a running member that is one by its own log.
func (w *world) standby() *member {
	w.t.Helper()
	for _, m := range w.running() {
		if m.cluster().Status().Role == Standby {
			return m
		}
	}
	w.fatalf("no standby")
	return nil
}

// The only voter leaves only when another has its seat, in memory and on disk: the standbys have the log, and what is held stays held.
func TestVirtualTheOnlyVoterIsReplacedFirst(t *testing.T) {
	for _, disk := range []bool{false, true} {
		t.Run(fmt.Sprintf("on disk %v", disk), func(t *testing.T) {
			virtual(t, 3, func(w *world) {
				w.add(3, func(m *member) { m.cfg.Voters = 1 })
				if disk {
					for _, m := range w.members {
						onDisk(m)
					}
				}
				w.start()
				w.haveRoles(30*time.Second, 1, 2, 0)
				w.within(10*time.Second, "the log has the leaving slot", func() bool { return w.leader().cluster().node.HasSlot() })
				leaver := w.leader()
				rest := w.others(leaver)
				held := rest[0].lock("held")
				began := time.Now()
				if err := leaver.leave(w.until(30 * time.Second)); err != nil {
					w.errorf("%s: %v", leaver.cfg.Name, err)
				}
				if took := time.Since(began); took > 5*time.Second {
					w.errorf("it left in %s", took)
				}
				w.unlock(rest[1].lock("other"))
				if err := held.Err(); err != nil {
					w.errorf("another's lock: %v", err)
				}
				w.unlock(held)
				w.recovers(20 * time.Second)
			})
		})
	}
}

// A voter in memory that leaves while another is dead waits for that one's return: went it at once, the third would be alone for ever.
func TestVirtualAVoterInMemoryWaitsUntilItCanGo(t *testing.T) {
	virtual(t, 4, func(w *world) {
		w.add(3, restarts)
		w.startVoters(3)
		w.within(10*time.Second, "the log has the leaving slot", func() bool { return w.leader().cluster().node.HasSlot() })
		dead, leaver := w.others(w.leader())[0], w.others(w.leader())[1]
		if w.rng.IntN(2) == 0 {
			leaver = w.leader()
		}
		dead.crash()
		w.within(20*time.Second, "the others know", func() bool {
			for _, m := range w.running() {
				if m.sees(dead).State != Failed {
					return false
				}
			}
			return true
		})
		left := make(chan error, 1)
		go func() { left <- leaver.leave(w.until(time.Minute)) }() // ends within the minute
		time.Sleep(2 * time.Second)
		if err := dead.join(context.Background()); err != nil {
			w.fatalf("join: %v", err)
		}
		if err := <-left; err != nil {
			w.errorf("%s: %v", leaver.cfg.Name, err)
		}
		w.recovers(20 * time.Second)
	})
}

// A standby that died just before a lost voter's seat became free gets no vote: with two dead voters of four the two that live would be none.
func TestVirtualADeadStandbyGetsNoSeat(t *testing.T) {
	virtual(t, 8, func(w *world) {
		w.add(4)
		w.start()
		w.haveRoles(30*time.Second, 3, 1, 0)
		standby := w.standby()
		var lost *member
		for _, m := range w.others(w.leader()) {
			if m != standby {
				lost = m
			}
		}
		lost.crash()
		time.Sleep(17500*time.Millisecond + time.Duration(w.rng.Int64N(int64(2480*time.Millisecond)))) // the seat is free after 20 s
		standby.crash()
		w.note("%s and %s are dead", lost.cfg.Name, standby.cfg.Name)
		time.Sleep(15 * time.Second)
		w.recovers(20 * time.Second)
	})
}

// A standby that others hear and the leader does not is none: who leaves does not wait for it, and another is made ready in its place.
func TestVirtualAStandbyThatTheLeaderCannotReach(t *testing.T) {
	virtual(t, 3, func(w *world) {
		w.add(4)
		w.start()
		w.haveRoles(30*time.Second, 3, 1, 0)
		w.within(10*time.Second, "the log has the leaving slot", func() bool { return w.leader().cluster().node.HasSlot() })
		standby := w.standby()
		leader := w.leader()
		w.net.Cut(leader.ip, standby.ip)
		for range 400 { // more than it may lack
			w.unlock(leader.lock("load"))
		}
		w.within(45*time.Second, "it is no standby any more", func() bool { return leader.sees(standby).Role == Client })
		var leaver *member
		for _, m := range w.others(leader) {
			if m != standby {
				leaver = m
			}
		}
		began := time.Now()
		if err := leaver.leave(w.until(30 * time.Second)); err != nil {
			w.errorf("%s: %v", leaver.cfg.Name, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			w.errorf("%s left in %s", leaver.cfg.Name, took)
		}
		w.net.HealAll()
		w.haveRoles(60*time.Second, 3, 0, 0)
		w.recovers(20 * time.Second)
	})
}

// A leader that leaves hands over at once, also while it tries to reach a member that it can't.
func TestVirtualALeaderLeavesWhileItDials(t *testing.T) {
	virtual(t, 8, func(w *world) {
		w.add(4)
		w.start()
		w.haveRoles(30*time.Second, 3, 1, 0)
		w.within(10*time.Second, "the log has the leaving slot", func() bool { return w.leader().cluster().node.HasSlot() })
		leader := w.leader()
		w.add(1)
		far := w.members[4]
		w.net.Cut(leader.ip, far.ip)
		if err := far.join(context.Background()); err != nil {
			w.fatalf("join: %v", err)
		}
		time.Sleep(time.Duration(w.rng.Int64N(int64(1500 * time.Millisecond)))) // it dials for two seconds
		left := make(chan error, 1)
		go func() { left <- leader.leave(w.until(time.Minute)) }() // ends within the minute
		var worst time.Duration
		for user := w.others(leader)[0]; leader.cluster() != nil; time.Sleep(5 * time.Millisecond) {
			began := time.Now()
			w.unlock(user.lock("load"))
			worst = max(worst, time.Since(began))
		}
		if err := <-left; err != nil {
			w.errorf("%s: %v", leader.cfg.Name, err)
		}
		w.note("the worst lock took %s", worst)
		if worst > time.Second {
			w.errorf("a lock took %s while the leader left", worst)
		}
		w.recovers(20 * time.Second)
	})
}
