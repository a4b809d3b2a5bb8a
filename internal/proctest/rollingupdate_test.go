//go:build unix

package proctest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/godistlock/distlock"
)

// grantGap is the longest that a whole fleet may go without any grant while one of its processes is replaced.
const grantGap = time.Second

// allSeats and spares are voters and standbys, by default.
const allSeats, spares = 3, 2

// updateLoad shows gaps of a fraction of grantGap and leaves the processors to others.
var updateLoad = load{Workers: 2, Keys: 4, Hold: 2 * time.Millisecond, Rest: 20 * time.Millisecond}

// TestRollingUpdate replaces the processes of a fleet under load as an orchestrator does: SIGTERM, the same name and address again, and the
// next one only once /readyz of this one answers 200.
func TestRollingUpdate(t *testing.T) {
	for _, fleet := range []struct {
		n       int
		durable bool
		quick   int // processes replaced in a short run; a long one replaces all of them, several times
	}{{3, true, 3}, {3, false, 3}, {5, true, 0}, {5, false, 2}} {
		if !chaos && fleet.quick == 0 {
			continue
		}
		kind := "memory"
		if fleet.durable {
			kind = "durable"
		}
		t.Run(fmt.Sprintf("%d %s", fleet.n, kind), func(t *testing.T) {
			beside(t)
			f := newFleet(t, fleet.n, fleet.durable, updateTTL)
			for i, web := range freeAddrs(t, fleet.n) {
				f.members[i].web = web
			}
			f.start(f.members...)
			f.leader()
			f.voters(3)
			f.load(updateLoad)
			u := &update{fleet: f}
			if leader := f.leader(); chaos {
				for range 5 {
					u.inPlace(f.members...)
				}
			} else {
				u.inPlace(append(f.others(leader), leader)[fleet.n-fleet.quick:]...)
			}
			u.finish()
		})
	}
}

// updateTTL is the default, as for who updates without a thought of it.
const updateTTL = 10 * time.Second

// update is a fleet whose processes are replaced one by one.
type update struct {
	*fleet
	steps []*step
}

// step is the replacement of one process.
type step struct {
	who         string
	led         bool
	leave       time.Duration // from SIGTERM to its end
	ready       time.Duration // from the start of its successor to 200 from that one's /readyz
	least, most int           // voters that lived and that there were, when that was worst
	from, to    instant
}

// inPlace replaces the processes of members by others of the same name.
func (u *update) inPlace(members ...*member) {
	u.t.Helper()
	for _, m := range members {
		u.step(m, func(s *step) {
			s.leave = m.terminate()
			s.ready = u.startReady(m)
			u.load(updateLoad, m)
		})
	}
}

// surge replaces every process by one of a new name, which is ready before the old one is told to go.
func (u *update) surge() {
	u.t.Helper()
	for _, m := range slices.Clone(u.members) {
		u.step(m, func(s *step) {
			next := u.add()
			s.ready = u.startReady(next)
			u.load(updateLoad, next)
			s.leave = m.terminate()
			u.members = u.others(m)
		})
	}
}

// step lets do replace m's process, and looks at what that does to the others.
func (u *update) step(m *member, do func(*step)) {
	u.t.Helper()
	u.progress(20)
	s := &step{who: m.id, led: u.leader() == m}
	c := u.cross(u.others(m))
	living := u.watchSeats(u.others(m))
	s.from = now()
	do(s)
	s.to = now()
	s.least, s.most = living()
	if 2*s.least <= s.most {
		u.t.Errorf("while %s was replaced %d of %d voters lived", s.who, s.least, s.most)
	}
	c.end()
	u.steps = append(u.steps, s)
}

// finish ends the load, judges and says how it went.
func (u *update) finish() {
	u.t.Helper()
	u.progress(20)
	u.rest()
	u.verdict()
	for _, s := range u.steps {
		gap, at := u.longestGap(s.from, s.to)
		if gap > grantGap {
			u.t.Errorf("while %s was replaced nobody was granted anything for %v at %s; at most %v", s.who, gap, wall(at), grantGap)
		}
		if len(u.members) >= allSeats+spares && s.least < allSeats {
			u.t.Errorf("while %s was replaced %d of %d voters lived, although a standby could have taken its seat", s.who, s.least, s.most)
		}
		led := ""
		if s.led {
			led = ", which led"
		}
		u.t.Logf("%s%s: left in %v, its successor was ready in %v, longest gap between grants %v, at worst %d of %d voters lived",
			s.who, led, s.leave.Round(time.Millisecond), s.ready.Round(time.Millisecond), gap.Round(time.Millisecond), s.least, s.most)
	}
}

// longestGap is the longest time within a span in which nobody was granted anything, and when that began.
func (f *fleet) longestGap(from, to instant) (gap time.Duration, at instant) {
	f.mu.Lock()
	grants := []instant{from, to}
	for _, h := range f.holds {
		if from < h.Granted && h.Granted < to {
			grants = append(grants, h.Granted)
		}
	}
	f.mu.Unlock()
	slices.Sort(grants)
	for i, g := range grants[1:] {
		if d := time.Duration(g - grants[i]); d > gap {
			gap, at = d, grants[i]
		}
	}
	return gap, at
}

// watchSeats asks the voters among members, which stay, how many voters there are and how many of these live. The answer ends that and says
// what was worst.
func (f *fleet) watchSeats(members []*member) (end func() (least, most int)) {
	over, done := make(chan struct{}), make(chan struct{})
	least, most := 0, 0
	go func() { // ends with over
		defer close(done)
		for i := 0; !closed(over); i++ {
			st := members[i%len(members)].call(command{Do: "status"}).Status
			if st != nil && st.Role == distlock.Voter { // others know it from hearsay
				living, all := seats(st)
				if most == 0 || living*most < least*all {
					least, most = living, all
				}
			}
			nap(over, 20*time.Millisecond)
		}
	}()
	return func() (int, int) {
		close(over)
		<-done
		return least, most
	}
}

// seats counts the voters that a process sees, and the living among them.
func seats(st *distlock.Status) (living, all int) {
	for _, m := range st.Members {
		if m.Role == distlock.Voter {
			all++
			if m.State == distlock.Alive || m.State == distlock.Suspect {
				living++
			}
		}
	}
	return living, all
}

// crossing are locks that are held, and waited for, by processes that stay while another is replaced: each holds one and waits for that of
// the one before it.
type crossing struct {
	fleet  *fleet
	stay   []*member
	number int
	fences []uint64
	waits  []chan answer // each one's
}

func (f *fleet) cross(stay []*member) *crossing {
	f.t.Helper()
	f.crossings++
	c := &crossing{fleet: f, stay: stay, number: f.crossings}
	for _, m := range stay {
		c.fences = append(c.fences, m.must(command{Do: "lock", Key: c.key(m)}).Fence)
	}
	for i, m := range stay {
		to, l, key := make(chan answer, 1), m.life, c.key(c.before(i))
		c.waits = append(c.waits, to)
		go func() { to <- l.call(command{Do: "lock", Key: key, Timeout: 10 * patience}) }() // ends with the grant, or with the process
	}
	for i := range stay {
		c.waited(i)
	}
	return c
}

func (c *crossing) key(m *member) string {
	return fmt.Sprintf("held meanwhile %d by %s", c.number, m.name)
}

func (c *crossing) before(i int) *member { return c.stay[(i+len(c.stay)-1)%len(c.stay)] }

// waited waits until the cluster says that the i-th waits for the key of the one before it.
func (c *crossing) waited(i int) {
	c.fleet.t.Helper()
	var seen []string
	c.fleet.until(c.stay[i].name+" waits", func() bool {
		locks := c.stay[i].must(command{Do: "locks", Key: c.key(c.before(i))}).Locks
		seen = []string{fmt.Sprintf("%+v", locks)}
		return len(locks) == 1 && len(locks[0].Waiters) == 1 && locks[0].Waiters[0].Member == c.stay[i].name
	}, &seen)
}

// end looks whether every lock is still held and still waited for, and lets those who wait have their turn.
func (c *crossing) end() {
	t := c.fleet.t
	t.Helper()
	for i, m := range c.stay {
		if a := m.call(command{Do: "held", Key: c.key(m), Timeout: patience}); a.Error != "" {
			t.Errorf("%s lost %q: %s", m.id, c.key(m), a.Error)
		}
		select {
		case a := <-c.waits[i]:
			t.Fatalf("%s waits no longer for %q, which is held: fence %d, %q", m.id, c.key(c.before(i)), a.Fence, a.Error)
		default:
		}
		c.waited(i)
	}
	for _, m := range c.stay {
		m.must(command{Do: "unlock", Key: c.key(m)})
	}
	for i, m := range c.stay {
		key, last := c.key(c.before(i)), c.fences[(i+len(c.stay)-1)%len(c.stay)]
		select {
		case a := <-c.waits[i]:
			if a.Error != "" || a.Fence <= last {
				t.Errorf("%s gets %q after fence %d: fence %d, %q", m.id, key, last, a.Fence, a.Error)
			}
		case <-time.After(patience):
			t.Fatalf("%s does not get %q", m.id, key)
		}
		m.must(command{Do: "unlock", Key: key})
	}
}
