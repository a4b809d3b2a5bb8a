package founding

import (
	"reflect"
	"slices"
	"strings"
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
		if early := !m.s.Charter.IsZero(); early && c.want {
			t.Errorf("%s: invited before the address had time to answer: %v", name, early)
		}
		if c.want {
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

// bound3 is b, bound to a's cluster of a, b and c.
func bound3(t *testing.T, change ...func(*Config)) (*Machine, wire.Charter) {
	t.Helper()
	x := charter(8, "a", "a", "b", "c")
	m := machine("b", change...)
	m.Step(0, Received{who("a"), invitation(x, "b", 1)})
	acts := m.Step(0, Received{who("a"), begun(x)})
	savedBefore[StartRaft](t, acts, func(s Saved) bool { return s.Cluster == x.Cluster && !s.Bootstrap && !s.Confirmed })
	if find[StartRaft](t, acts).Bootstrap || sent(acts, wire.FoundingBound)[0].Message.Verdict != wire.VerdictAccepted {
		t.Fatalf("bound: %+v", acts)
	}
	return m, x
}

func TestConfirms(t *testing.T) {
	m, x := bound3(t)
	for i, led := range []Led{{}, {Leader: true}, {Founded: true}} {
		led.Cluster = x.Cluster
		if acts := m.Step(time.Duration(i)*ms, led); has[Confirm](acts) || m.s.Confirmed {
			t.Fatalf("confirms on %+v", led)
		}
	}
	news := Led{Cluster: x.Cluster, Leader: true, Founded: true}
	acts := m.Step(time.Second, news)
	savedBefore[Confirm](t, acts, func(s Saved) bool { return s.Confirmed && s.Cluster == x.Cluster })
	if acts = m.Step(time.Second+ms, news); has[Confirm](acts) {
		t.Fatal("asks again at once")
	}
	if acts = m.Step(2*time.Second, news); !has[Confirm](acts) || has[Save](acts) {
		t.Fatalf("does not ask again: %+v", acts)
	}
	news.Confirmed = true
	if acts = m.Step(3*time.Second, news); has[Confirm](acts) {
		t.Fatal("asks again for what is committed")
	}
	m.Step(4*time.Second, Led{Cluster: wire.UUID{99}, Open: true})
	if m.Open() {
		t.Fatal("news of another cluster")
	}
	news.Open = true
	savedBefore[Log](t, m.Step(5*time.Second, news), func(s Saved) bool { return s.Open && s.Charter.IsZero() })
}

func TestConfirmedNeverWithdraws(t *testing.T) {
	m, x := bound3(t)
	m.Step(0, Led{Cluster: x.Cluster, Leader: true, Founded: true})
	m.Step(ms, Led{Cluster: x.Cluster})
	m.Step(ms, view(peer("d"), peer("e"), peer("f")))
	for at := time.Second; at < 10*time.Minute; at += time.Second {
		if acts := m.Step(at, Tick{}); has[StopRaft](acts) || has[Save](acts) {
			t.Fatalf("after %v: %+v", at, acts)
		}
	}
	if acts := m.Step(11*time.Minute, Tick{}); m.Cluster() != x.Cluster || has[Join](acts) {
		t.Fatal("left")
	}
}

func TestWaitingIsExplained(t *testing.T) {
	m, x := bound3(t)
	m.Step(0, Led{Cluster: x.Cluster, Leader: true, Founded: true})
	m.Step(ms, Led{Cluster: x.Cluster})
	said := 0
	for at := time.Second; at <= 2*time.Minute; at += time.Second {
		for _, a := range m.Step(at, Tick{}) {
			if l, ok := a.(Log); ok && l.Warn && strings.Contains(l.Text, "restart this process") {
				said++
			}
		}
	}
	if said != 2 {
		t.Fatalf("said %d times in two minutes", said)
	}
}

func TestUnopenedMeetsOpen(t *testing.T) {
	m, x := bound3(t)
	m.Step(0, Led{Cluster: x.Cluster, Leader: true, Founded: true})
	server, other := m.Server(), wire.UUID{7}
	acts := m.Step(time.Second, view(peer("c").in(x.Cluster, false, true), peer("d").in(other, true, false)))
	savedBefore[StopRaft](t, acts, func(s Saved) bool {
		_, refused := s.refusal(x.Cluster)
		return refused && s.Server != server && !s.Confirmed && s.Cluster.IsZero()
	})
	if st := find[StopRaft](t, acts); !st.Wipe || st.Cluster != x.Cluster || find[Join](t, acts).Cluster != other {
		t.Fatalf("%+v", acts)
	}
	if m.Cluster() != other || m.Open() {
		t.Fatal("gossip alone makes no member")
	}
	m.Step(2*time.Second, Led{Cluster: other, Leader: true, Open: true})
	if !m.Open() {
		t.Fatal("not a member")
	}
}

func TestOpenMeetsOpen(t *testing.T) {
	m, x := bound3(t)
	m.Step(0, Led{Cluster: x.Cluster, Leader: true, Founded: true, Open: true})
	other := view(peer("d").in(wire.UUID{7}, true, true), peer("e").in(wire.UUID{7}, true, false))
	warned := 0
	for at := time.Second; at <= 90*time.Second; at += time.Second {
		for _, a := range m.Step(at, other) {
			if l, ok := a.(Log); !ok || !l.Warn {
				t.Fatalf("%+v", a)
			}
			warned++
		}
	}
	if m.Cluster() != x.Cluster || warned != 2 {
		t.Fatalf("in %v, warned %d times", m.Cluster(), warned)
	}
}

func TestDeadByRefusals(t *testing.T) {
	m, x := bound3(t)
	m.Step(0, Led{Cluster: x.Cluster, Leader: true, Founded: true}) // confirmed: proof alone undoes it
	refuse := func(by string) []Action {
		return m.Step(time.Second, Received{who(by), wire.Founding{
			Kind: wire.FoundingBound, Cluster: x.Cluster, Target: who(by).Server, Verdict: wire.VerdictRefused,
		}})
	}
	refuse("a")
	refuse("a")
	refuse("z") // no voter
	if m.Cluster() != x.Cluster {
		t.Fatal("left with a majority that may act")
	}
	if acts := refuse("c"); !find[StopRaft](t, acts).Wipe || !m.Cluster().IsZero() || m.s.Confirmed {
		t.Fatalf("stays: %+v", acts)
	}
}

func TestGivesUpWhatNeverLed(t *testing.T) {
	m, x := bound3(t)
	if acts := m.Step(14*time.Second, Tick{}); has[StopRaft](acts) {
		t.Fatal("too early")
	}
	if st := find[StopRaft](t, m.Step(15*time.Second, Tick{})); st.Wipe {
		t.Fatal("wiped before the log was looked at")
	}
	m.Step(15*time.Second, Led{Cluster: x.Cluster, Leader: true, Open: true, Founded: true}) // too late to matter
	if acts := m.Step(16*time.Second, Stopped{Cluster: x.Cluster}); find[StartRaft](t, acts).Cluster != x.Cluster {
		t.Fatal("a log with entries is given up")
	}
	if acts := m.Step(time.Minute, Tick{}); has[StopRaft](acts) {
		t.Fatal("looks again at a log that has entries")
	}

	m, x = bound3(t)
	server := m.Server()
	m.Step(15*time.Second, Tick{})
	if acts := m.Step(16*time.Second, Stopped{Cluster: x.Cluster, Empty: true}); !find[StopRaft](t, acts).Wipe || !m.Cluster().IsZero() {
		t.Fatalf("stays: %+v", acts)
	}
	if m.Server() == server {
		t.Fatal("a wiped server comes back")
	}
}

func TestLeavesADesertedClusterInMemory(t *testing.T) {
	for name, c := range map[string]struct {
		durable bool
		peers   View
		want    bool
	}{
		"in memory":                 {false, view(peer("d"), peer("e")), true},
		"with DataDir":              {true, view(peer("d"), peer("e")), false},
		"too few are seen":          {false, view(peer("d")), false},
		"another one belongs to it": {false, view(peer("d"), peer("c").in(wire.UUID{8}, false, false)), false},
	} {
		m, x := bound3(t, func(cfg *Config) { cfg.Durable = c.durable })
		m.Step(0, Led{Cluster: x.Cluster, Leader: true})
		m.Step(time.Second, Led{Cluster: x.Cluster})
		m.Step(time.Second, c.peers)
		m.Step(30*time.Second, Tick{})
		acts := m.Step(32*time.Second, Tick{})
		if left := m.Cluster() != x.Cluster; left != c.want {
			t.Errorf("%s: left %v: %+v", name, left, acts)
		}
	}
}

func TestTieOfTwoLedClusters(t *testing.T) {
	for name, c := range map[string]struct {
		other byte
		want  bool
	}{"a lesser UUID goes before": {7, true}, "a greater one does not": {9, false}} {
		m, x := bound3(t)
		news := Led{Cluster: x.Cluster, Leader: true, Leading: true, Founded: true, Confirmed: true}
		m.Step(0, news)
		m.Step(time.Second, view(peer("d").in(wire.UUID{c.other}, false, true)))
		if acts := m.Step(3*time.Second, Tick{}); has[Dissolve](acts) {
			t.Fatalf("%s: at once", name)
		}
		if acts := m.Step(6*time.Second, Tick{}); has[Dissolve](acts) != c.want {
			t.Fatalf("%s: %+v", name, acts)
		}
		if !c.want {
			continue
		}
		news.Dissolved = true
		m.Step(7*time.Second, news)
		if m.Cluster() != x.Cluster {
			t.Fatal("a leader goes before the others could hear of it")
		}
		if acts := m.Step(8*time.Second, Tick{}); !find[StopRaft](t, acts).Wipe || !m.Cluster().IsZero() {
			t.Fatalf("stays: %+v", acts)
		}
	}
}

func TestWithdrawnJoinsALedClusterAsAnotherServer(t *testing.T) {
	x := charter(8, "a", "a", "b", "c")
	m := machine("c")
	m.Step(0, Received{who("a"), invitation(x, "c", 1)})
	m.Step(20*time.Second, Tick{})
	old := m.Server()
	acts := m.Step(21*time.Second, view(peer("a").in(x.Cluster, false, true), peer("b").in(x.Cluster, false, false)))
	if ask := sent(acts, wire.FoundingAsk); len(ask) != 1 || ask[0].To != who("a").Instance {
		t.Fatalf("does not ask: %+v", acts)
	}
	acts = m.Step(22*time.Second, Received{who("a"), begun(x)})
	if j := find[Join](t, acts); j.Cluster != x.Cluster || j.Renounced != old || m.Server() == old || has[StartRaft](acts) {
		t.Fatalf("%+v", acts)
	}
}

func TestAsk(t *testing.T) {
	m, x := bound3(t)
	ask := wire.Founding{Kind: wire.FoundingAsk, Cluster: x.Cluster}
	if b := sent(m.Step(ms, Received{who("e"), ask}), wire.FoundingBegun); len(b) != 1 || !reflect.DeepEqual(b[0].Message.Charter, x) {
		t.Fatalf("%+v", b)
	}
	ask.Cluster = wire.UUID{99}
	if b := sent(m.Step(ms, Received{who("e"), ask}), wire.FoundingBegun); len(b) != 0 {
		t.Fatalf("of another cluster: %+v", b)
	}
}

func TestGuestLeavesWhatNobodyKnows(t *testing.T) {
	m, z := machine("b"), wire.UUID{7}
	m.Step(0, view(peer("d").in(z, true, false)))
	if m.Cluster() != z {
		t.Fatal("does not join")
	}
	m.Step(time.Second, view(peer("e").in(z, false, false))) // another guest
	m.Step(9*time.Second, Tick{})
	if m.Cluster() != z {
		t.Fatal("left too early")
	}
	m.Step(11*time.Second, Tick{})
	if !m.Cluster().IsZero() {
		t.Fatal("two guests keep each other in a cluster that is gone")
	}
}

func TestPrefersTheOpenClusterOfMost(t *testing.T) {
	y, z := wire.UUID{6}, wire.UUID{7}
	m := machine("b")
	m.Step(0, view(peer("c").in(y, true, true), peer("d").in(z, true, false), peer("e").in(z, true, false), peer("f").in(wire.UUID{1}, false, true)))
	if m.Cluster() != z {
		t.Fatalf("joined %v", m.Cluster())
	}
}

func TestRestart(t *testing.T) {
	x := charter(8, "a", "a", "b", "c")
	own := charter(9, "b", "a", "b", "c")
	server := who("b").Server
	start := func(s Saved) (*Machine, []Action) {
		s.Server = server
		m := New(Config{Self: who("b"), Expect: 3, Voters: 3, Durable: true, Mint: minter(50)}, s)
		return m, m.Step(time.Second, Tick{})
	}
	m, acts := start(Saved{Accepted: x.Cluster, Charter: x})
	if len(acts) != 0 {
		t.Fatalf("accepted: %+v", acts)
	}
	if m.Step(12*time.Second, Tick{}); !m.s.Accepted.IsZero() {
		t.Fatal("an acceptance of before the restart is never withdrawn")
	}
	m, _ = start(Saved{Accepted: x.Cluster, Charter: x})
	if m.Step(2*time.Second, Received{who("a"), begun(x)}); m.Cluster() != x.Cluster {
		t.Fatal("an acceptance of before the restart does not bind")
	}
	m, acts = start(Saved{Accepted: own.Cluster, Charter: own})
	if _, refused := find[Save](t, acts).Saved.refusal(own.Cluster); !refused || !m.s.Accepted.IsZero() {
		t.Fatalf("its own round: %+v", acts)
	}
	_, acts = start(Saved{Cluster: own.Cluster, Charter: own, Bootstrap: true})
	if !find[StartRaft](t, acts).Bootstrap {
		t.Fatalf("to be bootstrapped: %+v", acts)
	}
	_, acts = start(Saved{Cluster: x.Cluster, Charter: x, Confirmed: true})
	if find[StartRaft](t, acts).Bootstrap {
		t.Fatalf("another's: %+v", acts)
	}
	m, _ = start(Saved{Cluster: x.Cluster, Charter: x, Confirmed: true})
	if acts = m.Step(time.Minute, Tick{}); has[StopRaft](acts) {
		t.Fatalf("a confirmation is given up: %+v", acts)
	}
	far := charter(8, "a", "a", "c")
	_, acts = start(Saved{Cluster: far.Cluster, Charter: far})
	if find[Join](t, acts).Cluster != far.Cluster || has[StartRaft](acts) {
		t.Fatalf("bound without a vote: %+v", acts)
	}
	m, acts = start(Saved{Cluster: x.Cluster, Open: true, Confirmed: true})
	if find[Join](t, acts).Cluster != x.Cluster || !m.Open() {
		t.Fatalf("of an open cluster: %+v", acts)
	}
	m, _ = start(Saved{Cluster: x.Cluster})
	if !m.Cluster().IsZero() {
		t.Fatal("a guest makes no promises")
	}
}

func TestRefusedIsBounded(t *testing.T) {
	m := machine("b")
	server := m.Server()
	for i := range MaxRefused + 10 {
		c := wire.UUID{100, byte(i >> 8), byte(i)}
		m.Step(time.Duration(i), Received{who("a"), wire.Founding{Kind: wire.FoundingRelease, Cluster: c}})
	}
	if n := len(m.Saved().Refused); n > MaxRefused {
		t.Fatalf("remembers %d", n)
	}
	if m.Server() == server {
		t.Fatal("the server whose refusals are forgotten stays")
	}
	x := charter(100, "a", "a", "b", "c") // refused first, forgotten since
	if acts := m.Step(time.Second, Received{who("a"), invitation(x, "b", 1)}); len(acts) != 0 {
		t.Fatalf("an old invitation is taken: %+v", acts)
	}
}

func FuzzSaved(f *testing.F) {
	for _, s := range []Saved{{}, {Server: wire.UUID{1}, Cluster: wire.UUID{8}, Charter: charter(8, "a", "a", "b"), Bootstrap: true,
		Refused: []Refusal{{wire.UUID{3}, wire.UUID{4}}}}} {
		w := wire.NewWriter()
		s.Encode(w)
		r := wire.NewReader(w.Bytes())
		if got := DecodeSaved(r); r.End() != nil || !reflect.DeepEqual(got, s) {
			f.Fatalf("%+v became %+v (%v)", s, got, r.Err())
		}
		f.Add(slices.Clone(w.Bytes()))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		r := wire.NewReader(p)
		s := DecodeSaved(r)
		if r.End() != nil {
			return
		}
		w := wire.NewWriter()
		s.Encode(w)
		if r = wire.NewReader(w.Bytes()); !reflect.DeepEqual(DecodeSaved(r), s) || r.End() != nil {
			t.Fatalf("%+v does not survive: %v", s, r.Err())
		}
	})
}
