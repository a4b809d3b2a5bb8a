package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/roster"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// Voters leave one after the other, or two might leave at once who were needed for a majority. Who wants to go takes the leaving slot of the
// cluster, which is a committed value; the leader frees it when the voter has no seat any more, or is back in it, or after slotFor.

// slotFor is how long the leaving slot is one server's at most, as the leader measures it; a new leader measures anew. Longer than leaving takes,
// with what an orchestrator takes to start the process again.
const slotFor = 15 * time.Second

// formatOfDepart is the log's format that has the leaving slot. While some process can't read it voters leave without.
const formatOfDepart = 3

// turn is what the leader answers a voter that wants to leave.
type turn struct {
	granted bool   // it has the leaving slot
	first   string // who has it, for people, if it is another
	replace bool   // another is ready for its seat, or will be: it should stay until it has it
}

// stay is one server's time in the leaving slot, as a lead measures it.
type stay struct {
	server   wire.UUID
	at       uint64    // the entry with which it took the slot
	instance wire.UUID // which run of it did; zero: another leader was told
	since    time.Time // when this lead heard of it
}

// departOn gives the leaving slot to server, if it is free.
func (n *Node) departOn(ctx context.Context, l *lead, server, instance wire.UUID) (turn, error) {
	l.checkFormat()
	if l.format() < formatOfDepart {
		return turn{granted: true, replace: n.replaceable(l, server)}, nil
	}
	reply, err := l.propose(ctx, raftfsm.Depart{Server: server})
	switch {
	case err != nil:
		return turn{}, err
	case reply.Code == wire.CodeHeld:
		holder, _ := l.group.fsm.View().Leaving()
		return turn{first: n.nameOf(holder)}, nil
	case reply.Code != wire.CodeOK:
		return turn{}, errors.New(reply.Text)
	}
	if holder, at := l.group.fsm.View().Leaving(); holder == server {
		l.noteStay(server, at, instance)
	}
	return turn{granted: true, replace: n.replaceable(l, server)}, nil
}

// replaceable says whether the planner gives server's seat away when it leaves.
func (n *Node) replaceable(l *lead, server wire.UUID) bool {
	conf, index, err := l.group.configuration()
	if err != nil {
		return false
	}
	v := n.rosterView(l, conf, index)
	for i := range v.Members {
		if v.Members[i].Server == server {
			v.Members[i].Leaving = true
		}
	}
	if v.Leader == server { // it hands over first: whoever leads then decides as this process would
		v.Leader = wire.UUID{} // where it is the only voter nobody can yet: one will be made
		for _, s := range v.Config {
			if s.Suffrage == roster.Voter && s.ID != server {
				v.Leader = s.ID
				break
			}
		}
	}
	return roster.SuffrageOf(roster.Settle(v), server) == 0
}

// endStay frees the leaving slot when whoever has it needs it no more.
func (n *Node) endStay(ctx context.Context, l *lead) error {
	server, at := l.group.fsm.View().Leaving()
	if server.IsZero() {
		return nil
	}
	s := l.noteStay(server, at, wire.UUID{})
	conf, _, err := l.group.configuration()
	if err != nil {
		return err
	}
	var why string
	switch {
	case time.Since(s.since) >= slotFor:
		why = "its time is up"
	case !inConfiguration(conf, server):
		why = "it has no seat any more"
	case n.isBack(l, s):
		why = "it is back in its seat"
	default:
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err = l.propose(ctx, raftfsm.EndDepart{Server: server, At: at, Term: l.term}); err == nil {
		n.logger.Info("the next voter may leave", "server", server, "why", why)
	}
	return err
}

// noteStay is the stay of server since entry at. Its time goes on however often it is asked for; instance, if it is not zero, is which run asked.
func (l *lead) noteStay(server wire.UUID, at uint64, instance wire.UUID) stay {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stay.server != server || l.stay.at != at {
		l.stay = stay{server: server, at: at, since: time.Now()}
	}
	if !instance.IsZero() {
		l.stay.instance = instance
	}
	return l.stay
}

// isBack says that the server in the slot runs again, or has changed its mind, and follows the log.
func (n *Node) isBack(l *lead, s stay) bool {
	now := time.Now()
	if l.silentFor(s.server, now) > heardWithin || !l.hasLog(s.server) {
		return false
	}
	for _, m := range n.members() {
		if m.Server != s.server || m.State != gossip.Alive || m.Leaving || m.Parting {
			continue
		}
		if s.instance.IsZero() { // what it says of leaving may still be on its way
			return now.Sub(s.since) > seatDoubt
		}
		return m.Instance != s.instance
	}
	return false
}

const (
	// slotPatience bounds the wait for the leaving slot, however much time Leave has: three others may have it one after the other.
	slotPatience = 3 * slotFor
	// leaderPatience bounds how long of that there may be no leader to give it.
	leaderPatience = 10 * time.Second
)

// takeTurn waits for the leaving slot. Nobody is to be waited for when all others leave too.
func (n *Node) takeTurn(ctx context.Context) (turn, error) {
	ctx, cancel := context.WithTimeout(ctx, slotPatience)
	defer cancel()
	server := n.serverID()
	kept := turn{replace: n.cfg.Dir == ""} // without the slot: what is done of old
	var first string
	answered := time.Now()
	for round := 0; ; round++ {
		was := n.situation()
		if n.othersStaying() == 0 {
			return turn{}, nil
		}
		actx, stop := context.WithTimeout(ctx, callTimeout)
		t, err := n.askTurn(actx, server)
		stop()
		switch {
		case err == nil && t.granted:
			t.replace = t.replace || kept.replace // in memory it is no voter when it comes back: where it can't be let go yet it waits
			return t, nil
		case err == nil:
			first, answered = t.first, time.Now()
		case isUnknownCall(err, callDepart):
			return kept, nil
		case time.Since(answered) > leaderPatience: // nobody is there to take the seat either
			return turn{}, fmt.Errorf("%w: no leader gave the leaving slot: %w", lockerr.ErrNoQuorum, err)
		}
		if werr := n.waitRetry(ctx, was, retryPause(round, 0)); werr != nil {
			switch {
			case first != "":
				return kept, fmt.Errorf("%q left first, and was not back or replaced in time: %w", first, werr)
			case err != nil:
				return kept, fmt.Errorf("%w: no leader gave the leaving slot: %w", lockerr.ErrNoQuorum, errors.Join(werr, err))
			}
			return kept, werr
		}
	}
}

func (n *Node) askTurn(ctx context.Context, server wire.UUID) (turn, error) {
	return ask(ctx, n, func(ctx context.Context, l *lead) (turn, error) {
		return n.departOn(ctx, l, server, n.cfg.Instance)
	}, callDepart, encodeStandingCall(server, n.cfg.Instance), decodeTurn)
}

func (t turn) encode() []byte {
	w := wire.NewWriter()
	w.Array(3)
	w.Bool(t.granted)
	w.String(t.first)
	w.Bool(t.replace)
	return w.Bytes()
}

func decodeTurn(body []byte) (turn, error) {
	r := wire.NewReader(body)
	if n := r.Array(3); n != 3 {
		r.Fail("answer to who wants to leave with %d fields", n)
	}
	t := turn{granted: r.Bool(), first: r.String(wire.MaxName), replace: r.Bool()}
	return t, r.End()
}
