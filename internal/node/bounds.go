package node

import (
	"fmt"

	"github.com/godistlock/distlock/internal/session"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// Bounds of what all processes together can make the state hold, and so every member that runs Raft: in its memory, in its snapshots (which lie
// in memory where there is no DataDir) and in those that it sends. The leader keeps them before anything is proposed, so they may be exceeded by what
// is on its way; what an entry of the log does never depends on them.
const (
	maxWaiting = 1_000_000 // requests that wait
	maxState   = 512 << 20 // bytes of all requests in a snapshot; half of what one in memory may have
)

type bounds struct {
	waiting int
	state   int64
}

// defaultBounds are the constants; tests have smaller ones.
var defaultBounds = bounds{waiting: maxWaiting, state: maxState}

// fullness says which bounds are reached.
type fullness struct{ waiting, state bool }

func (b bounds) full(s raftfsm.Size) fullness {
	return fullness{waiting: s.Waiting >= b.waiting, state: s.Bytes >= b.state}
}

// withinBounds is ops without those that would add to what is full already: these are answered through sink, and leave no trace in the log.
// What ends, shortens or takes up again what there is goes on in any case, and so do copies of requests that are known.
func (l *lead) withinBounds(id uint64, ops []wire.Op, sink session.Sink, full fullness) []wire.Op {
	var outs []wire.Outcome
	kept := make([]wire.Op, 0, len(ops)) // the sender may send the others again
	for i := range ops {
		request, waiter := l.group.fsm.Adds(id, &ops[i])
		switch {
		case request && full.state:
			outs = append(outs, refusal(ops[i].Seq, fmt.Sprintf(
				"the locks of the whole cluster, held and waited for, take %d MiB (maxState); hold fewer at a time, or with smaller keys and values", l.bounds.state>>20)))
		case waiter && full.waiting:
			outs = append(outs, refusal(ops[i].Seq, fmt.Sprintf(
				"%d requests wait in the whole cluster (maxWaiting); use TryLock, or let fewer wait at a time", l.bounds.waiting)))
		default:
			kept = append(kept, ops[i])
		}
	}
	if len(outs) > 0 {
		sink.Outcomes(id, outs)
	}
	return kept
}

func refusal(seq uint64, text string) wire.Outcome {
	return wire.Outcome{Kind: wire.OutFailed, Seq: seq, Code: wire.CodeLimit, Text: text}
}
