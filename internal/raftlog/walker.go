package raftlog

import (
	"math"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// Bounds of what comes on one of Raft's streams. What Raft's decoder makes room for at once is a time; of all else it takes as much as comes, by
// 256 KiB, or by 4,096 values of a list.
const (
	MaxEntries = 1024    // of one request, or values of any list; a leader sends half of them
	MaxData    = 8 << 20 // bytes of an entry; as raftfsm.MaxEntry
	maxRequest = 1 << 30 // bytes of a request, without a snapshot's body. 512 entries as they are proposed take little more than half of it
	maxAnswer  = 64 << 10
	maxTime    = 16 // bytes of a time, and of any extension
	maxFields  = 64 // Raft's requests have 15 at most
	maxNested  = 8  // a request's entries and their fields take 3
)

// The kinds of requests, as Raft counts them, that matter here.
const (
	kindSnapshot = 2
	kindLast     = 4
)

// walker follows what comes on a stream of Raft from head to head, however it is cut, and says where a head claims what Raft does not send.
// What it lets through the decoder reads just as it did, so that both always agree on what is a head. A request is a byte, a map, and,
// of a snapshot, as many bytes as its field Size says; an answer is a string and a map. Raft's structs come as maps, by name: the decoder would also
// take lists, in which a time is one by its place only.
type walker struct {
	answers bool

	inside bool   // a message has begun
	kind   byte   // of the request; of an answer's parts 0 is the string and 1 the map
	total  uint64 // bytes that the message's heads have claimed so far
	depth  int
	left   [maxNested + 1]uint64 // values to come at each depth; of a map, names too
	list   [maxNested + 1]bool   // at that depth is a list, and no map

	seen    [32]byte // the head that is being read; of names and a snapshot's size the value too
	have    int      // bytes of it that have come
	need    int
	judged  bool   // the head is, the value not yet
	skip    uint64 // bytes of a value that nobody looks at
	isTime  bool   // the value to come is one
	isSize  bool   // it is a snapshot's
	sized   bool
	size    int64
	pending int64 // bytes of a snapshot's body that are to come
}

// take says how many bytes of p Raft may have. With no error these are all, or those up to the end of a request or of a snapshot's body: the rest is
// for the next call. The last byte of a head that is refused is not among them.
func (w *walker) take(p []byte) (n int, err error) {
	for n < len(p) {
		switch {
		case w.pending > 0:
			k := min(w.pending, int64(len(p)))
			w.pending -= k
			return int(k), nil
		case !w.inside:
			k, err := w.begin(p[n])
			if n += k; err != nil {
				return n, err
			}
			continue
		case w.skip > 0:
			k := min(w.skip, uint64(len(p)-n))
			w.skip -= k
			n += int(k)
		default:
			k, err := w.gather(p[n:])
			if n += k; err != nil {
				return n, err
			}
		}
		if w.depth == 0 && w.left[0] == 0 && w.have == 0 && w.skip == 0 {
			if w.end(); !w.answers {
				return n, nil
			}
		}
	}
	return n, nil
}

// begin begins a message, and says how many bytes stand before its value.
func (w *walker) begin(first byte) (n int, err error) {
	w.inside, w.left[0] = true, 1
	if w.answers {
		return 0, nil
	}
	if first > kindLast {
		return 0, refuse("a request of Raft of unknown kind %d", first)
	}
	w.kind = first
	return 1, nil
}

func (w *walker) end() {
	w.pending = w.size
	w.inside, w.total, w.size, w.sized = false, 0, 0, false
	if w.answers {
		w.kind = 1 - w.kind
	}
}

// gather reads on in a head, or in a value that is looked at.
func (w *walker) gather(p []byte) (n int, err error) {
	if w.have == 0 {
		w.need = 1 + width(p[0])
	}
	n = copy(w.seen[w.have:w.need], p)
	if w.have += n; w.have < w.need {
		return n, nil
	}
	if !w.judged {
		if err := w.judge(w.seen[:w.have]); err != nil {
			return n - 1, err
		}
		if w.judged = w.have < w.need; w.judged {
			return n, nil
		}
	}
	if err := w.look(w.seen[:w.have]); err != nil {
		return n - 1, err
	}
	w.have, w.judged = 0, false
	return n, nil
}

// width is how many bytes of a length follow c.
func width(c byte) int {
	switch c {
	case msgpcode.Str8, msgpcode.Bin8, msgpcode.Ext8:
		return 1
	case msgpcode.Str16, msgpcode.Bin16, msgpcode.Ext16, msgpcode.Array16, msgpcode.Map16:
		return 2
	case msgpcode.Str32, msgpcode.Bin32, msgpcode.Ext32, msgpcode.Array32, msgpcode.Map32:
		return 4
	}
	return 0
}

// atName says whether what comes next is the name of a field.
func (w *walker) atName() bool { return w.depth > 0 && !w.list[w.depth] && w.left[w.depth]%2 == 0 }

// judge judges a head, and says how to go on behind it.
func (w *walker) judge(head []byte) error {
	c := head[0]
	size, inside, ok := measure(head)
	if !ok {
		return refuse("a message of Raft with a byte %#x that begins nothing", c)
	}
	claim := size - uint64(len(head))
	most := uint64(maxRequest)
	if w.answers {
		most = maxAnswer
	}
	if w.total += size; w.total > most {
		return refuse("a message of Raft that claims %d bytes, limit %d", w.total, most)
	}
	list := msgpcode.IsFixedArray(c) || c == msgpcode.Array16 || c == msgpcode.Array32
	fields := msgpcode.IsFixedMap(c) || c == msgpcode.Map16 || c == msgpcode.Map32
	text := msgpcode.IsString(c)
	name := w.atName()
	switch {
	case w.depth == 0 && w.answers && w.kind == 0 && !text, w.depth == 0 && !(w.answers && (w.kind == 0 || c == msgpcode.Nil)) && !fields:
		return refuse("a message of Raft that begins with %#x", c)
	case name && (!msgpcode.IsFixedString(c) || claim == 0):
		return refuse("a message of Raft with a field whose name begins with %#x", c)
	case list && w.list[w.depth]:
		return refuse("a message of Raft with a list in a list")
	case list && inside > MaxEntries, fields && inside > 2*maxFields:
		return refuse("a message of Raft with a list or map of %d values", inside)
	case inside > 0 && w.depth == maxNested:
		return refuse("a message of Raft in which more than %d lists and maps stand in each other", maxNested)
	case msgpcode.IsExt(c) && claim > 1+maxTime, w.isTime && claim > maxTime && !msgpcode.IsExt(c):
		return refuse("a message of Raft with a time of %d bytes, limit %d", claim, maxTime)
	case claim > MaxData:
		return refuse("a message of Raft with a string of %d bytes, limit %d", claim, MaxData)
	case w.isSize && !integer(c):
		return refuse("a snapshot whose size begins with %#x", c)
	}
	if name || w.isSize {
		w.need += int(claim)
	} else {
		w.skip = claim
	}
	w.isTime = false
	w.open(inside, list)
	return nil
}

// open goes on behind a head with as many values in it.
func (w *walker) open(inside uint64, list bool) {
	w.left[w.depth]--
	if inside > 0 {
		w.depth++
		w.left[w.depth], w.list[w.depth] = inside, list
	}
	for w.depth > 0 && w.left[w.depth] == 0 {
		w.depth--
	}
}

// look reads what is not skipped: a value whose head has been judged.
func (w *walker) look(value []byte) error {
	if w.isSize {
		w.isSize, w.sized = false, true
		if w.size = number(value); w.size < 0 {
			return refuse("a snapshot of %d bytes", w.size)
		}
		return nil
	}
	if !w.judged { // nothing but a head
		return nil
	}
	name := value[1:]
	for _, b := range name { // the decoder looks for a name between marks that are no letters, and would find it behind them too
		if b > 'z' || b < '0' {
			return refuse("a message of Raft with a field of the name %q", name)
		}
	}
	w.isTime = string(name) == "AppendedAt"
	w.isSize = !w.answers && w.kind == kindSnapshot && w.depth == 1 && string(name) == "Size"
	if w.isSize && w.sized {
		return refuse("a snapshot with two sizes")
	}
	return nil
}

func integer(c byte) bool {
	return msgpcode.IsFixedNum(c) || c >= msgpcode.Uint8 && c <= msgpcode.Int64
}

// number is the value of an integer; what an int64 has no room for is negative.
func number(p []byte) int64 {
	c, digits := p[0], p[1:]
	if len(digits) == 0 {
		return int64(int8(c))
	}
	var u uint64
	for _, b := range digits {
		u = u<<8 | uint64(b)
	}
	if c <= msgpcode.Uint64 {
		return int64(min(u, math.MaxInt64+1))
	}
	unused := 64 - 8*len(digits)
	return int64(u<<unused) >> unused
}
