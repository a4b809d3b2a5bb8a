package founding

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/alloctest"
	"github.com/godistlock/distlock/internal/wire"
)

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
	if acts = pass(m, time.Second, time.Minute); has[StopRaft](acts) {
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
		alloctest.Paid(t, len(p), func() { DecodeSaved(wire.NewReader(p)) })
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
