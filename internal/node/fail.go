package node

import (
	"errors"
	"fmt"

	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// fail stops the member for a reason: its Raft traffic first, then whatever the owner does in Failed.
func (n *Node) fail(err error) {
	n.failOnce.Do(func() {
		n.failed.Store(true)
		n.mux.Mute(wire.KindRaft, true)
		err = n.advise(err)
		n.logger.Error("this member stops", "error", err)
		go n.cfg.Failed(err) // its owner waits for it
	})
}

// advise adds what the user can do, where err does not say that itself.
func (n *Node) advise(err error) error {
	switch {
	case errors.Is(err, raftfsm.ErrVersion), !errors.Is(err, raftlog.ErrPoisoned):
		return err
	case errors.Is(err, raftlog.ErrStateMachine):
		return fmt.Errorf("%w; start this process again, and please report this as a bug of distlock", err)
	case n.cfg.Dir == "":
		return fmt.Errorf("%w; check this process's memory, then start it again: it joins as a newcomer", err)
	}
	return fmt.Errorf("%w; check the disk under %q (health, space, permissions), then start this process again", err, n.cfg.Dir)
}

// mute stops Raft's traffic while the disk hangs, so that others elect a leader; and nobody here counts on a lead meanwhile.
func (n *Node) mute(on bool) {
	n.muted.Store(on)
	n.mux.Mute(wire.KindRaft, on || n.failed.Load())
	if on {
		n.logger.Warn("the disk does not answer: this member keeps out of Raft until it does", "dir", n.cfg.Dir)
		if l := n.lead.Load(); l != nil {
			l.endAsync()
		}
	} else {
		n.logger.Info("the disk answers again", "dir", n.cfg.Dir)
	}
	n.notify()
}
