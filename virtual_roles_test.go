package distlock

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// The roles of a cluster's processes, and how they follow those that come and go.

// roles counts the living members by role, as m sees them.
func (m *member) roles() (voters, standbys, clients int) {
	for _, o := range m.cluster().Status().Members {
		if o.State != Alive && o.State != Suspect {
			continue
		}
		switch o.Role {
		case Voter:
			voters++
		case Standby:
			standbys++
		default:
			clients++
		}
	}
	return voters, standbys, clients
}

// sees is what m says of another.
func (m *member) sees(o *member) Member {
	for _, s := range m.cluster().Status().Members {
		if s.Name == o.cfg.Name {
			return s
		}
	}
	return Member{}
}

// haveRoles waits until every running member sees so many of each role alive.
func (w *world) haveRoles(limit time.Duration, voters, standbys, clients int) time.Duration {
	w.t.Helper()
	return w.within(limit, fmt.Sprintf("all see %d voters, %d standbys, %d clients", voters, standbys, clients), func() bool {
		for _, m := range w.running() {
			if v, s, c := m.roles(); v != voters || s != standbys || c != clients {
				return false
			}
		}
		return true
	})
}

// ready asks /readyz.
func (m *member) ready() (int, string) {
	answer := httptest.NewRecorder()
	m.cluster().Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	return answer.Code, answer.Body.String()
}

// Of seven processes three vote, two stand by and the others are clients without Raft; one that may not vote is a client whatever is missing.
func TestVirtualRoles(t *testing.T) {
	virtual(t, 3, func(w *world) {
		w.add(2, func(m *member) { m.cfg.NoVote = true })
		w.add(5, restarts)
		w.start()
		w.haveRoles(30*time.Second, 3, 2, 2)
		for i, m := range w.members {
			if runs := m.cluster().node.RunsRaft(); i < 2 && (runs || m.cluster().Status().Role != Client) {
				w.errorf("%s may not vote, and is %s; Raft runs: %v", m.cfg.Name, m.cluster().Status().Role, runs)
			}
			if code, text := m.ready(); code != http.StatusOK {
				w.errorf("%s is settled, and /readyz says %d %s", m.cfg.Name, code, text)
			}
		}
	})
}

// A voter that is lost, and of which nothing proves that it is dead, is replaced by a standby within half a minute; a second one as well. What
// comes back is no voter any more, whoever it takes itself for, and disturbs nobody.
func TestVirtualALostVoterIsReplaced(t *testing.T) {
	virtual(t, 6, func(w *world) {
		w.add(6)
		w.start()
		w.haveRoles(30*time.Second, 3, 2, 1)
		held := w.leader().lock("held")
		for i := range 2 {
			var lost *member
			for _, m := range w.others(w.leader()) {
				if m.cluster().Status().Role == Voter {
					lost = m
				}
			}
			cut := w.rng.IntN(2) == 0
			if cut {
				w.note("cut off %s", lost.cfg.Name)
				w.net.Isolate(lost.ip)
			} else {
				w.note("crash %s", lost.cfg.Name)
				lost.crash()
			}
			rest := w.others(lost)
			took := w.within(30*time.Second, "a standby has its seat", func() bool {
				for _, m := range rest {
					if v, _, _ := m.roles(); v != 3 || m.sees(lost).Role == Voter {
						return false
					}
				}
				return true
			})
			if took < 15*time.Second {
				w.errorf("%s was replaced after %s: a process that restarts would be", lost.cfg.Name, took)
			}
			term := w.leader(rest...).cluster().node.Term()
			if cut {
				w.net.HealAll()
			} else if err := lost.join(context.Background()); err != nil {
				w.fatalf("join: %v", err)
			}
			w.haveRoles(60*time.Second, 3, 2, 1)
			w.within(10*time.Second, "who has no seat runs no Raft", func() bool {
				n := 0
				for _, m := range w.running() {
					if m.cluster().node.RunsRaft() {
						n++
					}
				}
				return n == 5
			})
			if now := w.leader().cluster().node.Term(); now != term {
				w.errorf("round %d: term %d after the return, %d before: it made an election", i, now, term)
			}
		}
		if err := held.Err(); err != nil {
			w.errorf("a lock of the leader was lost meanwhile: %v", err)
		}
		w.unlock(held)
		w.recovers(20 * time.Second)
	})
}

// A voter in memory that leaves is replaced before it goes: the others never see fewer voters than there were. The leader too.
func TestVirtualLeavingVotersAreReplacedFirst(t *testing.T) {
	virtual(t, 4, func(w *world) {
		w.add(6)
		w.start()
		w.haveRoles(30*time.Second, 3, 2, 1)
		for range 2 {
			leaver := w.leader()
			rest := w.others(leaver)
			held := rest[0].lock("held")
			began := time.Now()
			if err := leaver.leave(w.until(30 * time.Second)); err != nil {
				w.errorf("%s: %v", leaver.cfg.Name, err)
			}
			w.note("%s left in %s", leaver.cfg.Name, time.Since(began))
			next := w.leader(rest...)
			if v, _, _ := next.roles(); v != 3 {
				w.errorf("%d voters when %s has left", v, leaver.cfg.Name)
			}
			if err := held.Err(); err != nil {
				w.errorf("another's lock: %v", err)
			}
			w.unlock(held)
			if err := leaver.join(context.Background()); err != nil {
				w.fatalf("join: %v", err)
			}
			w.haveRoles(30*time.Second, 3, 2, 1)
		}
	})
}

// leave is Leave, after which the member's host has no process.
func (m *member) leave(ctx context.Context) error {
	err := m.cluster().Leave(ctx)
	m.mu.Lock()
	m.c = nil
	m.mu.Unlock()
	return err
}

// All leave at once: nobody waits for anybody, and all have ended within a second or two, whatever roles they have.
func TestVirtualAllLeaveAtOnce(t *testing.T) {
	for _, n := range []int{3, 6} {
		t.Run(fmt.Sprintf("%d members", n), func(t *testing.T) {
			virtual(t, 4, func(w *world) {
				w.add(n)
				w.start()
				w.haveRoles(30*time.Second, min(n, 3), max(0, min(n-3, 2)), max(0, n-5))
				began := time.Now()
				var wg sync.WaitGroup
				for _, m := range w.running() {
					apart := time.Duration(w.rng.Int64N(int64(50 * time.Millisecond)))
					wg.Go(func() {
						time.Sleep(apart)
						if err := m.leave(context.Background()); err != nil {
							w.errorf("%s: %v", m.cfg.Name, err)
						}
					})
				}
				wg.Wait()
				if took := time.Since(began); took > 5*time.Second {
					w.errorf("all left after %s", took)
				}
			})
		})
	}
}

// Where no majority is left there is nobody to give the slot, or the seat: who leaves is gone after a while all the same.
func TestVirtualLeaveWithoutAMajority(t *testing.T) {
	virtual(t, 3, func(w *world) {
		w.add(5, func(m *member) { m.cfg.Voters = 5 })
		w.startVoters(5)
		for _, m := range w.others(w.leader())[:3] {
			m.crash()
		}
		began := time.Now()
		err := w.running()[w.rng.IntN(2)].leave(context.Background())
		if !errors.Is(err, ErrNoQuorum) {
			w.errorf("it left with %v", err)
		}
		if took := time.Since(began); took > 30*time.Second {
			w.errorf("it left after %s", took)
		}
	})
}

// Voters that leave at the same time go one after the other, so that those who stay have a leader all the time: two of three, three of six.
func TestVirtualVotersLeaveInTurn(t *testing.T) {
	virtual(t, 6, func(w *world) {
		n := []int{3, 4, 6}[w.rng.IntN(3)]
		w.add(n)
		w.start()
		w.haveRoles(30*time.Second, 3, max(0, min(n-3, 2)), max(0, n-5))
		w.within(10*time.Second, "the log has the leaving slot", func() bool { return w.leader().cluster().node.HasSlot() })
		var going, staying []*member
		for _, m := range w.running() {
			if m.cluster().Status().Role == Voter && len(going) < min(n-1, 3) && (len(going) < 2 || n > 3) {
				going = append(going, m)
			} else {
				staying = append(staying, m)
			}
		}
		stop := make(chan struct{})
		var load sync.WaitGroup
		var worst time.Duration
		load.Go(func() { // ends with stop
			for {
				select {
				case <-stop:
					return
				default:
				}
				began := time.Now()
				w.unlock(staying[0].lock("load"))
				worst = max(worst, time.Since(began))
				time.Sleep(5 * time.Millisecond)
			}
		})
		var wg sync.WaitGroup
		for _, m := range going {
			wg.Go(func() {
				if err := m.leave(w.until(time.Minute)); err != nil {
					w.errorf("%s: %v", m.cfg.Name, err)
				}
			})
		}
		wg.Wait()
		close(stop)
		load.Wait()
		w.note("%d of %d left; the worst lock took %s", len(going), n, worst)
		if worst > time.Second {
			w.errorf("a lock took %s while voters left in turn", worst)
		}
		w.recovers(20 * time.Second)
	})
}

// The leaving slot has an end: of two voters on disk that leave at once the second goes too, though the first does not come back, and though it
// is the leader that is gone and another measures the time.
func TestVirtualTheLeavingSlotEnds(t *testing.T) {
	virtual(t, 2, func(w *world) {
		w.add(5, onDisk, func(m *member) { m.cfg.Voters = 5 })
		w.startVoters(5)
		w.within(10*time.Second, "the log has the leaving slot", func() bool { return w.leader().cluster().node.HasSlot() })
		first, second := w.leader(), w.others(w.leader())[0]
		if err := first.leave(w.until(time.Minute)); err != nil {
			w.errorf("the first: %v", err)
		}
		began := time.Now()
		if err := second.leave(w.until(time.Minute)); err != nil {
			w.errorf("the second: %v", err)
		}
		if took := time.Since(began); took < 10*time.Second || took > 25*time.Second {
			w.errorf("the second left after %s", took)
		}
		w.recovers(20 * time.Second)
	})
}

// Who has the slot can't keep it by asking for it again and again.
func TestVirtualTheLeavingSlotCannotBeKept(t *testing.T) {
	virtual(t, 2, func(w *world) {
		w.add(3)
		w.startVoters(3)
		w.within(10*time.Second, "the log has the leaving slot", func() bool { return w.leader().cluster().node.HasSlot() })
		keeps, waits := w.others(w.leader())[0], w.others(w.leader())[1]
		if err := keeps.cluster().node.TakeTurn(w.until(time.Minute)); err != nil {
			w.fatalf("the first: %v", err)
		}
		got := make(chan error, 1)
		go func() { got <- waits.cluster().node.TakeTurn(w.until(time.Minute)) }() // ends with the slot, or after a minute
		for began := time.Now(); ; time.Sleep(time.Second) {
			select {
			case err := <-got:
				if took := time.Since(began); err != nil || took < 10*time.Second {
					w.errorf("the second had its turn after %s: %v", took, err)
				}
				return
			default:
			}
			if time.Since(began) > 25*time.Second {
				w.fatalf("the first still has the slot after %s", time.Since(began))
			}
			short := w.until(100 * time.Millisecond)
			_ = keeps.cluster().node.TakeTurn(short) // it has it, or waits for it
		}
	})
}

// While a member is too old for the slot voters leave as they always did.
func TestVirtualLeaveWithoutASlot(t *testing.T) {
	virtual(t, 2, func(w *world) {
		w.add(1, func(m *member) { m.hooks.Format = 2 })
		w.add(3)
		w.start()
		w.haveRoles(30*time.Second, 3, 1, 0)
		if w.leader().cluster().node.HasSlot() {
			w.fatalf("the log has what a member can't read")
		}
		leaver := w.leader()
		if err := leaver.leave(w.until(30 * time.Second)); err != nil {
			w.errorf("%s: %v", leaver.cfg.Name, err)
		}
		w.haveRoles(30*time.Second, 3, 0, 0)
		w.recovers(20 * time.Second)
	})
}

// A leader that came back with NoVote, and is the only voter, gives its seat away and the leadership with it.
func TestVirtualALeaderThatMayNotVoteStepsAside(t *testing.T) {
	virtual(t, 2, func(w *world) {
		w.add(3, onDisk, func(m *member) { m.cfg.Voters = 1 })
		w.start()
		w.haveRoles(30*time.Second, 1, 2, 0)
		was := w.leader()
		was.crash()
		was.cfg.NoVote = true
		if err := was.join(context.Background()); err != nil {
			w.fatalf("join: %v", err)
		}
		w.within(30*time.Second, "another leads, and it is a client", func() bool {
			return w.leader() != was && was.cluster().Status().Role == Client && !was.cluster().node.RunsRaft()
		})
		w.haveRoles(30*time.Second, 1, 1, 1)
		w.recovers(20 * time.Second)
	})
}
