package rpc

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/godistlock/distlock/internal/wire"
)

// A frame is its length (4 bytes, big endian, of what follows), its type, and what the type asks for. Ids are the caller's.
const (
	frameMessage byte = 1 // kind, body
	frameCall    byte = 2 // id, kind, body
	frameReply   byte = 3 // id, body
	frameFailed  byte = 4 // id, code, text
	frameCancel  byte = 5 // id: the caller has given up
	framePing    byte = 6
	framePong    byte = 7
)

const (
	lengthSize = 4
	idSize     = 8

	// MaxBody is the longest body of a message, a call or a reply.
	MaxBody = wire.MaxFrame - 1 - idSize - 1

	readBuffer  = 16 << 10 // of each connection; a frame that fits is not copied
	firstChunk  = 64 << 10 // what a longer frame gets before its bytes have come
	keepScratch = 1 << 20  // larger buffers are given back after use
)

// frame is one frame as it was read. Its body lies in the reader's buffers, until the next read.
type frame struct {
	typ  byte
	id   uint64
	kind uint8 // or the code of a failure
	body []byte
}

// frameReader reads frames. Memory for a long one grows with the bytes that have come, never with the length it claims.
type frameReader struct {
	br      *bufio.Reader
	scratch []byte
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{br: bufio.NewReaderSize(r, readBuffer)}
}

// next answers io.EOF only when the stream ended between two frames.
func (r *frameReader) next() (frame, error) {
	head, err := r.br.Peek(lengthSize)
	if err != nil {
		if len(head) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head)
	if n == 0 || n > wire.MaxFrame {
		return frame{}, fmt.Errorf("%w: frame of %d bytes, limit %d", wire.ErrMalformed, n, wire.MaxFrame)
	}
	_, _ = r.br.Discard(lengthSize) // cannot fail: it was peeked at
	p, err := r.take(int(n))
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	return parse(p)
}

func (r *frameReader) take(n int) ([]byte, error) {
	if n <= r.br.Size() {
		p, err := r.br.Peek(n)
		if err != nil {
			return nil, err
		}
		_, _ = r.br.Discard(n) // cannot fail: it was peeked at; p stays as it is until the next read
		return p, nil
	}
	if cap(r.scratch) > keepScratch {
		r.scratch = nil
	}
	buf := r.scratch[:0]
	for len(buf) < n {
		if len(buf) == cap(buf) {
			grown := make([]byte, len(buf), min(n, max(firstChunk, 2*cap(buf))))
			copy(grown, buf)
			buf = grown
		}
		got, err := r.br.Read(buf[len(buf):min(n, cap(buf))])
		buf = buf[:len(buf)+got]
		if err != nil {
			return nil, err
		}
	}
	r.scratch = buf
	return buf, nil
}

// parse takes a frame without its length apart.
func parse(p []byte) (frame, error) {
	f := frame{typ: p[0]}
	rest := p[1:]
	hasID := f.typ >= frameCall && f.typ <= frameCancel
	hasKind := f.typ == frameMessage || f.typ == frameCall || f.typ == frameFailed
	if f.typ < frameMessage || f.typ > framePong {
		return frame{}, fmt.Errorf("%w: frame of unknown type %d", wire.ErrMalformed, f.typ)
	}
	if hasID {
		if len(rest) < idSize {
			return frame{}, fmt.Errorf("%w: frame of type %d is cut short", wire.ErrMalformed, f.typ)
		}
		f.id, rest = binary.BigEndian.Uint64(rest), rest[idSize:]
	}
	if hasKind {
		if len(rest) == 0 {
			return frame{}, fmt.Errorf("%w: frame of type %d is cut short", wire.ErrMalformed, f.typ)
		}
		f.kind, rest = rest[0], rest[1:]
	}
	if f.typ >= frameCancel && len(rest) > 0 {
		return frame{}, fmt.Errorf("%w: frame of type %d with %d bytes left over", wire.ErrMalformed, f.typ, len(rest))
	}
	f.body = rest
	return f, nil
}

// appendFrame is parse's counterpart, with the length.
func appendFrame(p []byte, f frame) []byte {
	start := len(p)
	p = append(p, 0, 0, 0, 0, f.typ)
	switch f.typ {
	case frameMessage:
		p = append(p, f.kind)
	case frameCall, frameFailed:
		p = binary.BigEndian.AppendUint64(p, f.id)
		p = append(p, f.kind)
	case frameReply, frameCancel:
		p = binary.BigEndian.AppendUint64(p, f.id)
	}
	p = append(p, f.body...)
	binary.BigEndian.PutUint32(p[start:], uint32(len(p)-start-lengthSize))
	return p
}
