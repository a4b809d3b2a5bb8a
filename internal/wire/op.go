package wire

// Bounds of what a peer can size. API.md documents those that a user meets.
const (
	MaxKey   = 1024    // bytes in a key
	MaxName  = 128     // bytes in a process's name
	MaxAddr  = 255     // bytes in an address
	MaxText  = 1024    // bytes in a reason meant for people
	MaxGroup = 64      // bytes in a group's name
	MaxOps   = 4096    // operations in one message of a session
	MaxFrame = 8 << 20 // bytes in one frame of a connection
	MaxSeq   = 1 << 62 // sequence number of a request: far from where arithmetic on it would overflow
)

// OpKind says what an Op does. Values are part of the log's format: they are never renumbered.
type OpKind uint8

const (
	// OpAcquire asks for Key exclusively as request (session, Seq). A copy of a request that is known meets its own record and gets
	// the same answer; a copy of a finished one does nothing. With Try it fails with CodeHeld instead of waiting.
	OpAcquire OpKind = 1
	// OpFinish ends request Seq whatever it is: a waiter goes, a grant is released, an Acquire that comes later is never
	// granted, a failure that was told is forgotten. It is both release and cancel, and idempotent. Answer: OutEnded. For a force
	// (OpForce) it only withdraws the wish to hear of it.
	OpFinish OpKind = 2
	// OpConfirm says that the Done of the revoked grant Seq is closed, which ends the grant. Anything else it ignores.
	OpConfirm OpKind = 3
	// OpForce revokes the grant of Key, whoever has it, as request (session, Seq). Answer: OutSettled once the grant has ended,
	// or OutFailed with CodeNotHeld.
	OpForce OpKind = 4
	// OpForget is OpFinish without an answer, sent when the outcome of a request that holds nothing (failed, settled) has arrived.
	OpForget OpKind = 5
)

// Op is one operation of a session on its requests. Fields that a kind doesn't name are zero.
type Op struct {
	Kind OpKind
	Try  bool   // OpAcquire, OpRequest
	Seq  uint64 // the request it begins (OpAcquire, OpForce, OpRequest, OpRelease, OpAdopt) or means; from 1, rising by one per request of a session
	Key  string // OpAcquire, OpForce
	Ask  *Ask   // OpRequest, OpTime, OpRelease, OpAdopt
}

// Format is the least format of the log that has o.
func (o Op) Format() uint64 {
	if o.Kind >= OpRequest {
		return OpFormat
	}
	return 1
}

// Encode appends o.
func (o Op) Encode(w *Writer) {
	switch o.Kind {
	case OpAcquire:
		w.Array(4)
		w.Uint(uint64(o.Kind))
		w.Uint(o.Seq)
		w.String(o.Key)
		w.Bool(o.Try)
	case OpForce:
		w.Array(3)
		w.Uint(uint64(o.Kind))
		w.Uint(o.Seq)
		w.String(o.Key)
	case OpRequest:
		o.encodeRequest(w)
	case OpTime:
		w.Array(4)
		w.Uint(uint64(o.Kind))
		w.Uint(o.Seq)
		w.Int(o.Ask.Time)
		w.Uint(o.Ask.Nth)
	case OpRelease, OpAdopt:
		w.Array(3)
		w.Uint(uint64(o.Kind))
		w.Uint(o.Seq)
		o.Ask.Handle.Encode(w)
	default:
		w.Array(2)
		w.Uint(uint64(o.Kind))
		w.Uint(o.Seq)
	}
}

// DecodeOp reads one Op; r.Err tells of a failure.
func DecodeOp(r *Reader) Op {
	n := r.Array(16)
	o := Op{Kind: OpKind(small(r)), Seq: r.Uint()}
	want := 2
	switch o.Kind {
	case OpAcquire:
		want = 4
		o.Key = r.String(MaxKey)
		o.Try = r.Bool()
	case OpForce:
		want = 3
		o.Key = r.String(MaxKey)
	case OpRequest:
		want = 15
		decodeRequest(r, &o)
	case OpTime:
		want = 4
		decodeTime(r, &o)
	case OpRelease, OpAdopt:
		want = 3
		o.Ask = &Ask{Handle: DecodeHandle(r)}
	case OpFinish, OpConfirm, OpForget, OpExpire, OpDowngrade:
	default:
		r.Fail("unknown operation %d", o.Kind)
	}
	if n != want {
		r.Fail("operation %d with %d fields", o.Kind, n)
	}
	if o.Seq == 0 || o.Seq > MaxSeq {
		r.Fail("operation %d with sequence number %d", o.Kind, o.Seq)
	}
	if (o.Kind == OpAcquire || o.Kind == OpForce) && o.Key == "" {
		r.Fail("operation %d without a key", o.Kind)
	}
	return o
}

// EncodeOps appends a list of ops.
func EncodeOps(w *Writer, ops []Op) {
	w.Array(len(ops))
	for _, o := range ops {
		o.Encode(w)
	}
}

// DecodeOps reads a list of at most MaxOps ops.
func DecodeOps(r *Reader) []Op {
	n := r.Array(MaxOps)
	ops := make([]Op, 0, min(n, r.Len()/3+1)) // an op takes at least three bytes
	for range n {
		o := DecodeOp(r)
		if r.Err() != nil {
			return nil
		}
		ops = append(ops, o)
	}
	return ops
}

// small reads an unsigned number that fits a byte.
func small(r *Reader) uint8 {
	v := r.Uint()
	if v > 255 {
		r.Fail("%d where a small number belongs", v)
		return 0
	}
	return uint8(v)
}

// OutcomeKind says what became of a request.
type OutcomeKind uint8

const (
	OutGranted OutcomeKind = 1 // Fence, Since
	OutFailed  OutcomeKind = 2 // Code, Text; the request holds nothing
	OutEnded   OutcomeKind = 3 // answer to OpFinish: the request is over
	OutRevoked OutcomeKind = 4 // Code says why; the holder must close Done and answer OpConfirm
	OutSettled OutcomeKind = 5 // an OpForce has come to its end
)

// Code is why something failed or was revoked; the caller's side turns it into the sentinel of API.md.
type Code uint8

const (
	CodeOK        Code = 0
	CodeHeld      Code = 1 // ErrHeld: TryLock of a key that is not free
	CodeNotHeld   Code = 2 // ErrNotHeld
	CodeForced    Code = 3 // ErrForced
	CodeLimit     Code = 4 // ErrLimit; Text names the bound
	CodeInvalid   Code = 5 // ErrInvalid; Text says why
	CodeNameTaken Code = 6 // a session of that name lives
	CodeGone      Code = 7 // the session does not exist (any more)
	CodeNotOpen   Code = 8 // the cluster has not opened yet
	CodeStale     Code = 9 // what the command was decided on has moved on; nothing was done
)

// Outcome is told to the session that owns the request.
type Outcome struct {
	Kind  OutcomeKind
	Seq   uint64
	Fence uint64
	Since int64 // microseconds since 1970 on the leader's wall clock; for people
	Code  Code
	Text  string
	Grant *Grant // OutAdopted
}

// Encode appends o.
func (o Outcome) Encode(w *Writer) {
	if o.Kind == OutAdopted {
		w.Array(7)
	} else {
		w.Array(6)
	}
	w.Uint(uint64(o.Kind))
	w.Uint(o.Seq)
	w.Uint(o.Fence)
	w.Int(o.Since)
	w.Uint(uint64(o.Code))
	w.String(o.Text)
	if o.Kind == OutAdopted {
		o.Grant.Encode(w)
	}
}

// DecodeOutcome reads one Outcome.
func DecodeOutcome(r *Reader) Outcome {
	n := r.Array(7)
	o := Outcome{
		Kind: OutcomeKind(small(r)), Seq: r.Uint(), Fence: r.Uint(), Since: r.Int(),
		Code: Code(small(r)), Text: r.String(MaxText),
	}
	want := 6
	if o.Kind == OutAdopted {
		want = 7
		o.Grant = DecodeGrant(r)
	}
	if n != want {
		r.Fail("outcome %d with %d fields", o.Kind, n)
	}
	return o
}

// EncodeOutcomes appends a list.
func EncodeOutcomes(w *Writer, outs []Outcome) {
	w.Array(len(outs))
	for _, o := range outs {
		o.Encode(w)
	}
}

// MaxOutcomes bounds one message of outcomes.
const MaxOutcomes = 1 << 17

// DecodeOutcomes reads a list.
func DecodeOutcomes(r *Reader) []Outcome {
	n := r.Array(MaxOutcomes)
	outs := make([]Outcome, 0, min(n, r.Len()/7+1)) // an outcome takes at least seven bytes
	for range n {
		o := DecodeOutcome(r)
		if r.Err() != nil {
			return nil
		}
		outs = append(outs, o)
	}
	return outs
}
