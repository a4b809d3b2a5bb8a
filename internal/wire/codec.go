// Package wire holds what processes say to each other: bounded msgpack, ids, operations and their outcomes. It has no I/O,
// no clock and no goroutine; every decoder in it is total: it answers an error, never a panic, and allocates at most a
// constant times the length of its input.
package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/vmihailenco/msgpack/v5"
)

// ErrMalformed is what every decoder's error matches.
var ErrMalformed = errors.New("malformed message")

// Writer appends msgpack values to a buffer. Its methods cannot fail: a bytes.Buffer takes all it is given.
type Writer struct {
	buf bytes.Buffer
	enc *msgpack.Encoder
}

// NewWriter returns an empty Writer.
func NewWriter() *Writer {
	w := &Writer{}
	w.enc = msgpack.NewEncoder(&w.buf)
	w.enc.UseCompactInts(true)
	return w
}

func (w *Writer) Bytes() []byte { return w.buf.Bytes() } // valid until the next call
func (w *Writer) Len() int      { return w.buf.Len() }
func (w *Writer) Reset()        { w.buf.Reset() }

func (w *Writer) Array(n int)     { w.must(w.enc.EncodeArrayLen(n)) }
func (w *Writer) Uint(v uint64)   { w.must(w.enc.EncodeUint(v)) }
func (w *Writer) Int(v int64)     { w.must(w.enc.EncodeInt(v)) }
func (w *Writer) Bool(v bool)     { w.must(w.enc.EncodeBool(v)) }
func (w *Writer) String(v string) { w.must(w.enc.EncodeString(v)) }
func (w *Writer) UUID(v UUID)     { w.Blob(v[:]) }

// Blob writes a byte string; nil and empty are the same to the reader.
func (w *Writer) Blob(v []byte) {
	w.must(w.enc.EncodeBytesLen(len(v)))
	w.buf.Write(v)
}

func (w *Writer) must(err error) {
	if err != nil { // a bytes.Buffer has no error to give: this is a bug of ours, not an input's
		panic(fmt.Sprintf("distlock: msgpack to memory failed: %v", err))
	}
}

// Reader takes msgpack values off a byte slice. Its first error sticks: after it every method answers a zero value, so a
// decoder reads all its fields and asks Err once. Lengths are checked against the bytes that are left before anything is
// allocated (msgpack's own Unmarshal allocates what a length claims; see docs/architecture.md).
type Reader struct {
	all []byte // what src reads
	src bytes.Reader
	dec *msgpack.Decoder
	err error
}

// NewReader reads p, which must not change meanwhile.
func NewReader(p []byte) *Reader {
	r := &Reader{}
	r.dec = msgpack.NewDecoder(&r.src)
	r.Reset(p)
	return r
}

// Reset makes r read p from its beginning and forget its error.
func (r *Reader) Reset(p []byte) {
	r.all = p
	r.src.Reset(p)
	r.dec.Reset(&r.src)
	r.err = nil
}

// Len is how many bytes are left.
func (r *Reader) Len() int { return r.src.Len() }

// Err is the first error, matching ErrMalformed, or nil.
func (r *Reader) Err() error { return r.err }

// End is Err, or an error when bytes are left over.
func (r *Reader) End() error {
	if r.err == nil && r.src.Len() > 0 {
		r.Fail("%d bytes left over", r.src.Len())
	}
	return r.err
}

// Fail makes r fail, unless it has already.
func (r *Reader) Fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
	}
}

func (r *Reader) Uint() uint64 {
	if r.err != nil {
		return 0
	}
	v, err := r.dec.DecodeUint64()
	return checked(r, v, err)
}

func (r *Reader) Int() int64 {
	if r.err != nil {
		return 0
	}
	v, err := r.dec.DecodeInt64()
	return checked(r, v, err)
}

func (r *Reader) Bool() bool {
	if r.err != nil {
		return false
	}
	v, err := r.dec.DecodeBool()
	return checked(r, v, err)
}

// Array reads the length of an array of at most limit elements. An element takes at least one byte, so a length beyond the bytes
// left is refused before the caller allocates for it.
func (r *Reader) Array(limit int) int {
	if r.err != nil {
		return 0
	}
	n, err := r.dec.DecodeArrayLen()
	if n = checked(r, n, err); n < 0 {
		n = 0
	}
	if n > limit || n > r.src.Len() {
		r.Fail("array of %d elements, limit %d, %d bytes left", n, limit, r.src.Len())
		return 0
	}
	return n
}

// Blob reads a byte string of at most limit bytes into memory of its own.
func (r *Reader) Blob(limit int) []byte { return bytes.Clone(r.raw(limit)) }

// String reads a string of at most limit bytes.
func (r *Reader) String(limit int) string { return string(r.raw(limit)) }

// raw reads a byte string as a part of what r reads.
func (r *Reader) raw(limit int) []byte {
	if r.err != nil {
		return nil
	}
	n, err := r.dec.DecodeBytesLen()
	if n = checked(r, n, err); n <= 0 {
		return nil
	}
	if n > limit || n > r.src.Len() {
		r.Fail("string of %d bytes, limit %d, %d bytes left", n, limit, r.src.Len())
		return nil
	}
	from := len(r.all) - r.src.Len()
	_, _ = r.src.Seek(int64(n), io.SeekCurrent) // cannot fail: it stays inside
	return r.all[from : from+n]
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

func checked[T any](r *Reader, v T, err error) T {
	if err != nil {
		r.Fail("%v", err)
		var zero T
		return zero
	}
	return v
}
