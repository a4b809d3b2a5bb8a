package raftfsm

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/google/btree"
)

// Who asks is an owner: the thread of a program, as far as its contexts tell. An owner that waits does nothing else, so owners that wait
// for each other in a circle wait for ever. A request that would close one is refused.

// ownerOf names an owner.
type ownerOf struct{ session, number uint64 }

func (r *request) by() ownerOf { return ownerOf{r.session, r.owner()} }

// knot is what a search for a deadlock finds: the owners that a request waits for, be it by way of others.
type knot struct {
	m     *machine
	nodes *btree.BTreeG[*ownerNode]
	order []*ownerNode
	steps int
}

type ownerNode struct {
	id    ownerOf
	waits []*request
	free  bool // it goes on some time, if those do that are free
}

// deadlock says for people which circle r, which has begun to wait, has closed; "" if none. A semaphore's waiter is in one only when what all
// others could still release is not enough for it.
func (m *machine) deadlock(r *request) string {
	if r.owner() == r.seq || !m.isOwnerWanted(r.by()) { // who has just begun to ask has nothing yet
		return ""
	}
	k := &knot{m: m, nodes: btree.NewG(treeDegree, byOwnerNode)}
	start := k.visit(r.by())
	for i := 0; i < len(k.order); i++ { // k.order grows meanwhile
		for _, w := range k.order[i].waits {
			m.eachBlocker(w, func(_ string, b *request) bool {
				k.steps++
				if b.session != nobody {
					k.visit(b.by())
				}
				return k.steps < maxSearch
			})
		}
		if k.steps >= maxSearch {
			return ""
		}
	}
	for changed := true; changed && !start.free; {
		changed = false
		for i := len(k.order) - 1; i >= 0; i-- { // those that don't wait were found last
			if n := k.order[i]; !n.free && k.goesOn(n) {
				n.free, changed = true, true
			}
		}
	}
	if start.free {
		return ""
	}
	return k.describe(r)
}

// isOwnerWanted says that somebody may wait for an owner, which has just begun to wait.
func (m *machine) isOwnerWanted(o ownerOf) (found bool) {
	n := 0
	m.eachWait(wait{o.session, o.number, 0}, wait{o.session, o.number + 1, 0}, func(*request) { n++ })
	if n > 1 { // it is several threads
		return true
	}
	wanted := func(seq uint64) bool {
		r := m.request(o.session, seq)
		if r == nil || r.state != granted || r.owner() != o.number {
			return true
		}
		for _, key := range r.keysTo(&m.oneKey) {
			found = found || m.lock(key).waiters > 0
		}
		return !found
	}
	if wanted(o.number) {
		m.owned.AscendRange(wait{o.session, o.number, 0}, wait{o.session, o.number + 1, 0}, func(w wait) bool { return wanted(w.seq) })
	}
	return found
}

// eachBlocker calls f for what r waits for at each of its keys: holders that leave no room for it, and those before it.
func (m *machine) eachBlocker(r *request, f func(key string, b *request) bool) {
	more := true
	for _, key := range r.keys() {
		at := func(b *request) bool {
			more = f(key, b)
			return more
		}
		if l := m.lock(key); !l.fits(r) {
			m.eachHolder(l, at)
		}
		if more {
			m.eachBefore(key, r, at)
		}
		if !more {
			return
		}
	}
}

func byOwnerNode(a, b *ownerNode) bool {
	return cmp.Or(cmp.Compare(a.id.session, b.id.session), cmp.Compare(a.id.number, b.id.number)) < 0
}

func (k *knot) node(id ownerOf) *ownerNode {
	n, _ := k.nodes.Get(&ownerNode{id: id})
	return n
}

func (k *knot) visit(id ownerOf) *ownerNode {
	n := k.node(id)
	if n == nil {
		n = &ownerNode{id: id}
		k.m.eachWait(wait{id.session, id.number, 0}, wait{id.session, id.number + 1, 0}, func(r *request) {
			n.waits = append(n.waits, r)
		})
		k.nodes.ReplaceOrInsert(n)
		k.order = append(k.order, n)
	}
	return n
}

// goesOn says that all that n waits for can be had from those that are free.
func (k *knot) goesOn(n *ownerNode) bool {
	for _, w := range n.waits {
		if !k.canHave(w) {
			return false
		}
	}
	return true
}

// isFree says that what b has, or asked for before, will be released.
func (k *knot) isFree(b *request) bool { return b.session == nobody || k.node(b.by()).free }

func (k *knot) canHave(r *request) bool {
	for _, key := range r.keys() {
		l := k.m.lock(key)
		if !l.fits(r) && !k.room(l, r) {
			return false
		}
		stuck := false
		k.m.eachBefore(key, r, func(p *request) bool {
			stuck = !k.isFree(p)
			return !stuck
		})
		if stuck {
			return false
		}
	}
	return true
}

// room says that l has room for r once all that are free have released it.
func (k *knot) room(l *lock, r *request) bool {
	stuck, used := false, uint64(0)
	k.m.eachHolder(l, func(h *request) bool {
		if !k.isFree(h) {
			stuck, used = true, used+uint64(h.weight)
		}
		return true
	})
	if r.mode == wire.Units {
		return used+uint64(r.weight) <= uint64(l.limit)
	}
	return !stuck
}

// link is one step of a circle: at key, who is in the way.
type link struct {
	from *link
	key  string
	b    *request
}

// describe names the shortest circle from r back to its owner, key by key.
func (k *knot) describe(r *request) string {
	todo := []*link{}
	expand := func(from *link, w *request) {
		k.m.eachBlocker(w, func(key string, b *request) bool {
			if !k.isFree(b) {
				todo = append(todo, &link{from, key, b})
			}
			return true
		})
	}
	expand(nil, r)
	var seen []ownerOf
	for i := 0; i < len(todo); i++ {
		l := todo[i]
		id := l.b.by()
		if id == r.by() {
			return k.spell(l)
		}
		if !slices.Contains(seen, id) {
			seen = append(seen, id)
			for _, w := range k.node(id).waits {
				expand(l, w)
			}
		}
	}
	return "" // a circle that was there before r, which is no part of it
}

func (k *knot) spell(last *link) string {
	var circle []*link
	for l := last; l != nil; l = l.from {
		circle = append([]*link{l}, circle...)
	}
	p := []byte("it would wait for ")
	for i, l := range circle {
		if i > 0 {
			p = append(p, ", whose owner waits for "...)
		}
		p = appendShort(p, l.key)
		if l.b.state == waiting {
			p = append(p, " (asked for before by "...)
		} else {
			p = append(p, " (held by "...)
		}
		if i == len(circle)-1 {
			p = append(p, "this owner, "...)
		}
		p = strconv.AppendQuote(p, k.m.member(l.b.session))
		if l.b.state == granted {
			p = append(p, ", fence "...)
			p = strconv.AppendUint(p, l.b.fence, 10)
		}
		p = append(p, ')')
	}
	return string(p)
}

// appendShort appends key in quotes, the middle of a long one left out.
func appendShort(p []byte, key string) []byte {
	const most = 100
	if len(key) > most {
		key = key[:most/2] + "…" + key[len(key)-most/2:]
	}
	return strconv.AppendQuote(p, key)
}
