package simnet

import (
	"sync"
	"time"
)

// signal wakes all who wait for a change. Guarded by Net.mu.
type signal struct{ ch chan struct{} }

// wait is closed at the next raise.
func (s *signal) wait() <-chan struct{} {
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) raise() {
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// deadline is a time that may be moved while somebody waits for it.
type deadline struct {
	mu     sync.Mutex // guards what follows
	passed chan struct{}
	over   bool // passed is closed
	turn   int  // counts sets: a timer of an earlier one does nothing
	timer  *time.Timer
}

// wait is closed once the deadline has passed. Who was waiting looks again at over.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}

func (d *deadline) isOver() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}

// set moves the deadline; the zero time is never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.over || d.passed == nil {
		d.passed, d.over = make(chan struct{}), false
	}
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.pass()
		return
	}
	turn := d.turn
	d.timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.turn == turn {
			d.pass()
		}
	})
}

func (d *deadline) pass() {
	d.over = true
	close(d.passed)
}
