package raftfsm

import (
	"fmt"

	"github.com/godistlock/distlock/internal/wire"
)

// Result is what applying one entry led to. Nobody changes it afterwards.
type Result struct {
	Index, Term uint64
	Err         error    // why the entry could not be applied; the state is as before, and the rest of Result is empty
	Replies     []Reply  // one for each command
	Outcomes    []Routed // in the order in which they came about; none to a session that has ended by then
	Created     []uint64 // sessions that were made, or met again by a copy of their creation, which renews them
	Ended       []uint64 // sessions
	Armed       []Timer  // times that began to run, or to run anew
	Disarmed    []uint64 // fences of what had a time that runs no more
	Wall        int64    // µs since 1970 on the leader's wall clock
	Events      []Event  // in the order in which they came about; only if FSM.Watch wants them
	Opened      bool     // all founders have confirmed: sessions are possible from now on, grants too unless View.Silent
}

// Reply answers one command.
type Reply struct {
	Code    wire.Code
	Session uint64 // of Create: the session that was made, met, or has the name
	Text    string // for people
}

// Routed is an outcome and the session that it is meant for.
type Routed struct {
	Session uint64
	wire.Outcome
}

// apply applies a decoded entry of the log.
func (m *machine) apply(index, term uint64, e Entry) *Result {
	m.index, m.term, m.wall = index, term, e.Wall
	m.format = max(m.format, e.Version) // who writes it has seen that all members read it
	ops := 0
	for _, c := range e.Commands {
		if c, ok := c.(Ops); ok {
			ops += len(c.Ops)
		}
	}
	res := &Result{Index: index, Term: term, Wall: e.Wall, Replies: make([]Reply, len(e.Commands))}
	if ops > 0 {
		res.Outcomes = make([]Routed, 0, ops)
	}
	m.res = res
	for i, c := range e.Commands {
		res.Replies[i] = m.command(c)
	}
	m.res = nil
	return res
}

func (m *machine) command(c Command) Reply {
	switch c := c.(type) {
	case Ops:
		return m.ops(c)
	case Create:
		return m.create(&c.CreateSession)
	case Close:
		return m.close(c)
	case Expire:
		return m.expire(c)
	case Found:
		return m.found(c)
	case Confirm:
		return m.confirm(c)
	case EndSilence:
		return m.endSilence(c)
	case Noop:
		return Reply{}
	case Dissolve:
		return m.dissolve(c)
	case Time:
		return m.time(c)
	case Depart:
		return m.depart(c)
	case EndDepart:
		return m.endDepart(c)
	case Bind:
		return m.bind(c)
	case Unbind:
		return m.unbind(c)
	}
	return Reply{Code: wire.CodeInvalid, Text: fmt.Sprintf("unknown command %T", c)} // decoding lets none through
}

// tell adds an outcome for a session.
func (m *machine) tell(session uint64, o wire.Outcome) {
	m.res.Outcomes = append(m.res.Outcomes, Routed{Session: session, Outcome: o})
}

// found names the cluster.
func (m *machine) found(c Found) Reply {
	switch {
	case !m.cluster.IsZero():
		return Reply{Code: wire.CodeStale, Text: fmt.Sprintf("the cluster is founded already, as %v", m.cluster)}
	case c.Cluster.IsZero() || c.Expect < 1 || c.Expect > MaxExpect || c.Voters < 1 || c.Voters > MaxVoters:
		return Reply{Code: wire.CodeInvalid, Text: fmt.Sprintf("a cluster %v that expects %d processes and wants %d voters", c.Cluster, c.Expect, c.Voters)}
	}
	m.cluster, m.expect, m.voters, m.silent = c.Cluster, c.Expect, c.Voters, c.Silent
	return Reply{}
}

// confirm counts a founder; the last one opens the cluster, with fences above every founder's clock.
func (m *machine) confirm(c Confirm) Reply {
	switch {
	case m.cluster.IsZero() || c.Cluster != m.cluster:
		return Reply{Code: wire.CodeStale, Text: fmt.Sprintf("this is cluster %v, not %v", m.cluster, c.Cluster)}
	case m.dissolved:
		return Reply{Code: wire.CodeStale, Text: "the cluster was dissolved before it opened"}
	case c.Server.IsZero():
		return Reply{Code: wire.CodeInvalid, Text: "a founder without a server's UUID"}
	case m.open:
		return Reply{}
	}
	m.clock = max(m.clock, min(c.Clock, maxClock))
	for _, s := range m.founders {
		if s == c.Server {
			return Reply{}
		}
	}
	m.founders = append(m.founders[:len(m.founders):len(m.founders)], c.Server)
	if len(m.founders) >= m.expect {
		m.open, m.founders = true, nil
		m.fence = max(m.fence, uint64(m.clock))
		m.res.Opened = true
	}
	return Reply{}
}

// dissolve ends a cluster that never opened.
func (m *machine) dissolve(c Dissolve) Reply {
	if m.open || m.cluster.IsZero() || c.Cluster != m.cluster {
		return Reply{Code: wire.CodeStale}
	}
	m.dissolved = true
	return Reply{}
}

// endSilence begins to grant, each key to its first waiter.
func (m *machine) endSilence(c EndSilence) Reply {
	if !m.silent || c.Term != m.term {
		return Reply{Code: wire.CodeStale}
	}
	m.silent = false
	if !m.open {
		return Reply{}
	}
	m.queue.Ascend(func(p place) bool {
		if n := len(m.dirty); n == 0 || m.dirty[n-1] != p.key {
			m.dirty = append(m.dirty, p.key)
		}
		return true
	})
	m.serveDirty()
	return Reply{}
}
