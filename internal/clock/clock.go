// Package clock is the one source of time for deadlines. A deadline of a lock must count the time that the machine was suspended, which
// Go's (and Linux's) monotonic clock does not.
package clock

import "time"

// Clock tells the time since some fixed start. It never steps back and is no wall clock.
type Clock interface {
	Now() time.Duration
}

type monotonic struct{ start time.Time }

// Monotonic is Go's monotonic clock: it stands still while the machine is suspended, and moves with virtual time in tests.
func Monotonic() Clock { return monotonic{time.Now()} }

func (m monotonic) Now() time.Duration { return time.Since(m.start) }
