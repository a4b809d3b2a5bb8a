package founding

import "github.com/godistlock/distlock/internal/wire"

// Process is a process as the first start sees it.
type Process struct {
	Server   wire.UUID // its Raft identity
	Instance wire.UUID // this run of it
	Name     string
	MayVote  bool
}

// before orders processes by name; names can tie, instances can't.
func (p Process) before(q Process) bool {
	if p.Name != q.Name {
		return p.Name < q.Name
	}
	return p.Instance.Less(q.Instance)
}

// Peer is a process as gossip tells of it.
type Peer struct {
	Process
	Alive   bool
	Cluster wire.UUID // what its Machine.Cluster says; zero: it knows of none
	Open    bool      // what its Machine.Open says: it was told by the cluster's own log or leader, not by gossip
	Leads   bool      // it leads Cluster's Raft group
}

// Event is what a Machine is told.
type Event interface{ event() }

type (
	// Tick says that time has passed. Send one every TickEvery until Machine.Open.
	Tick struct{}

	// View is what gossip knows now. The process itself may be among Members, or not.
	View struct {
		Members    []Peer
		Unanswered bool // some known address has not answered that it knows no cluster
	}

	// Received is a message of another process, which its connection named (Hello).
	Received struct {
		From    Process
		Message wire.Founding
	}

	// Unreached says that a Send to Instance failed.
	Unreached struct{ Instance wire.UUID }

	// Led is news from Cluster's Raft group, or, without Raft here, from its leader. Repeat it whenever a field may have changed.
	Led struct {
		Cluster   wire.UUID
		Leader    bool // there is a leader
		Leading   bool // it is this process, and its state machine has applied all of the log before its own term
		Founded   bool // Found is applied
		Open      bool // the cluster has opened: a committed fact
		Confirmed bool // this server's confirmation is committed
		Dissolved bool // the end of the cluster is committed: it will never open
	}

	// Confirmed answers Confirm: the confirmation is committed.
	Confirmed struct {
		Cluster wire.UUID
		Open    bool
	}

	// Stopped answers StopRaft without Wipe, after Raft has ended here. Empty says that its log has no entry, but for the
	// configuration that this process itself bootstrapped, and that there is no snapshot; also where no Raft ran.
	Stopped struct {
		Cluster wire.UUID
		Empty   bool
	}
)

func (Tick) event()      {}
func (View) event()      {}
func (Received) event()  {}
func (Unreached) event() {}
func (Led) event()       {}
func (Confirmed) event() {}
func (Stopped) event()   {}

// Action is what the caller must do, in order: an action is done before the next one begins.
type Action interface{ action() }

type (
	// Save stores Saved durably (in memory: keeps it). Nothing after it may happen before it is stored; when it fails, the process
	// must stop.
	Save struct{ Saved Saved }

	// Send brings Message to the process whose instance is To, or loses it.
	Send struct {
		To      wire.UUID
		Message wire.Founding
	}

	// StartRaft runs Raft for Cluster; from here on streams of Cluster are taken, and of no other. With Bootstrap, and a log
	// without any state, it is bootstrapped with Voters first; else it starts as it is, empty or not.
	StartRaft struct {
		Cluster   wire.UUID
		Voters    []wire.UUID
		Bootstrap bool
	}

	// StopRaft ends Raft for Cluster, if it runs, and with Wipe removes its log, votes and snapshots and closes its sessions.
	// Without Wipe the log stays, in memory too, since the same server may start again; it is answered by Stopped.
	StopRaft struct {
		Cluster wire.UUID
		Wipe    bool
	}

	// Found proposes the Found command of Charter; this process leads. It is repeated until Led says Founded.
	Found struct{ Charter wire.Charter }

	// Confirm asks Cluster's leader to commit that this server has confirmed it. It is repeated until Led or Confirmed says so.
	Confirm struct{ Cluster wire.UUID }

	// Dissolve proposes the end of Cluster, which this process leads and which has not opened: a command after which it can't open. A
	// caller that has no such command ignores it.
	Dissolve struct{ Cluster wire.UUID }

	// Join says that this process belongs to Cluster from now on, as a newcomer or as one that returns; a seat in Raft is the
	// leader's to give (or stands in the log here). Renounced, if not zero, is this process's server of before, which will never act again.
	Join struct {
		Cluster   wire.UUID
		Renounced wire.UUID
	}

	// Log is for people.
	Log struct {
		Text string
		Warn bool
	}
)

func (Save) action()      {}
func (Send) action()      {}
func (StartRaft) action() {}
func (StopRaft) action()  {}
func (Found) action()     {}
func (Confirm) action()   {}
func (Dissolve) action()  {}
func (Join) action()      {}
func (Log) action()       {}
