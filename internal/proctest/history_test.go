package proctest

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// instant is a time on CLOCK_MONOTONIC in nanoseconds: the same clock in all processes of a machine.
type instant int64

// never is later than everything: the end of what was not seen to end.
const never = instant(1<<62 - 1)

// hold is one grant as its holder saw it. What it didn't see (a request that was not answered, a grant that died with its process
// before it was reported) is in no history: taking a grant and its end out of a good history leaves a good one, so that nothing good
// is called bad.
type hold struct {
	Process string  `json:"process"` // one life of one member
	Key     string  `json:"key"`
	Fence   uint64  `json:"fence"`
	Asked   instant `json:"asked"`   // before Lock was called
	Granted instant `json:"granted"` // after it returned
	Kept    instant `json:"kept"`    // read before a look at Done that found it open: the holder relied on the grant until then at least
	Ended   instant `json:"ended"`   // after Unlock was answered; never, when it wasn't
}

// pause is when a process did not run: from before SIGSTOP or SIGKILL was sent.
type pause struct {
	process string
	at      instant
}

// clip takes out what is promised to nobody: a process that sleeps through its deadline may go on relying on a grant (only fences help
// there), so that a hold counts until its process was stopped; and one that was stopped while it asked may get its answer late.
func clip(holds []hold, pauses []pause) []hold {
	clipped := make([]hold, 0, len(holds))
	for _, h := range holds {
		asking := false
		for _, p := range pauses {
			if p.process != h.Process {
				continue
			}
			asking = asking || h.Asked <= p.at && p.at < h.Granted
			if h.Granted <= p.at {
				h.Kept = min(h.Kept, p.at)
			}
		}
		if !asking {
			clipped = append(clipped, h)
		}
	}
	return clipped
}

// event is what happens to one key: a grant or its end. Grants are numbered by their fences from 1 on.
type event struct {
	grant  bool
	number int
	fence  uint64 // for the reader
}

// keyState is a key between events.
type keyState struct {
	held bool
	last int // the number of the latest grant
}

// model is a lock: a free key is granted, with a fence greater than all before; only the grant that is held ends. Each recorded grant
// must find its place among the rising fences, so that the next one can only be the one with the least fence left: said that way,
// the search for an order is short.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := make(map[string][]porcupine.Operation)
		for _, op := range history {
			key := op.Metadata.(string)
			byKey[key] = append(byKey[key], op)
		}
		parts := make([][]porcupine.Operation, 0, len(byKey))
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return keyState{} },
	Step: func(state, input, _ any) (bool, any) {
		s, e := state.(keyState), input.(event)
		if e.grant {
			return !s.held && e.number == s.last+1, keyState{held: true, last: e.number}
		}
		return s.held && e.number == s.last, keyState{last: s.last}
	},
	DescribeOperation: func(input, _ any) string {
		e := input.(event)
		if e.grant {
			return fmt.Sprintf("grant %d", e.fence)
		}
		return fmt.Sprintf("end %d", e.fence)
	},
}

// operations turns each hold into a grant, somewhere between call and return of Lock, and its end, somewhere after the holder relied
// on it last.
func operations(holds []hold) []porcupine.Operation {
	ordered := slices.Clone(holds)
	slices.SortFunc(ordered, func(a, b hold) int { return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Fence, b.Fence)) })
	ops := make([]porcupine.Operation, 0, 2*len(holds))
	number := 0
	for i, h := range ordered {
		if number++; i > 0 && ordered[i-1].Key != h.Key {
			number = 1
		}
		ops = append(ops,
			porcupine.Operation{Input: event{true, number, h.Fence}, Call: int64(h.Asked), Return: int64(h.Granted), Metadata: h.Key},
			porcupine.Operation{Input: event{false, number, h.Fence}, Call: int64(max(h.Kept, h.Granted)), Return: int64(max(h.Ended, h.Kept, h.Granted)), Metadata: h.Key})
	}
	return ops
}

// judgeTime bounds the search; a history of this package takes milliseconds.
const judgeTime = time.Minute

// judge answers what is wrong with a history, "" if nothing is.
func judge(holds []hold, pauses []pause) string {
	holds = clip(holds, pauses)
	if fault := fencesRise(holds); fault != "" {
		return fault
	}
	switch porcupine.CheckOperationsTimeout(model, operations(holds), judgeTime) {
	case porcupine.Ok:
		return ""
	case porcupine.Unknown:
		return fmt.Sprintf("no order of %d grants was found in %v", len(holds), judgeTime)
	default:
		return explain(holds)
	}
}

// fencesRise checks what goes beyond one key: fences are given once in the whole cluster, and of two grants of any keys, of which one
// was asked for after the other had been given, the later has the greater fence.
func fencesRise(holds []hold) string {
	byGrant, byAsk := slices.Clone(holds), slices.Clone(holds)
	slices.SortFunc(byGrant, func(a, b hold) int { return cmp.Compare(a.Granted, b.Granted) })
	slices.SortFunc(byAsk, func(a, b hold) int { return cmp.Compare(a.Asked, b.Asked) })
	given := make(map[uint64]hold, len(holds))
	var greatest hold // of those given before the one looked at was asked for
	next := 0
	for _, h := range byAsk {
		if other, twice := given[h.Fence]; twice {
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

// explain finds two grants of a key that were relied on at the same time, for the reader of a history that the model refused.
func explain(holds []hold) string {
	ordered := slices.Clone(holds)
	slices.SortFunc(ordered, func(a, b hold) int { return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Granted, b.Granted)) })
	for i, a := range ordered {
		for _, b := range ordered[i+1:] {
			if a.Key == b.Key && a.Kept > b.Granted {
				return fmt.Sprintf("two held one key at the same time:\n  %v\n  %v", a, b)
			}
		}
	}
	return "no order of the grants makes one holder at a time with rising fences"
}

func (h hold) String() string {
	at := func(t instant) string {
		if t == never {
			return "unknown"
		}
		return time.Duration(t).String()
	}
	return fmt.Sprintf("%s of %s, fence %d: asked %s, granted %s, kept until %s, ended %s", h.Key, h.Process, h.Fence, at(h.Asked), at(h.Granted),
		at(h.Kept), at(h.Ended))
}
