package node

import (
	"github.com/godistlock/distlock/internal/wire"
)

// leadReply answers callLead and callWho.
type leadReply struct {
	leads           bool
	leader          wire.UUID // zero when none is known
	addr            string
	term            uint64    // with leads: in which
	applied         uint64    // the answering server's own progress in the log
	cluster         wire.UUID // what the answering server's log says, as are the next two
	open, dissolved bool
	format          uint64 // of the log, which the answering process reads; not sent when 0, to who is too old to read it
}

// leadCall asks a process whether it leads.
type leadCall struct {
	format uint64    // of the log, which the asking process reads; 0: it is too old to say
	over   wire.UUID // of a lead that the asking process has lost: who knows of no other keeps it waiting for a while; zero: of none
	term   uint64    // of that lead
	holds  bool      // over and term were said: the asking process can wait
}

func (c leadCall) encode() []byte {
	w := wire.NewWriter()
	w.Uint(c.format) // all that processes of before look for
	w.UUID(c.over)
	w.Uint(c.term)
	return w.Bytes()
}

// decodeLeadCall reads what there is: processes of before say less, later ones may say more.
func decodeLeadCall(body []byte) (c leadCall) {
	if len(body) == 0 {
		return c
	}
	r := wire.NewReader(body)
	c.format = r.Uint()
	over, term := r.UUID(), r.Uint()
	if r.Err() == nil {
		c.over, c.term, c.holds = over, term, true
	}
	return c
}

func encodeLeadReply(a leadReply) []byte {
	w := wire.NewWriter()
	if a.format > 0 {
		w.Array(9)
	} else {
		w.Array(8)
	}
	w.Bool(a.leads)
	w.UUID(a.leader)
	w.String(a.addr)
	w.Uint(a.term)
	w.Uint(a.applied)
	w.UUID(a.cluster)
	w.Bool(a.open)
	w.Bool(a.dissolved)
	if a.format > 0 {
		w.Uint(a.format)
	}
	return w.Bytes()
}

func decodeLeadReply(body []byte) (leadReply, error) {
	r := wire.NewReader(body)
	n := r.Array(9)
	if n < 8 {
		r.Fail("leader reply with %d fields", n)
	}
	a := leadReply{leads: r.Bool(), leader: r.UUID(), addr: r.String(wire.MaxAddr), term: r.Uint(), applied: r.Uint()}
	a.cluster, a.open, a.dissolved = r.UUID(), r.Bool(), r.Bool()
	if n == 9 {
		if a.format = r.Uint(); a.format == 0 {
			r.Fail("leader reply of format 0")
		}
	}
	return a, r.End()
}

// confirmCall says that the sender belongs to the cluster for good.
type confirmCall struct {
	cluster, server, instance wire.UUID
	name                      string
	clock                     int64 // microseconds since 1970
}

func (c confirmCall) encode() []byte {
	w := wire.NewWriter()
	w.Array(5)
	w.UUID(c.cluster)
	w.UUID(c.server)
	w.UUID(c.instance)
	w.String(c.name)
	w.Int(c.clock)
	return w.Bytes()
}

func decodeConfirmCall(body []byte) (confirmCall, error) {
	r := wire.NewReader(body)
	if n := r.Array(5); n != 5 {
		r.Fail("confirmation with %d fields", n)
	}
	c := confirmCall{cluster: r.UUID(), server: r.UUID(), instance: r.UUID(), name: r.String(wire.MaxName), clock: r.Int()}
	return c, r.End()
}

// encodeUUID and decodeUUID are the bodies of callEnlist (the cluster), callResign (the server that leaves) and callVia (the server that is
// wanted).
func encodeUUID(u wire.UUID) []byte {
	w := wire.NewWriter()
	w.UUID(u)
	return w.Bytes()
}

func decodeUUID(body []byte) (wire.UUID, error) {
	r := wire.NewReader(body)
	u := r.UUID()
	return u, r.End()
}

// Query is a linearizable read.
type Query struct {
	Kind   QueryKind
	Key    string // QueryGrant
	Prefix string // QueryLocks
	After  string // QueryLocks: the last key of the page before
	Page   uint64 // QueryLocks: which held view the page comes from; 0 takes a new one. QueryGrant: the fence that is asked for; 0 means any
}

// QueryKind says what a Query asks. Values are part of the protocol: they are never renumbered.
type QueryKind uint8

const (
	QueryGrant QueryKind = 1
	queryPlain QueryKind = 2 // QueryLocks of processes that know exclusive locks only
	QueryLocks QueryKind = 3
	QueryStats QueryKind = 4
)

func (q Query) encode() []byte {
	w := wire.NewWriter()
	w.Array(5)
	w.Uint(uint64(q.Kind))
	w.String(q.Key)
	w.String(q.Prefix)
	w.String(q.After)
	w.Uint(q.Page)
	return w.Bytes()
}

func decodeQuery(body []byte) (Query, error) {
	r := wire.NewReader(body)
	if n := r.Array(5); n != 5 {
		r.Fail("query with %d fields", n)
	}
	kind := r.Uint()
	q := Query{Key: r.String(wire.MaxKey), Prefix: r.String(wire.MaxKey), After: r.String(wire.MaxKey), Page: r.Uint()}
	if kind > 255 {
		r.Fail("query %d", kind)
	}
	q.Kind = QueryKind(kind)
	return q, r.End()
}
