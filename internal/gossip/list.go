package gossip

import (
	"bytes"
	"cmp"
	"slices"
	"time"
)

// list is all members, sorted. Of a name's dead instances it has only the last, and none while the name lives. It is asked many times a second
// and changes seldom: what was answered last is answered again until something has changed.
func (t *table) list() []Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); t.listed == nil || !now.Before(t.listedFor) {
		t.forget(now)
		t.relist(now)
	}
	return t.listed
}

// relist makes the list anew; t.mu is held. Those of one name stand together.
func (t *table) relist(now time.Time) {
	self := Member{Meta: t.self, State: Alive, Since: t.since}
	all := make([]Member, 0, 1+len(t.sorted))
	t.listedFor = now.Add(deadFor)
	until := func(at time.Time) {
		if at.After(now) && at.Before(t.listedFor) {
			t.listedFor = at
		}
	}
	selfIsIn := false
	var to int
	for from := 0; from < len(t.sorted); from = to {
		name := t.sorted[from].Name
		var last *row // of the dead
		lives := name == self.Name
		for to = from; to < len(t.sorted) && t.sorted[to].Name == name; to++ {
			switch r := t.sorted[to]; {
			case r.State != Alive:
				until(r.Since.Add(deadFor + 1))
				if !r.overridden && (last == nil || r.Since.After(last.Since)) {
					last = r
				}
			case !r.overridden:
				lives = true
			}
		}
		for _, r := range t.sorted[from:to] {
			if !selfIsIn && order(self, r.Member) < 0 {
				all, selfIsIn = append(all, self), true
			}
			if r.overridden || r.State != Alive && (lives || r != last) {
				continue
			}
			all = append(all, r.Member)
			if r.State == Alive && !r.missedAt.IsZero() {
				suspect, over := r.missedAt.Add(suspectAfter), r.missedAt.Add(suspectFor)
				until(suspect)
				until(over)
				if !now.Before(suspect) && now.Before(over) {
					all[len(all)-1].State = Suspect
				}
			}
		}
	}
	if !selfIsIn {
		all = append(all, self)
	}
	t.listed = all
}

func order(a, b Member) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), bytes.Compare(a.Instance[:], b.Instance[:]))
}

// add takes a row in, in order.
func (t *table) add(node string, r *row) {
	t.rows[node] = r
	i, _ := slices.BinarySearchFunc(t.sorted, r.Member, byRow)
	t.sorted = slices.Insert(t.sorted, i, r)
}

func (t *table) remove(node string) {
	i, ok := slices.BinarySearchFunc(t.sorted, t.rows[node].Member, byRow)
	if ok {
		t.sorted = slices.Delete(t.sorted, i, i+1)
	}
	delete(t.rows, node)
}

func byRow(r *row, m Member) int { return order(r.Member, m) }
