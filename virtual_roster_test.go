package distlock

import (
	"context"
	"testing"
	"time"
)

// A voter that lags by the entry that gave another its seat must vote for that one all the same: when the leader is gone nobody else has
// all entries.
func TestVirtualVoterThatLagsVotesForOneItDoesNotKnow(t *testing.T) {
	virtual(t, 5, func(w *world) {
		w.add(3, restarts)
		w.startVoters(3)
		leader := w.leader()
		lagging, again := w.others(leader)[0], w.others(leader)[1]
		again.crash()
		if err := again.join(context.Background()); err != nil {
			w.fatalf("join: %v", err)
		}
		w.within(10*time.Second, "it runs Raft", again.cluster().node.RunsRaft)
		time.Sleep(100 * time.Millisecond) // it is a nonvoter by now, and promoted at the next look
		w.net.Isolate(lagging.ip)
		w.within(10*time.Second, "it votes", func() bool { return again.cluster().Status().Role == Voter })
		time.Sleep(10 * time.Millisecond)
		held := again.lock("k")
		leader.crash()
		w.net.HealAll()
		next := w.leader(again, lagging)
		if next != again {
			w.errorf("%s leads and has not all entries", next.cfg.Name)
		}
		if err := lagging.cluster().CheckFence(w.until(5*time.Second), "k", held.Fence()); err != nil {
			w.errorf("the grant that was acknowledged: %v", err)
		}
	})
}
