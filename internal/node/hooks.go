package node

import (
	"time"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/raftfsm"
)

// Hooks are where tests put faults in, and simulations what they leave out. The zero Hooks do nothing.
type Hooks struct {
	Store   func(raftlog.Store) raftlog.Store // wraps the log's store, below its guard
	Applied func(*raftfsm.Result)             // called for each entry on the applying goroutine, before anybody hears of it
	Wall    func() time.Time                  // the wall clock; default time.Now
	Blind   bool                              // does not look for another process with its stored identity before it uses that
	Gossip  func(*gossip.Config)              // changes how this process gossips
	Format  uint64                            // of the log: what this process says that it reads; default wire.Format
}

// wall is the wall clock: for people, and for the fence that a cluster begins with. Nothing that ends a lock or a session reads it.
func (h Hooks) wall() time.Time {
	if h.Wall == nil {
		return time.Now()
	}
	return h.Wall()
}

func (h Hooks) store(s raftlog.Store) raftlog.Store {
	if h.Store == nil {
		return s
	}
	return h.Store(s)
}
