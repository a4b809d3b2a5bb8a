package main

import "fmt"

// stock is the shop's "database", kept by the parent. Its only guard is the check of the greatest fence: it knows nothing of locks.
type stock struct {
	units     int    // what a read answers
	delivered int    // all units that ever came in
	sold      int    // all sales that were accepted: what customers were promised
	greatest  uint64 // of all fences seen in writes
	rejected  int    // writes with a fence below the greatest

	writer   writer // whose write was accepted last
	handoffs int    // accepted writes by another process than the one before
	faults   []string
}

// writer is one order of one process.
type writer struct {
	shop  string
	pid   int
	order uint64
}

// restart puts new units on the shelf and forgets the books. The fence stays: it must never be forgotten.
func (s *stock) restart(units int) {
	*s = stock{units: units, delivered: units, greatest: s.greatest}
}

// write sets the stock to units, as the order w decided from what it had read: change is -1 for a sale, above 0 for a delivery.
// A write without a fence (0) is taken as it comes. A stale one changes nothing.
func (s *stock) write(w writer, units, change int, fence uint64) (accepted bool) {
	if fence != 0 {
		if fence < s.greatest {
			s.rejected++
			return false
		}
		if fence == s.greatest && s.writer != w {
			s.fault("fence %d was given to %s and to %s", fence, s.writer, w)
		}
		if s.writer.shop != "" && s.writer.shop != w.shop {
			s.handoffs++
		}
		if units < 0 {
			s.fault("%s wrote a stock of %d", w, units)
		}
		if units-change != s.units {
			s.fault("%s with fence %d changed a stock of %d, but it was %d", w, fence, units-change, s.units)
		}
		s.greatest = fence
	}
	s.units, s.writer = units, w
	if change > 0 {
		s.delivered += change
	} else {
		s.sold -= change
	}
	return true
}

// oversold counts the units that customers were promised beyond what left the shelf: 0 as long as the books balance.
func (s *stock) oversold() int { return s.sold - (s.delivered - s.units) }

// maxFaults is how many are kept: one tells enough.
const maxFaults = 10

func (s *stock) fault(format string, args ...any) {
	if len(s.faults) < maxFaults {
		s.faults = append(s.faults, fmt.Sprintf(format, args...))
	}
}

func (w writer) String() string {
	return fmt.Sprintf("order %d of %s (pid %d)", w.order, w.shop, w.pid)
}
