package founding

import (
	"slices"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// who makes the process named name: server and instance follow from it.
func who(name string) Process {
	return Process{Server: wire.UUID{1, name[0]}, Instance: wire.UUID{2, name[0]}, Name: name, MayVote: true}
}

func peer(name string) Peer { return Peer{Process: who(name), Alive: true} }

func (p Peer) in(cluster wire.UUID, open, leads bool) Peer {
	p.Cluster, p.Open, p.Leads = cluster, open, leads
	return p
}

func machine(name string, change ...func(*Config)) *Machine {
	cfg := Config{Self: who(name), Expect: 3, Voters: 3, Mint: minter(name[0])}
	for _, f := range change {
		f(&cfg)
	}
	return New(cfg, Saved{})
}

func charter(cluster byte, by string, voters ...string) wire.Charter {
	c := wire.Charter{Cluster: wire.UUID{cluster}, Inviter: who(by).Server, Name: by, Expect: 3, Size: 3}
	for _, v := range voters {
		c.Voters = append(c.Voters, who(v).Server)
	}
	return c
}

func invitation(c wire.Charter, to string, round uint64) wire.Founding {
	return wire.Founding{Kind: wire.FoundingInvite, Cluster: c.Cluster, Charter: c, Target: who(to).Server, Round: round}
}

func begun(c wire.Charter) wire.Founding {
	return wire.Founding{Kind: wire.FoundingBegun, Cluster: c.Cluster, Charter: c}
}

func sent(acts []Action, kind wire.FoundingKind) []Send {
	var out []Send
	for _, a := range acts {
		if s, ok := a.(Send); ok && s.Message.Kind == kind {
			out = append(out, s)
		}
	}
	return out
}

// savedBefore fails unless what Save stored satisfies ok before the first action of type A.
func savedBefore[A Action](t *testing.T, acts []Action, ok func(Saved) bool) {
	t.Helper()
	stored := false
	for _, a := range acts {
		if s, is := a.(Save); is {
			stored = ok(s.Saved)
		}
		if _, is := a.(A); is {
			if !stored {
				t.Fatalf("%T before it was saved: %+v", a, acts)
			}
			return
		}
	}
	t.Fatalf("nothing of the kind in %+v", acts)
}

var ms = time.Millisecond

func view(peers ...Peer) View { return View{Members: peers} }

func TestWhoInvites(t *testing.T) {
	noVote := func(c *Config) { c.Self.MayVote = false }
	mute := peer("a")
	mute.MayVote = false
	dead := peer("c")
	dead.Alive = false
	for name, c := range map[string]struct {
		m     *Machine
		view  View
		after time.Duration
		want  bool
	}{
		"the lowest name":                      {machine("a"), view(peer("b"), peer("c")), 0, true},
		"a higher name waits":                  {machine("b"), view(peer("a"), peer("c")), 2 * time.Second, false},
		"a higher name's patience ends":        {machine("b"), view(peer("a"), peer("c")), 3 * time.Second, true},
		"two lower names are waited for":       {machine("c"), view(peer("a"), peer("b")), 5 * time.Second, false},
		"one that may not vote":                {machine("a", noVote), view(peer("b"), peer("c")), time.Minute, false},
		"below one that may not vote":          {machine("b"), view(mute, peer("c"), peer("d")), 0, true},
		"too few":                              {machine("a"), view(peer("b")), time.Minute, false},
		"too few alive":                        {machine("a"), view(peer("b"), dead), time.Minute, false},
		"too few that know no cluster":         {machine("a"), view(peer("b"), peer("c").in(wire.UUID{7}, false, false)), time.Minute, false},
		"itself in the view counts once":       {machine("a"), view(peer("a"), peer("b")), time.Minute, false},
		"more voters may come":                 {machine("a", func(c *Config) { c.Expect = 2 }), view(peer("b")), 0, false},
		"more voters may come, but not now":    {machine("a", func(c *Config) { c.Expect = 2 }), view(peer("b")), time.Second, true},
		"alone among Peers, before gossip":     {machine("a", func(c *Config) { c.Expect = 1 }), View{}, 0, true},
		"a led cluster is joined, not rivaled": {machine("a"), view(peer("b"), peer("c"), peer("d").in(wire.UUID{7}, false, true)), time.Minute, false},
	} {
		acts := c.m.Step(time.Second, c.view)
		if c.after > 0 {
			acts = append(acts, c.m.Step(time.Second+c.after, Tick{})...)
		}
		if got := !c.m.s.Charter.IsZero(); got != c.want {
			t.Errorf("%s: invites %v: %+v", name, got, acts)
		}
	}
}

func TestNamesTie(t *testing.T) {
	p, q := who("a"), who("a")
	q.Server, q.Instance = wire.UUID{1, 'z'}, wire.UUID{2, 'z'}
	if !p.before(q) || q.before(p) || p.before(p) {
		t.Fatal("instances do not break the tie")
	}
}

func TestConfiguration(t *testing.T) {
	mute := who("b")
	mute.MayVote = false
	again := who("c")
	again.Instance = wire.UUID{2, 'x'} // the run before
	for name, c := range map[string]struct {
		self    string
		size    int
		invited []Process
		want    string
	}{
		"the first by name":                 {"a", 3, []Process{who("b"), who("c"), who("d")}, "abc"},
		"without those that may not vote":   {"a", 3, []Process{mute, who("c"), who("d")}, "acd"},
		"a patient inviter is in":           {"d", 3, []Process{who("a"), who("b"), who("c")}, "abd"},
		"in the order of names":             {"b", 3, []Process{who("a"), who("c"), who("d")}, "abc"},
		"one":                               {"b", 1, []Process{who("a"), who("c")}, "b"},
		"fewer than wanted":                 {"a", 5, []Process{who("b")}, "ab"},
		"one server seen twice counts once": {"a", 5, []Process{who("c"), again, who("d")}, "acd"},
	} {
		m := machine(c.self, func(cfg *Config) { cfg.Voters = c.size })
		got := ""
		for _, v := range m.configuration(c.invited) {
			got += string(v[1])
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestSilent(t *testing.T) {
	for name, c := range map[string]struct {
		durable, unanswered bool
		expect              int
		want                bool
	}{
		"in memory with an unanswered address": {false, true, 3, true},
		"all answered":                         {false, false, 3, false},
		"with DataDir":                         {true, true, 3, false},
		"one is enough":                        {false, true, 1, false},
	} {
		m := machine("a", func(cfg *Config) { cfg.Durable, cfg.Expect = c.durable, c.expect })
		view := View{Members: []Peer{peer("b"), peer("c")}, Unanswered: c.unanswered}
		m.Step(0, view)
		early := !m.s.Charter.IsZero()
		if early && c.want {
			t.Errorf("%s: invited before the address had time to answer: %v", name, early)
		}
		if !early {
			m.Step(DefaultTimeouts().Patience, view)
		}
		if got := m.s.Charter.Silent; got != c.want || m.s.Charter.IsZero() {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestAnswers(t *testing.T) {
	x, y := charter(8, "a", "a", "b", "c"), charter(9, "d", "d", "b", "c")
	holds := func(round uint64) func(*Machine) {
		return func(m *Machine) { m.Step(0, Received{who("d"), invitation(y, "b", round)}) }
	}
	other := x
	other.Expect = 2
	restarted := who("d")
	restarted.Instance = wire.UUID{2, 'x'}
	y2 := y
	y2.Cluster = wire.UUID{10}
	for name, c := range map[string]struct {
		before func(*Machine)
		from   Process
		msg    wire.Founding
		want   wire.Verdict
	}{
		"free":             {func(*Machine) {}, who("a"), invitation(x, "b", 1), wire.VerdictAccepted},
		"a copy":           {holds(1), who("d"), invitation(y, "b", 1), wire.VerdictAccepted},
		"another is held":  {holds(1), who("a"), invitation(x, "b", 1), wire.VerdictBusy},
		"a newer round":    {holds(1), who("d"), invitation(y2, "b", 2), wire.VerdictAccepted},
		"an older round":   {holds(2), who("d"), invitation(y2, "b", 1), wire.VerdictRefused},
		"a restarted host": {holds(5), restarted, invitation(y2, "b", 1), wire.VerdictAccepted},
		"released before it came": {func(m *Machine) {
			m.Step(0, Received{who("a"), wire.Founding{Kind: wire.FoundingRelease, Cluster: x.Cluster}})
		}, who("a"), invitation(x, "b", 1), wire.VerdictRefused},
		"released": {func(m *Machine) {
			m.Step(0, Received{who("a"), invitation(x, "b", 1)})
			m.Step(0, Received{who("a"), wire.Founding{Kind: wire.FoundingRelease, Cluster: x.Cluster}})
		}, who("a"), invitation(x, "b", 1), wire.VerdictRefused},
		"another Expect": {func(*Machine) {}, who("a"), invitation(other, "b", 1), wire.VerdictRefused},
		"bound elsewhere": {func(m *Machine) {
			holds(1)(m)
			m.Step(0, Received{who("d"), begun(y)})
		}, who("a"), invitation(x, "b", 1), wire.VerdictKnown},
		"bound to it": {func(m *Machine) {
			holds(1)(m)
			m.Step(0, Received{who("d"), begun(y)})
		}, who("d"), invitation(y, "b", 1), wire.VerdictAccepted},
		"meant for another server": {func(*Machine) {}, who("a"), invitation(x, "c", 1), 0},
		"by another than it says":  {func(*Machine) {}, who("c"), invitation(x, "b", 1), 0},
		"released by another than invited": {func(m *Machine) {
			holds(1)(m)
			m.Step(0, Received{who("a"), wire.Founding{Kind: wire.FoundingRelease, Cluster: y.Cluster}})
		}, who("d"), invitation(y, "b", 1), wire.VerdictAccepted},
	} {
		m := machine("b")
		c.before(m)
		acts := m.Step(time.Second, Received{c.from, c.msg})
		answers := sent(acts, wire.FoundingAnswer)
		if c.want == 0 {
			if len(answers) > 0 {
				t.Errorf("%s: answered %+v", name, answers)
			}
			continue
		}
		if len(answers) != 1 || answers[0].Message.Verdict != c.want || answers[0].To != c.from.Instance {
			t.Errorf("%s: %+v", name, acts)
		} else if c.want == wire.VerdictAccepted && m.Saved().Cluster.IsZero() && m.Saved().Accepted != c.msg.Cluster {
			t.Errorf("%s: holds %v", name, m.Saved().Accepted)
		}
	}
}

func TestAcceptanceIsSavedFirst(t *testing.T) {
	x := charter(8, "a", "a", "b", "c")
	acts := machine("b").Step(0, Received{who("a"), invitation(x, "b", 1)})
	savedBefore[Send](t, acts, func(s Saved) bool { return s.Accepted == x.Cluster })
}

// inviting is b's round with c and d; a is not seen.
func inviting(t *testing.T) (*Machine, wire.Charter) {
	t.Helper()
	m := machine("b")
	acts := m.Step(0, view(peer("c"), peer("d")))
	if len(sent(acts, wire.FoundingInvite)) != 2 {
		t.Fatalf("no round: %+v", acts)
	}
	savedBefore[Send](t, acts, func(s Saved) bool { return s.Accepted == m.s.Accepted })
	return m, m.s.Charter
}

func answer(c wire.Charter, v wire.Verdict) wire.Founding {
	return wire.Founding{Kind: wire.FoundingAnswer, Cluster: c.Cluster, Verdict: v}
}

func TestInviterGivesWayToALowerName(t *testing.T) {
	m, mine := inviting(t)
	low := charter(8, "a", "a", "b", "c")
	m.Step(ms, Received{who("c"), answer(mine, wire.VerdictAccepted)})
	acts := m.Step(2*ms, Received{who("a"), invitation(low, "b", 1)})
	if rel := sent(acts, wire.FoundingRelease); len(rel) != 2 || rel[0].Message.Cluster != mine.Cluster {
		t.Fatalf("released %+v", rel)
	}
	if m.Saved().Accepted != low.Cluster {
		t.Fatal("did not accept the lower name's")
	}
	acts = m.Step(3*ms, Received{who("d"), answer(mine, wire.VerdictAccepted)}) // to the old invitation
	if has[StartRaft](acts) || len(sent(acts, wire.FoundingRelease)) != 1 {
		t.Fatalf("a late answer: %+v", acts)
	}
}

func TestInviterKeepsToItsOwnAgainstAHigherNameAndAfterBootstrap(t *testing.T) {
	m, mine := inviting(t)
	high := charter(8, "c", "b", "c", "d")
	acts := m.Step(ms, Received{who("c"), invitation(high, "b", 1)})
	if a := sent(acts, wire.FoundingAnswer); len(a) != 1 || a[0].Message.Verdict != wire.VerdictBusy {
		t.Fatalf("to a higher name: %+v", acts)
	}
	m.Step(2*ms, Received{who("c"), answer(mine, wire.VerdictAccepted)})
	acts = m.Step(3*ms, Received{who("d"), answer(mine, wire.VerdictAccepted)})
	savedBefore[StartRaft](t, acts, func(s Saved) bool { return s.Cluster == mine.Cluster && s.Bootstrap && s.Accepted.IsZero() })
	if st := find[StartRaft](t, acts); !st.Bootstrap || !slices.Equal(st.Voters, mine.Voters) || len(sent(acts, wire.FoundingBegun)) != 2 {
		t.Fatalf("bootstrapped %+v", acts)
	}
	acts = m.Step(4*ms, Received{who("d"), answer(mine, wire.VerdictAccepted)})
	if has[StartRaft](acts) {
		t.Fatal("a copy of an answer bootstraps again")
	}
	low := charter(9, "a", "a", "b", "c")
	acts = m.Step(5*ms, Received{who("a"), invitation(low, "b", 1)})
	if a := sent(acts, wire.FoundingAnswer); len(a) != 1 || a[0].Message.Verdict != wire.VerdictKnown || a[0].Message.Known != mine.Cluster {
		t.Fatalf("to a lower name after the bootstrap: %+v", acts)
	}
}

func TestRoundEndsInTime(t *testing.T) {
	m, mine := inviting(t)
	m.Step(ms, view(peer("c"), peer("d"), peer("e")))
	m.Step(2*ms, Received{who("c"), answer(mine, wire.VerdictAccepted)})
	acts := m.Step(5*time.Second, Received{who("d"), answer(mine, wire.VerdictAccepted)}) // after a pause of this process
	if has[StartRaft](acts) || len(sent(acts, wire.FoundingRelease)) != 2 {
		t.Fatalf("after its time: %+v", acts)
	}
	if r := m.Saved().Refused; len(r) != 1 || r[0].Cluster != mine.Cluster {
		t.Fatalf("refused %+v", r)
	}
	acts = m.Step(6*time.Second, Tick{})
	var invited []wire.UUID
	for _, s := range sent(acts, wire.FoundingInvite) {
		invited = append(invited, s.To)
		if s.Message.Cluster == mine.Cluster {
			t.Fatal("the same UUID again")
		}
	}
	if want := []wire.UUID{who("c").Instance, who("e").Instance}; !slices.Equal(invited, want) {
		t.Fatalf("invited %v, want those who answer: %v", invited, want)
	}
}

func TestRoundEndsAtOnce(t *testing.T) {
	for name, ev := range map[string]Event{
		"refused":           Received{who("c"), wire.Founding{Kind: wire.FoundingAnswer, Verdict: wire.VerdictRefused}},
		"known":             Received{who("c"), wire.Founding{Kind: wire.FoundingAnswer, Verdict: wire.VerdictKnown, Known: wire.UUID{5}}},
		"unreached":         Unreached{who("c").Instance},
		"gone":              view(peer("d")),
		"a cluster leads":   view(peer("c"), peer("d"), peer("e").in(wire.UUID{5}, false, true)),
		"a cluster is open": view(peer("c"), peer("d"), peer("e").in(wire.UUID{5}, true, false)),
	} {
		m, mine := inviting(t)
		if r, ok := ev.(Received); ok {
			r.Message.Cluster = mine.Cluster
			ev = r
		}
		if acts := m.Step(ms, ev); len(sent(acts, wire.FoundingRelease)) != 2 || m.s.Accepted == mine.Cluster {
			t.Errorf("%s: %+v", name, acts)
		}
	}
}

func TestWithdraws(t *testing.T) {
	x := charter(8, "a", "a", "b", "c")
	for name, c := range map[string]struct {
		view View
		at   time.Duration
		want bool
	}{
		"the inviter lives":         {view(peer("a")), 9 * time.Second, false},
		"for too long":              {view(peer("a")), 10 * time.Second, true},
		"the inviter is gone":       {view(), 4 * time.Second, false},
		"the inviter stays gone":    {view(), 5 * time.Second, true},
		"it has begun, says gossip": {view(peer("c").in(x.Cluster, false, false)), 20 * time.Second, false},
	} {
		m := machine("b")
		m.Step(0, Received{who("a"), invitation(x, "b", 1)})
		m.Step(ms, c.view)
		m.Step(c.at, Tick{})
		if _, refused := m.s.refusal(x.Cluster); refused != c.want {
			t.Errorf("%s: refused %v", name, refused)
		}
		if c.want {
			acts := m.Step(c.at+ms, Received{who("a"), begun(x)})
			if b := sent(acts, wire.FoundingBound); len(b) != 1 || b[0].Message.Verdict != wire.VerdictRefused || has[StartRaft](acts) {
				t.Errorf("%s: bound after all: %+v", name, acts)
			}
		}
	}
}

// A process for whom one is enough, but who knows of peers, asks them first: they may have a cluster.
func TestOneThatHasPeersAsksThemFirst(t *testing.T) {
	m := machine("a", func(cfg *Config) { cfg.Expect = 1 })
	m.Step(0, View{Unanswered: true})
	if !m.s.Charter.IsZero() {
		t.Fatal("founded beside peers that had no time to answer")
	}
	known := peer("b")
	known.Cluster, known.Open = wire.UUID{7}, true
	m.Step(DefaultTimeouts().Patience/2, View{Members: []Peer{known}})
	if m.Cluster() != known.Cluster {
		t.Errorf("belongs to %v", m.Cluster())
	}
	m = machine("a", func(cfg *Config) { cfg.Expect = 1 })
	known.Open = false // it is open in truth: gossip is a moment behind
	m.Step(0, View{Members: []Peer{known}})
	if !m.s.Charter.IsZero() {
		t.Error("founded beside a cluster that is about to open")
	}
	m = machine("a", func(cfg *Config) { cfg.Expect = 1 })
	m.Step(0, View{Unanswered: true})
	m.Step(DefaultTimeouts().Patience, View{Unanswered: true})
	if m.s.Accepted.IsZero() && m.s.Cluster.IsZero() {
		t.Error("waits for ever for peers that don't answer")
	}
}
