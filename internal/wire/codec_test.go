package wire

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"

	"github.com/godistlock/distlock/internal/alloctest"
)

func TestValuesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u, i := rapid.Uint64().Draw(t, "u"), rapid.Int64().Draw(t, "i")
		b, s := rapid.Bool().Draw(t, "b"), string(rapid.SliceOf(rapid.Byte()).Draw(t, "s"))
		id := drawUUID(t, "id")
		w := NewWriter()
		w.Array(5)
		w.Uint(u)
		w.Int(i)
		w.Bool(b)
		w.String(s)
		w.Blob([]byte(s))
		w.UUID(id)
		r := NewReader(w.Bytes())
		if n := r.Array(5); n != 5 {
			t.Fatalf("array of %d", n)
		}
		if gu, gi, gb := r.Uint(), r.Int(), r.Bool(); gu != u || gi != i || gb != b {
			t.Fatalf("%d %d %v came back as %d %d %v", u, i, b, gu, gi, gb)
		}
		gs, gp, gid := r.String(len(s)), r.Blob(len(s)), r.UUID()
		if gs != s || string(gp) != s || gid != id {
			t.Fatalf("%q %v came back as %q %q %v", s, id, gs, gp, gid)
		}
		if err := r.End(); err != nil {
			t.Fatal(err)
		}
	})
}

// What Blob answers must not be a window on its input, which a connection uses again.
func TestBlobIsACopy(t *testing.T) {
	w := NewWriter()
	w.Blob([]byte("abc"))
	w.String("def")
	p := bytes.Clone(w.Bytes())
	r := NewReader(p)
	blob, s := r.Blob(3), r.String(3)
	clear(p)
	if string(blob) != "abc" || s != "def" {
		t.Fatalf("%q %q after the input was wiped", blob, s)
	}
}

// TestLengthsThatLie is HAZARDS 22: five bytes that claim sixteen million elements, and bytes that are not there.
func TestLengthsThatLie(t *testing.T) {
	for name, read := range map[string]func(r *Reader){
		"array":    func(r *Reader) { r.Array(math.MaxInt32) },
		"blob":     func(r *Reader) { r.Blob(math.MaxInt32) },
		"string":   func(r *Reader) { _ = r.String(math.MaxInt32) },
		"ops":      func(r *Reader) { DecodeOps(r) },
		"outcomes": func(r *Reader) { DecodeOutcomes(r) },
		"keys":     func(r *Reader) { DecodeKeys(r) },
		"handle":   func(r *Reader) { DecodeHandle(r) },
		"grant":    func(r *Reader) { DecodeGrant(r) },
		"request":  func(r *Reader) { decodeRequest(r, &Op{}) },
	} {
		for _, p := range [][]byte{
			{0xdd, 0x00, 0xff, 0xff, 0xff}, // array 32
			{0xdb, 0x00, 0xff, 0xff, 0xff}, // string 32
			{0xc6, 0xff, 0xff, 0xff, 0xff}, // binary 32
			{0xdd, 0xff, 0xff, 0xff, 0xff},
			{0xdc, 0xff, 0xff},
			{0xc4, 0x05, 1, 2},
		} {
			r := NewReader(p)
			read(r)
			if err := r.Err(); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s of %x: %v", name, p, err)
			}
			alloctest.Paid(t, len(p), func() { read(NewReader(p)) })
		}
	}
}

func TestReaderLimits(t *testing.T) {
	w := NewWriter()
	w.Blob(make([]byte, 11))
	if r := NewReader(w.Bytes()); r.Blob(10) != nil || !errors.Is(r.Err(), ErrMalformed) {
		t.Errorf("11 bytes where 10 may be: %v", r.Err())
	}
	w.Reset()
	w.Array(3)
	w.Uint(1)
	w.Uint(2)
	w.Uint(3)
	if r := NewReader(w.Bytes()); r.Array(2) != 0 || !errors.Is(r.Err(), ErrMalformed) {
		t.Errorf("3 elements where 2 may be: %v", r.Err())
	}
	w.Reset()
	w.Blob(make([]byte, 15))
	if r := NewReader(w.Bytes()); !r.UUID().IsZero() || !errors.Is(r.Err(), ErrMalformed) {
		t.Errorf("a UUID of 15 bytes: %v", r.Err())
	}
}

func TestFirstErrorSticks(t *testing.T) {
	w := NewWriter()
	w.String("no number")
	w.Uint(7)
	r := NewReader(w.Bytes())
	if v := r.Uint(); v != 0 {
		t.Fatal(v)
	}
	first := r.Err()
	if first == nil || r.Uint() != 0 || r.Int() != 0 || r.Bool() || r.Array(1) != 0 || r.String(9) != "" || r.Blob(9) != nil || !r.UUID().IsZero() {
		t.Fatal("values after an error")
	}
	if r.Fail("another"); r.Err() != first || r.End() != first {
		t.Fatal("a later error took the place of the first")
	}
	r.Reset([]byte{7})
	if r.Uint() != 7 || r.End() != nil {
		t.Fatal("Reset keeps the error")
	}
}

func TestLeftOver(t *testing.T) {
	r := NewReader([]byte{1, 2})
	r.Uint()
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if err := r.End(); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "1 bytes left over") {
		t.Fatal(err)
	}
}

// Integers have one form, the shortest, so that equal values have equal bytes.
func TestIntegersAreShort(t *testing.T) {
	for _, c := range []struct {
		v    int64
		want int
	}{{0, 1}, {127, 1}, {128, 2}, {256, 3}, {1 << 16, 5}, {1 << 32, 9}, {-1, 1}, {-32, 1}, {-33, 2}, {math.MinInt64, 9}} {
		w := NewWriter()
		if w.Int(c.v); w.Len() != c.want {
			t.Errorf("%d takes %d bytes, want %d", c.v, w.Len(), c.want)
		}
		if c.v >= 0 {
			signed := bytes.Clone(w.Bytes())
			if w.Reset(); true {
				w.Uint(uint64(c.v))
			}
			if !bytes.Equal(signed, w.Bytes()) {
				t.Errorf("%d is %x signed and %x unsigned", c.v, signed, w.Bytes())
			}
		}
	}
}

// It is plain msgpack: any other implementation reads it.
func TestIsMsgpack(t *testing.T) {
	w := NewWriter()
	EncodeOps(w, []Op{{Kind: OpAcquire, Seq: 300, Key: "sku-42", Try: true}, {Kind: OpFinish, Seq: 1}})
	var got any
	if err := msgpack.Unmarshal(w.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := []any{[]any{int8(1), uint16(300), "sku-42", true}, []any{int8(2), int8(1)}}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%#v", got)
	}
}

func TestParseUUID(t *testing.T) {
	id := NewUUID()
	if got, err := ParseUUID(id.String()); err != nil || got != id {
		t.Fatal(got, err)
	}
	for _, s := range []string{"", "00", strings.Repeat("0", 31), strings.Repeat("g", 32), strings.Repeat("0", 33)} {
		if got, err := ParseUUID(s); !errors.Is(err, ErrMalformed) || !got.IsZero() {
			t.Errorf("%q: %v %v", s, got, err)
		}
	}
	if !(UUID{1}).Less(UUID{2}) || (UUID{2}).Less(UUID{1}) || (UUID{1}).Less(UUID{1}) {
		t.Error("UUIDs are not ordered by their bytes")
	}
}
