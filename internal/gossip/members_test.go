package gossip

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/hashicorp/memberlist"
)

func newTable(self Meta, log *slog.Logger) *table {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := new(table)
	t.init(self, log)
	return t
}

func meta(name string) Meta {
	return Meta{Instance: wire.NewUUID(), Server: wire.NewUUID(), Name: name, Addr: "127.0.0.1:1"}
}

func node(m Meta) *memberlist.Node {
	return &memberlist.Node{
		Name: m.Instance.String(), Addr: net.IPv4(127, 0, 0, 1), Port: 1, Meta: m.encode(),
		PMin: memberlist.ProtocolVersionMin, PMax: memberlist.ProtocolVersionMax, PCur: memberlist.ProtocolVersion2Compatible,
	}
}

// note does what memberlist does on an alive message, and on a dead one.
func (t *table) note(m Meta, s State) error {
	n := node(m)
	if s == Alive {
		if err := t.admit(n); err != nil {
			return err
		}
	}
	t.put(n, s)
	return nil
}

func names(ms []Member) string {
	var all []string
	for _, m := range ms {
		all = append(all, m.Name+" "+string(m.State))
	}
	return strings.Join(all, ", ")
}

func TestDeadInstancesHideAndAreForgotten(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		tab := newTable(meta("me"), nil)
		old, again := meta("b"), meta("b")
		leaver := meta("c")
		_ = tab.note(old, Alive)
		_ = tab.note(leaver, Alive)
		leaver.Leaving = true
		_ = tab.note(leaver, Alive)
		_ = tab.note(leaver, Failed)
		_ = tab.note(old, Failed)
		expect := func(want string) {
			t.Helper()
			if got := names(tab.list()); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		expect("b failed, c left, me alive")
		_ = tab.note(again, Alive)
		expect("b alive, c left, me alive")
		time.Sleep(time.Second)
		_ = tab.note(again, Failed)
		expect("b failed, c left, me alive")
		for _, m := range tab.list() {
			if m.Name == "b" && m.Instance != again.Instance {
				t.Error("of two dead instances the older is listed")
			}
		}
		_ = tab.note(meta("me"), Alive) // somebody has taken our name
		expect("b failed, c left, me alive, me alive")
		time.Sleep(deadFor)
		expect("b failed, me alive, me alive")
		time.Sleep(2 * time.Second)
		expect("me alive, me alive")
	})
}

func TestTheDeadAreBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		tab := newTable(meta("me"), nil)
		for i := range maxDead + 50 {
			m := meta(fmt.Sprintf("p%05d", i))
			_ = tab.note(m, Alive)
			time.Sleep(time.Millisecond)
			_ = tab.note(m, Failed)
		}
		all := tab.list()
		if len(all) != maxDead+1 {
			t.Errorf("%d are remembered, want %d and ourselves", len(all), maxDead)
		}
		if all[1].Name != "p00050" {
			t.Errorf("the oldest that is remembered is %s", all[1].Name)
		}
		if len(tab.rows) != maxDead {
			t.Errorf("%d rows", len(tab.rows))
		}
	})
}

func TestTheLivingAreBounded(t *testing.T) {
	tab := newTable(meta("me"), nil)
	first := meta("first")
	_ = tab.note(first, Alive)
	tab.living = maxMembers // as if the others had come
	if tab.note(meta("more"), Alive) != errFull {
		t.Error("one more than the bound is let in")
	}
	first.Term = 9
	if err := tab.note(first, Alive); err != nil {
		t.Errorf("news of one that is in: %v", err)
	}
	_ = tab.note(first, Failed)
	if err := tab.note(meta("next"), Alive); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}

func TestALargeFleetRepeatsLess(t *testing.T) {
	tab := newTable(meta("me"), nil)
	for i := range largeFleet {
		if got := tab.firstAgain(); got != 0 {
			t.Fatalf("among %d others the first repetition is number %d", i, got)
		}
		_ = tab.note(meta(fmt.Sprint(i)), Alive)
	}
	if got := tab.firstAgain(); got != len(sayAgain)-1 {
		t.Errorf("among %d others the first repetition is number %d", largeFleet, got)
	}
}

func TestSuspectIsWhoDoesNotAnswerUs(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		tab := newTable(meta("me"), nil)
		b := meta("b")
		_ = tab.note(b, Alive)
		state := func() State { return tab.list()[0].State }
		tab.missed(b.Instance.String())
		if state() != Alive {
			t.Error("suspected before its detours have had their time")
		}
		time.Sleep(suspectAfter)
		if state() != Suspect {
			t.Error("not suspected")
		}
		tab.heard(b.Instance.String())
		if state() != Alive {
			t.Error("suspected although it has answered")
		}
		tab.missed(b.Instance.String())
		time.Sleep(suspectFor)
		if state() != Alive {
			t.Error("suspected although others must have heard it, or it would have failed")
		}
	})
}

// Hazard 24: gossip keeps two open clusters apart, and lets an unopened one hear of an open one.
func TestClustersMeet(t *testing.T) {
	x, y := wire.NewUUID(), wire.NewUUID()
	for _, c := range []struct {
		name          string
		mine, theirs  wire.UUID
		iOpen, uOpen  bool
		letIn, listed bool
	}{
		{name: "neither knows one", letIn: true},
		{name: "they know one", theirs: y, uOpen: true, letIn: true},
		{name: "we know one", mine: x, iOpen: true, letIn: true},
		{name: "the same", mine: x, theirs: x, iOpen: true, uOpen: true, letIn: true},
		{name: "ours has not opened", mine: x, theirs: y, uOpen: true, letIn: true},
		{name: "theirs has not opened", mine: x, theirs: y, iOpen: true, letIn: true},
		{name: "neither has opened", mine: x, theirs: y, letIn: true},
		{name: "both have opened", mine: x, theirs: y, iOpen: true, uOpen: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			self, b := meta("me"), meta("b")
			self.Cluster, self.Open = c.mine, c.iOpen
			b.Cluster, b.Open = c.theirs, c.uOpen
			tab := newTable(self, nil)
			if err := tab.note(b, Alive); (err == nil) != c.letIn {
				t.Errorf("admitted with %v", err)
			}
			if foreign := tab.foreign(node(b)); foreign == c.letIn {
				t.Errorf("foreign: %v", foreign)
			}
			if got := len(tab.conflicting()); (got == 0) != c.letIn {
				t.Errorf("%d conflicts", got)
			}
			if got := len(tab.list()); (got == 2) != c.letIn {
				t.Errorf("%d are listed", got)
			}
		})
	}
}

func TestAConflictThatComesLaterHidesAMember(t *testing.T) {
	self, b := meta("me"), meta("b")
	var log strings.Builder
	tab := newTable(self, slog.New(slog.NewTextHandler(&log, nil)))
	b.Cluster, b.Open = wire.NewUUID(), true
	_ = tab.note(b, Alive)
	self.Cluster, self.Open = wire.NewUUID(), true
	if !tab.setSelf(self) || tab.setSelf(self) {
		t.Error("a change is news once")
	}
	if names(tab.list()) != "me alive" || names(tab.conflicting()) != "b alive" {
		t.Errorf("list: %s; conflicts: %s", names(tab.list()), names(tab.conflicting()))
	}
	for range 100 {
		_ = tab.note(b, Alive)
	}
	if n := strings.Count(log.String(), "two open clusters"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	self.Cluster, self.Open = wire.UUID{}, false // ours dissolved
	tab.setSelf(self)
	if names(tab.list()) != "b alive, me alive" || len(tab.conflicting()) != 0 {
		t.Errorf("after ours is gone: %s; conflicts: %s", names(tab.list()), names(tab.conflicting()))
	}
}

// Who is known as one of our open cluster is not taken out of it by what somebody else says of it.
func TestAMemberIsNotTakenForAnother(t *testing.T) {
	self, b := meta("me"), meta("b")
	self.Cluster, self.Open = wire.NewUUID(), true
	b.Cluster, b.Open = self.Cluster, true
	tab := newTable(self, nil)
	if err := tab.note(b, Alive); err != nil {
		t.Fatal(err)
	}
	lie := b
	lie.Cluster[3] ^= 1
	if err := tab.note(lie, Alive); !errors.Is(err, errForged) {
		t.Errorf("admitted with %v", err)
	}
	if tab.foreign(node(lie)) {
		t.Error("its list is refused")
	}
	if names(tab.list()) != "b alive, me alive" || len(tab.conflicting()) != 0 {
		t.Errorf("list: %s; conflicts: %s", names(tab.list()), names(tab.conflicting()))
	}
}

func TestConflictsAreBoundedAndForgotten(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		self := meta("me")
		self.Cluster, self.Open = wire.NewUUID(), true
		tab := newTable(self, nil)
		for i := range maxConflicts + 10 {
			b := meta(fmt.Sprint(i))
			b.Cluster, b.Open = wire.NewUUID(), true
			_ = tab.note(b, Alive)
		}
		if got := len(tab.conflicting()); got != maxConflicts {
			t.Errorf("%d are remembered", got)
		}
		time.Sleep(conflictFor + time.Second)
		if got := len(tab.conflicting()); got != 0 {
			t.Errorf("%d are never forgotten", got)
		}
	})
}

func TestWhatCantBeReadIsIgnored(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var log strings.Builder
		tab := newTable(meta("me"), slog.New(slog.NewTextHandler(&log, nil)))
		for name, spoil := range map[string]func(*memberlist.Node){
			"no metadata":         func(n *memberlist.Node) { n.Meta = nil },
			"garbage":             func(n *memberlist.Node) { n.Meta = []byte("garbage") },
			"another's name":      func(n *memberlist.Node) { n.Name = wire.NewUUID().String() },
			"a name of its own":   func(n *memberlist.Node) { n.Name = "x" },
			"no address":          func(n *memberlist.Node) { n.Addr = nil },
			"half an address":     func(n *memberlist.Node) { n.Addr = []byte{1, 2, 3} },
			"every address":       func(n *memberlist.Node) { n.Addr = net.IPv4zero },
			"no port":             func(n *memberlist.Node) { n.Port = 0 },
			"protocols of others": func(n *memberlist.Node) { n.PMax = 99 },
			"a delegate's":        func(n *memberlist.Node) { n.DMin = 200 },
		} {
			n := node(meta("b"))
			spoil(n)
			if tab.admit(n) == nil {
				t.Errorf("%s: let in", name)
			}
			if tab.put(n, Alive) || tab.foreign(n) {
				t.Errorf("%s: noted", name)
			}
		}
		if n := strings.Count(log.String(), "ignored"); n != 1 {
			t.Errorf("it is said %d times in a minute", n)
		}
		time.Sleep(time.Minute)
		_ = tab.admit(&memberlist.Node{Name: "x"})
		if n := strings.Count(log.String(), "ignored"); n != 2 {
			t.Errorf("a minute later it was said %d times", n)
		}
	})
}

func TestAPeerCannotFloodTheLog(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var log strings.Builder
		w := &logWriter{to: slog.New(slog.NewTextHandler(&log, nil))}
		line := func() { fmt.Fprintln(w, "[ERR] memberlist: Failed to decode whatever") }
		for range 10 * logBurst {
			line()
		}
		fmt.Fprintln(w, "[DEBUG] memberlist: chatter")
		if n := strings.Count(log.String(), "\n"); n != logBurst {
			t.Errorf("%d lines, want %d", n, logBurst)
		}
		time.Sleep(logWindow)
		line()
		if !strings.Contains(log.String(), fmt.Sprint("count=", 9*logBurst)) {
			t.Errorf("nothing says how many were left out:\n%s", log.String())
		}
	})
}

// Where UDP is blocked memberlist says so at each probe; once a minute will do.
func TestBlockedUDPIsSaidOnceAMinute(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var log strings.Builder
		w := &logWriter{to: slog.New(slog.NewTextHandler(&log, nil))}
		for range 2 * 65 { // half seconds
			fmt.Fprintln(w, "[WARN] memberlist: Was able to connect to x over TCP but UDP probes failed, network may be misconfigured")
			time.Sleep(time.Second / 2)
		}
		if n := strings.Count(log.String(), "UDP"); n != 2 {
			t.Errorf("said %d times in 65s", n)
		}
	})
}
