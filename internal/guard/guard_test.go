package guard

import (
	"encoding/binary"
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

// With the shortest keys, of which there are enough, what is kept beside a key weighs most; those of 769 bytes fit worst into what the runtime gives
// out; and a key may be a short piece of a long text.
func TestMemoryIsBounded(t *testing.T) {
	const limit = 16 << 20 // a fourth of what NewGuard has, in a fourth of the time
	for name, c := range map[string]struct{ length, of int }{"short": {4, 4}, "awkward": {769, 769}, "cut out": {4, 256 << 10}} {
		n := limit / (c.of + 100) * 3 / 2 // more than fit, and less than can be made in a moment
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		g := New(limit)
		key := func(i int) string {
			text := make([]byte, c.of)
			binary.BigEndian.PutUint32(text[c.of-4:], uint32(i))
			return string(text)[c.of-c.length:]
		}
		for i := range n {
			g.Admit(key(i), uint64(i)+1)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		took := int64(after.HeapAlloc) - int64(before.HeapAlloc)
		if t.Logf("%s: %d keys, %.1f MiB", name, n, float64(took)/(1<<20)); took > limit {
			t.Errorf("%s keys take %d KiB of the %d allowed", name, took>>10, limit>>10)
		}
		if last := key(n - 1); !g.Admit(last, uint64(n)) || g.Admit(last, uint64(n)-1) || c.of == c.length && g.Admit(key(0), 1) {
			t.Errorf("%s: it has forgotten the wrong ones", name)
		}
		runtime.KeepAlive(g)
	}
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
