package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
)

// Format is the version of the log's format. Format 1 knows exclusive locks of one key only, format 2 every operation that there is, format 3
// the leaving slot, format 4 which servers are bound to which names.
const Format = 4

// OpFormat is the version that has all operations, which are in this file.
const OpFormat = 2

// Bounds of what one request may ask for. API.md documents those that a user meets.
const (
	MaxKeys    = 64                        // keys of one request
	MaxValue   = 4 << 10                   // bytes shown beside a holder
	MaxWhere   = 255                       // bytes that say where in the code a lock was taken
	MaxUnits   = 1<<31 - 1                 // of a semaphore
	MaxTime    = 30 * 24 * 60 * 60 * 1_000 // ms that a grant or a cooldown may last
	maxCounter = 1 << 62                   // sessions, owners and the like: far from where arithmetic on them would overflow
)

// Operations since format 2. See OpKind.
const (
	// OpRequest is OpAcquire of any kind: its Ask says of which. A copy meets its own record, as OpAcquire's does; with Only a copy of a finished
	// one is answered too, by OutFailed with CodeNotHeld.
	OpRequest OpKind = 6
	// OpExpire is OpFinish for a grant whose TTL has passed, said by its holder's side: it counts as an expiry, and a cooldown runs.
	// Answer: OutEnded.
	OpExpire OpKind = 7
	// OpTime sets what is left of a detached grant to Ask.Time from the moment of its commit, unless an OpTime of a greater Ask.Nth was
	// there before. Until the first one, or its session's end, the grant's time does not run. Answer: OutNoted, or OutEnded if there is no
	// such grant (any more).
	OpTime OpKind = 8
	// OpDowngrade makes an exclusive grant a shared one, with the same fence. Answer: OutNoted, or OutEnded.
	OpDowngrade OpKind = 9
	// OpRelease ends the grant that Ask.Handle names, as request (session, Seq). Answer: OutSettled once it has ended, or OutFailed with
	// CodeNotHeld.
	OpRelease OpKind = 10
	// OpAdopt makes the grant that Ask.Handle names that of request (session, Seq). Answer: OutAdopted once its holder has let go, or OutFailed
	// with CodeNotHeld.
	OpAdopt OpKind = 11
)

// Outcomes since format 2.
const (
	OutQueued  OutcomeKind = 6 // Fence and Since of a holder, Text for people: the request waits. Said once, when it begins to
	OutNoted   OutcomeKind = 7 // answer to OpTime, with the Nth that counts now as Fence, and to OpDowngrade, with 0
	OutAdopted OutcomeKind = 8 // answer to OpAdopt: Fence, Since, and Grant
)

// Codes since format 2.
const (
	CodeDeadlock    Code = 10 // ErrDeadlock; Text names the cycle
	CodeMoved       Code = 11 // ErrMoved: somebody adopted it
	CodeUnlocked    Code = 12 // ErrUnlocked: somebody released it by its handle
	CodeUnsupported Code = 13 // a process of the cluster is too old for this kind of request
)

// Mode is how a request holds its keys. Values are part of the log's format.
type Mode uint8

const (
	Exclusive Mode = 0
	Shared    Mode = 1
	Units     Mode = 2 // so many units of a semaphore
)

// Ask is what operations carry beyond a key. Fields that an operation's kind doesn't name are zero. Nobody changes it once it was sent.
type Ask struct {
	// Of OpRequest.
	Keys     []string // 1 to MaxKeys, ascending, each once
	Mode     Mode
	Limit    uint32 // Units: how many the semaphore has
	Weight   uint32 // Units: how many this request takes
	Owner    uint64 // who asks, by the number of its first request in this session; 0: this is its first
	TTL      int64  // ms after which the holder's side ends the grant; 0: none. Whoever adopts the grant counts anew
	Cooldown int64  // ms for which a grant that was lost keeps its keys; 0: none
	Detached int64  // ms for which the grant outlives its session; 0: it doesn't
	Value    []byte
	Where    string
	Origin   Origin // the first request for this detached grant, when an earlier session sent it
	Only     bool   // take up the detached grant of Origin if it is there: don't ask for another

	Time int64  // OpTime: ms
	Nth  uint64 // OpTime: rises with each that is meant to replace the one before

	Handle Handle // OpRelease, OpAdopt
}

// Origin is the request by which a grant first came to be.
type Origin struct{ Session, Seq uint64 }

func (o Origin) IsZero() bool { return o == Origin{} }

// Handle names a grant and proves that its bearer was told of it.
type Handle struct {
	Origin
	Fence uint64
	Proof UUID
}

// NewHandle makes the handle of the grant with fence that request o of the session with nonce got. The nonce is known to members only, so who has
// just a fence can't make one.
func NewHandle(nonce UUID, o Origin, fence uint64) Handle {
	mac := hmac.New(sha256.New, nonce[:])
	var p [24]byte
	binary.BigEndian.PutUint64(p[:], o.Session)
	binary.BigEndian.PutUint64(p[8:], o.Seq)
	binary.BigEndian.PutUint64(p[16:], fence)
	mac.Write(p[:])
	h := Handle{Origin: o, Fence: fence}
	copy(h.Proof[:], mac.Sum(nil))
	return h
}

// Fits says whether h was made with nonce.
func (h Handle) Fits(nonce UUID) bool {
	want := NewHandle(nonce, h.Origin, h.Fence)
	return hmac.Equal(want.Proof[:], h.Proof[:])
}

const handlePrefix = "dl1-"

// String is h as users see it.
func (h Handle) String() string {
	p := make([]byte, 0, 40)
	p = binary.BigEndian.AppendUint64(p, h.Session)
	p = binary.BigEndian.AppendUint64(p, h.Seq)
	p = binary.BigEndian.AppendUint64(p, h.Fence)
	p = append(p, h.Proof[:]...)
	return handlePrefix + base64.RawURLEncoding.EncodeToString(p)
}

// ParseHandle reads what String wrote.
func ParseHandle(s string) (Handle, error) {
	body, ok := strings.CutPrefix(s, handlePrefix)
	if !ok || len(body) != base64.RawURLEncoding.EncodedLen(40) {
		return Handle{}, fmt.Errorf("%w: no handle of a lock", ErrMalformed)
	}
	p, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(p) != 40 { // it leaves out ends of lines
		return Handle{}, fmt.Errorf("%w: no handle of a lock", ErrMalformed)
	}
	h := Handle{
		Origin: Origin{binary.BigEndian.Uint64(p), binary.BigEndian.Uint64(p[8:])}, Fence: binary.BigEndian.Uint64(p[16:]),
		Proof: UUID(p[24:40]),
	}
	if !h.valid() {
		return Handle{}, fmt.Errorf("%w: no handle of a lock", ErrMalformed)
	}
	return h, nil
}

func (h Handle) valid() bool {
	return h.Session > 0 && h.Session <= maxCounter && h.Seq > 0 && h.Seq <= MaxSeq && h.Fence > 0
}

// Encode appends h.
func (h Handle) Encode(w *Writer) {
	w.Array(4)
	w.Uint(h.Session)
	w.Uint(h.Seq)
	w.Uint(h.Fence)
	w.UUID(h.Proof)
}

// DecodeHandle reads a Handle.
func DecodeHandle(r *Reader) Handle {
	if n := r.Array(4); n != 4 {
		r.Fail("handle with %d fields", n)
	}
	h := Handle{Origin: Origin{r.Uint(), r.Uint()}, Fence: r.Uint(), Proof: r.UUID()}
	if !h.valid() {
		r.Fail("handle of request %d of session %d with fence %d", h.Seq, h.Session, h.Fence)
	}
	return h
}

// EncodeKeys appends a list of keys.
func EncodeKeys(w *Writer, keys []string) {
	w.Array(len(keys))
	for _, k := range keys {
		w.String(k)
	}
}

// DecodeKeys reads 1 to MaxKeys keys, which must ascend.
func DecodeKeys(r *Reader) []string {
	n := r.Array(MaxKeys)
	if n == 0 {
		r.Fail("no key")
		return nil
	}
	keys := make([]string, 0, n)
	for range n {
		k := r.String(MaxKey)
		if k == "" || len(keys) > 0 && k <= keys[len(keys)-1] {
			r.Fail("keys that don't ascend")
			return nil
		}
		keys = append(keys, k)
	}
	return keys
}

// Of the flags of an encoded OpRequest.
const (
	flagTry  = 1
	flagOnly = 2
)

func (o Op) encodeRequest(w *Writer) {
	a := o.Ask
	w.Array(15)
	w.Uint(uint64(o.Kind))
	w.Uint(o.Seq)
	EncodeKeys(w, a.Keys)
	var flags uint64
	if o.Try {
		flags |= flagTry
	}
	if a.Only {
		flags |= flagOnly
	}
	w.Uint(flags)
	w.Uint(uint64(a.Mode))
	w.Uint(uint64(a.Limit))
	w.Uint(uint64(a.Weight))
	w.Uint(a.Owner)
	w.Int(a.TTL)
	w.Int(a.Cooldown)
	w.Int(a.Detached)
	w.Blob(a.Value)
	w.String(a.Where)
	w.Uint(a.Origin.Session)
	w.Uint(a.Origin.Seq)
}

func decodeRequest(r *Reader, o *Op) {
	a := &Ask{Keys: DecodeKeys(r)}
	flags := r.Uint()
	a.Mode, a.Limit, a.Weight = Mode(small(r)), units(r), units(r)
	a.Owner, a.TTL, a.Cooldown, a.Detached = r.Uint(), r.Int(), r.Int(), r.Int()
	a.Value, a.Where = r.Blob(MaxValue), r.String(MaxWhere)
	a.Origin = Origin{r.Uint(), r.Uint()}
	o.Ask, o.Try, a.Only = a, flags&flagTry != 0, flags&flagOnly != 0
	if why := a.fault(); flags > flagTry|flagOnly || why != "" {
		r.Fail("request %d: flags %d %s", o.Seq, flags, why)
	}
}

// fault says what makes no sense in a request.
func (a *Ask) fault() string {
	semaphore := a.Mode == Units
	switch {
	case a.Mode > Units:
		return "mode"
	case semaphore && (a.Limit == 0 || a.Weight == 0 || a.Weight > a.Limit), !semaphore && (a.Limit != 0 || a.Weight != 0):
		return "units"
	case !timeOK(a.TTL) || !timeOK(a.Cooldown) || !timeOK(a.Detached):
		return "time"
	case a.Owner > MaxSeq:
		return "owner"
	case !a.Origin.IsZero() && (a.Origin.Session == 0 || a.Origin.Session > maxCounter || a.Origin.Seq == 0 || a.Origin.Seq > MaxSeq || a.Detached == 0),
		a.Only && a.Origin.IsZero():
		return "origin"
	}
	return ""
}

func timeOK(ms int64) bool { return ms >= 0 && ms <= MaxTime }

func units(r *Reader) uint32 {
	v := r.Uint()
	if v > MaxUnits {
		r.Fail("%d units", v)
		return 0
	}
	return uint32(v)
}

func decodeTime(r *Reader, o *Op) {
	o.Ask = &Ask{Time: r.Int(), Nth: r.Uint()}
	if o.Ask.Time <= 0 || o.Ask.Time > MaxTime || o.Ask.Nth == 0 || o.Ask.Nth > maxCounter {
		r.Fail("a time of %d ms", o.Ask.Time)
	}
}

// Grant is what its adopter must know of a grant.
type Grant struct {
	Keys   []string
	Mode   Mode
	Limit  uint32
	Weight uint32
	TTL    int64 // ms; 0: none
}

// Encode appends g.
func (g *Grant) Encode(w *Writer) {
	w.Array(5)
	EncodeKeys(w, g.Keys)
	w.Uint(uint64(g.Mode))
	w.Uint(uint64(g.Limit))
	w.Uint(uint64(g.Weight))
	w.Int(g.TTL)
}

// DecodeGrant reads a Grant.
func DecodeGrant(r *Reader) *Grant {
	if n := r.Array(5); n != 5 {
		r.Fail("grant with %d fields", n)
	}
	g := &Grant{Keys: DecodeKeys(r), Mode: Mode(small(r)), Limit: units(r), Weight: units(r), TTL: r.Int()}
	if g.Mode > Units || !timeOK(g.TTL) {
		r.Fail("grant of mode %d", g.Mode)
	}
	return g
}
