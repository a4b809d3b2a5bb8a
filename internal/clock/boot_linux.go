package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

type boot struct{}

// Boot is CLOCK_BOOTTIME: monotonic, and it counts suspension.
func Boot() Clock {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil { // a kernel before 2.6.39, or a sandbox that forbids it
		return Monotonic()
	}
	return boot{}
}

func (boot) Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("distlock: CLOCK_BOOTTIME worked once and no more: " + err.Error()) // cannot happen: the call has no state
	}
	return time.Duration(ts.Nano())
}
