package gossip

import (
	"fmt"
	"testing"
)

// fleetSize is the largest fleet that docs/benchmarks.md has figures of.
const fleetSize = 1000

// newFleetTable knows a fleet of which this process is one.
func newFleetTable(tb testing.TB) (*table, []Meta) {
	t := newTable(meta("p0000"), nil)
	var others []Meta
	for i := 1; i < fleetSize; i++ {
		m := meta(fmt.Sprintf("p%04d", i))
		if err := t.note(m, Alive); err != nil {
			tb.Fatal(err)
		}
		others = append(others, m)
	}
	return t, others
}

// What everybody asks several times a second, mostly without news.
func BenchmarkList(b *testing.B) {
	t, _ := newFleetTable(b)
	b.ReportAllocs()
	for b.Loop() {
		t.list()
	}
}

// News of one member before each list.
func BenchmarkListAfterNews(b *testing.B) {
	t, others := newFleetTable(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m := others[i%len(others)]
		m.Term = uint64(i)
		if err := t.note(m, Alive); err != nil {
			b.Fatal(err)
		}
		t.list()
	}
}

// An alive message that says nothing new: memberlist delivers each many times.
func BenchmarkAdmit(b *testing.B) {
	t, others := newFleetTable(b)
	n := node(others[500])
	b.ReportAllocs()
	for b.Loop() {
		if err := t.admit(n); err != nil {
			b.Fatal(err)
		}
	}
}
