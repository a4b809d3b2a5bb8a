package node

import "github.com/godistlock/distlock/internal/gossip"

// announcer tells the others what this process is, from whichever goroutine has changed it. One looks and tells at a time: told by two at
// once, what was looked at first might be told last, and would stand until something else changes.
type announcer struct {
	look func() gossip.Meta
	tell func(gossip.Meta)
	turn chan struct{} // cap 1: a lock that virtual time does not wait for
}

func newAnnouncer(look func() gossip.Meta, tell func(gossip.Meta)) *announcer {
	return &announcer{look: look, tell: tell, turn: make(chan struct{}, 1)}
}

// announce returns once what was so when it was called has been told.
func (a *announcer) announce() {
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	a.tell(a.look())
}
