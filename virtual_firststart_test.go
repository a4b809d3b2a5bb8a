package distlock

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/simnet"
	"github.com/godistlock/distlock/internal/wire"
)

// opened notes every cluster that any member ever knew open.
type opened struct {
	mu       sync.Mutex // guards clusters
	clusters map[wire.UUID]string
	stop     chan struct{}
	once     sync.Once
	done     chan struct{}
}

// watchOpened looks every millisecond, as does nobody in between: a cluster that has opened stays so.
func (w *world) watchOpened() *opened {
	o := &opened{clusters: map[wire.UUID]string{}, stop: make(chan struct{}), done: make(chan struct{})}
	go func() { // ends with stop
		defer close(o.done)
		for {
			for _, m := range w.running() {
				if c := m.cluster(); c != nil {
					if id, open := c.node.Cluster(); open {
						o.mu.Lock()
						if _, known := o.clusters[id]; !known {
							o.clusters[id] = fmt.Sprintf("%s at %s", m.cfg.Name, time.Since(w.began))
							w.note("cluster %s is open, says %s", id, m.cfg.Name)
						}
						o.mu.Unlock()
					}
				}
			}
			select {
			case <-o.stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	return o
}

func (o *opened) end() map[wire.UUID]string {
	o.once.Do(func() { close(o.stop) })
	<-o.done
	return o.clusters
}

// joined waits for all members to have joined, and checks that they are of one cluster.
func (w *world) joined(limit time.Duration) {
	w.t.Helper()
	w.within(limit, "all have joined", func() bool {
		for _, m := range w.members {
			if m.joining != nil {
				select {
				case <-m.joining.done:
					if m.joining.err != nil {
						w.fatalf("%s: join: %v", m.cfg.Name, m.joining.err)
					}
				default:
					return false
				}
			}
		}
		return true
	})
	clusters := map[wire.UUID]bool{}
	for _, m := range w.members {
		id, open := m.cluster().node.Cluster()
		clusters[id] = true
		if !open {
			w.errorf("%s has joined what is not open", m.cfg.Name)
		}
	}
	if len(clusters) != 1 {
		w.errorf("%d clusters: %v", len(clusters), clusters)
	}
}

// badNetwork is one with delays, jitter and losses.
func (w *world) badNetwork() {
	if w.rng.IntN(2) == 0 {
		w.net.SetDelays(time.Duration(w.rng.Int64N(int64(25*time.Millisecond))), time.Duration(1+w.rng.Int64N(int64(25*time.Millisecond))))
	}
	if w.rng.IntN(3) == 0 {
		w.net.SetLosses(0.3)
	}
}

// Three or five members start in any order, at any distance in time, on a bad network that may be cut in two and heals; one of them may crash
// and come back. One cluster opens, ever, and all come to belong to it.
func TestVirtualFirstStart(t *testing.T) {
	for _, n := range []int{3, 5} {
		t.Run(fmt.Sprintf("%d members", n), func(t *testing.T) {
			virtual(t, 20, func(w *world) {
				w.add(n, restarts, func(m *member) { m.cfg.JoinTimeout = 10 * time.Minute })
				w.badNetwork()
				seen := w.watchOpened()
				defer seen.end()
				type event struct {
					at time.Duration
					do func()
				}
				var events []event
				plan := func(d time.Duration, f func()) { events = append(events, event{d, f}) }
				apart := []time.Duration{0, 50 * time.Millisecond, 2 * time.Second}[w.rng.IntN(3)]
				starts := make([]time.Duration, n)
				for i := range n {
					if apart > 0 {
						starts[i] = time.Duration(w.rng.Int64N(int64(apart)))
					}
					plan(starts[i], func() { w.members[i].begin() })
				}
				if w.rng.IntN(2) == 0 {
					victim := w.members[w.rng.IntN(n)]
					begin := starts[victim.i] + time.Duration(w.rng.Int64N(int64(300*time.Millisecond)))
					back := begin
					if w.rng.IntN(3) > 0 {
						back += time.Duration(w.rng.Int64N(int64(3 * time.Second)))
					}
					plan(begin, func() { w.note("crash %s", victim.cfg.Name); victim.crash() })
					plan(back, func() { w.note("%s comes back", victim.cfg.Name); victim.begin() })
				}
				if w.rng.IntN(3) == 0 {
					sleeper := w.members[w.rng.IntN(n)]
					begin := starts[sleeper.i] + time.Duration(w.rng.Int64N(int64(300*time.Millisecond)))
					wake := begin + time.Duration(w.rng.Int64N(int64(15*time.Second)))
					plan(begin, func() { w.note("pause %s", sleeper.cfg.Name); sleeper.pause() })
					plan(wake, func() { w.note("%s goes on", sleeper.cfg.Name); sleeper.thaw() })
				}
				if w.rng.IntN(3) == 0 {
					from, to := w.members[w.rng.IntN(n)], w.members[w.rng.IntN(n)]
					begin := time.Duration(w.rng.Int64N(int64(300 * time.Millisecond)))
					heal := begin + time.Duration(w.rng.Int64N(int64(15*time.Second)))
					plan(begin, func() {
						w.note("nothing passes from %s to %s", from.cfg.Name, to.cfg.Name)
						w.net.CutOneWay(from.ip, to.ip)
					})
					plan(heal, func() { w.note("heal"); w.net.HealAll() })
				}
				if w.rng.IntN(2) == 0 {
					side := []string{}
					for _, i := range w.rng.Perm(n)[:1+w.rng.IntN(n-1)] {
						side = append(side, w.members[i].ip)
					}
					begin := time.Duration(w.rng.Int64N(int64(300 * time.Millisecond)))
					heal := begin + time.Duration(w.rng.Int64N(int64(8*time.Second)))
					plan(begin, func() { w.note("cut off %v", side); w.net.Partition(side) })
					plan(heal, func() { w.note("heal"); w.net.HealAll() })
				}
				slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
				for _, e := range events {
					time.Sleep(time.Until(w.began.Add(e.at)))
					e.do()
				}
				w.oneOpened(seen)
				took := time.Since(w.began)
				w.recovers(2 * time.Minute) // a cluster whose past is not known is silent for one
				w.t.Logf("all joined after %s", took)
			})
		})
	}
}

// atWrite does something once m writes to a stream for the step-th time, counted from 0; gossip does not count. The answer waits for that.
func (w *world) atWrite(m *member, step int, do func()) (await func()) {
	w.t.Helper()
	reached := make(chan struct{})
	writes := 0
	var mu sync.Mutex // guards writes
	w.net.Tap(func(x simnet.Write) (int, simnet.Fate) {
		if x.From != m.ip || x.Kind == wire.KindGossip {
			return 0, simnet.Deliver
		}
		mu.Lock()
		defer mu.Unlock()
		if writes++; writes == step+1 {
			w.note("write %d of %s, to %s", step, m.cfg.Name, x.To)
			do()
			close(reached)
		}
		return 0, simnet.Deliver
	})
	return func() {
		w.t.Helper()
		select {
		case <-reached:
		case <-time.After(30 * time.Second):
			w.fatalf("%s does not make its write %d", m.cfg.Name, step)
		}
		w.net.Tap(nil)
	}
}

// oneOpened waits for all to have joined, and checks that no cluster but theirs has ever opened.
func (w *world) oneOpened(seen *opened) {
	w.t.Helper()
	w.joined(5 * time.Minute)
	if all := seen.end(); len(all) != 1 {
		w.errorf("%d clusters have opened: %v", len(all), all)
	}
}

// One of three members that start together is paused with its n-th write, for every n until it has joined, and goes on sooner or later: what
// it was about to do comes late, and what it knows is old.
func TestVirtualFirstStartPauseAtEveryStep(t *testing.T) {
	virtual(t, 6, func(w *world) {
		step, who := w.rng.IntN(40), int(w.seed)%3
		lasts := []time.Duration{time.Second, 4 * time.Second, 7 * time.Second, 12 * time.Second, 30 * time.Second}[w.rng.IntN(5)]
		w.add(3, restarts, func(m *member) { m.cfg.JoinTimeout = 10 * time.Minute })
		victim := w.members[who]
		paused := w.atWrite(victim, step, func() { victim.pause() })
		seen := w.watchOpened()
		defer seen.end()
		for _, i := range w.rng.Perm(3) {
			w.members[i].begin()
		}
		paused()
		time.Sleep(lasts)
		victim.thaw()
		w.oneOpened(seen)
		took := time.Since(w.began)
		w.recovers(2 * time.Minute)
		w.t.Logf("%s was paused at write %d for %s; all joined after %s", victim.cfg.Name, step, lasts, took)
	})
}

// A member with a lower name than the three that begin a cluster starts with the n-th write of one of these, for every n.
func TestVirtualFirstStartLowerNameAtEveryStep(t *testing.T) {
	virtual(t, 6, func(w *world) {
		step, who := w.rng.IntN(40), 1+int(w.seed)%3
		w.add(4, restarts, func(m *member) { m.cfg.JoinTimeout, m.cfg.Expect = 10*time.Minute, 3 })
		reached := w.atWrite(w.members[who], step, func() {})
		seen := w.watchOpened()
		defer seen.end()
		for _, i := range w.rng.Perm(3) {
			w.members[1+i].begin()
		}
		reached()
		w.members[0].begin()
		w.oneOpened(seen)
		took := time.Since(w.began)
		w.recovers(2 * time.Minute)
		w.t.Logf("m0 started at write %d of %s; all joined after %s", step, w.members[who].cfg.Name, took)
	})
}

// Two of three come to nothing, and Join's error says who was seen and how many are missing; when the third one comes they all join.
func TestVirtualTooFewSayWhomTheyWaitFor(t *testing.T) {
	virtual(t, 2, func(w *world) {
		w.add(3, restarts, func(m *member) { m.cfg.JoinTimeout = 20 * time.Second })
		two := w.members[1:]
		for _, m := range two {
			m.begin()
		}
		for _, m := range two {
			<-m.joining.done
			err := m.joining.err
			if !errors.Is(err, ErrNoQuorum) {
				w.fatalf("%s joins alone: %v", m.cfg.Name, err)
			}
			for _, want := range []string{`sees 2 of the 3 processes (Expect)`, `"m1", "m2"`, "it waits for 1 more", "missing: " + w.members[0].cfg.Bind} {
				if !strings.Contains(err.Error(), want) {
					w.errorf("%s does not say %q: %v", m.cfg.Name, want, err)
				}
			}
		}
		for _, m := range w.members {
			m.cfg.JoinTimeout = 10 * time.Minute
			m.begin()
		}
		w.joined(5 * time.Minute)
	})
}

// One of three members that start together crashes with its n-th write, for every n until it has joined, and comes back at once or later.
func TestVirtualFirstStartCrashAtEveryStep(t *testing.T) {
	const normally = 24 // of all the steps there are
	seeds := seedsOf(t, normally)
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			inBubble(t, seed, func(w *world) {
				const steps = 40
				step, who := w.rng.IntN(steps), int(seed)%3
				if len(seeds) > normally { // all of them
					step = int(seed) / 3 % steps
				}
				after := []time.Duration{0, 100 * time.Millisecond, 4 * time.Second}[w.rng.IntN(3)]
				w.add(3, restarts, func(m *member) { m.cfg.JoinTimeout = 10 * time.Minute })
				victim := w.members[who]
				crashed := w.atWrite(victim, step, func() { victim.unplug() })
				seen := w.watchOpened()
				defer seen.end()
				for _, i := range w.rng.Perm(3) {
					w.members[i].begin()
				}
				crashed()
				victim.crash()
				time.Sleep(after)
				victim.begin()
				w.oneOpened(seen)
				took := time.Since(w.began)
				w.recovers(2 * time.Minute)
				w.t.Logf("%s crashed at write %d, back after %s; all joined after %s", victim.cfg.Name, step, after, took)
			})
		})
	}
}

// More crashes than a first start in memory gets over: still no two holders, and whoever is left waiting says why.
func TestVirtualFirstStartManyCrashes(t *testing.T) {
	for _, n := range []int{3, 5} {
		t.Run(fmt.Sprintf("%d members", n), func(t *testing.T) {
			virtual(t, 8, func(w *world) {
				w.add(n, restarts, func(m *member) { m.cfg.JoinTimeout, m.cfg.Voters = 10*time.Minute, n })
				w.badNetwork()
				for _, m := range w.members {
					m.begin()
				}
				l := (&load{workers: 1, keys: 1, hold: 200 * time.Millisecond, calm: true}).begin(w)
				for range 2 + w.rng.IntN(2*n) {
					time.Sleep(time.Duration(w.rng.Int64N(int64(150 * time.Millisecond))))
					m := w.members[w.rng.IntN(n)]
					w.note("crash %s", m.cfg.Name)
					m.crash()
					pauseFor(w.rng, 100*time.Millisecond)
					m.begin()
				}
				unready := func(m *member) bool { c := m.cluster(); return c == nil || !c.Status().Ready }
				for range 8 { // three minutes in all, or until everybody is in
					time.Sleep(20 * time.Second)
					if !slices.ContainsFunc(w.members, unready) {
						break
					}
				}
				time.Sleep(20 * time.Second) // two clusters would show
				ready, reasons := 0, 0
				for _, m := range w.members {
					if !unready(m) {
						ready++
						continue
					}
					m.joining.cancel()
					<-m.joining.done
					err := m.joining.err
					w.note("%s: %v", m.cfg.Name, err)
					if errors.Is(err, ErrNoQuorum) && strings.Contains(err.Error(), "seen ") {
						reasons++
					} else if c := m.cluster(); err != nil || c == nil || c.node.Waiting() == "" {
						w.errorf("%s waits and does not say why: %v", m.cfg.Name, err)
					}
				}
				l.end()
				w.history.judge()
				w.t.Logf("%d ready, %d say why they wait; %d grants", ready, reasons, w.history.count())
			})
		})
	}
}
