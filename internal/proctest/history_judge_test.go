package proctest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestJudge: a checker that never says no proves nothing.
func TestJudge(t *testing.T) {
	const key = "k"
	a := hold{Process: "a", Key: key, Fence: 10, Asked: 0, Granted: 10, Kept: 20, Ended: 30}
	for _, test := range []struct {
		name   string
		holds  []hold
		pauses []pause
		want   string // "" for a good history
	}{
		{name: "nothing"},
		{name: "one after the other", holds: []hold{a, {Process: "b", Key: key, Fence: 11, Asked: 5, Granted: 25, Kept: 40, Ended: 50}}},
		{name: "granted between the unlock's call and its answer", holds: []hold{a, {Process: "b", Key: key, Fence: 11, Asked: 0, Granted: 21, Kept: 40, Ended: 50}}},
		{name: "the unlock was never answered", holds: []hold{
			{Process: "a", Key: key, Fence: 10, Asked: 0, Granted: 10, Kept: 20, Ended: never},
			{Process: "b", Key: key, Fence: 11, Asked: 5, Granted: 25, Kept: 40, Ended: 50}}},
		{name: "two keys at once", holds: []hold{a, {Process: "b", Key: "other", Fence: 11, Asked: 0, Granted: 10, Kept: 20, Ended: 30}}},
		{name: "requests at the same time, fences in the order of the holds", holds: []hold{
			{Process: "b", Key: key, Fence: 11, Asked: 0, Granted: 35, Kept: 40, Ended: 50},
			{Process: "a", Key: key, Fence: 10, Asked: 1, Granted: 10, Kept: 20, Ended: 30}}},
		{name: "a paused process relies on what it lost", pauses: []pause{{"a", 15}}, holds: []hold{
			{Process: "a", Key: key, Fence: 10, Asked: 0, Granted: 10, Kept: 90, Ended: never},
			{Process: "b", Key: key, Fence: 11, Asked: 5, Granted: 60, Kept: 70, Ended: 80}}},
		{name: "a process is paused while it asks", pauses: []pause{{"a", 5}}, holds: []hold{
			{Process: "a", Key: key, Fence: 10, Asked: 0, Granted: 90, Kept: 91, Ended: never},
			{Process: "b", Key: key, Fence: 11, Asked: 5, Granted: 60, Kept: 95, Ended: 98}}},

		{name: "overlapping holds", want: "two held one key", holds: []hold{a, {Process: "b", Key: key, Fence: 11, Asked: 5, Granted: 15, Kept: 40, Ended: 50}}},
		{name: "one hold within another", want: "two held one key", holds: []hold{
			{Process: "a", Key: key, Fence: 10, Asked: 0, Granted: 10, Kept: 90, Ended: 95},
			{Process: "b", Key: key, Fence: 11, Asked: 5, Granted: 15, Kept: 40, Ended: 50}}},
		{name: "overlap before the pause", want: "two held one key", pauses: []pause{{"a", 18}}, holds: []hold{
			{Process: "a", Key: key, Fence: 10, Asked: 0, Granted: 10, Kept: 90, Ended: never},
			{Process: "b", Key: key, Fence: 11, Asked: 5, Granted: 15, Kept: 17, Ended: 19}}},
		{name: "overlap after the pause", want: "two held one key", pauses: []pause{{"a", 1}}, holds: []hold{
			{Process: "a", Key: key, Fence: 10, Asked: 5, Granted: 10, Kept: 90, Ended: never},
			{Process: "b", Key: key, Fence: 11, Asked: 5, Granted: 15, Kept: 17, Ended: 19}}},
		{name: "overlap, and another process was paused", want: "two held one key", pauses: []pause{{"b", 65}}, holds: []hold{
			{Process: "a", Key: key, Fence: 10, Asked: 0, Granted: 10, Kept: 90, Ended: never},
			{Process: "b", Key: key, Fence: 11, Asked: 5, Granted: 60, Kept: 70, Ended: 80}}},
		{name: "a repeated fence", want: "given twice", holds: []hold{a, {Process: "b", Key: key, Fence: 10, Asked: 31, Granted: 35, Kept: 40, Ended: 50}}},
		{name: "a repeated fence of another key", want: "given twice", holds: []hold{a, {Process: "b", Key: "other", Fence: 10, Asked: 0, Granted: 10, Kept: 20, Ended: 30}}},
		{name: "a decreasing fence", want: "below an earlier", holds: []hold{a, {Process: "b", Key: key, Fence: 9, Asked: 31, Granted: 35, Kept: 40, Ended: 50}}},
		{name: "a decreasing fence of another key", want: "below an earlier", holds: []hold{a, {Process: "b", Key: "other", Fence: 9, Asked: 11, Granted: 35, Kept: 40, Ended: 50}}},
		{name: "a decreasing fence of requests at the same time", want: "no order", holds: []hold{a, {Process: "b", Key: key, Fence: 9, Asked: 5, Granted: 35, Kept: 40, Ended: 50}}},
	} {
		got := judge(test.holds, test.pauses)
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: judged %q, want %q", test.name, got, test.want)
		}
	}
}

// TestJudgeKinds: the same of what only some kinds of grants can do.
func TestJudgeKinds(t *testing.T) {
	const key, cool = "k", 10 * instant(1)
	a := hold{Process: "a", Key: key, Fence: 10, Asked: 0, Granted: 10, Kept: 20, Ended: 30, LetGo: true}
	b := hold{Process: "b", Key: key, Fence: 11, Asked: 5, Granted: 15, Kept: 40, Ended: 50, LetGo: true}
	as := func(h hold, change ...func(*hold)) hold {
		for _, c := range change {
			c(&h)
		}
		return h
	}
	share := func(h *hold) { h.Mode = shared }
	take := func(n int) func(*hold) { return func(h *hold) { h.Mode, h.Limit, h.Weight = units, 3, n } }
	of := func(key string) func(*hold) { return func(h *hold) { h.Key = key } }
	lower := func(from, to instant) func(*hold) { return func(h *hold) { h.Lowering, h.Lowered = from, to } }
	lost := func(h *hold) { h.LetGo, h.Ended = false, never }
	cooling := func(h *hold) { h.Cooldown = time.Duration(cool) }
	next := func(granted instant) hold {
		return hold{Process: "b", Key: key, Fence: 11, Asked: 5, Granted: granted, Kept: granted + 5, Ended: granted + 9, LetGo: true}
	}
	given := func(h *hold) { h.Hand, h.LetGo, h.Ended = true, false, never }
	part := func(n int, asked, granted instant) hold {
		return hold{Process: fmt.Sprint("p", n), Key: key, Fence: 10, Asked: asked, Granted: granted, Kept: granted + 5, Ended: granted + 9, LetGo: true, Part: n}
	}
	over := func(h *hold) { h.Over, h.Kept, h.Ended = true, 0, 0 }

	for _, test := range []struct {
		name   string
		holds  []hold
		pauses []pause
		want   string // "" for a good history
	}{
		{name: "two share", holds: []hold{as(a, share), as(b, share)}},
		{name: "one after those who share", holds: []hold{as(a, share), as(b, share), {Process: "c", Key: key, Fence: 12, Granted: 41, Kept: 60, Ended: 70}}},
		{name: "a shared beside an exclusive", want: "two held one key", holds: []hold{a, as(b, share)}},
		{name: "an exclusive beside a shared", want: "two held one key", holds: []hold{as(a, share), b}},
		{name: "an exclusive beside the longer of two who share", want: "two held one key", holds: []hold{
			as(a, share), as(b, share), {Process: "c", Key: key, Fence: 12, Granted: 35, Kept: 60, Ended: 70}}},
		{name: "fences of those who share against their order", want: "below an earlier", holds: []hold{
			as(a, share), as(b, share, func(h *hold) { h.Fence, h.Asked = 9, 12 })}},
		{name: "fences of an exclusive and a shared against the order of the holds", want: "no order", holds: []hold{
			a, {Process: "b", Key: key, Mode: shared, Fence: 9, Asked: 5, Granted: 35, Kept: 40, Ended: 50}}},

		{name: "all units", holds: []hold{as(a, take(2)), as(b, take(1))}},
		{name: "too many units", want: "4 of 3 units", holds: []hold{as(a, take(2)), as(b, take(2))}},
		{name: "too many units in three grants", want: "4 of 3 units", holds: []hold{
			as(a, take(2)), as(b, take(1)), as(b, take(1), func(h *hold) { h.Process, h.Fence, h.Granted = "c", 12, 16 })}},
		{name: "units after others", holds: []hold{as(a, take(3)), as(b, take(3), func(h *hold) { h.Granted = 21 })}},
		{name: "a shared beside units", want: "two held one key", holds: []hold{as(a, take(2)), as(b, share)}},
		{name: "units beside a shared", want: "two held one key", holds: []hold{as(a, share), as(b, take(2))}},

		{name: "one fence for two keys", holds: []hold{a, as(a, of("l"))}},
		{name: "one key of two is another's", want: "two held one key", holds: []hold{a, as(a, of("l")), as(b, of("l"))}},
		{name: "one fence for two keys of two grants", want: "given twice", holds: []hold{a, as(a, of("l"), func(h *hold) { h.Asked = 1 })}},
		{name: "one fence for one key twice", want: "given twice", holds: []hold{a, as(a, of("l")), as(a, of("l"))}},

		{name: "downgraded, then shared", holds: []hold{as(a, lower(11, 14)), as(b, share)}},
		{name: "shared while it is downgraded", holds: []hold{as(a, lower(12, 19)), as(b, share)}},
		{name: "shared before it is downgraded", want: "two held one key", holds: []hold{as(a, lower(17, 19)), as(b, share)}},
		{name: "exclusive beside what was downgraded", want: "two held one key", holds: []hold{as(a, lower(11, 14)), b}},
		{name: "the downgrade was not answered, and was", holds: []hold{as(a, lower(11, 0)), as(b, share)}},
		{name: "the downgrade was not answered, and was not", holds: []hold{
			as(a, lower(18, 0)), {Process: "b", Key: key, Fence: 11, Granted: 25, Kept: 40, Ended: 50}}},
		{name: "exclusive beside what may have been downgraded", want: "two held one key", holds: []hold{as(a, lower(11, 0)), b}},
		{name: "downgraded after it was paused", pauses: []pause{{"a", 15}}, holds: []hold{
			as(a, lower(80, 90), func(h *hold) { h.Kept, h.Ended = 95, 99 }), as(b, func(h *hold) { h.Granted = 17 })}},

		{name: "adopted", holds: []hold{as(a, given), part(1, 15, 22)}},
		{name: "adopted twice", holds: []hold{as(a, given), part(1, 15, 22), part(2, 23, 28)}},
		{name: "adopted, then another's", holds: []hold{as(a, given), part(1, 15, 22), next(28)}},
		{name: "another's while it is adopted", want: "two held one key", holds: []hold{as(a, given), part(1, 15, 22), next(24)}},
		{name: "another's before it is adopted", want: "no order", holds: []hold{
			as(a, given), part(1, 15, 42), {Process: "b", Key: key, Fence: 11, Asked: 5, Granted: 25, Kept: 30, Ended: 35}}},
		{name: "the old holder relies on what was adopted", want: "had taken by its handle", holds: []hold{as(a, given), part(1, 11, 18)}},
		{name: "adopted with both keys", holds: []hold{as(a, given), as(a, given, of("l")), part(1, 15, 22), as(part(1, 15, 22), of("l"))}},
		{name: "adopted with one key of two", want: "was that of", holds: []hold{as(a, given), as(a, given, of("l")), part(1, 15, 22)}},
		{name: "adopted with another fence", want: "two held one key", holds: []hold{
			as(a, given), as(part(1, 15, 22), func(h *hold) { h.Kept = 50; h.Fence = 11 }), as(next(28), func(h *hold) { h.Fence = 12 })}},
		{name: "adopted by two", want: "given twice", holds: []hold{as(a, given), part(1, 15, 22), part(1, 15, 22)}},
		{name: "the adopter is known, who had it first was paused", pauses: []pause{{"a", 5}}, holds: []hold{as(a, given), part(1, 15, 22), next(28)}},
		{name: "the same, and another's while it is adopted", want: "two held one key", pauses: []pause{{"a", 5}}, holds: []hold{
			as(a, given), part(1, 15, 22), next(24)}},
		{name: "the same, and one that was given later shares with it before", pauses: []pause{{"a", 5}}, holds: []hold{
			as(a, given, share), as(part(1, 15, 22), share), as(b, share, func(h *hold) { h.Granted = 12 })}},
		{name: "downgraded and adopted", holds: []hold{as(a, given, lower(11, 14)), as(part(1, 15, 22), share), as(b, share)}},
		{name: "released by its handle", holds: []hold{as(a, given), as(part(1, 15, 22), over), next(21)}},
		{name: "the holder relies on what was released by its handle", want: "had taken by its handle", holds: []hold{as(a, given), as(part(1, 11, 18), over)}},
		{name: "adopted after it was released by its handle", want: "after its end", holds: []hold{as(a, given), as(part(1, 15, 22), over), part(2, 23, 28)}},

		{name: "cooled down", holds: []hold{as(a, lost, cooling), next(20 + cool)}},
		{name: "not cooled down", want: "1ns too early", holds: []hold{as(a, lost, cooling), next(19 + cool)}},
		{name: "not cooled down after a kill", want: "5ns too early", pauses: []pause{{"a", 18}}, holds: []hold{as(a, lost, cooling), next(13 + cool)}},
		{name: "no cooldown after Unlock", holds: []hold{as(a, cooling), next(21)}},
		{name: "a shared one beside a shared one that cools down", holds: []hold{as(a, lost, cooling, share), as(next(21), share)}},
		{name: "an exclusive one beside a shared one that cools down", want: "too early", holds: []hold{as(a, lost, cooling, share), next(21)}},
		{name: "units beside others that cool down", holds: []hold{as(a, lost, cooling, take(1)), as(next(21), take(2))}},
		{name: "units of others that cool down", want: "too early", holds: []hold{as(a, lost, cooling, take(2)), as(next(21), take(2))}},
		{name: "what was adopted is not cooled down", want: "too early", holds: []hold{as(a, given), as(part(1, 15, 22), lost, cooling), next(28)}},
		{name: "detached", holds: []hold{as(a, lost, func(h *hold) { h.Detached = 40 }), next(40)}},
		{name: "detached, and its time was not up", want: "1ns too early", holds: []hold{as(a, lost, func(h *hold) { h.Detached = 40 }), next(39)}},
		{name: "detached, and its taker relied on it to the last", want: "too early", holds: []hold{as(a, lost, func(h *hold) { h.Detached, h.Kept = 40, 39 }), next(46)}},
		{name: "detached, its time up and not cooled down", want: "2ns too early", holds: []hold{
			as(a, lost, cooling, func(h *hold) { h.Detached = 40 }), next(38 + cool)}},
	} {
		got := judge(test.holds, test.pauses)
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: judged %q, want %q", test.name, got, test.want)
		}
	}
}

// TestJudgeLongHistory: a good history as long and as crowded as the real ones is judged in time, and one fault in it is found.
func TestJudgeLongHistory(t *testing.T) {
	const grants, keys, waiters = 5_000, 4, 12
	rnd := rand.New(rand.NewPCG(1, 1))
	var now instant
	free := make([]instant, keys)
	holds := make([]hold, grants)
	for i := range holds {
		key := rnd.IntN(keys)
		granted := max(free[key], now) + 2
		kept := granted + 1 + instant(rnd.IntN(50))
		holds[i] = hold{Process: fmt.Sprint(i % waiters), Key: fmt.Sprint(key), Fence: uint64(i + 1), Asked: max(0, now-instant(rnd.IntN(1000))),
			Granted: granted, Kept: kept, Ended: kept + 3}
		free[key], now = kept+1, granted
	}
	if fault := judge(holds, nil); fault != "" {
		t.Fatalf("a good history: %s", fault)
	}
	spoilt := &holds[grants/2]
	spoilt.Kept += 10_000
	spoilt.Ended += 10_000
	if fault := judge(holds, nil); !strings.Contains(fault, "two held one key") {
		t.Errorf("one hold is too long: judged %q", fault)
	}
}

// TestJudgeLongHistoryOfKinds: the same of all kinds, where many hold a key at once and some are never seen to end.
func TestJudgeLongHistoryOfKinds(t *testing.T) {
	const grants, keys, limit = 5_000, 4, 6
	rnd := rand.New(rand.NewPCG(1, 1))
	var now instant
	var holds []hold
	open := make([][]hold, 2*keys) // as the cluster sees them
	for fence := uint64(1); fence <= grants; fence++ {
		key := rnd.IntN(2 * keys)
		h := hold{Process: fmt.Sprint(fence % 12), Key: fmt.Sprint(key), Fence: fence}
		switch {
		case key >= keys:
			h.Mode, h.Limit, h.Weight = units, limit, 1+rnd.IntN(2)
		case rnd.IntN(3) > 0:
			h.Mode = shared
		}
		for { // until there is room, the oldest goes
			used := h.Weight
			room := true
			for _, o := range open[key] {
				used += o.Weight
				room = room && (h.Mode == units || h.Mode == shared && o.finalMode() == shared)
			}
			if room && used <= h.Limit {
				break
			}
			now = max(now, open[key][0].Kept) + 1
			open[key] = open[key][1:]
		}
		now++
		h.Asked, h.Granted = max(0, now-instant(rnd.IntN(1000))), now
		if h.Mode == exclusive && rnd.IntN(4) == 0 {
			h.Lowering, h.Lowered = now+1, now+2+instant(rnd.IntN(2))*3
		}
		h.Kept = now + 5 + instant(rnd.IntN(50))
		if h.Ended = h.Kept + 3; rnd.IntN(10) == 0 {
			h.Ended = never
		}
		open[key] = append(open[key], h)
		now += instant(rnd.IntN(5))
		holds = append(holds, h)
	}
	if fault := judge(holds, nil); fault != "" {
		t.Fatalf("a good history: %s", fault)
	}
	for _, m := range []mode{exclusive, units} {
		spoilt := slices.Clone(holds)
		h := &spoilt[grants/2+slices.IndexFunc(spoilt[grants/2:], func(h hold) bool { return h.Mode == m })]
		h.Kept += 10_000
		h.Ended += 10_000
		if fault := judge(spoilt, nil); !strings.Contains(fault, "same time") {
			t.Errorf("one hold of mode %q is too long: judged %q", m, fault)
		}
	}
}
