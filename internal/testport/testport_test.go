package testport

import (
	"net"
	"testing"
)

func TestPick(t *testing.T) {
	const n = 30
	r := Range{32500, 32600}
	if held, err := net.Listen("tcp", "127.0.0.1:32550"); err == nil {
		defer held.Close()
	}
	seen := map[string]bool{"127.0.0.1:32550": true} // it is not free
	t.Run("one test", func(t *testing.T) {
		for _, addr := range append(r.Pick(t, n), r.Pick(t, n)...) {
			if seen[addr] {
				t.Errorf("%s is given twice, or is not free", addr)
			}
			seen[addr] = true
			if l, err := net.Listen("tcp", addr); err != nil {
				t.Error(err)
			} else {
				l.Close()
			}
		}
	})
	r.Pick(t, 2*n) // what the test before had is free again
}
