package distlock

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godistlock/distlock/raftfsm"
)

// terms notes the greatest term of which an entry was committed.
type terms struct{ last atomic.Uint64 }

func (t *terms) watch() func(*member) {
	return whenApplied(func(_ *member, r *raftfsm.Result) {
		for last := t.last.Load(); r.Term > last && !t.last.CompareAndSwap(last, r.Term); last = t.last.Load() {
		}
	})
}

// relayed counts the connections that members pass on for others.
func (w *world) relayed() int {
	n := 0
	for _, m := range w.running() {
		n += m.cluster().node.Relayed()
	}
	return n
}

// serves checks that m can do all that goes to the leader, within limit.
func (w *world) serves(m *member, limit time.Duration) time.Duration {
	w.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(w.until(limit), limit)
	defer cancel()
	c, key := m.cluster(), "of "+m.cfg.Name
	fail := func(what string, err error) {
		if err != nil {
			w.errorf("%s: %s: %v", m.cfg.Name, what, err)
		}
	}
	events, err := c.Watch(ctx, key)
	fail("watch", err)
	l, err := c.Lock(ctx, key)
	fail("lock", err)
	if l == nil || events == nil {
		w.t.FailNow()
	}
	fail("check fence", c.CheckFence(ctx, key, l.Fence()))
	all, err := c.Locks(ctx, key)
	fail("locks", err)
	if err == nil && len(all) != 1 {
		w.errorf("%s: %d locks are listed", m.cfg.Name, len(all))
	}
	_, err = c.Stats(ctx)
	fail("stats", err)
	fail("unlock", l.Unlock(ctx))
	for _, want := range []string{"granted", "released"} {
		select {
		case e := <-events:
			for e.Type == "queued" {
				e = <-events
			}
			if string(e.Type) != want {
				w.errorf("%s: told %q where %q belongs", m.cfg.Name, e.Type, want)
			}
		case <-ctx.Done():
			w.errorf("%s: not told that the lock was %s", m.cfg.Name, want)
		}
	}
	return time.Since(began)
}

// A follower and a client that can't reach the leader, or that it can't reach, go through another member: everything works, no session is lost and
// nobody else is elected. Afterwards they go directly again.
func TestVirtualLeaderReachedThroughAnother(t *testing.T) {
	for _, shape := range []struct {
		name string
		cut  func(w *world, leader, m *member)
	}{
		{"both ways", func(w *world, leader, m *member) { w.net.Cut(leader.ip, m.ip) }},
		{"they are not heard", func(w *world, leader, m *member) { w.net.CutOneWay(m.ip, leader.ip) }},
		{"they hear nothing", func(w *world, leader, m *member) { w.net.CutOneWay(leader.ip, m.ip) }},
	} {
		t.Run(shape.name, func(t *testing.T) {
			virtual(t, 2, func(w *world) {
				var seen terms
				w.add(3, seen.watch())
				w.startVoters(3)
				w.add(1, seen.watch())
				w.start()
				leader := w.leader()
				client := w.members[3]
				follower := w.others(leader)[0]
				apart := []*member{follower, client}
				term := seen.last.Load()
				var held []*Lock
				for _, m := range apart {
					held = append(held, m.lock("held by "+m.cfg.Name))
				}
				pauseFor(w.rng, time.Second)
				for _, m := range apart {
					shape.cut(w, leader, m)
				}
				var wg sync.WaitGroup
				for _, m := range apart {
					wg.Go(func() { w.note("%s: %s after the cut", m.cfg.Name, w.serves(m, 3*time.Second)) })
				}
				wg.Wait()
				if w.relayed() == 0 {
					w.errorf("nobody passes anything on")
				}
				for range 5 { // and so it stays
					time.Sleep(2 * time.Second)
					for _, m := range apart {
						w.serves(m, time.Second)
					}
				}
				w.net.HealAll()
				w.note("direct again after %s", w.within(5*time.Second, "all go directly again", func() bool { return w.relayed() == 0 }))
				for i, m := range apart {
					w.serves(m, time.Second)
					if held[i].Err() != nil || m.cluster().sessions.Losses() != 0 {
						w.errorf("%s lost its session: %v", m.cfg.Name, held[i].Err())
					}
					w.unlock(held[i])
				}
				if w.relayed() != 0 {
					w.errorf("%d connections are passed on although all can be dialed", w.relayed())
				}
				if now := seen.last.Load(); now != term || w.leader() != leader {
					w.errorf("term %d after %d: others were elected", now, term)
				}
				w.recovers(5 * time.Second)
			})
		})
	}
}

// Hazards 1 and 2 once more, with all who don't vote on the leader's side, whether they follow its log or not: a leader that hears all of them and
// no other voter commits nothing and steps down. Its own process, which only they reach, goes on by way of them.
func TestVirtualLeaderJoinedToNonvotersOnly(t *testing.T) {
	virtual(t, 3, func(w *world) {
		var leader *member
		var watched, applied atomic.Int32
		count := whenApplied(func(m *member, _ *raftfsm.Result) {
			if watched.Load() == int32(m.i)+1 {
				applied.Add(1)
			}
		})
		w.add(3, count)
		w.startVoters(3)
		w.add(4, count)
		w.start()
		time.Sleep(10 * time.Second) // who is to follow the log does
		leader = w.leader()
		roles := map[string]Role{}
		for _, m := range leader.cluster().Status().Members {
			roles[m.Name] = m.Role
		}
		var voters []*member
		for _, m := range w.others(leader) {
			if roles[m.cfg.Name] == Voter {
				voters = append(voters, m)
			}
		}
		if len(voters) != 2 {
			w.fatalf("roles %v", roles)
		}
		held := leader.lock("held")
		l := (&load{workers: 1, keys: 2, hold: 20 * time.Millisecond, calm: true}).begin(w)
		pauseFor(w.rng, time.Second)
		for _, v := range voters {
			w.net.Cut(leader.ip, v.ip)
		}
		time.Sleep(5 * time.Millisecond) // what was under way has arrived
		watched.Store(int32(leader.i) + 1)
		cut := time.Now()
		took := w.within(time.Second, "it steps down", func() bool { return leader.cluster().Status().Leader != leader.cfg.Name })
		next := w.leader(voters...)
		w.note("figure: stepped down after %s, %s leads after %s", took, next.cfg.Name, time.Since(cut))
		took = w.serves(leader, 4*time.Second)
		w.note("figure: its own process goes on %s later", took)
		time.Sleep(5 * time.Second)
		w.serves(leader, time.Second) // by a key of its own: its worker may wait long for those that the others hold
		if n := applied.Load(); n > 0 {
			w.errorf("the leader that hears no other voter applied %d entries", n)
		}
		watched.Store(0)
		for _, m := range w.running() {
			if m.cluster().sessions.Losses() != 0 {
				w.errorf("%s lost its session", m.cfg.Name)
			}
		}
		if held.Err() != nil {
			w.errorf("its lock was lost: %v", held.Err())
		}
		w.unlock(held)
		w.net.HealAll()
		l.end()
		w.recovers(5 * time.Second)
		w.history.judge()
	})
}
