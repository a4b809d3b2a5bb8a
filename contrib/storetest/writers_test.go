// Package storetest runs the guards for Redis and for object stores beside servers.
package storetest

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/godistlock/distlock"
)

// writers has eight writers try total writes: three with fences that are overtaken, which must all be refused, and five that take a new fence
// every few writes and may overtake each other. It answers how many were admitted.
func writers(t *testing.T, total int, write func(context.Context, distlock.Fence) error) int {
	t.Helper()
	const all, old, each = 8, 3, 5 // each: writes of one grant
	var (
		newest   atomic.Uint64 // the fence given last
		stands   atomic.Uint64 // the greatest one that was admitted
		admitted atomic.Int64
		overtook atomic.Int64
		work     sync.WaitGroup
	)
	newest.Store(1795400835142333)
	stands.Store(newest.Load())
	if err := write(t.Context(), distlock.Fence(newest.Load())); err != nil {
		t.Fatal(err)
	}
	admitted.Add(1)
	for w := range all {
		work.Go(func() { // ends after its share of the writes
			var fence uint64
			for i := range total / all {
				stale := w < old
				if stale {
					fence = stands.Load() - 1 - uint64(i%3)
				} else if i%each == 0 {
					fence = newest.Add(1)
				}
				err := write(t.Context(), distlock.Fence(fence))
				switch {
				case err == nil && stale:
					t.Errorf("admitted with fence %d, after %d was", fence, stands.Load())
				case err == nil:
					admitted.Add(1)
					for s := stands.Load(); s < fence && !stands.CompareAndSwap(s, fence); s = stands.Load() {
					}
				case !errors.Is(err, distlock.ErrStaleFence):
					t.Error(err)
					return
				case !stale:
					overtook.Add(1)
				}
			}
		})
	}
	work.Wait()
	t.Logf("%d writes admitted, %d refused that were stale, %d of holders that were overtaken", admitted.Load(), total/all*old, overtook.Load())
	if admitted.Load() < int64(total/all) {
		t.Error("too few were admitted for this to show anything")
	}
	return int(admitted.Load())
}

// rises fails when a fence of the audit is less than the one before.
func rises(t *testing.T, audit []string) {
	t.Helper()
	last := uint64(0)
	for i, text := range audit {
		fence, err := strconv.ParseUint(text, 10, 64)
		if err != nil || fence < last {
			t.Fatalf("write %d has fence %q, %v, after %d", i, text, err, last)
		}
		last = fence
	}
}
