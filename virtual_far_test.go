package distlock

import (
	"fmt"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// apart makes every round trip between one of some and one of others take rtt.
func (w *world) apart(some, others []*member, rtt time.Duration) {
	for _, a := range some {
		for _, b := range others {
			w.net.SetDelay(a.ip, b.ip, rtt/2, 0)
			w.net.SetDelay(b.ip, a.ip, rtt/2, 0)
		}
	}
}

// A process far from the leader is answered by it after three round trips, which may be more than a round of the search takes: it joins nevertheless,
// comes back when its connection breaks, and is told that its role is settled. That somebody near says at once who leads, or that the leader has
// been reached when the round is over, must not make each round end as the one before.
func TestVirtualFarFromTheLeader(t *testing.T) {
	for _, shape := range []struct {
		name string
		rtts []time.Duration
		near int // voters that are near the client, and as far from the others
	}{
		{"from all voters", []time.Duration{80 * time.Millisecond, 120 * time.Millisecond, 140 * time.Millisecond, 200 * time.Millisecond, 280 * time.Millisecond}, 0},
		{"near one that knows", []time.Duration{120 * time.Millisecond, 160 * time.Millisecond, 200 * time.Millisecond}, 1}, // farther, it would elect itself
	} {
		for _, rtt := range shape.rtts {
			t.Run(fmt.Sprintf("%s, %s", shape.name, rtt), func(t *testing.T) {
				virtual(t, 2, func(w *world) {
					w.add(3)
					w.startVoters(3)
					leader := w.leader()
					w.add(1)
					client := w.members[3]
					client.cfg.JoinTimeout, client.cfg.SessionTTL = 10*time.Second, 5*time.Second
					near := append(w.others(leader)[:shape.near:shape.near], client)
					far := append(w.others(leader)[shape.near:], leader)
					w.apart(near, far, rtt)
					began := time.Now()
					w.start()
					joined := time.Since(began)
					w.unlock(client.lock("far"))
					w.within(5*time.Second, "its role is settled", func() bool { return client.cluster().settled(w.until(time.Minute)) == nil })
					for range 3 {
						w.unlock(client.lock("far"))
						loss := w.net.LoseRequests(client.ip, leader.ip, wire.KindCall, 0)
						w.unlock(client.lock("breaks it"))
						<-loss.Done()
					}
					w.note("figure: joined after %s", joined)
					if joined > 5*time.Second || client.cluster().sessions.Losses() != 0 {
						w.errorf("joined after %s, and lost %d sessions", joined, client.cluster().sessions.Losses())
					}
					if w.leader() != leader {
						w.errorf("there was an election")
					}
				})
			})
		}
	}
}
