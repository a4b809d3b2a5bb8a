package founding

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// coverage counts what runs have met, so that a test can say that it has met enough of it.
type coverage struct {
	met    map[string]int
	opened []time.Duration // from when enough had started to the first opening, where there were no faults at all
	faulty []time.Duration // the same where there were
	calm   []time.Duration // from the last fault until all were of one open cluster
	ends   map[string]int  // how runs ended
}

func newCoverage() coverage { return coverage{met: make(map[string]int), ends: make(map[string]int)} }

func (c *coverage) add(o coverage) {
	for k, n := range o.met {
		c.met[k] += n
	}
	for k, n := range o.ends {
		c.ends[k] += n
	}
	c.opened = append(c.opened, o.opened...)
	c.faulty = append(c.faulty, o.faulty...)
	c.calm = append(c.calm, o.calm...)
}

// String is the figures of all runs.
func (c *coverage) String() string {
	var b strings.Builder
	runs := 0
	for _, n := range c.ends {
		runs += n
	}
	fmt.Fprintf(&b, "%d runs\n", runs)
	for _, k := range slices.Sorted(maps.Keys(c.ends)) {
		fmt.Fprintf(&b, "%8d ended %s\n", c.ends[k], k)
	}
	for _, what := range []struct {
		name string
		took []time.Duration
	}{
		{"from enough processes to an open cluster, no faults", c.opened},
		{"from enough processes to an open cluster, with faults", c.faulty},
		{"from the last fault until all are of one open cluster", c.calm},
	} {
		if n := len(what.took); n > 0 {
			slices.Sort(what.took)
			fmt.Fprintf(&b, "%s: median of %d %v, 99 of 100 within %v, worst %v\n", what.name, n,
				what.took[n/2].Round(time.Millisecond), what.took[n*99/100].Round(time.Millisecond), what.took[n-1].Round(time.Millisecond))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(c.met)) {
		fmt.Fprintf(&b, "%8d %s\n", c.met[k], k)
	}
	return b.String()
}

// enough fails unless each step of a first start has met each fault, and each stage a lower name, and each way out was taken.
func (c *coverage) enough(t *testing.T, seeds int) {
	t.Helper()
	want := func(n int, what string) {
		if c.met[what] < n {
			t.Errorf("%s: %d times in %d runs, %d are wanted", what, c.met[what], seeds, n)
		}
	}
	for _, kind := range []string{"crash", "crash in memory", "pause", "cut", "one-way cut"} {
		for _, step := range append(steps, "first heartbeat") {
			want(seeds/2000, kind+" at "+step)
		}
		for _, stage := range stages {
			want(seeds/400, kind+" while "+stage)
		}
	}
	for _, stage := range stages {
		want(seeds/2500, "a lower name starts while "+stage)
	}
	for _, why := range []string{
		"another has opened", "it lost its leader, and of all who are seen nobody else belongs to it", "nobody who is seen has known it open",
		"nobody leads it, and nothing of it was ever stored here", "so many of its voters refuse it that it never had a majority and never will",
	} {
		want(seeds/2500, "left: "+why)
	}
	for _, why := range []string{"no answer in time of …", "the lower name … invites", "… can't be reached", "… refused", "…, which was invited, is gone"} {
		want(seeds/400, "given up: "+why)
	}
	want(seeds/200, "an acceptance is withdrawn")
	want(seeds/1000, "two unopened clusters have committed entries")
	for _, how := range []string{"with one open cluster", "with fewer than Expect", "without a majority of the founding voters", "with different Expect"} {
		if c.ends[how] < seeds/2500 {
			t.Errorf("%d of %d runs ended %s", c.ends[how], seeds, how)
		}
	}
}

// stepOf names what a process is about to do.
func stepOf(a Action) string {
	switch a := a.(type) {
	case Save:
		switch s := a.Saved; {
		case s.Open:
			return "storing that it is open"
		case s.Confirmed:
			return "storing its confirmation"
		case s.Bootstrap:
			return "storing that it bootstraps"
		case !s.Cluster.IsZero() && !s.Charter.IsZero():
			return "storing that it is bound"
		case !s.Cluster.IsZero():
			return "storing that it is a guest"
		case !s.Accepted.IsZero() && s.Charter.Inviter == s.Server:
			return "storing its own round"
		case !s.Accepted.IsZero():
			return "storing an acceptance"
		}
		return "storing a refusal"
	case Send:
		return "sending " + []string{"?", "an invitation", "an answer", "a release", "that it has begun", "that it is bound", "a question"}[a.Message.Kind] +
			[]string{"", ": accepted", ": busy", ": refused", ": known"}[a.Message.Verdict]
	case StartRaft:
		if a.Bootstrap {
			return "bootstrapping"
		}
		return "starting raft"
	case StopRaft:
		if a.Wipe {
			return "wiping"
		}
		return "looking at its log"
	case Found:
		return "proposing the first entry"
	case Confirm:
		return "asking to be confirmed"
	case Dissolve:
		return "proposing the end"
	case Join:
		return "joining"
	}
	return "saying something"
}

// frequency makes faults more frequent at what every process does once at most.
func frequency(step string) float64 {
	switch step {
	case "storing that it bootstraps", "bootstrapping", "starting raft", "storing that it is bound", "proposing the first entry", "storing its confirmation",
		"storing that it is open", "sending that it is bound: accepted":
		return 5
	}
	return 1
}

// stepOfEntry names a commit.
func stepOfEntry(e simEntry) string {
	return map[byte]string{'c': "a commit", 'n': "a commit", 'f': "the commit of the first entry", 'k': "the commit of a confirmation", 'd': "the commit of the end"}[e.kind]
}

// stages of a first start, in order.
const (
	stageIdle = iota
	stageInviting
	stageAccepted
	stageBegun
	stageLed
	stageFounded
	stageConfirming
	stageOpen
)

var stages = []string{"nobody has invited", "one invites", "one has accepted", "it has begun", "it is led", "its first entry is committed", "one has confirmed", "it is open"}

// stage is how far the first start is.
func (s *sim) stage() int {
	at := stageIdle
	for _, p := range s.procs {
		if !p.up || p.m == nil {
			continue
		}
		if p.m.round != nil {
			at = max(at, stageInviting)
		} else if !p.m.s.Accepted.IsZero() {
			at = max(at, stageAccepted)
		}
	}
	for _, g := range s.order {
		founded, open, _, dissolved := state(g.committed, wire.UUID{})
		confirmed := slices.ContainsFunc(g.committed, func(e simEntry) bool { return e.kind == 'k' })
		switch {
		case open:
			at = max(at, stageOpen)
		case dissolved:
		case confirmed:
			at = max(at, stageConfirming)
		case founded:
			at = max(at, stageFounded)
		case g.leader != nil:
			at = max(at, stageLed)
		default:
			at = max(at, stageBegun)
		}
	}
	return at
}

func (s *sim) coverFault(kind, step string) {
	s.struck = true
	s.cover.met[kind+" while "+stages[s.stage()]]++
	if step != "" {
		s.cover.met[kind+" at "+step]++
	}
}

// coverStart notes a process that starts and has a lower name than all that run.
func (s *sim) coverStart(p *proc) {
	for _, q := range s.procs {
		if q != p && q.up && !(p.name < q.name) {
			return
		}
	}
	s.cover.met["a lower name starts while "+stages[s.stage()]]++
}

// coverLog notes why clusters are left and invitations given up.
func (s *sim) coverLog(text string) {
	if _, why, ok := strings.Cut(text, " is left: "); ok {
		s.cover.met["left: "+why]++
	}
	if _, why, ok := strings.Cut(text, " is given up before its beginning: "); ok {
		words := strings.FieldsFunc(why, func(r rune) bool { return r == '"' })
		for i := range words {
			if len(words[i]) == 1 || words[i] == ", " {
				words[i] = "…"
			}
		}
		s.cover.met["given up: "+strings.Join(slices.Compact(words), "")]++
	}
	if strings.Contains(text, "is refused from now on") {
		s.cover.met["an acceptance is withdrawn"]++
	}
	if strings.Contains(text, "two open clusters never merge") {
		s.cover.met["warned of another open cluster"]++
	}
}

// coverCommit notes what a cluster stood beside when something of it was committed.
func (s *sim) coverCommit(g *simGroup) {
	for _, o := range s.order {
		if o != g && len(o.committed) > 0 && o.opened == 0 && g.opened == 0 {
			if o.leader != nil {
				s.cover.met["two unopened clusters are led"]++
			} else {
				s.cover.met["two unopened clusters have committed entries"]++
			}
		}
	}
}

func (s *sim) running() int {
	n := 0
	for _, p := range s.procs {
		if p.up {
			n++
		}
	}
	return n
}
