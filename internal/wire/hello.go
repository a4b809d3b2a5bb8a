package wire

// ProtocolVersion is the version of everything said on a connection. A process refuses another version and says which it has.
const ProtocolVersion = 1

// Kind is the header byte that routes a stream of the one port.
type Kind uint8

const (
	KindRaft   Kind = 'R'
	KindCall   Kind = 'C'
	KindGossip Kind = 'G'
)

// Hello opens every stream: who speaks, to whom, of which cluster. The receiver refuses a stream that is not meant for it.
// A zero Cluster means that the sender knows of none; a zero Target that any server will do (calls and gossip only).
type Hello struct {
	Version  uint64
	Kind     Kind
	Group    string
	Cluster  UUID
	Server   UUID // the sender's Raft identity
	Instance UUID // this run of the sender's process
	Name     string
	Target   UUID // the server that is wanted
}

// Encode appends h.
func (h Hello) Encode(w *Writer) {
	w.Array(8)
	w.Uint(h.Version)
	w.Uint(uint64(h.Kind))
	w.String(h.Group)
	w.UUID(h.Cluster)
	w.UUID(h.Server)
	w.UUID(h.Instance)
	w.String(h.Name)
	w.UUID(h.Target)
}

// DecodeHello reads a Hello. Of another version it reads the version only.
func DecodeHello(r *Reader) Hello {
	n := r.Array(64)
	h := Hello{Version: r.Uint()}
	if r.Err() != nil || h.Version != ProtocolVersion {
		return h
	}
	if n != 8 {
		r.Fail("hello with %d fields", n)
	}
	h.Kind = Kind(small(r))
	h.Group = r.String(MaxGroup)
	h.Cluster = r.UUID()
	h.Server = r.UUID()
	h.Instance = r.UUID()
	h.Name = r.String(MaxName)
	h.Target = r.UUID()
	return h
}

// Refusal says why a stream was not taken; 0 is none.
type Refusal uint8

const (
	Welcomed        Refusal = 0
	RefusedVersion  Refusal = 1
	RefusedGroup    Refusal = 2
	RefusedCluster  Refusal = 3 // of another cluster
	RefusedTarget   Refusal = 4 // the server that is wanted is not here
	RefusedBusy     Refusal = 5 // too many connections
	RefusedMuted    Refusal = 6 // this kind of stream is not taken now (no Raft here, or a disk that hangs)
	RefusedIdentity Refusal = 7 // another identity: the server that the sender claims to be has another name
)

// Welcome answers a Hello.
type Welcome struct {
	Version  uint64
	Refusal  Refusal
	Text     string // for people
	Cluster  UUID
	Server   UUID
	Instance UUID
	Name     string
}

// Encode appends a.
func (a Welcome) Encode(w *Writer) {
	w.Array(7)
	w.Uint(a.Version)
	w.Uint(uint64(a.Refusal))
	w.String(a.Text)
	w.UUID(a.Cluster)
	w.UUID(a.Server)
	w.UUID(a.Instance)
	w.String(a.Name)
}

// DecodeWelcome reads a Welcome.
func DecodeWelcome(r *Reader) Welcome {
	n := r.Array(64)
	a := Welcome{Version: r.Uint(), Refusal: Refusal(small(r)), Text: r.String(MaxText)}
	if r.Err() != nil || a.Version != ProtocolVersion {
		return a
	}
	if n != 7 {
		r.Fail("welcome with %d fields", n)
	}
	a.Cluster = r.UUID()
	a.Server = r.UUID()
	a.Instance = r.UUID()
	a.Name = r.String(MaxName)
	return a
}
