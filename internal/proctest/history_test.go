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

// mode is how a key is held.
type mode string

const (
	exclusive mode = "" // as processes say that know no other
	shared    mode = "shared"
	units     mode = "units" // of a semaphore
)

// hold is one grant of one key as its holder saw it; a grant of several keys makes one of each, with one fence. What it didn't see (a
// request that was not answered, a grant that died with its process before it was reported) is in no history: taking a grant and its
// end out of a good history leaves a good one, so that nothing good is called bad.
type hold struct {
	Process string  `json:"process"` // one life of one member
	Key     string  `json:"key"`
	Fence   uint64  `json:"fence"`
	Asked   instant `json:"asked"`   // before Lock was called
	Granted instant `json:"granted"` // after it returned
	Kept    instant `json:"kept"`    // read before a look at Done that found it open: the holder relied on the grant until then at least
	Ended   instant `json:"ended"`   // after Unlock was answered; never, when it wasn't

	Mode     mode          `json:"mode,omitempty"`
	Limit    int           `json:"limit,omitempty"`
	Weight   int           `json:"weight,omitempty"`
	Detached time.Duration `json:"detached,omitempty"` // that it lives whoever dies
	Cooldown time.Duration `json:"cooldown,omitempty"`

	Part  int  `json:"part,omitempty"`  // 0: it came by Lock; else by its handle, and it goes on where the part before ended
	Over  bool `json:"over,omitempty"`  // this part is the end, by Release of its handle: nobody relies on it
	Hand  bool `json:"hand,omitempty"`  // its handle was given away: anybody may have ended it. Said before that
	LetGo bool `json:"letgo,omitempty"` // its holder may have ended it, by Unlock or Leave. Said before that

	Lowering instant `json:"lowering,omitempty"` // before Downgrade was called; 0: it wasn't. Said before that
	Lowered  instant `json:"lowered,omitempty"`  // after it was answered; 0: it wasn't
}

// finalMode is how h is held when it ends.
func (h hold) finalMode() mode {
	if h.Lowering != 0 {
		return shared
	}
	return h.Mode
}

// relied is when the holder relied on the grant last, as far as is known.
func (h hold) relied() instant {
	if h.Lowered != 0 {
		return max(h.Granted, h.Kept, h.Lowering)
	}
	return max(h.Granted, h.Kept)
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
				if h.Lowered > p.at { // it may have been asked for by one who didn't know that all was lost
					h.Lowered = 0
				}
			}
		}
		if !asking {
			clipped = append(clipped, h)
		}
	}
	return clipped
}

// course is what is known of one grant of one key: its parts, in the order of the hands that it went through.
type course []hold

// courses are all grants, by key and fence.
func courses(holds []hold) (all []course) {
	ordered := slices.Clone(holds)
	slices.SortFunc(ordered, func(a, b hold) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Fence, b.Fence), cmp.Compare(a.Part, b.Part))
	})
	for i, h := range ordered {
		if i == 0 || ordered[i-1].Key != h.Key || ordered[i-1].Fence != h.Fence {
			all = append(all, nil)
		}
		last := &all[len(all)-1]
		*last = append(*last, h)
	}
	return all
}

func (c course) first() hold { return c[0] }
func (c course) last() hold  { return c[len(c)-1] }

// relied is when a holder relied on the grant last, as far as is known.
func (c course) relied() (at instant) {
	for _, h := range c {
		if !h.Over {
			at = max(at, h.relied())
		}
	}
	return at
}

// judgeTime bounds the search; a history of this package takes milliseconds.
const judgeTime = time.Minute

// judge answers what is wrong with a history, "" if nothing is.
func judge(holds []hold, pauses []pause) string {
	holds = clip(holds, pauses)
	if fault := fencesRise(holds); fault != "" {
		return fault
	}
	all := courses(holds)
	if fault := handedOn(all); fault != "" {
		return fault
	}
	if fault := staysBlocked(all); fault != "" {
		return fault
	}
	switch porcupine.CheckOperationsTimeout(model, operations(all), judgeTime) {
	case porcupine.Ok:
		return ""
	case porcupine.Unknown:
		return fmt.Sprintf("no order of %d grants was found in %v; %s", len(holds), judgeTime, explain(all))
	default:
		return explain(all)
	}
}

func (h hold) String() string {
	at := func(t instant) string {
		if t == never {
			return "unknown"
		}
		return time.Duration(t).String()
	}
	what := h.Key
	switch {
	case h.Over:
		what = "release of " + what
	case h.Part > 0:
		what = "adoption of " + what
	}
	switch h.Mode {
	case shared:
		what += " (shared)"
	case units:
		what += fmt.Sprintf(" (%d of %d)", h.Weight, h.Limit)
	}
	text := fmt.Sprintf("%s by %s, fence %d: asked %s, granted %s, kept until %s, ended %s", what, h.Process, h.Fence, at(h.Asked), at(h.Granted),
		at(h.Kept), at(h.Ended))
	if h.Lowering != 0 {
		text += ", shared from " + at(h.Lowering)
	}
	if h.Cooldown != 0 {
		text += fmt.Sprintf(", cooldown %v", h.Cooldown)
	}
	if h.Detached != 0 {
		text += fmt.Sprintf(", detached for %v", h.Detached)
	}
	return text
}
