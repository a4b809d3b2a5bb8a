// Package testport gives tests ports that nobody else takes while they run.
package testport

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/godistlock/distlock/internal/mux"
)

// Range is a range of ports, from Low to below High.
type Range struct{ Low, High int }

// The tests of several packages run at the same time, each in a process of its own: each has a range. All lie below those from which systems give
// ports to outgoing connections, so that a process which is down finds its port free again, and a dial to where nobody listens can't
// meet itself. The programs internal/bench (6000 to 10000) and examples/demo (11000 to 13000) pick their own.
var (
	HTTPExample = Range{10000, 11000}
	Distlock    = Range{13000, 28000}
	Proctest    = Range{28000, 32000}
	Node        = Range{32000, 32500}
)

var taken sync.Map // addresses that some test has

// Pick answers n loopback addresses of r whose port is free for TCP and UDP, and which no other test of this process is given before t is over: a
// process that is down, or that a test waits for in vain, must not be replaced by a stranger.
func (r Range) Pick(t testing.TB, n int) []string {
	t.Helper()
	var out []string
	for tries := 0; len(out) < n; tries++ {
		if tries > 100*(n+10) {
			t.Fatalf("no %d ports from %d to %d are free for TCP and UDP", n, r.Low, r.High)
		}
		addr := fmt.Sprintf("127.0.0.1:%d", r.Low+rand.N(r.High-r.Low))
		if _, had := taken.LoadOrStore(addr, true); had {
			continue
		}
		tcp, udp, err := mux.System().Listen(addr)
		if err != nil {
			taken.Delete(addr)
			continue
		}
		tcp.Close()
		udp.Close()
		t.Cleanup(func() { taken.Delete(addr) })
		out = append(out, addr)
	}
	return out
}
