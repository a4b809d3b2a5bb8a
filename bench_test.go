package distlock

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkLockUnlock is a pair of Lock and Unlock in a cluster of three members in memory, all in this process: for quick comparisons.
// Real processes, disks and times are measured by internal/bench.
func BenchmarkLockUnlock(b *testing.B) {
	ms := newMembers(b, 3)
	leader := ms.leader(testContext(b, 30*time.Second))
	for _, from := range []struct {
		name string
		at   *Cluster
	}{{"leader", ms.all[leader]}, {"follower", ms.all[(leader+1)%len(ms.all)]}} {
		for _, callers := range []int{1, 64, 256} {
			b.Run(fmt.Sprintf("%s/callers=%d", from.name, callers), func(b *testing.B) { benchPairs(b, from.at, callers) })
		}
	}
}

func benchPairs(b *testing.B, c *Cluster, callers int) {
	ctx := context.Background()
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan error, callers)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range callers {
		go func() { // ends with the last pair; awaited below
			for left.Add(-1) >= 0 {
				lock, err := c.Lock(ctx, "order-"+strconv.Itoa(i))
				if err == nil {
					err = lock.Unlock(ctx)
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range callers {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pairs/s")
}
