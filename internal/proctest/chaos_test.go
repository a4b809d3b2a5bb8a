//go:build unix

package proctest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv(memberEnv) != "" {
		runMember(os.Stdin, os.Stdout)
		os.Exit(0)
	}
	if os.Getenv(burnEnv) != "" {
		burnUntil(os.Stdin)
		os.Exit(0)
	}
	os.Exit(run(m))
}

// run runs the tests.
var run = (*testing.M).Run

// chaos makes the runs long.
var chaos = os.Getenv("DISTLOCK_CHAOS") != ""

func rounds(short, long int) int {
	if chaos {
		return long
	}
	return short
}

// beside lets a short run go on beside others: it mostly waits. A long one has the machine for itself, since it measures.
func beside(t *testing.T) {
	if !chaos {
		t.Parallel()
	}
}

// sessionTTL is the least there is in a long run, which has the machine for itself. A short one shares processors and disk with the
// tests of other packages, and must not lose sessions to them.
var sessionTTL = time.Duration(rounds(4, 2)) * time.Second

var someLoad = load{Workers: 3, Keys: 3, Hold: 2 * time.Millisecond, Rest: 2 * time.Millisecond}

// failoverGoal is what the median has to reach; a short run beside other tests says too little.
const failoverGoal = 1200 * time.Millisecond

// TestKilled kills the leader, and now and then a follower, under load, and brings the process back each time.
func TestKilled(t *testing.T) {
	beside(t)
	f := startFleet(t, 3, true, sessionTTL)
	f.voters(3)
	f.load(someLoad)
	var failovers []time.Duration
	for round := range rounds(2, 50) {
		f.progress(50)
		leader := f.leader()
		at := leader.kill()
		failovers = append(failovers, time.Duration(f.nextGrant(f.others(leader), round)-at))
		f.comeBack(leader)

		if round%5 == 1 {
			follower := f.others(f.leader())[round%2]
			follower.kill()
			f.progress(50)
			f.comeBack(follower)
		}
	}
	f.progress(50)
	f.rest()
	f.verdict()
	report(t, "SIGKILL of the leader to the next grant", failovers)
}

// TestPausedLeader stops the leader until its session has run out, under load, and wakes it.
func TestPausedLeader(t *testing.T) {
	beside(t)
	f := startFleet(t, 3, true, sessionTTL)
	f.voters(3)
	f.load(someLoad)
	var failovers []time.Duration
	for round := range rounds(2, 50) {
		f.progress(50)
		leader := f.leader()
		others := f.others(leader)
		key := fmt.Sprintf("slept-%d", round)
		old := leader.must(command{Do: "lock", Key: key}).Fence
		at := leader.stop()
		failovers = append(failovers, time.Duration(f.nextGrant(others, round)-at))
		next := others[0].must(command{Do: "lock", Key: key}) // once the session of the paused process has run out
		if next.Fence <= old {
			t.Errorf("fence %d after %d", next.Fence, old)
		}
		if after := time.Duration(next.At - at); after < sessionTTL/2 {
			t.Errorf("%s was granted %v after its holder was paused: its Done may be open still", key, after)
		}
		leader.cont()
		f.leader()
		if a := leader.call(command{Do: "unlock", Key: key, Timeout: patience}); !slices.Contains(a.Is, "ErrNotHeld") {
			t.Errorf("unlock of what was lost asleep: %q", a.Error)
		}
		if a := leader.call(command{Do: "held", Key: key}); !slices.Contains(a.Is, "ErrSessionLost") {
			t.Errorf("a lock that was lost asleep ended with %q", a.Error)
		}
		others[0].must(command{Do: "unlock", Key: key})
	}
	f.progress(50)
	f.rest()
	f.verdict()
	report(t, "SIGSTOP of the leader to the next grant", failovers)
}

// TestAllKilled kills all processes at once and restarts them on their directories: what was acknowledged is there until its process's
// session is closed, what was released is free, and new fences are greater.
func TestAllKilled(t *testing.T) {
	beside(t)
	const keys = 5
	f := startFleet(t, 3, true, time.Minute) // no session runs out while the processes are dead
	for round := range rounds(1, 10) {
		f.load(someLoad)
		var greatest uint64
		fences := make(map[string]uint64)
		for _, m := range f.members {
			for i := range keys {
				key := fmt.Sprintf("held-%d/%s/%d", round, m.name, i)
				fences[key] = m.must(command{Do: "lock", Key: key}).Fence
				greatest = max(greatest, fences[key])

				freed := fmt.Sprintf("freed-%d/%s/%d", round, m.name, i)
				m.must(command{Do: "lock", Key: freed})
				m.must(command{Do: "unlock", Key: freed})
			}
		}
		f.progress(50)
		var kills sync.WaitGroup
		for _, m := range f.members {
			kills.Go(func() { m.kill() })
		}
		kills.Wait()
		f.mu.Lock()
		for id := range f.holds {
			greatest = max(greatest, id.fence)
		}
		f.mu.Unlock()

		late := f.members[round%3]
		early := f.others(late)
		f.start(early...)
		held := fmt.Sprintf("held-%d/", round)
		var found int
		for _, l := range early[0].must(command{Do: "locks"}).Locks {
			switch {
			case strings.HasPrefix(l.Key, "freed-"):
				t.Errorf("%s was released and is held: %+v", l.Key, l.Holders)
			case !strings.HasPrefix(l.Key, held):
			case len(l.Holders) != 1 || l.Holders[0].Member != late.name || uint64(l.Holders[0].Fence) != fences[l.Key]:
				t.Errorf("%s was given to %s with fence %d, now it is %+v", l.Key, late.name, fences[l.Key], l.Holders)
			default:
				found++
			}
		}
		if found != keys {
			t.Errorf("%d of %d locks of the process that is still dead were found", found, keys)
		}
		if a := early[1].call(command{Do: "trylock", Key: held + late.name + "/0", Timeout: patience}); !slices.Contains(a.Is, "ErrHeld") {
			t.Errorf("a dead process's lock was tried: fence %d, %q", a.Fence, a.Error)
		}
		f.start(late)
		for key := range fences {
			a := early[0].must(command{Do: "lock", Key: key})
			if a.Fence <= greatest {
				t.Errorf("%s has fence %d, but %d was given before the restart", key, a.Fence, greatest)
			}
			early[0].must(command{Do: "unlock", Key: key})
		}
	}
	f.verdict()
}

// TestMemoryVotersRestart kills voters that keep all in memory and restarts them at once on their old ports, under load: they are
// newcomers, whoever answered there before.
func TestMemoryVotersRestart(t *testing.T) {
	beside(t)
	f := startFleet(t, 3, false, sessionTTL)
	f.load(someLoad)
	for round := range rounds(3, 30) {
		f.voters(3)
		f.progress(50)
		victim := f.leader()
		if round%2 == 0 {
			victim = f.others(victim)[round/2%2]
		}
		victim.kill()
		f.comeBack(victim)
	}
	f.progress(50)
	f.rest()
	f.verdict()
}

// TestNobodyVotesForItsPredecessor: a voter that missed a grant and one that lost its memory of it are no majority, even where the
// latter listens on its predecessor's port.
func TestNobodyVotesForItsPredecessor(t *testing.T) {
	beside(t)
	const key = "precious"
	f := startFleet(t, 4, false, 10*time.Second)
	f.voters(3)
	leader := f.leader()
	client := f.client()
	rest := slices.DeleteFunc(f.others(leader), func(m *member) bool { return m == client })
	missed, forgot := rest[0], rest[1]
	if client == leader {
		t.Fatalf("%s leads and is no voter", leader.id)
	}

	missed.stop()
	precious := client.must(command{Do: "lock", Key: key}).Fence // the leader's log has it, and forgot's
	forgot.kill()
	leader.stop()
	missed.cont()
	back := f.spawn(forgot)
	if a := missed.call(command{Do: "trylock", Key: key, Timeout: 5 * time.Second}); !slices.Contains(a.Is, "DeadlineExceeded") {
		t.Errorf("without a majority %s answers: fence %d, %q", missed.id, a.Fence, a.Error)
	}
	leader.cont()
	if err := back(); err != nil {
		t.Fatal(err)
	}
	f.leader()
	if a := client.call(command{Do: "held", Key: key}); a.Error != "" {
		t.Errorf("the lock ended: %s", a.Error)
	}
	for _, m := range []*member{leader, missed, forgot} {
		if a := m.call(command{Do: "trylock", Key: key, Timeout: patience}); !slices.Contains(a.Is, "ErrHeld") {
			t.Errorf("%s gets a lock that is held: fence %d, %q", m.id, a.Fence, a.Error)
		}
	}
	client.must(command{Do: "unlock", Key: key})
	if a := missed.must(command{Do: "lock", Key: key}); a.Fence <= precious {
		t.Errorf("fence %d after %d", a.Fence, precious)
	}
	f.verdict()
}

// nextGrant lets each of members lock a key that is free, and answers when the first one had it.
func (f *fleet) nextGrant(members []*member, round int) (first instant) {
	f.t.Helper()
	answers := make([]answer, len(members))
	var asks sync.WaitGroup
	for i, m := range members {
		key := fmt.Sprintf("fresh-%d-%s", round, m.name)
		asks.Go(func() {
			answers[i] = m.call(command{Do: "lock", Key: key, Timeout: patience})
			m.call(command{Do: "unlock", Key: key, Timeout: patience})
		})
	}
	asks.Wait()
	first = never
	for i, a := range answers {
		if a.Error != "" {
			f.t.Fatalf("%s locks after the leader's end: %s", members[i].id, a.Error)
		}
		first = min(first, a.At)
	}
	return first
}

// comeBack starts a member that was killed, and its load.
func (f *fleet) comeBack(m *member) {
	f.t.Helper()
	f.start(m)
	f.load(someLoad, m)
}

func report(t *testing.T, what string, took []time.Duration) {
	t.Helper()
	slices.Sort(took)
	median := took[len(took)/2]
	t.Logf("%s: median of %d is %v, least %v, most %v", what, len(took), median, took[0], took[len(took)-1])
	if chaos && median > failoverGoal {
		t.Errorf("the median should be at most %v", failoverGoal)
	}
}
