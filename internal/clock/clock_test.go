package clock

import (
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
)

func TestMonotonic(t *testing.T) {
	bubble.Test(t, func(t *testing.T) { // it moves with virtual time
		c := Monotonic()
		began := c.Now()
		time.Sleep(time.Hour)
		if d := c.Now() - began; d != time.Hour {
			t.Errorf("an hour took %s", d)
		}
	})
}

func TestBootNeverStepsBack(t *testing.T) {
	c := Boot()
	last := c.Now()
	for range 10_000 {
		now := c.Now()
		if now < last {
			t.Fatalf("from %s back to %s", last, now)
		}
		last = now
	}
}
