//go:build unix

package proctest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var kindsLoad = load{Kinds: true, Workers: 3, Keys: 4, Hold: 3 * time.Millisecond, Rest: 2 * time.Millisecond}

// TestKindsUnderKills lets all members take locks of every kind, adopt and release each other's by their handles, and kills the leader,
// and now and then a follower; then it pauses leaders. In the end nothing is left.
func TestKindsUnderKills(t *testing.T) {
	beside(t)
	f := startFleet(t, 3, true, sessionTTL)
	f.voters(3)
	f.load(kindsLoad)
	var heirs []func()
	for round := range rounds(2, 20) {
		f.progress(50)
		victim := f.leader()
		if round%5 == 4 {
			victim = f.others(victim)[round/5%2]
		}
		keys := f.leaveBehind(victim, round)
		victim.kill()
		heirs = append(heirs, f.inherit(keys, victim))
		f.nextGrant(f.others(victim), round)
		f.start(victim)
		f.load(kindsLoad, victim)
	}
	for round := range rounds(1, 10) {
		f.progress(50)
		leader := f.leader()
		others := f.others(leader)
		leader.stop()
		f.nextGrant(others, 1000+round)
		if chaos { // until its session is lost
			f.inherit([]string{"session of " + leader.id}, leader)()
			f.progress(50)
		}
		leader.cont()
		f.leader()
	}
	for _, done := range heirs {
		done()
	}
	f.progress(50)
	f.rest()
	f.nothingLeft()
	f.verdict()
}

// leaveBehind lets a member that is about to die take what must not be anybody's for a while after it.
func (f *fleet) leaveBehind(m *member, round int) (keys []string) {
	f.t.Helper()
	for _, a := range []ask{{Cooldown: longCooldown}, {Detached: longTime}, {Shared: true, Cooldown: longCooldown}} {
		key := fmt.Sprintf("left-%d-%d", round, len(keys))
		m.must(command{Do: "keep", Key: key, Ask: &a})
		keys = append(keys, key)
	}
	return keys
}

// inherit lets another member than m take keys as soon as they are free. The answer waits until that is done.
func (f *fleet) inherit(keys []string, m *member) (done func()) {
	heirs := f.others(m)
	answers := make([]answer, len(keys))
	var takes sync.WaitGroup
	for i, key := range keys {
		heir := heirs[i%len(heirs)].life
		takes.Go(func() { answers[i] = heir.call(command{Do: "take", Key: key, Timeout: patience}) })
	}
	return func() {
		f.t.Helper()
		takes.Wait()
		for i, a := range answers {
			if a.Error != "" && !slices.Contains(a.Is, dead) { // one that was killed itself has no heirs
				f.t.Errorf("%s by one that inherits it: %s", keys[i], a.Error)
			}
		}
	}
}

// nothingLeft waits until all times and cooldowns have run out: then the members' locks for their sessions are all that there is.
func (f *fleet) nothingLeft() {
	f.t.Helper()
	n := len(f.members)
	var seen []string
	f.until("nothing but the locks for the sessions", func() bool {
		st := f.members[0].must(command{Do: "stats"}).Stats
		seen = []string{fmt.Sprintf("%+v", *st)}
		locks := f.members[1].must(command{Do: "locks"}).Locks
		for _, l := range locks {
			seen = append(seen, fmt.Sprintf("%+v", l))
			if !strings.HasPrefix(l.Key, "session of ") {
				return false
			}
		}
		return len(locks) == n && st.Keys == n && st.Holders == n && st.Waiters == 0 && st.Sessions == n &&
			st.Grants == st.Releases+st.Expirations+uint64(n)
	}, &seen)
}
