package distlock

import (
	"context"
	"testing"
	"time"
)

// Where no UDP gets through at all, members probe each other by streams and tell each other everything now and then: nobody counts as failed and
// no voter is removed. News take up to a minute then, and nothing waits for them: who leads is found by asking.
func TestVirtualNoUDP(t *testing.T) {
	for _, c := range []struct {
		name  string
		start bool // blocked before anybody starts
	}{{"from the beginning", true}, {"from the middle on", false}} {
		t.Run(c.name, func(t *testing.T) {
			virtual(t, 1, func(w *world) {
				if c.start {
					w.net.SetLosses(1)
				}
				w.add(3, restarts)
				began := time.Now()
				w.startVoters(3)
				w.note("figure: three voters after %s", time.Since(began))
				w.net.SetLosses(1)
				w.add(2)
				began = time.Now()
				w.start()
				clients := w.members[3:]
				w.note("figure: two clients joined after %s", time.Since(began))
				w.note("figure: everybody listed everywhere after %s", time.Since(began)+w.within(3*time.Minute, "everybody is listed", func() bool { return w.allAlive() == "" }))
				held := clients[0].lock("held")
				for range 6 {
					time.Sleep(10 * time.Second)
					if why := w.allAlive(); why != "" {
						w.errorf("%s", why)
					}
				}
				if n := w.seated(); n != 3 {
					w.errorf("%d voters are left", n)
				}

				leader := w.leader()
				leader.crash()
				crashed := time.Now()
				others := w.running()
				w.unlock(others[0].lock("at once"))
				w.note("figure: the next grant to a voter %s after the leader's crash", time.Since(crashed))
				w.unlock(clients[1].lock("at once"))
				took := time.Since(crashed)
				w.note("figure: the next grant to a client %s after the leader's crash", took)
				if took > 3*time.Second {
					w.errorf("the next grant came %s after the crash", took)
				}
				if err := leader.join(context.Background()); err != nil {
					w.fatalf("join: %v", err)
				}
				w.note("figure: it is back %s after the crash", time.Since(crashed))
				w.note("figure: three voters again after %s", time.Since(crashed)+w.within(time.Minute, "three voters again", func() bool { return w.seated() == 3 }))
				next := w.leader(others...)
				w.note("figure: the clients know the next leader after %s", time.Since(crashed)+w.within(2*time.Minute, "the clients know the next leader", func() bool {
					return clients[0].cluster().Status().Leader == next.cfg.Name && clients[1].cluster().Status().Leader == next.cfg.Name
				}))
				w.note("figure: everybody listed again after %s", time.Since(crashed)+w.within(2*time.Minute, "all are listed again", func() bool { return w.allAlive() == "" }))
				if held.Err() != nil {
					w.errorf("a lock was lost: %v", held.Err())
				}
				w.unlock(held)
				w.recovers(5 * time.Second)
			})
		})
	}
}

// allAlive says in whose eyes whom is missing or not alive; "" when all that run see all that run, and nobody counts as failed.
func (w *world) allAlive() string {
	for _, m := range w.running() {
		s := m.cluster().Status()
		alive := map[string]bool{}
		for _, o := range s.Members {
			if o.State != Alive && o.State != Suspect {
				return m.cfg.Name + " lists " + o.Name + " as " + string(o.State)
			}
			alive[o.Name] = true
		}
		for _, o := range w.running() {
			if !alive[o.cfg.Name] {
				return m.cfg.Name + " does not list " + o.cfg.Name
			}
		}
	}
	return ""
}
