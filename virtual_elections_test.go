package distlock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// A leader that is cut off grants nothing, steps down and gives its own locks up; the others' sessions move to the next leader and none of them
// is lost; its locks are granted again only when its Done was closed.
func TestVirtualLeaderCutOff(t *testing.T) {
	for _, shape := range []struct {
		name string
		cut  func(w *world, leader *member)
	}{
		{"from all", func(w *world, leader *member) { w.net.Isolate(leader.ip) }},
		{"it hears nobody", func(w *world, leader *member) {
			for _, o := range w.others(leader) {
				w.net.CutOneWay(o.ip, leader.ip)
			}
		}},
		{"nobody hears it", func(w *world, leader *member) {
			for _, o := range w.others(leader) {
				w.net.CutOneWay(leader.ip, o.ip)
			}
		}},
		{"frozen", func(w *world, leader *member) { w.net.Freeze(leader.ip) }},
	} {
		t.Run(shape.name, func(t *testing.T) {
			virtual(t, 4, func(w *world) {
				w.add(3)
				w.startVoters(3)
				leader := w.leader()
				others := w.others(leader)
				mine := leader.lock("mine")
				done := mine.Done()
				theirs := []*Lock{others[0].lock("theirs-0"), others[1].lock("theirs-1")}
				forced := others[1].lock("forced")
				pauseFor(w.rng, time.Second) // any moment between two renewals
				shape.cut(w, leader)
				cut := time.Now()

				var wg sync.WaitGroup
				for name, call := range map[string]func(ctx context.Context) error{
					"Lock": func(ctx context.Context) error {
						_, err := leader.cluster().Lock(ctx, "new")
						return err
					},
					"TryLock": func(ctx context.Context) error {
						_, err := leader.cluster().TryLock(ctx, "new")
						return err
					},
					"CheckFence":  func(ctx context.Context) error { return leader.cluster().CheckFence(ctx, "mine", mine.Fence()) },
					"ForceUnlock": func(ctx context.Context) error { return leader.cluster().ForceUnlock(ctx, "forced") }, // it may come true later
					"Locks": func(ctx context.Context) error {
						_, err := leader.cluster().Locks(ctx, "")
						return err
					},
				} {
					wg.Go(func() {
						err := call(w.until(5 * time.Second))
						if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrSessionLost) || !errors.Is(err, ErrNoQuorum) && !errors.Is(err, ErrSessionLost) {
							w.errorf("%s at the leader that is cut off: %v", name, err)
						}
					})
				}
				wg.Go(func() {
					<-done
					if after := time.Since(cut); after > 1700*time.Millisecond {
						w.errorf("the lock of the leader that is cut off ended only %s later", after)
					}
					if !errors.Is(mine.Err(), ErrSessionLost) {
						w.errorf("it ended with %v", mine.Err())
					}
				})
				wg.Go(func() {
					l, err := others[0].cluster().Lock(w.until(10*time.Second), "mine")
					if err != nil {
						w.errorf("the lock of the leader that is cut off: %v", err)
						return
					}
					select {
					case <-done:
					default:
						w.errorf("granted again while its holder's Done is open")
					}
					if after := time.Since(cut); after > 6*time.Second {
						w.errorf("granted again only after %s", after)
					}
					if l.Fence() <= mine.Fence() {
						w.errorf("fence %d after %d", l.Fence(), mine.Fence())
					}
					w.unlock(l)
				})
				next := w.leader(others...)
				w.note("%s leads after %s", next.cfg.Name, time.Since(cut))
				w.unlock(next.lock("at once"))
				if took := time.Since(cut); took > 2*time.Second {
					w.errorf("the next grant came %s after the cut", took)
				}
				wg.Wait()
				if leader.cluster().Status().Leader == leader.cfg.Name {
					w.errorf("it still thinks that it leads")
				}
				for i, l := range theirs {
					if l.Err() != nil || others[i].cluster().sessions.Losses() != 0 {
						w.errorf("%s lost its session: %v", others[i].cfg.Name, l.Err())
					}
					w.unlock(l)
				}
				if err := forced.Unlock(w.until(time.Second)); err != nil && !errors.Is(err, ErrForced) {
					w.errorf("unlock of what may have been forced: %v", err)
				}
				w.net.Thaw(leader.ip)
				w.net.HealAll()
				w.recovers(5 * time.Second)
			})
		})
	}
}

// Hazards 1 and 2. A leader that is cut off from both other voters and joined to all clients is asked by them and answers nobody: no grant, no
// renewal, no query. Their sessions move, and none is lost.
func TestVirtualLeaderJoinedToClientsOnly(t *testing.T) {
	virtual(t, 8, func(w *world) {
		w.add(3)
		w.startVoters(3)
		w.add(4)
		w.start()
		leader := w.leader()
		var voters, clients []*member
		for _, m := range w.others(leader) {
			if m.cluster().Status().Role == Voter {
				voters = append(voters, m)
			} else {
				clients = append(clients, m)
			}
		}
		if len(voters) != 2 || len(clients) != 4 {
			w.fatalf("%d voters and %d clients", len(voters), len(clients))
		}
		var held []*Lock
		for _, c := range clients {
			held = append(held, c.lock(c.cfg.Name))
		}
		pauseFor(w.rng, time.Second)
		for _, v := range voters {
			w.net.Cut(leader.ip, v.ip)
		}
		cut := time.Now()
		var wg sync.WaitGroup
		for i, c := range clients {
			wg.Go(func() {
				if err := c.cluster().CheckFence(w.until(5*time.Second), c.cfg.Name, held[i].Fence()); err != nil {
					w.errorf("%s: check fence: %v", c.cfg.Name, err)
				}
			})
			wg.Go(func() {
				l := c.lock("shared")
				w.note("%s granted %s after the cut", c.cfg.Name, time.Since(cut))
				w.unlock(l)
				if took := time.Since(cut); took > 3*time.Second {
					w.errorf("%s waited %s for a grant", c.cfg.Name, took)
				}
			})
		}
		wg.Wait()
		if next := w.leader(voters...); next == leader {
			w.errorf("it leads on")
		}
		time.Sleep(5 * time.Second)
		for i, l := range held {
			if l.Err() != nil || clients[i].cluster().sessions.Losses() != 0 {
				w.errorf("%s lost its session: %v", clients[i].cfg.Name, l.Err())
			}
			w.unlock(l)
		}
		if leader.cluster().sessions.Losses() != 0 {
			// It reaches the next leader by nobody: its own session is the only one that may end.
			w.note("the old leader lost its session")
		}
		w.net.HealAll()
		w.recovers(5 * time.Second)
	})
}

// All 64 ways to cut the six directions between three voters. Where two still hear each other in both directions grants go on; where the third
// and one of them do, it takes part by way of that one; what was granted is exclusive in any case; and after the heal everything is live again.
func TestVirtualAllCutsOfThree(t *testing.T) {
	pairs := [][2]int{{0, 1}, {1, 0}, {0, 2}, {2, 0}, {1, 2}, {2, 1}}
	shapes := 64
	for _, seed := range seedsOf(t, shapes) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			inBubble(t, seed, func(w *world) {
				shape := int(seed) % shapes
				w.add(3)
				w.startVoters(3)
				leader := w.leader()
				order := append([]*member{leader}, w.others(leader)...) // the leader is number 0
				l := (&load{workers: 2, keys: 2, hold: 50 * time.Millisecond}).begin(w)
				time.Sleep(500 * time.Millisecond)
				var cuts []string
				both := map[[2]int]int{}
				for i, p := range pairs {
					if shape&(1<<i) != 0 {
						w.net.CutOneWay(order[p[0]].ip, order[p[1]].ip)
						cuts = append(cuts, fmt.Sprintf("%d>%d", p[0], p[1]))
					} else {
						both[[2]int{min(p[0], p[1]), max(p[0], p[1])}]++
					}
				}
				w.note("cut %v; 0 is %s, the leader", cuts, leader.cfg.Name)
				time.Sleep(4 * time.Second)
				before := w.history.count()
				for range 3 {
					for pair, n := range both {
						if n == 2 { // by keys of their own: for the others their workers may wait long
							w.serves(order[pair[0]], 2*time.Second)
							w.serves(order[pair[1]], 2*time.Second)
						}
					}
					time.Sleep(2 * time.Second)
				}
				grants := w.history.count() - before
				w.net.HealAll()
				l.end()
				w.recovers(8 * time.Second)
				w.history.judge()
				w.t.Logf("cuts %v: %d grants meanwhile", cuts, grants)
			})
		})
	}
}
