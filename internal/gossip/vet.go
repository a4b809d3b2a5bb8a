package gossip

import (
	"encoding/binary"
	"errors"

	"github.com/hashicorp/memberlist"
)

// Nothing reaches memberlist that was not looked at. It unpacks compressed messages by calling itself, makes room for as many nodes as a header
// claims, and decodes with a library that makes room for what an extension claims; a panic on one of its goroutines would end the program. So
// what is let through is what it makes itself: maps of few fields, each a number or a short text, with nothing nested.

// memberlist's message types; their values are its wire format. What is not here (user messages, compression) none of us sends.
const (
	msgPing     = 0
	msgIndirect = 1
	msgAck      = 2
	msgSuspect  = 3
	msgAlive    = 4
	msgDead     = 5
	msgPushPull = 6
	msgCompound = 7
	msgCompress = 9
	msgSealed   = 10
	msgNack     = 11
	msgCRC      = 12
	msgError    = 13

	labelMark = 244 // before a label
)

// Bounds of one message. memberlist's have up to seven fields.
const (
	maxFields    = 16
	maxFieldName = 32
	maxText      = memberlist.MetaMaxSize // of a field that is not in textLimits
)

// textLimits are of fields that memberlist stores or passes on: bytes.
var textLimits = map[string]int{
	"Node": maxNodeName, "From": maxNodeName, "SourceNode": maxNodeName, "Name": maxNodeName,
	"Addr": maxIP, "SourceAddr": maxIP, "Target": maxIP,
	"Vsn": maxVersions, "Meta": memberlist.MetaMaxSize, "Error": maxErrorText,
}

const (
	maxNodeName  = 64 // ours are UUIDs
	maxIP        = 16
	maxVersions  = 6
	maxErrorText = 4096
)

var (
	errMalformed = errors.New("it is no message of memberlist's")
	errShort     = errors.New("more bytes are needed")
)

// judgePacket says whether memberlist may have a packet of which label and seal are off.
func judgePacket(p []byte) error {
	if len(p) > 5 && p[0] == msgCRC {
		p = p[5:]
	}
	if len(p) == 0 || p[0] != msgCompound {
		return judgeMessage(p)
	}
	if len(p) < 2 { // type, count, lengths of two bytes, then the messages; memberlist never nests them
		return errMalformed
	}
	n := int(p[1])
	if len(p) < 2+2*n {
		return errMalformed
	}
	lengths, rest := p[2:2+2*n], p[2+2*n:]
	for i := range n {
		l := int(binary.BigEndian.Uint16(lengths[2*i:]))
		if l > len(rest) {
			return errMalformed
		}
		if err := judgeMessage(rest[:l]); err != nil {
			return err
		}
		rest = rest[l:]
	}
	if len(rest) > 0 {
		return errMalformed
	}
	return nil
}

// judgeMessage judges one that is not packed up with others.
func judgeMessage(p []byte) error {
	if len(p) == 0 {
		return errMalformed
	}
	switch p[0] {
	case msgPing, msgIndirect, msgAck, msgSuspect, msgAlive, msgDead, msgNack:
	default:
		return errMalformed
	}
	f := fields{b: p[1:]}
	if err := f.read(nil); err != nil || len(f.b) > 0 {
		return errMalformed
	}
	return nil
}

// fields reads a flat msgpack map off the front of b.
type fields struct{ b []byte }

// read tells number, unless it is nil, of every field that is one. errShort means that b ends within the map.
func (f *fields) read(number func(name string, n uint64)) error {
	n, err := f.mapLen()
	if err != nil {
		return err
	}
	var names [maxFields][]byte
	for i := range n {
		name, isText, err := f.text(maxFieldName)
		if err != nil {
			return err
		}
		if !isText {
			return errMalformed
		}
		for _, other := range names[:i] {
			if string(other) == string(name) {
				return errMalformed // which of the two counts would be for memberlist to say
			}
		}
		names[i] = name
		limit, ok := textLimits[string(name)]
		if !ok {
			limit = maxText
		}
		if _, isText, err = f.text(limit); err != nil {
			return err
		}
		if isText {
			continue
		}
		v, err := f.number()
		if err != nil {
			return err
		}
		if number != nil {
			number(string(name), v)
		}
	}
	return nil
}

func (f *fields) mapLen() (int, error) {
	if len(f.b) == 0 {
		return 0, errShort
	}
	var n uint64
	switch c := f.b[0]; {
	case c&0xf0 == 0x80:
		n = uint64(c & 0x0f)
		f.b = f.b[1:]
	case c == 0xde || c == 0xdf:
		size := 2 << (c - 0xde)
		if len(f.b) < 1+size {
			return 0, errShort
		}
		n = bigEndian(f.b[1 : 1+size])
		f.b = f.b[1+size:]
	default:
		return 0, errMalformed
	}
	if n > maxFields {
		return 0, errMalformed
	}
	return int(n), nil
}

// text takes a text or bytes off, of at most limit bytes; false when something else comes first.
func (f *fields) text(limit int) (t []byte, isText bool, err error) {
	if len(f.b) == 0 {
		return nil, false, errShort
	}
	n, head := uint64(0), 1
	switch c := f.b[0]; {
	case c&0xe0 == 0xa0:
		n = uint64(c & 0x1f)
	case c >= 0xc4 && c <= 0xc6:
		head += 1 << (c - 0xc4)
	case c >= 0xd9 && c <= 0xdb:
		head += 1 << (c - 0xd9)
	default:
		return nil, false, nil
	}
	if len(f.b) < head {
		return nil, false, errShort
	}
	if head > 1 {
		n = bigEndian(f.b[1:head])
	}
	if n > uint64(limit) {
		return nil, false, errMalformed
	}
	end := head + int(n)
	if len(f.b) < end {
		return nil, false, errShort
	}
	t, f.b = f.b[head:end], f.b[end:]
	return t, true, nil
}

// number takes a number, a truth value or nothing off. One that is negative or broken comes as a great one.
func (f *fields) number() (uint64, error) {
	c := f.b[0]
	var size int
	switch {
	case c < 0x80:
		f.b = f.b[1:]
		return uint64(c), nil
	case c == 0xc0 || c == 0xc2 || c == 0xc3 || c >= 0xe0:
		f.b = f.b[1:]
		if c >= 0xe0 {
			return ^uint64(0), nil
		}
		return uint64(c & 1), nil
	case c == 0xca || c == 0xcb:
		size = 4 << (c - 0xca)
	case c >= 0xcc && c <= 0xcf:
		size = 1 << (c - 0xcc)
	case c >= 0xd0 && c <= 0xd3:
		size = 1 << (c - 0xd0)
	default:
		return 0, errMalformed // an array, a map, an extension
	}
	if len(f.b) < 1+size {
		return 0, errShort
	}
	v := bigEndian(f.b[1 : 1+size])
	if c <= 0xcb || c >= 0xd0 && f.b[1]&0x80 != 0 {
		v = ^uint64(0)
	}
	f.b = f.b[1+size:]
	return v, nil
}

func bigEndian(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}
