package gossip

import (
	"fmt"
	"time"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/hashicorp/memberlist"
)

// MetaVersion is the version of Meta's encoding. What another version says is not read, and its process is not listed.
const MetaVersion = 1

// MaxMeta is what memberlist carries for a process; it panics on more.
const MaxMeta = memberlist.MetaMaxSize

// Meta is what a process says of itself to everybody. It is a hint: whoever has the port can say anything here.
type Meta struct {
	Instance wire.UUID // this run of the process
	Server   wire.UUID // its Raft identity
	Cluster  wire.UUID // zero: it knows of none
	Name     string
	Addr     string // host:port that peers dial
	Term     uint64 // of Raft, as it knows it; between two that call themselves leader the greater one counts
	Expect   uint8
	Voters   uint8
	Format   uint64 // the greatest version of the log's format that it reads, up to 255; 0, of a process from before there were several, means 1

	MayVote bool
	Durable bool
	Open    bool // its Cluster has opened
	Voter   bool
	Leader  bool
	Standby bool
	Leaving bool // it goes now, or is gone
	Parting bool // it wants to go, and waits for its turn

	Started uint64 // when its process joined, in ms since 2020 by its own wall clock, only to order; 0: of a version that does not say
}

const (
	flagMayVote = 1 << iota
	flagDurable
	flagOpen
	flagVoter
	flagLeader
	flagStandby
	flagLeaving
	flagParting
)

// Format and Started lie in the word of the flags, above them: a process from before them ignores what it doesn't know there, and a new field
// would make it take this process for one of another version.
const (
	formatShift  = 8
	maxFormat    = 255
	startedShift = 16
	maxStarted   = 1<<44 - 1
)

const metaFields = 10

// Millis is t as Meta.Started has it; at least 1.
func Millis(t time.Time) uint64 {
	return uint64(min(max(t.Sub(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)).Milliseconds(), 1), maxStarted))
}

// check says whether m can be sent. With names and addresses within wire's bounds every Meta fits MaxMeta.
func (m Meta) check() error {
	switch {
	case m.Instance.IsZero():
		return fmt.Errorf("gossip: a process without an instance")
	case m.Name == "" || len(m.Name) > wire.MaxName:
		return fmt.Errorf("gossip: name of %d bytes, it must have 1 to %d", len(m.Name), wire.MaxName)
	case m.Addr == "" || len(m.Addr) > wire.MaxAddr:
		return fmt.Errorf("gossip: address of %d bytes, it must have 1 to %d", len(m.Addr), wire.MaxAddr)
	case m.Format > maxFormat:
		return fmt.Errorf("gossip: format %d, it must be at most %d", m.Format, maxFormat)
	case m.Started > maxStarted:
		return fmt.Errorf("gossip: started %d ms after 2020, it must be at most %d", m.Started, maxStarted)
	}
	return nil
}

func (m Meta) encode() []byte {
	w := wire.NewWriter()
	w.Array(metaFields)
	w.Uint(MetaVersion)
	w.UUID(m.Instance)
	w.UUID(m.Server)
	w.UUID(m.Cluster)
	w.String(m.Name)
	w.String(m.Addr)
	w.Uint(m.Term)
	w.Uint(uint64(m.Expect))
	w.Uint(uint64(m.Voters))
	w.Uint(m.flags() | m.Format<<formatShift | m.Started<<startedShift)
	return w.Bytes()
}

func (m Meta) flags() uint64 {
	var f uint64
	for _, b := range []struct {
		on  bool
		bit uint64
	}{
		{m.MayVote, flagMayVote}, {m.Durable, flagDurable}, {m.Open, flagOpen}, {m.Voter, flagVoter},
		{m.Leader, flagLeader}, {m.Standby, flagStandby}, {m.Leaving, flagLeaving}, {m.Parting, flagParting},
	} {
		if b.on {
			f |= b.bit
		}
	}
	return f
}

func decodeMeta(p []byte) (Meta, error) {
	if len(p) > MaxMeta {
		return Meta{}, fmt.Errorf("%w: metadata of %d bytes", wire.ErrMalformed, len(p))
	}
	r := wire.NewReader(p)
	n := r.Array(64)
	if v := r.Uint(); r.Err() == nil && v != MetaVersion {
		return Meta{}, fmt.Errorf("metadata of version %d, this process reads version %d: run the same release of distlock everywhere", v, MetaVersion)
	}
	if n != metaFields {
		r.Fail("metadata with %d fields", n)
	}
	m := Meta{
		Instance: r.UUID(), Server: r.UUID(), Cluster: r.UUID(), Name: r.String(wire.MaxName), Addr: r.String(wire.MaxAddr),
		Term: r.Uint(), Expect: small(r), Voters: small(r),
	}
	f := r.Uint()
	m.MayVote = f&flagMayVote != 0
	m.Durable = f&flagDurable != 0
	m.Open = f&flagOpen != 0
	m.Voter = f&flagVoter != 0
	m.Leader = f&flagLeader != 0
	m.Standby = f&flagStandby != 0
	m.Leaving = f&flagLeaving != 0
	m.Parting = f&flagParting != 0
	m.Format = f >> formatShift & maxFormat
	m.Started = f >> startedShift & maxStarted
	if err := r.End(); err != nil {
		return Meta{}, err
	}
	if err := m.check(); err != nil {
		return Meta{}, fmt.Errorf("%w: %v", wire.ErrMalformed, err)
	}
	return m, nil
}

func small(r *wire.Reader) uint8 {
	v := r.Uint()
	if v > 255 {
		r.Fail("%d where a small number belongs", v)
		return 0
	}
	return uint8(v)
}
