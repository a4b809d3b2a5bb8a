// Package guard remembers the greatest fence of each key, within a bound on its memory.
package guard

import (
	"container/heap"
	"hash/maphash"
	"strings"
	"sync"
)

const (
	shards   = 64
	overhead = 144 // bytes of a key beside its own: the entry, its places in the map and in the heap, and the room that both keep free
)

// Guard admits fences. It is safe for concurrent use.
type Guard struct {
	seed   maphash.Seed
	limit  int // bytes of each shard
	shards [shards]shard
}

// shard has the keys of one part of all hashes. Which part a key is of never changes, so what a shard forgets concerns its keys only.
type shard struct {
	mu    sync.Mutex // guards what follows
	keys  map[string]*entry
	least byFence // the same entries, the least fence first
	bytes int
	floor uint64 // the greatest fence of a key that was forgotten
}

type entry struct {
	key   string
	fence uint64
	at    int // in least
}

// New returns a Guard that takes about limit bytes.
func New(limit int) *Guard { return &Guard{seed: maphash.MakeSeed(), limit: limit / shards} }

// Admit says whether no greater fence of key was admitted, as far as that is known: of a key that was forgotten, or never seen, it is certain
// only for fences that are no less than all that were forgotten. What it admits it remembers.
func (g *Guard) Admit(key string, fence uint64) bool {
	s := &g.shards[maphash.String(g.seed, key)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.keys[key]; e != nil {
		if fence < e.fence {
			return false
		}
		if fence > e.fence {
			e.fence = fence
			heap.Fix(&s.least, e.at)
		}
		return true
	}
	if fence < s.floor {
		return false
	}
	s.add(key, fence, g.limit)
	return true
}

// add makes room by forgetting the keys with the least fences: those were granted longest ago, and what is refused for it is oldest.
func (s *shard) add(key string, fence uint64, limit int) {
	if s.keys == nil {
		s.keys = make(map[string]*entry)
	}
	e := &entry{key: strings.Clone(key), fence: fence} // a key that was cut out of a request must not keep all of the request in memory
	s.keys[e.key] = e
	heap.Push(&s.least, e)
	s.bytes += size(key)
	for s.bytes > limit {
		old := heap.Pop(&s.least).(*entry)
		delete(s.keys, old.key)
		s.bytes -= size(old.key)
		s.floor = max(s.floor, old.fence)
	}
}

// size is no less than what key takes: the runtime gives memory in sizes that are up to a sixth above what is asked for.
func size(key string) int { return len(key) + len(key)/6 + overhead }

// byFence is a heap.
type byFence []*entry

func (h byFence) Len() int           { return len(h) }
func (h byFence) Less(i, j int) bool { return h[i].fence < h[j].fence }
func (h byFence) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push is heap's.
func (h *byFence) Push(x any) {
	e := x.(*entry)
	e.at = len(*h)
	*h = append(*h, e)
}

// Pop is heap's.
func (h *byFence) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
