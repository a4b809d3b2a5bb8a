package session

import "sync"

// Owner stands for one thread of the program: what it asks for while it holds something else is of the same owner, by which the leader
// sees who waits for whom. It may be used with any Manager.
type Owner struct {
	mu      sync.Mutex // guards numbers; it is locked after Manager.mu
	numbers []number   // one for each Manager that it was used with
}

// number is how a Manager's leader knows an owner: by the owner's first request under the present numbers.
type number struct {
	m         *Manager
	numbering uint64
	seq       uint64
}

// number is o's number at m, 0 if seq, which is the number from now on, is its first request under the present numbers. The caller has
// m.mu. A nil Owner is one that has asked for nothing before.
func (o *Owner) number(m *Manager, seq uint64) uint64 {
	if o == nil {
		return 0
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.numbers {
		n := &o.numbers[i]
		if n.m != m {
			continue
		}
		if n.numbering == m.numbering {
			return n.seq
		}
		n.numbering, n.seq = m.numbering, seq // a session was lost: what came before means nothing to the leader
		return 0
	}
	o.numbers = append(o.numbers, number{m, m.numbering, seq})
	return 0
}

// Owner is who asked for g; it begins with g if g began without one.
func (g *Grant) Owner() *Owner {
	m := g.m
	m.mu.Lock()
	defer m.mu.Unlock()
	x := g.extraLocked()
	if x.owner == nil {
		x.owner = &Owner{}
		if m.reqs[g.seq] == g { // else its number is of a session that is no more
			x.owner.number(m, g.seq)
		}
	}
	return x.owner
}
