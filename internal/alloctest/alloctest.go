// Package alloctest is for tests of what reads a peer's or a file's bytes: each allocation must be paid for by bytes that came.
package alloctest

import (
	"runtime"
	"testing"
)

// What a decoder may allocate: Factor bytes for each of its input, and Constant (its reader, an error's text, and what the runtime does
// meanwhile) beside.
const (
	Factor   = 64
	Constant = 64 << 10
)

// Paid fails t if decode allocates more than a decoder may for n bytes of input.
func Paid(t testing.TB, n int, decode func()) {
	t.Helper()
	PaidWith(t, n, Constant, decode)
}

// PaidWith is Paid for a decoder with another constant. What other goroutines allocate meanwhile is not told apart, so only a figure that
// comes again counts.
func PaidWith(t testing.TB, n, constant int, decode func()) {
	t.Helper()
	limit := uint64(Factor*n + constant)
	var got uint64
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		decode()
		runtime.ReadMemStats(&after)
		if got = after.TotalAlloc - before.TotalAlloc; got <= limit {
			return
		}
	}
	t.Errorf("%d bytes allocated for %d of input, limit %d", got, n, limit)
}
