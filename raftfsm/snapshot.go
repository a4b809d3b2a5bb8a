package raftfsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc64"
	"io"

	"github.com/godistlock/distlock/internal/wire"
)

// A snapshot is the magic, blocks, an empty block, and the CRC-64 of all that. A block is its length and msgpack values: the first
// holds the header, the others sessions by id, gaps, and requests by session and number, as many of each as the header says. Locks,
// names and queues are not written: they follow from these, so they can't contradict them. Equal states have equal bytes.
const (
	snapshotMagic = "DLKSNAP\n"
	blockFull     = 32 << 10  // bytes at which a block is closed
	blockMax      = 128 << 10 // bytes in a block at most: blockFull and the largest item
	headerMax     = 4 << 20   // bytes in the header, which lists founders and dead
)

// ErrSnapshot is matched when a snapshot is cut short, damaged or contradicts itself.
var ErrSnapshot = errors.New("bad snapshot")

func crcTable() *crc64.Table { return crc64.MakeTable(crc64.ECMA) } // made once by the package itself

// WriteSnapshot writes v as Restore reads it. It holds one block in memory.
func (v *View) WriteSnapshot(out io.Writer) error {
	w := &blockWriter{out: out, sum: crc64.New(crcTable()), Writer: wire.NewWriter()}
	w.write([]byte(snapshotMagic))
	v.s.encodeHeader(w.Writer)
	w.flush()
	v.s.sessions.Ascend(func(ses *session) bool {
		ses.encode(w.Writer)
		return w.next()
	})
	v.s.gaps.Ascend(func(g gap) bool {
		g.encode(w.Writer)
		return w.next()
	})
	v.s.requests.Ascend(func(r *request) bool {
		r.encode(w.Writer, v.s.format)
		return w.next()
	})
	w.flush()
	w.write(binary.BigEndian.AppendUint32(nil, 0))
	w.write(w.sum.Sum(nil))
	return w.err
}

// blockWriter cuts what its Writer is given into blocks.
type blockWriter struct {
	*wire.Writer
	out io.Writer
	sum hash.Hash64
	err error // the first one; nothing is written after it
}

func (w *blockWriter) write(p []byte) {
	if w.err == nil {
		w.sum.Write(p)
		_, w.err = w.out.Write(p)
	}
}

func (w *blockWriter) flush() {
	if w.Len() > 0 {
		w.write(binary.BigEndian.AppendUint32(nil, uint32(w.Len())))
		w.write(w.Bytes())
		w.Reset()
	}
}

// next says whether to go on.
func (w *blockWriter) next() bool {
	if w.Len() >= blockFull {
		w.flush()
	}
	return w.err == nil
}

// blockReader hands out blocks one after the other.
type blockReader struct {
	in  io.Reader
	sum hash.Hash64
	buf []byte
	r   *wire.Reader // the present block
	end bool         // the empty block was read
}

func (b *blockReader) read(p []byte) error {
	if _, err := io.ReadFull(b.in, p); err != nil {
		return fmt.Errorf("%w: cut short: %w", ErrSnapshot, err)
	}
	b.sum.Write(p)
	return nil
}

// block reads the next block into b.r.
func (b *blockReader) block(limit int) error {
	var head [4]byte
	if err := b.read(head[:]); err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if n > int64(limit) {
		return fmt.Errorf("%w: a block of %d bytes, limit %d", ErrSnapshot, n, limit)
	}
	b.end = n == 0
	b.buf = b.buf[:0]
	for int64(len(b.buf)) < n { // in steps: a length that lies must not cost its memory
		step := min(n-int64(len(b.buf)), blockMax)
		from := len(b.buf)
		b.buf = append(b.buf, make([]byte, step)...)
		if err := b.read(b.buf[from:]); err != nil {
			return err
		}
	}
	b.r.Reset(b.buf)
	return nil
}

// items calls decode for each of n items, over as many blocks as they fill.
func (b *blockReader) items(n int, decode func(r *wire.Reader) error) error {
	for range n {
		if b.r.Len() == 0 {
			if err := b.block(blockMax); err != nil {
				return err
			}
		}
		if b.end {
			return fmt.Errorf("%w: fewer items than its header says", ErrSnapshot)
		}
		if err := decode(b.r); err != nil {
			return fmt.Errorf("%w: %w", ErrSnapshot, err)
		}
	}
	return nil
}

// finish reads the empty block and the checksum, and expects nothing after them.
func (b *blockReader) finish() error {
	if b.r.Len() > 0 {
		return fmt.Errorf("%w: more items than its header says", ErrSnapshot)
	}
	if err := b.block(0); err != nil {
		return err
	}
	want := b.sum.Sum64()
	var sum [8]byte
	if err := b.read(sum[:]); err != nil {
		return err
	}
	if got := binary.BigEndian.Uint64(sum[:]); got != want {
		return fmt.Errorf("%w: checksum %016x, its bytes have %016x", ErrSnapshot, got, want)
	}
	if n, err := io.ReadFull(b.in, make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: bytes after its end", ErrSnapshot)
	}
	return nil
}

// readSnapshot reads a whole state, checks it and answers it, or why there is none.
func readSnapshot(in io.Reader) (state, error) {
	b := &blockReader{in: in, sum: crc64.New(crcTable()), r: wire.NewReader(nil)}
	magic := make([]byte, len(snapshotMagic))
	if err := b.read(magic); err != nil {
		return state{}, err
	}
	if string(magic) != snapshotMagic {
		return state{}, fmt.Errorf("%w: it begins with %q", ErrSnapshot, magic)
	}
	if err := b.block(headerMax); err != nil {
		return state{}, err
	}
	l := &loader{state: newState()}
	h, err := l.header(b.r)
	if errors.Is(err, ErrVersion) {
		return state{}, err
	}
	if err != nil {
		return state{}, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	if err := b.items(h.sessions, l.session); err != nil {
		return state{}, err
	}
	if err := b.items(h.gaps, l.gap); err != nil {
		return state{}, err
	}
	if err := b.items(h.requests, l.request); err != nil {
		return state{}, err
	}
	if err := b.finish(); err != nil {
		return state{}, err
	}
	if err := l.check(); err != nil {
		return state{}, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	return l.state, nil
}
