package founding

import (
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// minter hands out UUIDs in order: 1, 2, …
func minter(first byte) func() wire.UUID {
	n := 0
	return func() wire.UUID {
		n++
		return wire.UUID{first, byte(n >> 8), byte(n)}
	}
}

// find returns the first action of type A.
func find[A Action](t *testing.T, acts []Action) A {
	t.Helper()
	for _, a := range acts {
		if a, ok := a.(A); ok {
			return a
		}
	}
	var zero A
	t.Fatalf("no %T in %+v", zero, acts)
	return zero
}

func has[A Action](acts []Action) bool {
	for _, a := range acts {
		if _, ok := a.(A); ok {
			return true
		}
	}
	return false
}

func TestAloneFoundsAtOnce(t *testing.T) {
	self := Process{Server: wire.UUID{1}, Instance: wire.UUID{2}, Name: "a", MayVote: true}
	m := New(Config{Self: self, Expect: 1, Voters: 3, Alone: true, Mint: minter(9)}, Saved{})
	acts := m.Step(time.Second, Tick{})
	start := find[StartRaft](t, acts)
	if !start.Bootstrap || len(start.Voters) != 1 || start.Voters[0] != self.Server {
		t.Fatalf("started %+v", start)
	}
	saved := false
	for _, a := range acts {
		switch a := a.(type) {
		case Save:
			saved = a.Saved.Cluster == start.Cluster && a.Saved.Bootstrap
		case StartRaft:
			if !saved {
				t.Fatal("bootstrapped before that was saved")
			}
		}
	}
	acts = m.Step(2*time.Second, Led{Cluster: start.Cluster, Leader: true, Leading: true})
	if f := find[Found](t, acts); f.Charter.Expect != 1 || f.Charter.Silent || has[Confirm](acts) {
		t.Fatalf("led: %+v", acts)
	}
	acts = m.Step(3*time.Second, Led{Cluster: start.Cluster, Leader: true, Leading: true, Founded: true})
	if find[Confirm](t, acts).Cluster != start.Cluster || !find[Save](t, acts).Saved.Confirmed {
		t.Fatalf("founded: %+v", acts)
	}
	m.Step(4*time.Second, Confirmed{Cluster: start.Cluster, Open: true})
	if !m.Open() || m.Cluster() != start.Cluster {
		t.Fatal("not open")
	}
}
