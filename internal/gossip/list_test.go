package gossip

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/wire"
)

// afresh is what list has to answer, with nothing kept from before.
func (t *table) afresh(now time.Time) []Member {
	rows := slices.SortedFunc(maps.Values(t.rows), func(a, b *row) int { return order(a.Member, b.Member) })
	gone := func(r *row) bool { return r.overridden || r.State != Alive && now.Sub(r.Since) > deadFor }
	all := []Member{{Meta: t.self, State: Alive, Since: t.since}}
	for _, r := range rows {
		if gone(r) {
			continue
		}
		hidden := r.State != Alive && r.Name == t.self.Name
		for _, o := range rows {
			if o == r || o.Name != r.Name || gone(o) || r.State == Alive {
				continue
			}
			before := order(o.Member, r.Member) < 0 // of two that died at once the first counts
			hidden = hidden || o.State == Alive || o.Since.After(r.Since) || o.Since.Equal(r.Since) && before
		}
		if hidden {
			continue
		}
		m := r.Member
		if silent := now.Sub(r.missedAt); m.State == Alive && !r.missedAt.IsZero() && silent >= suspectAfter && silent < suspectFor {
			m.State = Suspect
		}
		all = append(all, m)
	}
	slices.SortFunc(all, order)
	return all
}

// Whatever happens, what is kept of the list is what would be made anew, and what was handed out stays as it was.
func TestListIsNeverStale(t *testing.T) {
	for seed := range uint64(200) {
		bubble.Test(t, func(t *testing.T) { listIsNeverStale(t, seed) })
	}
}

func listIsNeverStale(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	x, y := wire.NewUUID(), wire.NewUUID()
	tab := newTable(meta("c"), nil)
	runs := make([]Meta, 12) // of five names, one of them ours
	for i := range runs {
		runs[i] = meta(string(rune('a' + i%5)))
	}
	for range 60 {
		i := random.IntN(len(runs))
		node := runs[i].Instance.String()
		what := ""
		switch random.IntN(9) {
		case 0, 1, 2:
			runs[i].Term++
			runs[i].Cluster, runs[i].Open = x, random.IntN(2) == 0
			if random.IntN(4) == 0 {
				runs[i].Cluster = y
			}
			what = fmt.Sprint("alive: ", tab.note(runs[i], Alive))
		case 3:
			_ = tab.note(runs[i], Failed)
			what = "failed"
		case 4:
			runs[i].Name = string(rune('a' + random.IntN(5))) // a peer can say anything
			_ = tab.note(runs[i], Alive)
			what = "renamed"
		case 5:
			tab.missed(node)
			what = "missed"
		case 6:
			tab.heard(node)
			what = "heard"
		case 7:
			self := tab.selfMeta()
			self.Cluster, self.Open = x, random.IntN(2) == 0
			tab.setSelf(self)
			what = "self"
		case 8:
			pauses := []time.Duration{1, suspectAfter, suspectAfter - 1, suspectFor, suspectFor - suspectAfter, deadFor, time.Second}
			time.Sleep(pauses[random.IntN(len(pauses))])
			what = "time"
		}
		handed := tab.list()
		kept := slices.Clone(handed)
		if want := tab.afresh(time.Now()); !slices.Equal(kept, want) {
			t.Fatalf("seed %d, after %q: listed\n%v, want\n%v", seed, what, names(kept), names(want))
		}
		if len(tab.sorted) != len(tab.rows) {
			t.Fatalf("seed %d, after %q: %d rows in order of %d", seed, what, len(tab.sorted), len(tab.rows))
		}
		defer func() {
			if !slices.Equal(handed, kept) {
				t.Errorf("seed %d: a list was changed that had been handed out", seed)
			}
		}()
	}
}
