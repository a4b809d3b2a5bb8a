package rpc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/godistlock/distlock/internal/alloctest"
	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/wire"
)

func frames() []frame {
	return []frame{
		{typ: frameMessage, kind: 3, body: []byte("hello")},
		{typ: frameMessage, kind: 0, body: []byte{}},
		{typ: frameCall, id: 1 << 63, kind: 255, body: bytes.Repeat([]byte("x"), 100)},
		{typ: frameReply, id: 7, body: bytes.Repeat([]byte("long"), 100_000)},
		{typ: frameFailed, id: 8, kind: CodeBusy, body: []byte("busy")},
		{typ: frameCancel, id: 9, body: []byte{}},
		{typ: framePing, body: []byte{}},
		{typ: framePong, body: []byte{}},
	}
}

func TestFramesRoundTrip(t *testing.T) {
	var stream []byte
	for _, f := range frames() {
		stream = appendFrame(stream, f)
	}
	for name, src := range map[string]io.Reader{
		"at once":   bytes.NewReader(stream),
		"in bytes":  iotest.OneByteReader(bytes.NewReader(stream)),
		"in halves": iotest.HalfReader(bytes.NewReader(stream)),
	} {
		r := newFrameReader(src)
		for i, want := range frames() {
			got, err := r.next()
			if err != nil {
				t.Fatalf("%s: frame %d: %v", name, i, err)
			}
			if got.typ != want.typ || got.id != want.id || got.kind != want.kind || !bytes.Equal(got.body, want.body) {
				t.Errorf("%s: frame %d: type %d id %d kind %d, %d bytes", name, i, got.typ, got.id, got.kind, len(got.body))
			}
		}
		if _, err := r.next(); err != io.EOF {
			t.Errorf("%s: after the last frame: %v", name, err)
		}
	}
}

func TestBadFrames(t *testing.T) {
	for name, p := range map[string][]byte{
		"no type":                    {0, 0, 0, 0},
		"one byte over the limit":    binary.BigEndian.AppendUint32(nil, wire.MaxFrame+1),
		"4 GiB":                      {255, 255, 255, 255},
		"unknown type":               {0, 0, 0, 1, 99},
		"type 0":                     {0, 0, 0, 1, 0},
		"message without a kind":     {0, 0, 0, 1, frameMessage},
		"call without a kind":        {0, 0, 0, 9, frameCall, 0, 0, 0, 0, 0, 0, 0, 1},
		"reply with half an id":      {0, 0, 0, 4, frameReply, 0, 0, 0},
		"cancel with more than that": {0, 0, 0, 10, frameCancel, 0, 0, 0, 0, 0, 0, 0, 1, 1},
		"ping with a body":           {0, 0, 0, 2, framePing, 1},
	} {
		if _, err := newFrameReader(bytes.NewReader(p)).next(); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := 1; n < 20; n++ {
		whole := appendFrame(nil, frame{typ: frameCall, id: 1, kind: 1, body: []byte("1234567890")})
		if _, err := newFrameReader(bytes.NewReader(whole[:n])).next(); err != io.ErrUnexpectedEOF {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
}

// What a frame claims is not allocated before its bytes have come.
func TestMemoryIsPaidForByBytes(t *testing.T) {
	claim := append(binary.BigEndian.AppendUint32(nil, wire.MaxFrame), make([]byte, 200_000)...)
	r := newFrameReader(bytes.NewReader(claim))
	if got := allocated(func() { r.next() }); got > 1_000_000 {
		t.Errorf("200 kB that claim to be 8 MiB allocated %d bytes", got)
	}
	whole := appendFrame(nil, frame{typ: frameMessage, kind: 1, body: make([]byte, MaxBody-idSize)})
	r = newFrameReader(bytes.NewReader(append(whole, whole[:10]...)))
	if f, err := r.next(); err != nil || len(f.body) != MaxBody-idSize {
		t.Fatalf("%d bytes, %v", len(f.body), err)
	}
	r.next()
	if cap(r.scratch) > keepScratch {
		t.Errorf("a buffer of %d bytes is kept", cap(r.scratch))
	}
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func FuzzFrames(f *testing.F) {
	for _, fr := range frames() {
		if len(fr.body) < 1000 {
			f.Add(appendFrame(appendFrame(nil, fr), fr), uint64(1))
		}
	}
	f.Add(binary.BigEndian.AppendUint32(nil, wire.MaxFrame), uint64(2))
	f.Add(appendFrame(nil, frame{typ: frameReply, id: 1, body: make([]byte, 2*readBuffer)}), uint64(3))
	f.Fuzz(func(t *testing.T, p []byte, seed uint64) {
		r := newFrameReader(&ragged{bytes.NewReader(p), rand.New(rand.NewPCG(seed, 0))})
		var again []byte
		for {
			fr, err := r.next()
			if err != nil {
				break
			}
			again = appendFrame(again, fr)
		}
		if !bytes.HasPrefix(p, again) {
			t.Fatalf("%x came back as %x", p, again)
		}
		if limit := max(firstChunk, 2*len(p)); cap(r.scratch) > limit {
			t.Fatalf("%d bytes of input, a buffer of %d", len(p), cap(r.scratch))
		}
	})
}

// ragged reads in pieces of random length.
type ragged struct {
	r   io.Reader
	rng *rand.Rand
}

func (r *ragged) Read(p []byte) (int, error) { return r.r.Read(p[:1+r.rng.IntN(len(p))]) }

// FuzzConn lets a peer say anything. Whatever it is, nothing panics, the connection ends with the stream, every call in it is answered at
// most once, and what is said back are frames.
func FuzzConn(f *testing.F) {
	var calls []byte
	for id := range uint64(3) {
		calls = appendFrame(calls, frame{typ: frameCall, id: id, kind: 1, body: []byte("body")})
		calls = appendFrame(calls, frame{typ: frameCancel, id: id})
	}
	f.Add(calls)
	for _, fr := range frames() {
		if len(fr.body) < 1000 {
			f.Add(appendFrame(appendFrame(nil, fr), fr))
		}
	}
	f.Add(appendFrame(nil, frame{typ: frameFailed, id: 1, kind: CodeBusy, body: make([]byte, wire.MaxText+1)}))
	f.Add(binary.BigEndian.AppendUint32(nil, wire.MaxFrame))
	f.Fuzz(func(t *testing.T, p []byte) {
		asked := map[uint64]int{}
		for r := newFrameReader(bytes.NewReader(p)); ; {
			fr, err := r.next()
			if err != nil {
				break
			}
			if fr.typ == frameCall {
				asked[fr.id]++
			}
		}
		bubble.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			ended := 0
			c := New(near, handler{call: echo, closed: func(*Conn) { ended++ }}, Options{})
			said := make(chan []byte)
			go func() { // ends with the pipe
				all, _ := io.ReadAll(far)
				said <- all
			}()
			alloctest.PaidWith(t, len(p), 1<<20, func() {
				_, _ = far.Write(p)
				p = nil
				synctest.Wait()
			})
			far.Close()
			<-c.Done()
			c.Close()
			for r := newFrameReader(bytes.NewReader(<-said)); ; {
				fr, err := r.next()
				if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) { // the end may have come within one
					break
				} else if err != nil {
					t.Fatalf("what is said back are no frames: %v", err)
				}
				switch fr.typ {
				case frameReply, frameFailed:
					if asked[fr.id]--; asked[fr.id] < 0 {
						t.Errorf("call %d is answered once too often", fr.id)
					}
				case framePong:
				default:
					t.Errorf("a frame of type %d is said back", fr.typ)
				}
			}
			if ended != 1 {
				t.Errorf("the handler was told of the end %d times", ended)
			}
		})
	})
}
