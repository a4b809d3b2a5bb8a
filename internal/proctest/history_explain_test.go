package proctest

import (
	"fmt"
	"strings"
)

// span is a time for which a grant was certainly held in one mode.
type span struct {
	hold
	mode     mode
	from, to instant
}

func (h hold) spans() []span {
	if h.Over {
		return nil
	}
	if h.Lowering == 0 {
		return []span{{h, h.Mode, h.Granted, h.relied()}}
	}
	return []span{{h, h.Mode, h.Granted, min(h.Lowering, h.relied())}, {h, shared, h.Lowering, h.relied()}}
}

// explain finds grants of a key that were relied on at the same time and leave no room for each other, for the reader of a history that
// the model refused.
func explain(all []course) string {
	byKey := make(map[string][]span)
	for _, c := range all {
		for _, h := range c {
			byKey[h.Key] = append(byKey[h.Key], h.spans()...)
		}
	}
	for _, c := range all {
		for _, h := range c {
			for _, s := range h.spans() {
				if fault := s.conflict(byKey[h.Key]); fault != "" {
					return fault
				}
			}
		}
	}
	return "no order of the grants has rising fences and room for each of them"
}

// conflict says what among the spans of its key leaves no room for s when it begins.
func (s span) conflict(others []span) string {
	used := s.Weight
	with := []string{s.String()}
	for _, o := range others {
		if o.Fence == s.Fence || o.from > s.from || o.to <= s.from {
			continue
		}
		if s.mode == units && o.mode == units {
			used += o.Weight
			with = append(with, o.String())
			continue
		}
		if s.mode != shared || o.mode != shared {
			return fmt.Sprintf("two held one key at the same time:\n  %v\n  %v", o.hold, s.hold)
		}
	}
	if s.mode == units && used > s.Limit {
		return fmt.Sprintf("%d of %d units were held at the same time:\n  %s", used, s.Limit, strings.Join(with, "\n  "))
	}
	return ""
}
