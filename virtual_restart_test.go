package distlock

import (
	"testing"
	"time"
)

// A follower that was away for long is back, ready by its own word, and the other one dies: the leader needs the one that is back at once.
func TestVirtualFollowerThatIsBackCounts(t *testing.T) {
	virtual(t, 4, func(w *world) {
		w.add(3)
		w.startVoters(3)
		leader := w.leader()
		back, dies := w.others(leader)[0], w.others(leader)[1]
		held := leader.lock("held")
		w.net.Isolate(back.ip)
		time.Sleep(time.Duration(5+w.rng.IntN(60)) * time.Second)
		w.net.HealAll()
		took := w.within(5*time.Second, "it is ready", func() bool { return back.cluster().Status().Ready })
		w.note("ready %s after the heal", took)
		pauseFor(w.rng, 300*time.Millisecond)
		dies.crash()
		died := time.Now()
		l := back.lock("k")
		took = time.Since(died)
		w.t.Logf("granted %s after the death of the other follower", took)
		if took > 1500*time.Millisecond {
			w.errorf("granted only %s after the death of the other follower", took)
		}
		if held.Err() != nil {
			w.errorf("the leader lost its session: %v", held.Err())
		}
		w.unlock(l)
	})
}
