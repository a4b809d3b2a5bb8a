// Package bubble runs tests in virtual time, as testing/synctest does.
//
// Under the race detector it lets the program have one processor while it does: two that run timers of one bubble at once use one context of the
// race detector both, and the program ends with a segmentation violation now and then (seen in go1.26.8; golang/go issue 78156). What the detector
// finds depends on what happens before what, and not on processors.
package bubble

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// Test is synctest.Test.
func Test(t *testing.T, f func(*testing.T)) {
	if race {
		enter()
		defer leave()
	}
	synctest.Test(t, f)
}

var (
	mu     sync.Mutex // guards what follows
	inside int        // tests in virtual time that run now
	before int        // processors that there were before the first
)

func enter() {
	mu.Lock()
	defer mu.Unlock()
	if inside++; inside == 1 {
		before = runtime.GOMAXPROCS(1)
	}
}

func leave() {
	mu.Lock()
	defer mu.Unlock()
	if inside--; inside == 0 {
		runtime.GOMAXPROCS(before)
	}
}
