//go:build unix

package proctest

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// oldMemberEnv names a test binary of this package of an earlier commit, whose processes know an earlier format of the log: make
// rolling-versions builds one.
const oldMemberEnv = "DISTLOCK_OLD_MEMBER"

// TestRollingVersions replaces the processes of an earlier commit one by one by those of this one. Where there are none it looks at
// what both have to understand.
func TestRollingVersions(t *testing.T) {
	old := os.Getenv(oldMemberEnv)
	if old == "" {
		olderProtocol(t)
		return
	}
	t.Run("durable", func(t *testing.T) { rollForward(t, startOld(t, old, 3, true), false) })
	t.Run("memory", func(t *testing.T) { rollForward(t, startOld(t, old, 4, false), true) })
	t.Run("and back", func(t *testing.T) { rollBack(t, startOld(t, old, 3, true)) })
	t.Run("and back in memory", func(t *testing.T) { rollBack(t, startOld(t, old, 4, false)) })
}

// rolling is a fleet in the middle of an update. Each member holds a key of its own, and waits for that of the member before it.
type rolling struct {
	*fleet
	t       *testing.T
	old     string          // the binary of the earlier commit
	updated map[string]bool // by name
	kinds   bool            // the earlier commit knows all kinds of locks
	fences  map[string]uint64
	waits   map[string]chan answer // by the name of who waits
}

// rollingTTL outlasts the pause that moves the leadership, however long that takes to get about.
const rollingTTL = time.Minute

func startOld(t *testing.T, old string, n int, durable bool) *rolling {
	t.Helper()
	r := &rolling{
		fleet: newFleet(t, n, durable, rollingTTL), t: t, old: old, updated: make(map[string]bool), fences: make(map[string]uint64),
		waits: make(map[string]chan answer),
	}
	for _, m := range r.members {
		m.exe = old
	}
	r.start(r.members...)
	r.leader()
	r.voters(3)
	r.kinds = r.shares()
	for _, m := range r.members {
		r.hold(m)
	}
	for _, m := range r.members {
		r.wait(m)
	}
	r.load(someLoad)
	r.progress(50)
	return r
}

// rollForward updates all. With leaderSoon the second one is the leader, who hands over to whoever it likes; else it stays until the end.
func rollForward(t *testing.T, r *rolling, leaderSoon bool) {
	for len(r.updated) < len(r.members) {
		leader := r.leader()
		left := slices.DeleteFunc(slices.Clone(r.members), func(m *member) bool { return r.updated[m.name] })
		next := left[0]
		if (next == leader) != (leaderSoon && len(r.updated) == 1) && len(left) > 1 {
			next = left[1]
		}
		if len(left) == 1 { // an old one under a leader that was updated
			r.leadBut(next)
			r.bothWays()
			r.refused()
		}
		r.replace(next, r.members[0].ownExe())
		if r.updated[next.name] = true; len(left) > 1 {
			r.bothWays()
			r.refused()
		}
	}
	r.served()
	r.rest()
	r.load(kindsLoad)
	r.progress(300)
	r.finish()
	r.nothingLeft()
}

// rollBack updates one that does not lead and puts the old one back: nothing was written that it can't read.
func rollBack(t *testing.T, r *rolling) {
	m := r.others(r.leader())[0]
	own := m.ownExe()
	r.replace(m, own)
	r.updated[m.name] = true
	r.bothWays()
	r.refused()
	r.replace(m, r.old)
	delete(r.updated, m.name)
	r.bothWays()
	r.finish()
}

// ownExe is the binary that runs.
func (m *member) ownExe() string {
	m.fleet.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		m.fleet.t.Fatal(err)
	}
	return exe
}

func heldBy(m *member) string { return "held by " + m.name }

// before is the member whose key m waits for, after the one who waits for m's.
func (r *rolling) before(m *member) *member {
	return r.members[(slices.Index(r.members, m)+len(r.members)-1)%len(r.members)]
}
func (r *rolling) after(m *member) *member {
	return r.members[(slices.Index(r.members, m)+1)%len(r.members)]
}

func (r *rolling) hold(m *member) {
	r.t.Helper()
	r.fences[m.name] = m.must(command{Do: "lock", Key: heldBy(m)}).Fence
}

// wait begins to wait for the key of the member before m.
func (r *rolling) wait(m *member) {
	r.t.Helper()
	to, l, key := make(chan answer, 1), m.life, heldBy(r.before(m))
	r.waits[m.name] = to
	go func() { to <- l.call(command{Do: "lock", Key: key, Timeout: 10 * time.Minute}) }() // ends with the process
	var seen []string
	r.until(m.name+" waits for "+key, func() bool {
		locks := m.must(command{Do: "locks", Key: key}).Locks
		seen = []string{fmt.Sprintf("%+v", locks)}
		return len(locks) == 1 && len(locks[0].Waiters) == 1
	}, &seen)
}

// yield unlocks m's key: who waits for it gets it and gives it back.
func (r *rolling) yield(m *member) {
	r.t.Helper()
	m.must(command{Do: "unlock", Key: heldBy(m)})
	heir := r.after(m)
	select {
	case a := <-r.waits[heir.name]:
		if a.Error != "" || a.Fence <= r.fences[m.name] {
			r.t.Errorf("%s gets %s after fence %d: fence %d, %q", heir.id, heldBy(m), r.fences[m.name], a.Fence, a.Error)
		}
	case <-time.After(patience):
		r.t.Fatalf("%s does not get %s", heir.id, heldBy(m))
	}
	heir.must(command{Do: "unlock", Key: heldBy(m)})
}

// replace lets m's process leave, as an orchestrator would, and starts another binary in its place.
func (r *rolling) replace(m *member, exe string) {
	r.t.Helper()
	m.must(command{Do: "rest", Timeout: patience})
	r.yield(m)
	m.leave()
	if a := <-r.waits[m.name]; a.Error == "" {
		r.t.Errorf("%s got %s while it left", m.id, heldBy(r.before(m)))
	}
	r.stillHeld(m, 0)
	m.exe = exe
	r.start(m)
	r.leader()
	r.voters(3)
	r.hold(m)
	r.wait(r.after(m))
	r.wait(m)
	r.stillHeld(nil, 1)
	r.load(someLoad, m)
	r.progress(50)
}

// leave ends the member's process gracefully. One of an earlier commit has a lock that it does not let go of, for which it waits.
func (m *member) leave() {
	m.fleet.t.Helper()
	m.life.mu.Lock()
	m.leaving = true
	m.life.mu.Unlock()
	a := m.call(command{Do: "leave", Timeout: 500 * time.Millisecond})
	if a.Error != "" && !slices.Contains(a.Is, "DeadlineExceeded") {
		m.fleet.t.Errorf("%s leaves: %s", m.id, a.Error)
	}
	m.bury()
}

// stillHeld looks whether all but m have their locks, and others wait for them, but for those that m did, or does not know.
func (r *rolling) stillHeld(m *member, waiters int) {
	r.t.Helper()
	for _, o := range r.members {
		if o == m {
			continue
		}
		if a := o.must(command{Do: "held", Key: heldBy(o)}); a.Error != "" {
			r.t.Errorf("%s lost its lock: %s", o.id, a.Error)
		}
		locks := o.must(command{Do: "locks", Key: heldBy(o)}).Locks
		if len(locks) != 1 || len(locks[0].Holders) != 1 || uint64(locks[0].Holders[0].Fence) != r.fences[o.name] || len(locks[0].Waiters) < waiters {
			r.t.Errorf("%s has fence %d and should be waited for: %+v", o.id, r.fences[o.name], locks)
		}
		w := r.after(o)
		if w == m {
			continue
		}
		select {
		case a := <-r.waits[w.name]:
			r.t.Errorf("%s waited for %s and has fence %d, %q", w.id, heldBy(o), a.Fence, a.Error)
		default:
		}
	}
}

// leadBut makes somebody else than m lead.
func (r *rolling) leadBut(m *member) {
	r.t.Helper()
	if r.leader() != m {
		return
	}
	m.stop()
	r.leader(r.others(m)...)
	m.cont()
	if l := r.leader(); l == m {
		r.t.Fatalf("%s leads again", m.id)
	}
	r.stillHeld(nil, 1)
}

// bothWays locks between members of both commits.
func (r *rolling) bothWays() {
	r.t.Helper()
	for _, a := range r.members {
		b := r.after(a)
		key := "between " + a.name + " and " + b.name
		first := a.must(command{Do: "lock", Key: key}).Fence
		if got := b.call(command{Do: "trylock", Key: key, Timeout: patience}); !slices.Contains(got.Is, "ErrHeld") {
			r.t.Errorf("%s gets what %s has: fence %d, %q", b.id, a.id, got.Fence, got.Error)
		}
		a.must(command{Do: "unlock", Key: key})
		if second := b.must(command{Do: "lock", Key: key}).Fence; second <= first {
			r.t.Errorf("fence %d after %d", second, first)
		}
		b.must(command{Do: "unlock", Key: key})
	}
}

// kinds are one lock of each kind that format 1 does not know.
var kinds = map[string]ask{
	"shared": {Shared: true}, "a semaphore": {Limit: 3, Weight: 2}, "two keys": {Also: "another"}, "a TTL": {TTL: time.Minute},
	"detached": {Detached: time.Minute}, "a cooldown": {Cooldown: time.Minute},
}

// refusalTime is how long a refusal may take: long enough for an election.
const refusalTime = 10 * time.Second

// shares says whether two of the earlier commit can hold a key together: one that knows no kinds takes the first for an exclusive lock.
func (r *rolling) shares() bool {
	r.t.Helper()
	shared := ask{Shared: true}
	r.members[0].must(command{Do: "lock", Key: "shared", Ask: &shared})
	second := r.members[1].call(command{Do: "trylock", Key: "shared", Ask: &shared, Timeout: patience})
	r.members[0].must(command{Do: "unlock", Key: "shared"})
	if second.Error == "" {
		r.members[1].must(command{Do: "unlock", Key: "shared"})
	}
	return second.Error == ""
}

// refused asks all that were updated for every kind while somebody is too old; if nobody is, they get it.
func (r *rolling) refused() {
	r.t.Helper()
	if r.kinds {
		r.served()
		return
	}
	for _, m := range r.members {
		if !r.updated[m.name] {
			continue
		}
		for kind, a := range kinds {
			got := m.call(command{Do: "lock", Key: "of a kind", Ask: &a, Timeout: refusalTime})
			if !slices.Contains(got.Is, "ErrUnsupported") {
				r.t.Fatalf("%s asks for %s while %s leads: fence %d, %q", m.id, kind, r.leader().id, got.Fence, got.Error)
			}
		}
		for _, l := range m.must(command{Do: "locks", Key: "of a kind"}).Locks {
			r.t.Errorf("was refused: %+v", l)
		}
		l := m.must(command{Do: "lock", Key: "of a kind"})
		for _, do := range []string{"downgrade", "adopt", "release"} {
			if got := m.call(command{Do: do, Key: "of a kind", Handle: l.Handle, Timeout: refusalTime}); !slices.Contains(got.Is, "ErrUnsupported") {
				r.t.Fatalf("%s asks for %s while %s leads: %q", m.id, do, r.leader().id, got.Error)
			}
		}
		m.must(command{Do: "unlock", Key: "of a kind"})
	}
}

// served waits until everybody gets every kind.
func (r *rolling) served() {
	r.t.Helper()
	for _, m := range r.members {
		for kind, a := range kinds {
			var seen []string
			r.until(m.name+" gets "+kind, func() bool {
				got := m.call(command{Do: "lock", Key: "of a kind", Ask: &a, Timeout: patience})
				seen = []string{got.Error}
				if got.Error != "" && !slices.Contains(got.Is, "ErrUnsupported") {
					r.t.Fatalf("%s asks for %s: %s", m.id, kind, got.Error)
				}
				return got.Error == ""
			}, &seen)
			m.must(command{Do: "unlock", Key: "of a kind"})
		}
		for _, last := range []string{"adopt", "release"} {
			l := m.must(command{Do: "lock", Key: "of a kind"})
			m.must(command{Do: "downgrade", Key: "of a kind"})
			r.after(m).must(command{Do: last, Handle: l.Handle})
		}
	}
}

// finish gives all back, and judges.
func (r *rolling) finish() {
	r.t.Helper()
	r.progress(50)
	r.stillHeld(nil, 1)
	for _, m := range r.members {
		r.yield(m)
	}
	r.rest()
	r.verdict()
}
