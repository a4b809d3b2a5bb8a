package bubble

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// What ends a program under the race detector with more than one processor: timers that are due and on which nobody waits yet, looked at by many
// goroutines at the same moment.
func TestManyTimersAtOnce(t *testing.T) {
	processors := runtime.GOMAXPROCS(0)
	var both sync.WaitGroup
	for range 2 { // bubbles side by side
		both.Go(func() {
			Test(t, func(t *testing.T) {
				if race && runtime.GOMAXPROCS(0) != 1 {
					t.Error("there is more than one processor")
				}
				var all sync.WaitGroup
				for range 16 {
					all.Go(func() {
						for range 2000 {
							due := time.NewTimer(time.Millisecond)
							time.Sleep(2 * time.Millisecond)
							select {
							case <-due.C:
							default:
								t.Error("it is not due")
							}
						}
					})
				}
				all.Wait()
			})
		})
	}
	both.Wait()
	if now := runtime.GOMAXPROCS(0); now != processors {
		t.Errorf("%d processors, and %d before", now, processors)
	}
}
