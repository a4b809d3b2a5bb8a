package guard

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func TestAdmit(t *testing.T) {
	g := New(1 << 20)
	for _, c := range []struct {
		key   string
		fence uint64
		want  bool
	}{
		{"a", 5, true}, {"a", 5, true}, {"a", 4, false}, {"b", 1, true}, {"a", 7, true}, {"a", 6, false}, {"b", 1, true}, {"", 3, true}, {"", 2, false},
	} {
		if got := g.Admit(c.key, c.fence); got != c.want {
			t.Errorf("%q with %d: %v", c.key, c.fence, got)
		}
	}
}

// Whatever is forgotten, a fence older than one that was admitted for its key never gets through, and the newest of all always does.
func TestNeverAnOlderFence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := New(shards * overhead * 3) // three keys a shard at most
		greatest := map[string]uint64{}
		newest := uint64(0)
		for range rapid.IntRange(1, 600).Draw(t, "steps") {
			key := fmt.Sprint(rapid.IntRange(0, 400).Draw(t, "key"))
			fence := rapid.Uint64Range(1, 1000).Draw(t, "fence")
			got := g.Admit(key, fence)
			if got && fence < greatest[key] {
				t.Fatalf("%s: %d after %d", key, fence, greatest[key])
			}
			if !got && fence >= newest {
				t.Fatalf("%s: %d is refused, and nothing newer was seen", key, fence)
			}
			if got {
				greatest[key], newest = max(greatest[key], fence), max(newest, fence)
			}
		}
	})
}

// A key that is remembered is judged by its own fences only.
func TestKeysAreApart(t *testing.T) {
	g := New(64 << 20)
	g.Admit("new", 1000)
	if !g.Admit("old", 1) {
		t.Error("refused for the fence of another key")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	const limit = 8 << 20
	g := New(limit)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range uint64(400_000) { // four times what fits
		g.Admit(fmt.Sprintf("key %d", i), i+1)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if took := int64(after.HeapAlloc) - int64(before.HeapAlloc); took > limit {
		t.Errorf("%d KiB for a limit of %d", took>>10, limit>>10)
	}
	if !g.Admit("key 399999", 400_000) || g.Admit("key 399999", 399_999) || g.Admit("key 0", 1) {
		t.Error("it has forgotten the wrong ones")
	}
	runtime.KeepAlive(g)
}

// Many at once: each key's admitted fences never fall.
func TestConcurrent(t *testing.T) {
	g := New(1 << 20)
	var all sync.WaitGroup
	var mu [8]sync.Mutex
	var last [8]uint64
	for range 8 {
		all.Go(func() {
			for range 2000 {
				k := rand.IntN(len(mu))
				fence := rand.Uint64N(1 << 40)
				mu[k].Lock()
				if got := g.Admit(fmt.Sprint(k), fence); got != (fence >= last[k]) {
					t.Errorf("key %d: %d after %d: %v", k, fence, last[k], got)
				} else if got {
					last[k] = fence
				}
				mu[k].Unlock()
			}
		})
	}
	all.Wait()
}

func BenchmarkAdmit(b *testing.B) {
	g := New(64 << 20)
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprintf("key %d", i)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := uint64(0); pb.Next(); i++ {
			g.Admit(keys[i%1000], i)
		}
	})
}
