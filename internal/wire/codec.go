// Package wire holds what processes say to each other: bounded msgpack, ids, operations and their outcomes. It has no I/O,
// no clock and no goroutine; every decoder in it is total: it answers an error, never a panic, and allocates at most a
// constant times the length of its input.
package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// ErrMalformed is what every decoder's error matches.
var ErrMalformed = errors.New("malformed message")

// The codes of msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md) for the values that there are here. A library's coder takes
// several calls of interfaces for each of them, which made a fifth of the leader's work.
const (
	codeFixArray = 0x90
	codeFixStr   = 0xa0
	codeFalse    = 0xc2
	codeTrue     = 0xc3
	codeBin8     = 0xc4
	codeBin16    = 0xc5
	codeBin32    = 0xc6
	codeUint8    = 0xcc
	codeUint16   = 0xcd
	codeUint32   = 0xce
	codeUint64   = 0xcf
	codeInt8     = 0xd0
	codeInt16    = 0xd1
	codeInt32    = 0xd2
	codeInt64    = 0xd3
	codeStr8     = 0xd9
	codeStr16    = 0xda
	codeStr32    = 0xdb
	codeArray16  = 0xdc
	codeArray32  = 0xdd
	codeNegative = 0xe0 // to 0xff: -32 to -1
)

// Writer appends msgpack values to a buffer, each in its shortest form.
type Writer struct{ buf []byte }

// NewWriter returns an empty Writer.
func NewWriter() *Writer { return &Writer{} }

func (w *Writer) Bytes() []byte { return w.buf } // valid until the next call
func (w *Writer) Len() int      { return len(w.buf) }
func (w *Writer) Reset()        { w.buf = w.buf[:0] }

// Grow makes room for n more bytes at once.
func (w *Writer) Grow(n int) { w.buf = slices.Grow(w.buf, n) }

// Array begins an array of n elements, which the next n values are.
func (w *Writer) Array(n int) {
	switch {
	case n < 16:
		w.buf = append(w.buf, codeFixArray|byte(n))
	case n <= math.MaxUint16:
		w.buf = append(w.buf, codeArray16, byte(n>>8), byte(n))
	default:
		w.buf = binary.BigEndian.AppendUint32(append(w.buf, codeArray32), uint32(n))
	}
}

func (w *Writer) Uint(v uint64) {
	switch {
	case v <= math.MaxInt8:
		w.buf = append(w.buf, byte(v))
	case v <= math.MaxUint8:
		w.buf = append(w.buf, codeUint8, byte(v))
	case v <= math.MaxUint16:
		w.buf = append(w.buf, codeUint16, byte(v>>8), byte(v))
	case v <= math.MaxUint32:
		w.buf = binary.BigEndian.AppendUint32(append(w.buf, codeUint32), uint32(v))
	default:
		w.buf = binary.BigEndian.AppendUint64(append(w.buf, codeUint64), v)
	}
}

func (w *Writer) Int(v int64) {
	switch {
	case v >= 0:
		w.Uint(uint64(v))
	case v >= -32:
		w.buf = append(w.buf, byte(v))
	case v >= math.MinInt8:
		w.buf = append(w.buf, codeInt8, byte(v))
	case v >= math.MinInt16:
		w.buf = append(w.buf, codeInt16, byte(v>>8), byte(v))
	case v >= math.MinInt32:
		w.buf = binary.BigEndian.AppendUint32(append(w.buf, codeInt32), uint32(v))
	default:
		w.buf = binary.BigEndian.AppendUint64(append(w.buf, codeInt64), uint64(v))
	}
}

func (w *Writer) Bool(v bool) {
	code := byte(codeFalse)
	if v {
		code = codeTrue
	}
	w.buf = append(w.buf, code)
}

func (w *Writer) UUID(v UUID) { w.Blob(v[:]) }

func (w *Writer) String(v string) {
	if n := len(v); n < 32 {
		w.buf = append(w.buf, codeFixStr|byte(n))
	} else {
		w.length(n, codeStr8, codeStr16, codeStr32)
	}
	w.buf = append(w.buf, v...)
}

// Blob writes a byte string; nil and empty are the same to the reader.
func (w *Writer) Blob(v []byte) {
	w.length(len(v), codeBin8, codeBin16, codeBin32)
	w.buf = append(w.buf, v...)
}

// length writes n in one, two or four bytes, after the code for that.
func (w *Writer) length(n int, one, two, four byte) {
	switch {
	case n <= math.MaxUint8:
		w.buf = append(w.buf, one, byte(n))
	case n <= math.MaxUint16:
		w.buf = append(w.buf, two, byte(n>>8), byte(n))
	default:
		w.buf = binary.BigEndian.AppendUint32(append(w.buf, four), uint32(n))
	}
}

// Reader takes msgpack values off a byte slice, also such as are not in their shortest form. Its first error sticks: after it every method
// answers a zero value, so a decoder reads all its fields and asks Err once. Lengths are checked against the bytes that are left before
// anything is allocated.
type Reader struct {
	all []byte
	at  int // what is before it has been read. A slice that moves on would cost a write barrier for each value
	err error
}

// NewReader reads p, which must not change meanwhile.
func NewReader(p []byte) *Reader { return &Reader{all: p} }

// Reset makes r read p from its beginning and forget its error.
func (r *Reader) Reset(p []byte) { r.all, r.at, r.err = p, 0, nil }

// Len is how many bytes are left.
func (r *Reader) Len() int { return len(r.all) - r.at }

// Err is the first error, matching ErrMalformed, or nil.
func (r *Reader) Err() error { return r.err }

// End is Err, or an error when bytes are left over.
func (r *Reader) End() error {
	if r.err == nil && r.Len() > 0 {
		r.Fail("%d bytes left over", r.Len())
	}
	return r.err
}

// Fail makes r fail, unless it has already.
func (r *Reader) Fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
	}
}

// code takes the byte that says what comes; false once r has failed, or when there is none.
func (r *Reader) code() (byte, bool) {
	if r.err != nil {
		return 0, false
	}
	if r.at >= len(r.all) {
		r.Fail("it ends where a value belongs")
		return 0, false
	}
	c := r.all[r.at]
	r.at++
	return c, true
}

// number takes a big-endian number of size bytes. 0 and a failure when there are fewer.
func (r *Reader) number(size int) (v uint64) {
	if r.Len() < size {
		r.Fail("it ends %d bytes into a number of %d", r.Len(), size)
		return 0
	}
	p := r.all[r.at : r.at+size]
	switch size {
	case 1:
		v = uint64(p[0])
	case 2:
		v = uint64(binary.BigEndian.Uint16(p))
	case 4:
		v = uint64(binary.BigEndian.Uint32(p))
	default:
		v = binary.BigEndian.Uint64(p)
	}
	r.at += size
	return v
}

// integer takes an integer of any form. negative says that v is a negative number's two's complement.
func (r *Reader) integer() (v uint64, negative bool) {
	c, ok := r.code()
	if !ok {
		return 0, false
	}
	switch {
	case c < 0x80:
		return uint64(c), false
	case c >= codeNegative:
		return uint64(int8(c)), true
	}
	switch c {
	case codeUint8:
		return r.number(1), false
	case codeUint16:
		return r.number(2), false
	case codeUint32:
		return r.number(4), false
	case codeUint64:
		return r.number(8), false
	case codeInt8:
		v = uint64(int8(r.number(1)))
	case codeInt16:
		v = uint64(int16(r.number(2)))
	case codeInt32:
		v = uint64(int32(r.number(4)))
	case codeInt64:
		v = r.number(8)
	default:
		r.Fail("code %#x where an integer belongs", c)
	}
	return v, int64(v) < 0
}

func (r *Reader) Uint() uint64 {
	v, negative := r.integer()
	if negative {
		r.Fail("%d where no negative number belongs", int64(v))
		return 0
	}
	return v
}

func (r *Reader) Int() int64 {
	v, negative := r.integer()
	if !negative && v > math.MaxInt64 {
		r.Fail("%d where a signed number belongs", v)
		return 0
	}
	return int64(v)
}

func (r *Reader) Bool() bool {
	c, ok := r.code()
	if ok && c != codeFalse && c != codeTrue {
		r.Fail("code %#x where yes or no belongs", c)
	}
	return ok && c == codeTrue
}

// Array reads the length of an array of at most limit elements. An element takes at least one byte, so a length beyond the bytes
// left is refused before the caller allocates for it.
func (r *Reader) Array(limit int) int {
	c, ok := r.code()
	if !ok {
		return 0
	}
	var n uint64
	switch {
	case c&0xf0 == codeFixArray:
		n = uint64(c & 0x0f)
	case c == codeArray16:
		n = r.number(2)
	case c == codeArray32:
		n = r.number(4)
	default:
		r.Fail("code %#x where an array belongs", c)
	}
	return r.bounded("array", "elements", n, limit)
}

// bounded is n if there can be so much.
func (r *Reader) bounded(what, unit string, n uint64, limit int) int {
	if n > uint64(max(limit, 0)) || n > uint64(r.Len()) {
		r.Fail("%s of %d %s, limit %d, %d bytes left", what, n, unit, limit, r.Len())
		return 0
	}
	return int(n)
}

// Blob reads a byte string of at most limit bytes into memory of its own.
func (r *Reader) Blob(limit int) []byte { return bytes.Clone(r.raw(limit)) }

// String reads a string of at most limit bytes.
func (r *Reader) String(limit int) string { return string(r.raw(limit)) }

// raw reads a byte string as a part of what r reads, nil for an empty one.
func (r *Reader) raw(limit int) []byte {
	c, ok := r.code()
	if !ok {
		return nil
	}
	var n uint64
	switch {
	case c&0xe0 == codeFixStr:
		n = uint64(c & 0x1f)
	case c == codeStr8 || c == codeBin8:
		n = r.number(1)
	case c == codeStr16 || c == codeBin16:
		n = r.number(2)
	case c == codeStr32 || c == codeBin32:
		n = r.number(4)
	default:
		r.Fail("code %#x where a string belongs", c)
	}
	size := r.bounded("string", "bytes", n, limit)
	if size == 0 {
		return nil
	}
	r.at += size
	return r.all[r.at-size : r.at : r.at]
}

// UUID reads a UUID.
func (r *Reader) UUID() UUID {
	p := r.raw(len(UUID{}))
	if r.err == nil && len(p) != len(UUID{}) {
		r.Fail("a UUID of %d bytes", len(p))
	}
	if r.err != nil {
		return UUID{}
	}
	return UUID(p)
}
