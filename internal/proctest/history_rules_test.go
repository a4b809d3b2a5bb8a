package proctest

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// What goes beyond the order of what happens to one key.

// fencesRise: fences are given once in the whole cluster, to one grant of one key or of several, and of two grants of any keys, of which
// one was asked for after the other had been given, the later has the greater fence.
func fencesRise(holds []hold) string {
	byAsk := slices.DeleteFunc(slices.Clone(holds), func(h hold) bool { return h.Part > 0 })
	byGrant := slices.Clone(byAsk)
	slices.SortFunc(byGrant, func(a, b hold) int { return cmp.Compare(a.Granted, b.Granted) })
	slices.SortFunc(byAsk, func(a, b hold) int { return cmp.Compare(a.Asked, b.Asked) })
	given := make(map[uint64]hold, len(byAsk))
	var greatest hold // of those given before the one looked at was asked for
	next := 0
	for _, h := range byAsk {
		if other, again := given[h.Fence]; again && (other.Process != h.Process || other.Asked != h.Asked) {
			return fmt.Sprintf("a fence was given twice:\n  %v\n  %v", other, h)
		}
		given[h.Fence] = h
		for ; next < len(byGrant) && byGrant[next].Granted < h.Asked; next++ {
			if byGrant[next].Fence > greatest.Fence {
				greatest = byGrant[next]
			}
		}
		if h.Fence < greatest.Fence {
			return fmt.Sprintf("a fence is below an earlier one:\n  %v\n  %v", greatest, h)
		}
	}
	return ""
}

// handedOn: what is adopted, or released by its handle, is relied on by nobody else from then on, and has the same keys.
func handedOn(all []course) string {
	type part struct {
		fence  uint64
		number int
	}
	keys := make(map[part][]string)
	for _, c := range all {
		for i, h := range c {
			keys[part{h.Fence, h.Part}] = append(keys[part{h.Fence, h.Part}], h.Key)
			if i == 0 {
				continue
			}
			switch before := c[i-1]; {
			case before.Part == h.Part:
				return fmt.Sprintf("a grant was given twice:\n  %v\n  %v", before, h)
			case before.Over:
				return fmt.Sprintf("a grant went on after its end:\n  %v\n  %v", before, h)
			case before.relied() > h.Granted:
				return fmt.Sprintf("one relied on what another had taken by its handle:\n  %v\n  %v", before, h)
			}
		}
	}
	for _, c := range all {
		was, is := keys[part{c.first().Fence, c.first().Part}], keys[part{c.last().Fence, c.last().Part}]
		if !slices.Equal(was, is) {
			return fmt.Sprintf("a grant of %q was that of %q before:\n  %v\n  %v", is, was, c.first(), c.last())
		}
	}
	return ""
}

// staysBlocked: a detached grant lives its time, whoever dies, and one with a cooldown that was lost keeps its key for that long, from
// whoever could not have held it beside.
func staysBlocked(all []course) string {
	for i, c := range all {
		h := c.last()
		if h.Over || h.LetGo || h.Hand || h.Detached == 0 && h.Cooldown == 0 {
			continue
		}
		free := h.relied()
		if h.Detached > 0 {
			// The cluster counts from some moment after Lock was called; its taker relies on the first four fifths only.
			free = max(free+instant(h.Detached)/5, h.Asked+instant(h.Detached))
		}
		free += instant(h.Cooldown)
		for _, later := range all[i+1:] {
			g := later.first()
			if g.Key != h.Key {
				break
			}
			if g.Part == 0 && g.Granted < free && !together(h, g) {
				return fmt.Sprintf("a key was granted %v too early:\n  %v\n  %v", time.Duration(free-g.Granted), h, g)
			}
		}
	}
	return ""
}

// together says that a, at its end, leaves room for b beside it.
func together(a, b hold) bool {
	switch {
	case a.finalMode() == shared:
		return b.Mode == shared
	case a.Mode == units && b.Mode == units:
		return a.Weight+b.Weight <= b.Limit
	}
	return false
}
