package gossip

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
)

// How long news takes in a fleet, with every process of it real, in virtual time: where DISTLOCK_FLEET says so in one of that many.
func TestVirtualFleet(t *testing.T) {
	n := 24
	if s := os.Getenv("DISTLOCK_FLEET"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 4 {
			t.Fatalf("DISTLOCK_FLEET is %q: it is how many processes, at least 4", s)
		}
	}
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, n+1)
		defer w.end()
		w.seeds = w.seeds[:3]
		var all []int
		for i := range n {
			w.start(i, 3)
			all = append(all, i)
		}
		living := func(g *Gossip) (sum int) {
			for _, m := range g.Members() {
				if m.State == Alive || m.State == Suspect {
					sum++
				}
			}
			return sum
		}
		knowing := func(what string, limit time.Duration, knows func(*Gossip) bool) {
			t.Helper()
			began := time.Now()
			var took []time.Duration
			for late := slices.Clone(all); len(late) > 0; time.Sleep(20 * time.Millisecond) { // virtual: the step of what is measured
				late = slices.DeleteFunc(late, func(i int) bool { return knows(w.procs[i].Gossip) })
				for len(took)+len(late) < len(all) {
					took = append(took, time.Since(began))
				}
				if time.Since(began) > limit {
					t.Fatalf("%s: %d of %d don't know after %s", what, len(late), len(all), limit)
				}
			}
			t.Logf("%s: half of %d know after %s, all after %s", what, len(all), took[len(took)/2], took[len(took)-1])
		}
		spent := func(what string, d time.Duration) {
			packets, bytes := w.packets.Load(), w.bytes.Load()
			time.Sleep(d)
			each := d.Seconds() * float64(len(all))
			t.Logf("%s: each sends %.1f packets/s, %.0f B/s", what, float64(w.packets.Load()-packets)/each, float64(w.bytes.Load()-bytes)/each)
		}
		knowing("all start at once", 5*time.Minute, func(g *Gossip) bool { return living(g) == n })
		spent("in the minute after that", time.Minute)
		time.Sleep(time.Minute)
		spent("idle", 20*time.Second)
		w.start(n, 3)
		all = append(all, n)
		knowing("one more starts", time.Minute, func(g *Gossip) bool { return living(g) == n+1 })
		time.Sleep(time.Minute)
		leader := w.procs[1]
		self := leader.members.selfMeta()
		self.Term, self.Leader = 7, true
		leader.Update(self)
		knowing("one says that it leads", time.Minute, func(g *Gossip) bool {
			return slices.ContainsFunc(g.Members(), func(m Member) bool { return m.Leader })
		})
		time.Sleep(time.Minute)
		w.crash(1)
		all = slices.Delete(all, 1, 2)
		knowing("it dies", time.Minute, func(g *Gossip) bool { return living(g) == n })
	})
}
