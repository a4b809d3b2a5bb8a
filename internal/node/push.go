package node

import (
	"iter"

	"github.com/godistlock/distlock/internal/wire"
)

const (
	maxPush        = 1 << 20 // bytes of the outcomes in one message, but for one outcome; far below wire.MaxFrame
	outcomeNumbers = 64      // more than all of an outcome that has no length of its own takes
)

const _ = uint(wire.MaxOutcomes - maxPush/outcomeNumbers) // does not compile where a message could have more outcomes than are read

// pushes cuts outs such that each part fits a message.
func pushes(outs []wire.Outcome) iter.Seq[[]wire.Outcome] {
	return func(yield func([]wire.Outcome) bool) {
		from, bytes := 0, 0
		for i := range outs {
			size := outcomeSize(&outs[i])
			if i > from && bytes+size > maxPush {
				if !yield(outs[from:i]) {
					return
				}
				from, bytes = i, 0
			}
			bytes += size
		}
		if from < len(outs) {
			yield(outs[from:])
		}
	}
}

// outcomeSize is at least what o takes in a message.
func outcomeSize(o *wire.Outcome) int {
	size := outcomeNumbers + len(o.Text)
	if o.Grant != nil {
		for _, k := range o.Grant.Keys {
			size += len(k) + 3
		}
	}
	return size
}
