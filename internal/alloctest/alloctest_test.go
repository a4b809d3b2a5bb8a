package alloctest

import (
	"testing"
)

// judge stands in for a test: it only notes that it failed.
type judge struct {
	testing.TB
	failed bool
}

func (j *judge) Helper()               {}
func (j *judge) Errorf(string, ...any) { j.failed = true }

var kept []byte

func TestWhatIsNotPaidForIsSeen(t *testing.T) {
	for _, c := range []struct {
		n, allocates int
		want         bool
	}{{0, Constant / 2, false}, {0, 4 * Constant, true}, {Constant, 32 * Constant, false}, {Constant, 100 * Constant, true}} {
		j := &judge{}
		Paid(j, c.n, func() { kept = make([]byte, c.allocates) })
		if j.failed != c.want {
			t.Errorf("%d bytes for %d of input: failed %v", c.allocates, c.n, j.failed)
		}
	}
}
