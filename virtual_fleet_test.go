package distlock

import (
	"context"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/gossip"
)

const (
	leastFleet = 8
	mostGossip = 300              // members that all know each other: what a thousand say to each other keeps two processors busy for an hour
	mayVote    = 6                // of more; all others know only those, who know all
	farProbe   = 80 * time.Second // between two probes by one who knows few
)

// A whole fleet in virtual time, where processors that are shared cost no time: what is measured is what members wait for. Its leader is
// killed, falls silent or is paused, and nobody else loses a lock. DISTLOCK_FLEET says how many members there are.
func TestVirtualFleetOutlivesItsLeader(t *testing.T) {
	n := 24
	if underRace {
		n = leastFleet
	}
	if s := os.Getenv("DISTLOCK_FLEET"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < leastFleet {
			t.Fatalf("DISTLOCK_FLEET is %q: it is how many members, at least %d", s, leastFleet)
		}
	}
	for _, fault := range []struct {
		name string
		does func(*member)
	}{
		{"killed", (*member).crash},
		{"silent", func(m *member) { m.w.net.Isolate(m.ip) }},
		{"paused", (*member).pause},
	} {
		t.Run(fault.name, func(t *testing.T) {
			inBubbleFor(t, 1, stuckAfter+time.Duration(n)*3*time.Second, func(w *world) {
				w.startFleet(n)
				leader := w.leader()
				others := w.others(leader)
				held, _ := lockEach(others, "held by ")
				began, dials := time.Now(), dialsOf(others)
				fault.does(leader)
				_, took := lockEach(others, "after it by ")
				dials = dialsOf(others) - dials
				time.Sleep(time.Until(began.Add(2 * defaultSessionTTL)))
				lost := 0
				for _, l := range held {
					if l.Err() != nil {
						lost++
					}
				}
				t.Logf("%d members, the leader is %s: half have their next lock after %s, all after %s; each dials %.1f times until then; lost are %d",
					n, fault.name, took[len(took)/2], took[len(took)-1], float64(dials)/float64(len(others)), lost)
				if lost > 0 {
					w.errorf("%d of %d members that had nothing to do with it lost their lock", lost, len(others))
				}
			})
		})
	}
}

// startFleet starts n members at the default settings, who are told of three.
func (w *world) startFleet(n int) {
	w.t.Helper()
	w.add(n, restarts, func(m *member) { m.cfg.SessionTTL, m.cfg.Expect = 0, 3 })
	for i, m := range w.members {
		m.cfg.Peers = w.peers[:3]
		if n > mostGossip && i >= mayVote {
			m.cfg.NoVote = true
			m.hooks.Gossip = func(c *gossip.Config) {
				c.Simulated = &gossip.Simulated{Knows: func(m gossip.Meta) bool { return m.MayVote }, Probe: farProbe}
			}
		}
	}
	if n > mostGossip { // those who know few hear of little afterwards
		all := w.members
		w.members = all[:mayVote]
		w.start()
		w.haveRoles(30*time.Second, 3, 2, mayVote-5)
		w.members = all
		w.t.Cleanup(func() { time.Sleep(10 * farProbe) }) // memberlist's last probes end by their time-out
	}
	began := time.Now()
	w.start()
	w.t.Logf("all have a session after %s", time.Since(began))
	w.within(time.Minute, "all seats are taken", func() bool { return w.seated() == 3 })
	time.Sleep(time.Minute)
}

// dialsOf counts the connections that they have begun to open.
func dialsOf(members []*member) (n int64) {
	for _, m := range members {
		n += m.life.dials.Load()
	}
	return n
}

// lockEach lets each of them take a lock of its own, all at once, and answers how long they waited, the shortest first.
func lockEach(members []*member, prefix string) (locks []*Lock, took []time.Duration) {
	locks, took = make([]*Lock, len(members)), make([]time.Duration, len(members))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began := time.Now()
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() {
			var err error
			if locks[i], err = m.cluster().Lock(ctx, prefix+m.cfg.Name); err != nil {
				m.w.errorf("%s: %v", m.cfg.Name, err)
			}
			took[i] = time.Since(began)
		})
	}
	all.Wait()
	if w := members[0].w; w.t.Failed() {
		w.t.FailNow()
	}
	slices.Sort(took)
	return locks, took
}
