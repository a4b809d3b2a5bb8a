package wire

// MaxID bounds the strings by which a machine names itself in a Proof.
const MaxID = 255

// MaxTTL bounds a session's TTL, in milliseconds. API.md allows a minute; this only keeps arithmetic on it safe.
const MaxTTL = 3_600_000

// Proof is what a process can say of where it runs. Two processes of one name with equal proofs cannot both live.
type Proof struct {
	Boot  string // the running kernel's boot ID; "" where the system has none, which proves nothing
	NetNS string // the network namespace
	Bound string // the address that is really bound (not Advertise)
	Dir   string // device and inode of DataDir's lock file, while it is locked; "" in memory

	// Started orders the processes of one kernel: µs on its clock since boot when the address was bound and the file was locked.
	// Without it a copy of a dead process's words that comes late would prove its successor dead.
	Started int64
}

// ProvesDead says that a process with proof old is dead because one with proof p runs: the same kernel has given the same
// address, or the same locked file, to another, and not before.
func (p Proof) ProvesDead(old Proof) bool {
	if p.Boot == "" || p.Boot != old.Boot || p.Started < old.Started {
		return false
	}
	sameAddr := p.Bound != "" && p.Bound == old.Bound && p.NetNS != "" && p.NetNS == old.NetNS
	sameDir := p.Dir != "" && p.Dir == old.Dir
	return sameAddr || sameDir
}

// Encode appends p.
func (p Proof) Encode(w *Writer) {
	w.Array(5)
	w.String(p.Boot)
	w.String(p.NetNS)
	w.String(p.Bound)
	w.String(p.Dir)
	w.Int(p.Started)
}

// DecodeProof reads a Proof.
func DecodeProof(r *Reader) Proof {
	if n := r.Array(5); n != 5 {
		r.Fail("proof with %d fields", n)
	}
	return Proof{Boot: r.String(MaxID), NetNS: r.String(MaxID), Bound: r.String(MaxAddr), Dir: r.String(MaxID), Started: r.Int()}
}

// CreateSession asks for a session. Nonce makes a resend meet the session that the first copy created.
type CreateSession struct {
	Nonce    UUID
	Name     string
	Server   UUID
	Instance UUID
	TTL      int64 // milliseconds
	Proof    Proof
	Previous uint64 // this instance's session before, which ends in the same entry; 0 for none
}

// Encode appends c.
func (c CreateSession) Encode(w *Writer) {
	w.Array(7)
	w.UUID(c.Nonce)
	w.String(c.Name)
	w.UUID(c.Server)
	w.UUID(c.Instance)
	w.Int(c.TTL)
	c.Proof.Encode(w)
	w.Uint(c.Previous)
}

// DecodeCreateSession reads a CreateSession.
func DecodeCreateSession(r *Reader) CreateSession {
	if n := r.Array(7); n != 7 {
		r.Fail("session with %d fields", n)
	}
	c := CreateSession{
		Nonce: r.UUID(), Name: r.String(MaxName), Server: r.UUID(), Instance: r.UUID(), TTL: r.Int(),
		Proof: DecodeProof(r), Previous: r.Uint(),
	}
	if c.Name == "" || c.TTL <= 0 || c.TTL > MaxTTL || c.Nonce.IsZero() || c.Instance.IsZero() {
		r.Fail("session without a name, a time, a nonce or an instance")
	}
	return c
}

// SessionReply answers a CreateSession. With CodeNameTaken it tells of the session that has the name: when (Term, Renewals) has risen
// between two answers, its process lives.
type SessionReply struct {
	Code     Code
	Session  uint64
	Term     uint64
	Renewals uint64
	Text     string
}

// Encode appends s.
func (s SessionReply) Encode(w *Writer) {
	w.Array(5)
	w.Uint(uint64(s.Code))
	w.Uint(s.Session)
	w.Uint(s.Term)
	w.Uint(s.Renewals)
	w.String(s.Text)
}

// DecodeSessionReply reads a SessionReply.
func DecodeSessionReply(r *Reader) SessionReply {
	if n := r.Array(5); n != 5 {
		r.Fail("session reply with %d fields", n)
	}
	return SessionReply{Code: Code(small(r)), Session: r.Uint(), Term: r.Uint(), Renewals: r.Uint(), Text: r.String(MaxText)}
}
