package proctest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
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
