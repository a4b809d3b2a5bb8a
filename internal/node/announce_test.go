package node

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/gossip"
)

// Two announce at once, and the one that looked first is held up before it tells: what is told last is the newest all the same. (A leader
// once told everybody that it did not lead.)
func TestWhatIsAnnouncedLastIsTheNewest(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards what follows
		term, told, looks := uint64(1), uint64(0), 0
		goOn := make(chan struct{})
		a := newAnnouncer(func() gossip.Meta {
			mu.Lock()
			m, first := gossip.Meta{Term: term}, looks == 0
			looks++
			mu.Unlock()
			if first {
				<-goOn
			}
			return m
		}, func(m gossip.Meta) {
			mu.Lock()
			defer mu.Unlock()
			told = m.Term
		})
		var wg sync.WaitGroup
		wg.Go(a.announce)
		synctest.Wait() // it has looked
		mu.Lock()
		term = 2
		mu.Unlock()
		wg.Go(a.announce)
		synctest.Wait() // it has told, or waits for its turn
		close(goOn)
		wg.Wait()
		if told != 2 {
			t.Errorf("told last: term %d, it is 2", told)
		}
	})
}
