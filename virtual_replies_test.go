package distlock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/simnet"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// breaker spoils what is written on call streams from or to one host: from the write at on, so many.
type breaker struct {
	ip     string
	at     int64
	many   int64
	spoil  func(simnet.Write) (int, simnet.Fate)
	writes atomic.Int64
}

func (b *breaker) tap(x simnet.Write) (int, simnet.Fate) {
	if x.Kind != wire.KindCall || x.From != b.ip && x.To != b.ip {
		return 0, simnet.Deliver
	}
	if n := b.writes.Add(1) - 1; n >= b.at && n < b.at+b.many {
		return b.spoil(x)
	}
	return 0, simnet.Deliver
}

// A process joins, locks, renews its session, unlocks and leaves, and one of the writes of this conversation is lost, or arrives and its stream
// breaks, at every step of it, once or several times in a row: one grant with one fence, and nothing is left. Nobody else locks, so that a
// second grant would show in the next fence.
func TestVirtualRepliesLostAtEveryStep(t *testing.T) {
	for name, spoil := range map[string]func(simnet.Write) (int, simnet.Fate){
		"lost":                  func(simnet.Write) (int, simnet.Fate) { return 0, simnet.Lose },
		"lost with its stream":  func(simnet.Write) (int, simnet.Fate) { return 0, simnet.Reset },
		"cut in the middle":     func(x simnet.Write) (int, simnet.Fate) { return len(x.Data) / 2, simnet.Reset },
		"the stream then broke": func(x simnet.Write) (int, simnet.Fate) { return len(x.Data), simnet.Reset },
	} {
		for _, many := range []int64{1, 3} {
			t.Run(fmt.Sprintf("%s, %d times", name, many), func(t *testing.T) {
				t.Parallel()
				inBubble(t, 1, func(w *world) {
					w.add(3)
					w.startVoters(3)
					w.add(1, restarts)
					guest, leader := w.members[3], w.leader()
					last := leader.lock("before")
					w.unlock(last)
					fence := last.Fence()
					steps, next := int64(0), int64(1)
					if underRace {
						next = 3 // the others are spoilt without the race detector
					}
					for at, spoilt := int64(0), true; spoilt; at += next {
						b := &breaker{ip: guest.ip, at: at, many: many, spoil: spoil}
						w.net.Tap(b.tap)
						w.note("write %d is %s", at, name)
						if err := guest.join(context.Background()); err != nil {
							w.fatalf("write %d: join: %v", at, err)
						}
						l := guest.lock("k")
						if l.Fence() != fence+1 {
							w.fatalf("write %d: fence %d after %d: there was a grant that nobody saw", at, l.Fence(), fence)
						}
						fence = l.Fence()
						time.Sleep(700 * time.Millisecond) // two renewals
						if err := leader.cluster().CheckFence(w.until(time.Minute), "k", fence); err != nil && l.Err() == nil {
							w.errorf("write %d: the grant that is held: %v", at, err)
						}
						if err := l.Unlock(w.until(10 * time.Second)); err != nil && !errors.Is(err, ErrSessionLost) {
							w.fatalf("write %d: unlock: %v", at, err)
						}
						w.nothingHeld(leader, fmt.Sprintf("write %d", at))
						if err := guest.cluster().Leave(w.until(10 * time.Second)); err != nil {
							w.fatalf("write %d: leave: %v", at, err)
						}
						guest.crash()
						w.net.Tap(nil)
						spoilt = b.writes.Load() > at
						steps = b.writes.Load()
						if at > 200 {
							w.fatalf("the conversation has no end: %d writes", steps)
						}
					}
					if guest := w.members[3]; steps < 10 {
						w.errorf("only %d writes from and to %s", steps, guest.cfg.Name)
					}
					w.t.Logf("a conversation of %d writes", steps)
				})
			})
		}
	}
}

// nothingHeld asks from to list all keys, of which there must be none.
func (w *world) nothingHeld(from *member, when string) {
	w.t.Helper()
	infos, err := from.cluster().Locks(w.until(20*time.Second), "")
	if err != nil || len(infos) > 0 {
		w.fatalf("%s: left behind: %+v %v", when, infos, err)
	}
}

// step is one kind of operation, as the entry that has it says.
type step struct {
	name string
	is   func(session uint64, r *raftfsm.Result) bool
}

func outcome(kind wire.OutcomeKind) func(uint64, *raftfsm.Result) bool {
	return func(session uint64, r *raftfsm.Result) bool {
		for _, o := range r.Outcomes {
			if o.Session == session && o.Kind == kind {
				return true
			}
		}
		return false
	}
}

// The leader is cut off, frozen or dead in the moment in which it has committed an entry and nobody has heard of it: when a session is
// created, when a lock is granted, when it is released. It happens to the next leader too, and to the one after. One grant, one fence.
func TestVirtualLeaderLostBetweenCommitAndAnswer(t *testing.T) {
	created := step{"create", func(_ uint64, r *raftfsm.Result) bool { return len(r.Created) > 0 }}
	granted := step{"grant", outcome(wire.OutGranted)}
	ended := step{"release", outcome(wire.OutEnded)}
	for _, s := range []step{created, granted, ended} {
		for _, how := range []string{"isolated", "frozen", "closed"} {
			t.Run(s.name+", "+how, func(t *testing.T) {
				virtual(t, 3, func(w *world) {
					var mu sync.Mutex // guards what follows
					armed, struck := 0, []*member(nil)
					strike := func(m *member, r *raftfsm.Result) {
						mu.Lock()
						defer mu.Unlock()
						c := m.cluster()
						if armed == 0 || c == nil || c.Status().Leader != m.cfg.Name {
							return
						}
						guest := uint64(0)
						if g := w.members[len(w.members)-1].cluster(); g != nil {
							guest = g.sessions.Session()
						}
						if !s.is(guest, r) {
							return
						}
						armed--
						w.note("%s: strike %s at entry %d", s.name, m.cfg.Name, r.Index)
						struck = append(struck, m)
						switch how {
						case "isolated":
							w.net.Isolate(m.ip)
						case "frozen":
							w.net.Freeze(m.ip)
						default:
							m.unplug()
						}
					}
					long := func(m *member) { m.cfg.SessionTTL = 10 * time.Second } // longer than several elections
					w.add(5, restarts, long, whenApplied(strike), func(m *member) { m.cfg.Voters = 5 })
					w.startVoters(5)
					w.add(1, restarts, long)
					guest := w.members[5]
					first := w.leader().lock("first")
					w.unlock(first)
					arm := func(n int) {
						mu.Lock()
						defer mu.Unlock()
						armed = n
					}
					times := 2 // of 5 voters
					if s.name == created.name {
						arm(times)
					}
					if err := guest.join(context.Background()); err != nil {
						w.fatalf("join: %v", err)
					}
					if s.name == granted.name {
						arm(times)
					}
					l := guest.lock("k")
					if l.Fence() != first.Fence()+1 {
						w.errorf("fence %d after %d", l.Fence(), first.Fence())
					}
					if s.name == ended.name {
						arm(times)
					}
					time.Sleep(time.Second)
					if l.Err() != nil {
						w.fatalf("the lock was lost: %v", l.Err())
					}
					if err := l.Unlock(w.until(10 * time.Second)); err != nil {
						w.fatalf("unlock: %v", err)
					}
					mu.Lock()
					hit := struck
					armed = 0
					mu.Unlock()
					if len(hit) == 0 {
						w.fatalf("no leader was struck")
					}
					w.nothingHeld(guest, "after the unlock")
					next := guest.lock("k")
					if next.Fence() != l.Fence()+1 {
						w.errorf("fence %d after %d", next.Fence(), l.Fence())
					}
					for _, m := range hit {
						if how == "closed" {
							m.crash()
							w.within(time.Minute, "a majority lives", func() bool { return m.join(context.Background()) == nil })
						}
						w.net.Thaw(m.ip)
					}
					w.net.HealAll()
					time.Sleep(2 * time.Second)
					if next.Err() != nil {
						w.errorf("the lock was lost: %v", next.Err())
					}
					w.unlock(next)
					w.recovers(10 * time.Second)
					w.t.Logf("%d leaders struck", len(hit))
				})
			})
		}
	}
}
