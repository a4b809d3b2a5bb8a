package distlock

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// trouble is one thing that goes wrong and is mended later.
type trouble struct {
	name string
	ends time.Time
	mend func()
}

// chaos makes faults of all kinds, some at the same time, until it is told to end.
type chaos struct {
	w       *world
	faults  []trouble
	crashes bool          // processes crash and come back, one at a time
	joining chan struct{} // closed when the restart under way is over; nil when none is
	counts  map[string]int
}

// run makes faults for d of virtual time, then mends them all.
func (c *chaos) run(d time.Duration) {
	w := c.w
	c.counts = map[string]int{}
	for end := time.Now().Add(d); time.Now().Before(end); {
		if len(c.faults) < 3 {
			c.begin()
		}
		time.Sleep(time.Duration(w.rng.Int64N(int64(1500 * time.Millisecond))))
		c.mend(time.Now())
	}
	c.mend(time.Now().Add(time.Hour))
	w.net.HealAll()
	w.net.SetDelays(200*time.Microsecond, 0)
	w.net.SetLosses(0)
	if c.joining != nil {
		<-c.joining
	}
	w.note("all faults are over")
}

func (c *chaos) mend(now time.Time) {
	c.faults = slices.DeleteFunc(c.faults, func(f trouble) bool {
		if f.ends.After(now) {
			return false
		}
		c.w.note("mend: %s", f.name)
		f.mend()
		return true
	})
}

// add notes a fault that lasts up to most.
func (c *chaos) add(most time.Duration, mend func(), kind, format string, args ...any) {
	name := kind + fmt.Sprintf(format, args...)
	lasts := time.Duration(c.w.rng.Int64N(int64(most)))
	c.w.note("fault: %s for %s", name, lasts)
	c.counts[kind]++
	c.faults = append(c.faults, trouble{name, time.Now().Add(lasts), mend})
}

func (c *chaos) pick() *member { return c.w.members[c.w.rng.IntN(len(c.w.members))] }

// target is the leader half the time.
func (c *chaos) target() *member {
	if c.w.rng.IntN(2) == 0 {
		for _, m := range c.w.running() {
			if m.cluster().Status().Leader == m.cfg.Name {
				return m
			}
		}
	}
	return c.pick()
}

func (c *chaos) begin() {
	w := c.w
	m, o := c.target(), c.pick()
	switch p := w.rng.IntN(100); {
	case p < 15:
		w.net.Isolate(m.ip)
		c.add(6*time.Second, func() { c.heal(m) }, "isolate", " %s", m.cfg.Name)
	case p < 28 && m != o:
		w.net.Cut(m.ip, o.ip)
		c.add(6*time.Second, func() { w.net.Heal(m.ip, o.ip) }, "cut", " %s from %s", m.cfg.Name, o.cfg.Name)
	case p < 41 && m != o:
		w.net.CutOneWay(m.ip, o.ip)
		c.add(6*time.Second, func() { w.net.Heal(m.ip, o.ip) }, "one way", " %s to %s", m.cfg.Name, o.cfg.Name)
	case p < 48: // it hears all and nobody hears it, or the other way round
		in := w.rng.IntN(2) == 0
		for _, x := range w.members {
			if x != m && in {
				w.net.CutOneWay(x.ip, m.ip)
			} else if x != m {
				w.net.CutOneWay(m.ip, x.ip)
			}
		}
		c.add(5*time.Second, func() { c.heal(m) }, "deaf or mute", " %s (deaf: %v)", m.cfg.Name, in)
	case p < 58:
		w.net.Freeze(m.ip)
		c.add(5*time.Second, func() { w.net.Thaw(m.ip) }, "freeze", " %s", m.cfg.Name)
	case p < 68:
		m.pause()
		c.add(5*time.Second, m.thaw, "pause", " %s", m.cfg.Name)
	case p < 74:
		base, jitter := time.Duration(w.rng.Int64N(int64(30*time.Millisecond))), time.Duration(1+w.rng.Int64N(int64(40*time.Millisecond)))
		w.net.SetDelays(base, jitter)
		c.add(5*time.Second, func() { w.net.SetDelays(200*time.Microsecond, 0) }, "delays", " of %s to %s", base, base+jitter)
	case p < 79:
		w.net.SetLosses(0.5)
		c.add(5*time.Second, func() { w.net.SetLosses(0) }, "losses", "")
	case p < 87 && m != o:
		w.net.LoseReplies(m.ip, o.ip, 0, w.rng.IntN(2000))
		c.counts["lost reply"]++
	case p < 92 && m != o:
		w.net.LoseRequests(m.ip, o.ip, 0, w.rng.IntN(2000))
		c.counts["lost request"]++
	default:
		c.crash(m)
	}
}

// heal ends what cuts m off.
func (c *chaos) heal(m *member) {
	for _, x := range c.w.members {
		if x != m {
			c.w.net.Heal(m.ip, x.ip)
		}
	}
}

// crash ends a process and starts it again a little later, on its old port. In memory a voter that crashes is lost, so another may only follow
// when its seat is taken again.
func (c *chaos) crash(m *member) {
	w := c.w
	if !c.crashes || m.cluster() == nil {
		return
	}
	if c.joining != nil {
		select {
		case <-c.joining:
		default:
			return
		}
	}
	if w.seated() < min(3, len(w.members)) {
		return
	}
	w.note("crash: %s", m.cfg.Name)
	c.counts["crash"]++
	m.crash()
	after := time.Duration(w.rng.Int64N(int64(2 * time.Second)))
	if w.rng.IntN(3) == 0 {
		after = 0
	}
	c.joining = make(chan struct{})
	go func() { // ends with the join, which has its time-out
		defer close(c.joining)
		time.Sleep(after)
		if err := m.join(context.Background()); err != nil {
			w.errorf("%s does not come back: %v", m.cfg.Name, err)
		}
	}()
}

// recoverWithin bounds how long it takes, once all faults are over, until everybody can lock again.
const recoverWithin = 20 * time.Second

func TestVirtualChaos(t *testing.T) {
	for _, size := range []struct {
		members int
		crashes bool
		opts    []func(*member)
	}{
		{3, false, nil},
		{3, true, []func(*member){restarts}},
		{5, true, []func(*member){restarts}},
	} {
		t.Run(fmt.Sprintf("%d members, crashes %v", size.members, size.crashes), func(t *testing.T) {
			virtual(t, 3, func(w *world) {
				w.add(size.members, size.opts...)
				w.startVoters(3)
				l := (&load{workers: 3, keys: 3, hold: 100 * time.Millisecond}).begin(w)
				c := &chaos{w: w, crashes: size.crashes}
				c.run(time.Minute)
				l.end()
				took := w.recovers(recoverWithin)
				w.history.judge()
				w.t.Logf("%d grants, %d lost, %d of them by their session; live again after %s; faults %v", w.history.grants, w.history.lost, w.history.expired, took, c.counts)
			})
		})
	}
}
