package raftlog

import "github.com/vmihailenco/msgpack/v5/msgpcode"

// whole says whether p begins with a msgpack value of which nothing is missing: every byte and every value that a length claims is there. Raft's
// decoder makes room for some lengths (of a time, also in a field that it doesn't know) before it reads on. What follows the value is not
// looked at, here as there.
func whole(p []byte) bool {
	for values := uint64(1); values > 0; values-- { // that are still to come, at whatever depth
		if values > uint64(len(p)) { // each takes a byte at least
			return false
		}
		size, inside, ok := measure(p)
		if !ok || size > uint64(len(p)) {
			return false
		}
		p = p[size:]
		values += inside
	}
	return true
}

// measure reads the head of the value that p begins with: how many bytes it takes without the values inside it, and how many those are.
func measure(p []byte) (size, inside uint64, ok bool) {
	switch c := p[0]; {
	case msgpcode.IsFixedNum(c), c == msgpcode.Nil, c == msgpcode.False, c == msgpcode.True:
		return 1, 0, true
	case c == msgpcode.Float, c == msgpcode.Double:
		return 1 + 4<<(c-msgpcode.Float), 0, true
	case c >= msgpcode.Uint8 && c <= msgpcode.Uint64:
		return 1 + 1<<(c-msgpcode.Uint8), 0, true
	case c >= msgpcode.Int8 && c <= msgpcode.Int64:
		return 1 + 1<<(c-msgpcode.Int8), 0, true
	case msgpcode.IsFixedString(c):
		return 1 + uint64(c&msgpcode.FixedStrMask), 0, true
	case msgpcode.IsFixedArray(c):
		return 1, uint64(c & msgpcode.FixedArrayMask), true
	case msgpcode.IsFixedMap(c):
		return 1, 2 * uint64(c&msgpcode.FixedMapMask), true
	case msgpcode.IsFixedExt(c):
		return 2 + 1<<(c-msgpcode.FixExt1), 0, true
	case msgpcode.IsString(c):
		n, head, ok := length(p, 1<<(c-msgpcode.Str8))
		return head + n, 0, ok
	case msgpcode.IsBin(c):
		n, head, ok := length(p, 1<<(c-msgpcode.Bin8))
		return head + n, 0, ok
	case msgpcode.IsExt(c):
		n, head, ok := length(p, 1<<(c-msgpcode.Ext8))
		return head + 1 + n, 0, ok
	case c == msgpcode.Array16, c == msgpcode.Array32:
		n, head, ok := length(p, 2<<(c-msgpcode.Array16))
		return head, n, ok
	case c == msgpcode.Map16, c == msgpcode.Map32:
		n, head, ok := length(p, 2<<(c-msgpcode.Map16))
		return head, 2 * n, ok
	}
	return 0, 0, false // 0xc1, which means nothing
}

// length reads the length of width bytes that follows the first byte of p; head is what both take.
func length(p []byte, width int) (n, head uint64, ok bool) {
	if len(p) < 1+width {
		return 0, 0, false
	}
	for _, b := range p[1 : 1+width] {
		n = n<<8 | uint64(b)
	}
	return n, uint64(1 + width), true
}
