package raftfsm

import (
	"errors"
	"fmt"

	"github.com/godistlock/distlock/internal/wire"
)

// Version is the greatest version of the log's format that this package reads and writes. An entry of a
// version is written once all members are known to read it; from then on the state's format is that version.
const Version = wire.Format

// Bounds of one log entry.
const (
	MaxEntry    = 8 << 20 // bytes
	MaxCommands = 16_384
)

// ErrVersion is matched when an entry or a snapshot was written by a later version of this package.
var ErrVersion = errors.New("written by a later version")

func versionError(what string, version uint64) error {
	return fmt.Errorf("%s of version %d, this process knows up to %d: %w: upgrade this process", what, version, Version, ErrVersion)
}

// Entry is what one Raft log entry carries: commands that are applied in order, as one step.
type Entry struct {
	Version  uint64
	Term     uint64 // in which the leader made it; what counts for a command is the term of the log
	Wall     int64  // µs since 1970 on the leader's wall clock; shown to people, never decided on
	Commands []Command
}

// Command is one of Ops, Create, Close, Expire, Found, Confirm, EndSilence, Noop, Dissolve, Time, Depart, EndDepart, Bind
// and Unbind.
type Command interface {
	encode(w *wire.Writer)
}

// Numbers of the commands in the log. They are never reused.
const (
	numOps        = 1
	numCreate     = 2
	numClose      = 3
	numExpire     = 4
	numFound      = 5
	numConfirm    = 6
	numEndSilence = 7
	numNoop       = 8
	numDissolve   = 9
	numTime       = 10 // since version 2
	numDepart     = 11 // since version 3
	numEndDepart  = 12
	numBind       = 13 // since version 4
	numUnbind     = 14
)

type (
	// Ops are operations of one session, in order. Reply: CodeOK, or CodeGone when the session doesn't exist; nothing is done then.
	Ops struct {
		Session uint64
		Ops     []wire.Op
	}

	// Create makes a session, or meets the one that an earlier copy made. Reply: CodeOK with the session, CodeNotOpen, CodeLimit, or
	// CodeNameTaken with the session that has the name.
	Create struct{ wire.CreateSession }

	// Close ends a session by its own wish. Reply: CodeOK, or CodeGone.
	Close struct{ Session uint64 }

	// Expire ends a session that the leader of Term has not heard of for its TTL, unless Term is over or the session was renewed by
	// an entry other than Seen meanwhile: then CodeStale.
	Expire struct{ Session, Term, Seen uint64 }

	// Found names the cluster, once. Silent founds it such that it grants nothing until EndSilence. Reply: CodeOK, CodeStale when it
	// has a name, CodeInvalid.
	Found struct {
		Cluster wire.UUID
		Expect  int // distinct servers that must confirm before it opens
		Voters  int
		Silent  bool
	}

	// Confirm says that a process has accepted Cluster for good. Reply: CodeOK, or CodeStale for another cluster.
	Confirm struct {
		Cluster, Server, Instance wire.UUID
		Name                      string
		Clock                     int64 // µs since 1970 on that process's wall clock; the greatest one founds the fences
	}

	// EndSilence ends the silence of Found if Term, in which it was timed, is not over. Reply: CodeOK, or CodeStale.
	EndSilence struct{ Term uint64 }

	// Dissolve ends a cluster that has not opened, for good: after it, no Confirm opens it. Reply: CodeOK, or CodeStale when it has opened
	// or is another.
	Dissolve struct{ Cluster wire.UUID }

	// Time says what the leader of Term has measured: what is left of times that run; nothing ends a grant or a cooldown. A timer that was
	// set anew meanwhile, or is gone, is left alone. Reply: CodeOK, or CodeStale when Term is over.
	Time struct {
		Term   uint64
		Timers []Timer
	}

	// Depart takes the leaving slot for Server, a voter that wants to go: there is one, so that voters go one after the other. Reply: CodeOK,
	// also when it has the slot, CodeHeld when another has, CodeInvalid.
	Depart struct{ Server wire.UUID }

	// EndDepart frees the slot that Server took with entry At, unless Term, in which that was decided, is over: then, and when the slot
	// has moved on, CodeStale.
	EndDepart struct {
		Server   wire.UUID
		At, Term uint64
	}

	// Bind binds Server, which is to have a seat or has one, to the name that a certificate proves: before it is in the configuration, or as
	// soon as it can be. Reply: CodeOK, also when it is bound to that name, CodeHeld when it is bound to another, CodeLimit, CodeInvalid.
	Bind struct {
		Server wire.UUID
		Name   string
	}

	// Unbind forgets what Server, which has left the configuration, is bound to, unless Term, in which that was seen, is over: then, and
	// when it is bound to nothing, CodeStale.
	Unbind struct {
		Server wire.UUID
		Term   uint64
	}

	// Noop does nothing. That it commits proves that its proposer leads.
	Noop struct{}
)

// Encode returns e as the log holds it.
func (e Entry) Encode() []byte {
	w := wire.NewWriter()
	e.AppendTo(w)
	return w.Bytes()
}

// AppendTo appends what Encode returns, for callers that keep their Writer.
func (e Entry) AppendTo(w *wire.Writer) {
	w.Array(4)
	w.Uint(e.Version)
	w.Uint(e.Term)
	w.Int(e.Wall)
	w.Array(len(e.Commands))
	for _, c := range e.Commands {
		c.encode(w)
	}
}

func (c Ops) encode(w *wire.Writer) {
	w.Array(3)
	w.Uint(numOps)
	w.Uint(c.Session)
	wire.EncodeOps(w, c.Ops)
}

func (c Create) encode(w *wire.Writer) {
	w.Array(2)
	w.Uint(numCreate)
	c.CreateSession.Encode(w)
}

func (c Close) encode(w *wire.Writer) {
	w.Array(2)
	w.Uint(numClose)
	w.Uint(c.Session)
}

func (c Expire) encode(w *wire.Writer) {
	w.Array(4)
	w.Uint(numExpire)
	w.Uint(c.Session)
	w.Uint(c.Term)
	w.Uint(c.Seen)
}

func (c Found) encode(w *wire.Writer) {
	w.Array(5)
	w.Uint(numFound)
	w.UUID(c.Cluster)
	w.Int(int64(c.Expect))
	w.Int(int64(c.Voters))
	w.Bool(c.Silent)
}

func (c Confirm) encode(w *wire.Writer) {
	w.Array(6)
	w.Uint(numConfirm)
	w.UUID(c.Cluster)
	w.UUID(c.Server)
	w.UUID(c.Instance)
	w.String(c.Name)
	w.Int(c.Clock)
}

func (c EndSilence) encode(w *wire.Writer) {
	w.Array(2)
	w.Uint(numEndSilence)
	w.Uint(c.Term)
}

func (c Depart) encode(w *wire.Writer) {
	w.Array(2)
	w.Uint(numDepart)
	w.UUID(c.Server)
}

func (c EndDepart) encode(w *wire.Writer) {
	w.Array(4)
	w.Uint(numEndDepart)
	w.UUID(c.Server)
	w.Uint(c.At)
	w.Uint(c.Term)
}

func (c Bind) encode(w *wire.Writer) {
	w.Array(3)
	w.Uint(numBind)
	w.UUID(c.Server)
	w.String(c.Name)
}

func (c Unbind) encode(w *wire.Writer) {
	w.Array(3)
	w.Uint(numUnbind)
	w.UUID(c.Server)
	w.Uint(c.Term)
}

func (c Noop) encode(w *wire.Writer) {
	w.Array(1)
	w.Uint(numNoop)
}

func (c Dissolve) encode(w *wire.Writer) {
	w.Array(2)
	w.Uint(numDissolve)
	w.UUID(c.Cluster)
}

func (c Time) encode(w *wire.Writer) {
	w.Array(3)
	w.Uint(numTime)
	w.Uint(c.Term)
	w.Array(len(c.Timers))
	for _, t := range c.Timers {
		w.Array(4)
		w.String(t.Key)
		w.Uint(t.Fence)
		w.Uint(t.Armed)
		w.Int(t.Left)
	}
}

// DecodeEntry reads what Encode wrote. Its error matches wire.ErrMalformed or ErrVersion.
func DecodeEntry(p []byte) (Entry, error) { return decodeEntry(wire.NewReader(p)) }

func decodeEntry(r *wire.Reader) (Entry, error) {
	if r.Len() > MaxEntry {
		r.Fail("log entry of %d bytes, limit %d", r.Len(), MaxEntry)
	}
	n := r.Array(64)
	e := Entry{Version: r.Uint()}
	switch {
	case r.Err() != nil:
		return Entry{}, r.Err()
	case e.Version > Version:
		return Entry{}, versionError("log entry", e.Version)
	case e.Version == 0 || n != 4:
		r.Fail("log entry of version %d with %d fields", e.Version, n)
	}
	e.Term = r.Uint()
	e.Wall = r.Int()
	count := r.Array(MaxCommands)
	e.Commands = make([]Command, 0, count) // each takes a byte at least, which Array has checked
	for range count {
		c := decodeCommand(r)
		if r.Err() != nil {
			return Entry{}, r.Err()
		}
		if v := versionOf(c); v > e.Version {
			r.Fail("a command of version %d in an entry of version %d", v, e.Version)
			return Entry{}, r.Err()
		}
		e.Commands = append(e.Commands, c)
	}
	if err := r.End(); err != nil {
		return Entry{}, err
	}
	return e, nil
}

// versionOf is the least version that has all of c.
func versionOf(c Command) uint64 {
	switch c := c.(type) {
	case Ops:
		for i := range c.Ops {
			if c.Ops[i].Kind >= wire.OpRequest {
				return wire.OpFormat
			}
		}
	case Time:
		return 2
	case Depart, EndDepart:
		return 3
	case Bind, Unbind:
		return 4
	}
	return 1
}

func decodeCommand(r *wire.Reader) Command {
	n := r.Array(8)
	num := r.Uint()
	var c Command
	want := 0
	switch num {
	case numOps:
		want, c = 3, Ops{Session: r.Uint(), Ops: wire.DecodeOps(r)}
	case numCreate:
		want, c = 2, Create{wire.DecodeCreateSession(r)}
	case numClose:
		want, c = 2, Close{Session: r.Uint()}
	case numExpire:
		want, c = 4, Expire{Session: r.Uint(), Term: r.Uint(), Seen: r.Uint()}
	case numFound:
		want, c = 5, Found{Cluster: r.UUID(), Expect: number(r, MaxExpect), Voters: number(r, MaxVoters), Silent: r.Bool()}
	case numConfirm:
		want, c = 6, Confirm{
			Cluster: r.UUID(), Server: r.UUID(), Instance: r.UUID(), Name: r.String(wire.MaxName), Clock: r.Int(),
		}
	case numEndSilence:
		want, c = 2, EndSilence{Term: r.Uint()}
	case numNoop:
		want, c = 1, Noop{}
	case numDissolve:
		want, c = 2, Dissolve{Cluster: r.UUID()}
	case numTime:
		want, c = 3, Time{Term: r.Uint(), Timers: decodeTimers(r)}
	case numDepart:
		want, c = 2, Depart{Server: r.UUID()}
	case numEndDepart:
		want, c = 4, EndDepart{Server: r.UUID(), At: r.Uint(), Term: r.Uint()}
	case numBind:
		want, c = 3, Bind{Server: r.UUID(), Name: r.String(wire.MaxName)}
	case numUnbind:
		want, c = 3, Unbind{Server: r.UUID(), Term: r.Uint()}
	default:
		r.Fail("unknown command %d", num)
	}
	if n != want {
		r.Fail("command %d with %d fields", num, n)
	}
	return c
}

// MaxTimers bounds one Time.
const MaxTimers = 4096

func decodeTimers(r *wire.Reader) []Timer {
	n := r.Array(MaxTimers)
	timers := make([]Timer, 0, min(n, r.Len()/6+1)) // one takes six bytes at least
	for range n {
		if f := r.Array(4); f != 4 {
			r.Fail("timer with %d fields", f)
		}
		t := Timer{Key: r.String(wire.MaxKey), Fence: r.Uint(), Armed: r.Uint(), Left: r.Int()}
		if t.Left < 0 || t.Left > wire.MaxTime {
			r.Fail("%d ms left", t.Left)
		}
		if r.Err() != nil {
			return nil
		}
		timers = append(timers, t)
	}
	return timers
}

// number reads a number from 0 to limit.
func number(r *wire.Reader, limit int) int {
	v := r.Int()
	if v < 0 || v > int64(limit) {
		r.Fail("%d where a number up to %d belongs", v, limit)
		return 0
	}
	return int(v)
}
