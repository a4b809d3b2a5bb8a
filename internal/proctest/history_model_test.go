package proctest

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// event is what happens to one key: a grant, its downgrade or its end. Grants are numbered by their fences from 1 on.
type event struct {
	what   happening
	number int
	mode   mode // of the grant
	weight int
	limit  int
	sure   bool   // of a downgrade: it was answered
	fence  uint64 // for the reader
}

type happening uint8

const (
	given happening = iota
	lowered
	taken
)

// keyState is a key between events.
type keyState struct {
	last      int  // the number of the latest grant
	exclusive bool // it has the key alone
	shared    int  // so many share it
	used      int  // units
}

// model is a lock: exclusive alone, shared together, units up to the limit, each grant with a fence greater than all before; only what
// is granted ends. Each recorded grant must find its place among the rising fences, so that the next one can only be the one with the
// least fence left; and an end never makes a grant impossible, so that it is never wrong to let it happen as early as it may. Said that
// way, the search for an order is short.
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
		switch e.what {
		case given:
			return s.give(e)
		case lowered:
			return s.lower(e)
		default:
			return s.take(e)
		}
	},
	DescribeOperation: func(input, _ any) string {
		e := input.(event)
		return fmt.Sprintf("%s %d", [...]string{"grant", "downgrade", "end"}[e.what], e.fence)
	},
}

func (s keyState) give(e event) (bool, any) {
	if e.number != s.last+1 || s.exclusive {
		return false, s
	}
	s.last = e.number
	switch e.mode {
	case shared:
		s.shared++
		return s.used == 0, s
	case units:
		s.used += e.weight
		return s.shared == 0 && s.used <= e.limit, s
	default:
		s.exclusive = true
		return s.shared+s.used == 0, s
	}
}

func (s keyState) lower(e event) (bool, any) {
	if s.exclusive && s.last == e.number {
		s.exclusive = false
		s.shared++
		return true, s
	}
	return !e.sure, s // whether it came to it is unknown: it was over before
}

// take counts on it that each grant ends once: then one that was granted is held.
func (s keyState) take(e event) (bool, any) {
	switch {
	case e.number > s.last:
		return false, s
	case e.mode == units:
		s.used -= e.weight
		return true, s
	case s.exclusive:
		s.exclusive = false
		return e.number == s.last, s
	}
	s.shared--
	return s.shared >= 0, s
}

// operations turns each grant into its beginning, somewhere between call and return of Lock, and its end, somewhere after a holder
// relied on it last; between them it may be downgraded.
func operations(all []course) []porcupine.Operation {
	ops := make([]porcupine.Operation, 0, 2*len(all))
	number := 0
	for i, c := range all {
		first, last := c.first(), c.last()
		if i == 0 || all[i-1].first().Key != first.Key {
			number = 0
		}
		if first.Over {
			continue // who held it was stopped while it asked
		}
		number++
		add := func(e event, from, to instant) {
			e.number, e.mode, e.weight, e.limit, e.fence = number, first.Mode, first.Weight, first.Limit, first.Fence
			ops = append(ops, porcupine.Operation{Input: e, Call: int64(from), Return: int64(to), Metadata: first.Key})
		}
		asked := first.Asked
		if first.Part > 0 {
			asked = 0 // as above; it went on to another
		}
		add(event{what: given}, asked, first.Granted)
		switch {
		case first.Lowering == 0:
		case first.Lowered == 0:
			add(event{what: lowered}, first.Lowering, never)
		default:
			add(event{what: lowered, sure: true}, first.Lowering, first.Lowered)
		}
		ended := last.Ended
		if last.Over {
			ended = last.Granted
		}
		from := c.relied()
		add(event{what: taken}, from, max(from, ended))
	}
	return ops
}
