package founding

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// What a process says while it waits: whom for, and what ends it.
func TestWaiting(t *testing.T) {
	x := charter(8, "a", "a", "b", "c")
	free := func(m *Machine, peers ...Peer) *Machine {
		m.Step(time.Second, view(peers...))
		return m
	}
	held := func() *Machine {
		m := machine("b")
		m.Step(0, Received{who("a"), invitation(x, "b", 1)})
		return m
	}
	bound := func(seen []Peer, news Led) *Machine {
		m := held()
		m.Step(0, view(peer("a"), peer("c")))
		m.Step(0, Received{who("a"), begun(x)})
		m.Step(0, view(seen...))
		news.Cluster = x.Cluster
		m.Step(ms, news)
		return m
	}
	noVote := func(c *Config) { c.Self.MayVote = false }
	mute := peer("d")
	mute.MayVote = false
	other := charter(8, "a", "a", "b", "c")
	other.Expect = 2
	in := func(name string) Peer { return peer(name).in(x.Cluster, false, false) }
	led := Led{Leader: true, Founded: true}
	for name, c := range map[string]struct {
		m    *Machine
		want []string
	}{
		"not begun":           {machine("b"), []string{"only begun"}},
		"nothing heard yet":   {func() *Machine { m := machine("b"); m.Step(0, Tick{}); return m }(), []string{"only begun"}},
		"too few":             {free(machine("b"), peer("c")), []string{`sees 2 of the 3 processes (Expect)`, `"b", "c"`, "waits for 1 more"}},
		"nobody may vote":     {free(machine("b", noVote, func(c *Config) { c.Expect = 2 }), mute), []string{"nobody may vote", `"b", "d"`}},
		"a lower name's turn": {free(machine("b"), peer("a"), peer("c")), []string{`"a", the lowest name that may vote, has to invite`}},
		"who may not vote":    {free(machine("a", noVote), peer("b"), peer("c")), []string{`"b", the lowest name that may vote, has to invite`}},
		"others are bound": {free(machine("b"), peer("c"), in("d")), []string{
			"sees 2 of the 3", `neither open nor led: "d"`}},
		"an address is mute": {func() *Machine {
			m := machine("b")
			m.Step(time.Second, View{Members: []Peer{peer("c"), peer("d")}, Unanswered: true})
			return m
		}(), []string{"an address that has not answered"}},
		"it invites": {func() *Machine { m, _ := inviting(t); return m }(), []string{"of the 2 processes", `"c", "d" did not accept yet`}},
		"one has accepted": {func() *Machine {
			m, mine := inviting(t)
			m.Step(ms, Received{who("c"), answer(mine, wire.VerdictAccepted)})
			return m
		}(), []string{`invited to found a cluster, "d" did not accept`}},
		"given up": {func() *Machine {
			m, _ := inviting(t)
			m.Step(5*time.Second, Tick{})
			return m
		}(), []string{`the last attempt was given up: no answer in time of "c", "d"`}},
		"it is invited": {held(), []string{`the invitation of "a"`, "after 10s"}},
		"a led cluster": {free(machine("b"), peer("a").in(x.Cluster, false, true)), []string{x.Cluster.String(), `"a" leads`, "asks to be one"}},
		"another Expect": {func() *Machine {
			m := free(machine("b"), peer("a"), peer("c"))
			m.Step(time.Second, Received{who("a"), invitation(other, "b", 1)})
			return m
		}(), []string{`"b" has Expect 3`, `"a" has 2`, "must be given the same"}},
		"a guest":           {free(machine("b"), peer("a").in(x.Cluster, true, true)), []string{"is open", `an answer of "a", who leads it`}},
		"a leaderless host": {free(machine("b"), peer("a").in(x.Cluster, true, false)), []string{"has no leader who is seen", `"a"`}},
		"voters are missing": {bound([]Peer{peer("c")}, Led{}), []string{
			"1 of its 3 founding voters are here, 2 are needed", `missing are "a", "c"`, "restart this process"}},
		"voters elect":           {bound([]Peer{in("a")}, Led{}), []string{"2 of its 3 founding voters are here and have to elect a leader"}},
		"a leader begins":        {bound([]Peer{in("a")}, Led{Leader: true}), []string{"has not committed the first entry"}},
		"confirmers are missing": {bound([]Peer{in("a")}, led), []string{"3 processes (Expect)", `2 are here: "a", "b"`, "waits for 1 more"}},
		"its word is missing":    {bound([]Peer{in("a"), in("c")}, led), []string{"has not committed this one's word"}},
		"open":                   {bound(nil, Led{Leader: true, Founded: true, Open: true}), nil},
		"after a restart": {func() *Machine {
			m := New(Config{Self: who("b"), Expect: 3, Voters: 3, Durable: true, Mint: minter(50)}, Saved{Server: who("b").Server, Cluster: x.Cluster, Charter: x})
			m.Step(0, Tick{})
			return m
		}(), []string{`missing are "a" and 1 whose names are not known here`}},
		"it looks": {func() *Machine {
			m := bound(nil, Led{})
			pass(m, ms, 16*time.Second)
			return m
		}(), []string{"looks whether it may leave"}},
		"its end": {bound([]Peer{in("a")}, Led{Leader: true, Leading: true, Founded: true, Dissolved: true}), []string{"its end is committed"}},
	} {
		got := c.m.Waiting()
		if c.want == nil && got != "" || c.want != nil && got == "" {
			t.Errorf("%s: says %q", name, got)
		}
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: says %q, without %q", name, got, want)
			}
		}
	}
}

func TestQuoteIsBounded(t *testing.T) {
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprint(i))
	}
	if got, want := quote(names), `"0", "1", "2", "3", "4", "5", "6" and 993 more`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := quote(names[:maxNamed+1]), `"0", "1", "2", "3", "4", "5", "6", "7"`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
