package founding

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

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

// pass lets time go by in ticks, from an instant after the one to the other.
func pass(m *Machine, from, to time.Duration) (acts []Action) {
	for at := from + time.Second; at < to; at += time.Second {
		acts = append(acts, m.Step(at, Tick{})...)
	}
	return append(acts, m.Step(to, Tick{})...)
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
	if acts := pass(m, 0, 14*time.Second); has[StopRaft](acts) {
		t.Fatal("too early")
	}
	if st := find[StopRaft](t, m.Step(15*time.Second, Tick{})); st.Wipe {
		t.Fatal("wiped before the log was looked at")
	}
	m.Step(15*time.Second, Led{Cluster: x.Cluster, Leader: true, Open: true, Founded: true}) // too late to matter
	if acts := m.Step(16*time.Second, Stopped{Cluster: x.Cluster}); find[StartRaft](t, acts).Cluster != x.Cluster {
		t.Fatal("a log with entries is given up")
	}
	if acts := pass(m, 16*time.Second, time.Minute); has[StopRaft](acts) {
		t.Fatal("looks again at a log that has entries")
	}

	m, x = bound3(t)
	server := m.Server()
	pass(m, 0, 15*time.Second)
	if acts := m.Step(16*time.Second, Stopped{Cluster: x.Cluster, Empty: true}); !find[StopRaft](t, acts).Wipe || !m.Cluster().IsZero() {
		t.Fatalf("stays: %+v", acts)
	}
	if m.Server() == server {
		t.Fatal("a wiped server comes back")
	}
}

// A leader that dies after its first heartbeat and before its first entry leaves voters that have heard of it and stored nothing.
func TestGivesUpWhatLedAndStoredNothing(t *testing.T) {
	m, x := bound3(t)
	m.Step(0, Led{Cluster: x.Cluster, Leader: true})
	if acts := pass(m, time.Second, 10*time.Second); has[StopRaft](acts) {
		t.Fatal("given up while it is led")
	}
	m.Step(10*time.Second, Led{Cluster: x.Cluster})
	if acts := pass(m, 10*time.Second, 24*time.Second); has[StopRaft](acts) {
		t.Fatal("too early")
	}
	find[StopRaft](t, pass(m, 24*time.Second, 26*time.Second))
	if acts := m.Step(26*time.Second, Stopped{Cluster: x.Cluster, Empty: true}); !find[StopRaft](t, acts).Wipe || !m.Cluster().IsZero() {
		t.Fatalf("stays: %+v", acts)
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
		pass(m, time.Second, 16*time.Second)
		m.Step(16*time.Second, Stopped{Cluster: x.Cluster}) // it looked whether its log is empty, which it is not
		acts := pass(m, 16*time.Second, 48*time.Second)
		if left := m.Cluster() != x.Cluster; left != c.want {
			t.Errorf("%s: left %v: %+v", name, left, acts)
		}
	}
}

func TestPauseIsNoAbsenceOfOthers(t *testing.T) {
	m, x := bound3(t)
	m.Step(0, view(peer("d"), peer("e")))
	if acts := m.Step(time.Hour, Tick{}); has[StopRaft](acts) {
		t.Fatalf("gives up on waking: %+v", acts)
	}
	m.Step(time.Hour+time.Second, Led{Cluster: x.Cluster, Leader: true})
	m.Step(time.Hour+2*time.Second, Led{Cluster: x.Cluster})
	if acts := m.Step(2*time.Hour, Tick{}); has[StopRaft](acts) || m.Cluster() != x.Cluster {
		t.Fatalf("leaves on waking: %+v", acts)
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
	pass(m, time.Second, 9*time.Second)
	if m.Cluster() != z {
		t.Fatal("left too early")
	}
	pass(m, 9*time.Second, 11*time.Second)
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
