package wire

// Bounds of the first start's messages.
const (
	MaxCharterVoters = 7       // servers in a founding configuration
	MaxCharterExpect = 1 << 20 // processes that a cluster may wait for before it opens
)

// Charter is what a cluster is founded on. It does not change after the invitation that first named it.
type Charter struct {
	Cluster UUID
	Inviter UUID   // the server that minted Cluster and alone may bootstrap it
	Name    string // the inviter's, for people
	Expect  int    // processes that must confirm before the cluster opens
	Size    int    // voters that the cluster wants in the long run
	Silent  bool   // it opens silent: holders of an earlier incarnation may be alive
	Voters  []UUID // servers of the founding Raft configuration, the inviter among them
}

// IsZero says that c is no charter.
func (c Charter) IsZero() bool { return c.Cluster.IsZero() }

// Has says that server is one of the founding voters.
func (c Charter) Has(server UUID) bool {
	for _, v := range c.Voters {
		if v == server {
			return true
		}
	}
	return false
}

// Encode appends c.
func (c Charter) Encode(w *Writer) {
	w.Array(7)
	w.UUID(c.Cluster)
	w.UUID(c.Inviter)
	w.String(c.Name)
	w.Uint(uint64(c.Expect))
	w.Uint(uint64(c.Size))
	w.Bool(c.Silent)
	w.Array(len(c.Voters))
	for _, v := range c.Voters {
		w.UUID(v)
	}
}

// DecodeCharter reads a Charter.
func DecodeCharter(r *Reader) Charter {
	if n := r.Array(7); n != 7 {
		r.Fail("charter with %d fields", n)
	}
	c := Charter{Cluster: r.UUID(), Inviter: r.UUID(), Name: r.String(MaxName)}
	expect, size := r.Uint(), r.Uint()
	c.Silent = r.Bool()
	n := r.Array(MaxCharterVoters)
	if r.Err() == nil && (expect < 1 || expect > MaxCharterExpect || size < 1 || size > MaxCharterVoters || n < 1) {
		r.Fail("charter that expects %d processes and wants %d voters, with %d named", expect, size, n)
	}
	if r.Err() != nil {
		return Charter{}
	}
	c.Expect, c.Size = int(expect), int(size)
	c.Voters = make([]UUID, 0, n)
	for range n {
		v := r.UUID()
		if v.IsZero() || c.Has(v) {
			r.Fail("charter with a voter named twice or not at all")
		}
		c.Voters = append(c.Voters, v)
	}
	if c.Cluster.IsZero() || !c.Has(c.Inviter) {
		r.Fail("charter without a cluster, or whose inviter is no voter")
	}
	if r.Err() != nil {
		return Charter{}
	}
	return c
}

// FoundingKind says what a message of the first start means.
type FoundingKind uint8

const (
	// FoundingInvite asks the server Target to accept Charter, in the inviter's Round.
	FoundingInvite FoundingKind = 1
	// FoundingAnswer answers it: Verdict, and with VerdictKnown the cluster that the sender belongs to.
	FoundingAnswer FoundingKind = 2
	// FoundingRelease says that the inviter gave Cluster up before it was bootstrapped: it will never be.
	FoundingRelease FoundingKind = 3
	// FoundingBegun says that Charter's cluster has been bootstrapped. It is answered by FoundingBound.
	FoundingBegun FoundingKind = 4
	// FoundingBound answers it: VerdictAccepted, the sender belongs to Cluster; VerdictRefused, the sender as server Target will never
	// act in Cluster again.
	FoundingBound FoundingKind = 5
	// FoundingAsk asks a process of Cluster for its charter; FoundingBegun answers.
	FoundingAsk FoundingKind = 6
)

// Verdict is an invited process's answer.
type Verdict uint8

const (
	VerdictAccepted Verdict = 1
	VerdictBusy     Verdict = 2 // another invitation is accepted; ask again
	VerdictRefused  Verdict = 3 // for good
	VerdictKnown    Verdict = 4 // the process belongs to the cluster Known
)

// Founding is a message of the first start. Fields that a kind doesn't name are zero.
type Founding struct {
	Kind    FoundingKind
	Cluster UUID
	Charter Charter // Invite, Begun
	Target  UUID    // Invite, Bound
	Round   uint64  // Invite
	Verdict Verdict // Answer, Bound
	Known   UUID    // Answer
	Text    string  // Answer, for people
}

// Encode appends m.
func (m Founding) Encode(w *Writer) {
	switch m.Kind {
	case FoundingInvite:
		w.Array(4)
		w.Uint(uint64(m.Kind))
		m.Charter.Encode(w)
		w.UUID(m.Target)
		w.Uint(m.Round)
	case FoundingAnswer:
		w.Array(5)
		w.Uint(uint64(m.Kind))
		w.UUID(m.Cluster)
		w.Uint(uint64(m.Verdict))
		w.UUID(m.Known)
		w.String(m.Text)
	case FoundingBegun:
		w.Array(2)
		w.Uint(uint64(m.Kind))
		m.Charter.Encode(w)
	case FoundingBound:
		w.Array(4)
		w.Uint(uint64(m.Kind))
		w.UUID(m.Cluster)
		w.UUID(m.Target)
		w.Uint(uint64(m.Verdict))
	default:
		w.Array(2)
		w.Uint(uint64(m.Kind))
		w.UUID(m.Cluster)
	}
}

// DecodeFounding reads one message of the first start.
func DecodeFounding(r *Reader) Founding {
	n := r.Array(5)
	m := Founding{Kind: FoundingKind(small(r))}
	want := 2
	switch m.Kind {
	case FoundingInvite:
		want, m.Charter, m.Target, m.Round = 4, DecodeCharter(r), r.UUID(), r.Uint()
		m.Cluster = m.Charter.Cluster
	case FoundingAnswer:
		want, m.Cluster, m.Verdict, m.Known, m.Text = 5, r.UUID(), Verdict(small(r)), r.UUID(), r.String(MaxText)
	case FoundingBegun:
		m.Charter = DecodeCharter(r)
		m.Cluster = m.Charter.Cluster
	case FoundingBound:
		want, m.Cluster, m.Target, m.Verdict = 4, r.UUID(), r.UUID(), Verdict(small(r))
	case FoundingRelease, FoundingAsk:
		m.Cluster = r.UUID()
	default:
		r.Fail("unknown message of the first start: %d", m.Kind)
	}
	if r.Err() == nil && n != want {
		r.Fail("message %d of the first start with %d fields", m.Kind, n)
	}
	answers := m.Kind == FoundingAnswer || m.Kind == FoundingBound
	if r.Err() == nil && (m.Cluster.IsZero() || answers && (m.Verdict < VerdictAccepted || m.Verdict > VerdictKnown)) {
		r.Fail("message %d of the first start without a cluster or with verdict %d", m.Kind, m.Verdict)
	}
	if r.Err() != nil {
		return Founding{}
	}
	return m
}
