package clock

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A deadline must count the time that the machine was suspended, which Linux's monotonic clock (Go's too) does not: CLOCK_BOOTTIME does. The
// two are the same on a machine that never slept, so it is not enough to look at differences.
func TestBootCountsSuspension(t *testing.T) {
	read := func() time.Duration {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			t.Fatal(err)
		}
		return time.Duration(ts.Nano())
	}
	c := Boot()
	if _, ok := c.(boot); !ok {
		t.Fatalf("the clock is a %T", c)
	}
	for range 100 {
		before, got, after := read(), c.Now(), read()
		if got < before || got > after {
			t.Fatalf("%s is not between %s and %s of CLOCK_BOOTTIME", got, before, after)
		}
	}
}
