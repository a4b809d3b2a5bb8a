package distlock

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// MaxPending is kept by the process itself: as many locks wait, one more answers ErrLimit at once, and unlocks go on.
func TestMaxPending(t *testing.T) {
	c, err := Join(Config{Bind: "127.0.0.1:0", MaxPending: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	held, err := c.Lock(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	locked := make(chan error, 3)
	for range 3 {
		go func() {
			_, err := c.Lock(ctx, "k")
			locked <- err
		}()
	}
	if err := <-locked; !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), "2 calls of this process wait for an answer (Config.MaxPending)") {
		t.Errorf("a third that would wait: %v", err)
	}
	if err := held.Unlock(t.Context()); err != nil {
		t.Errorf("unlock: %v", err)
	}
	if err := <-locked; err != nil {
		t.Errorf("the next in the queue: %v", err)
	}
	cancel()
	if err := <-locked; !errors.Is(err, context.Canceled) {
		t.Errorf("the last: %v", err)
	}
}
