//go:build !linux

package clock

// Boot is the monotonic clock where there is no CLOCK_BOOTTIME. Darwin's and Windows's Go clocks are what the system offers.
func Boot() Clock { return Monotonic() }
