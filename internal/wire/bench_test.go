package wire

import (
	"strconv"
	"testing"
)

// What a batch of 128 operations and their outcomes costs to write and to read.
func BenchmarkOps(b *testing.B) {
	ops := make([]Op, 128)
	for i := range ops {
		ops[i] = Op{Kind: OpFinish, Seq: 1_000_000 + uint64(i)}
		if i%2 == 0 {
			ops[i] = Op{Kind: OpAcquire, Seq: 1_000_000 + uint64(i), Key: "order-" + strconv.Itoa(i)}
		}
	}
	bench(b, func(w *Writer) { EncodeOps(w, ops) }, func(r *Reader) { DecodeOps(r) })
}

func BenchmarkOutcomes(b *testing.B) {
	outs := make([]Outcome, 128)
	for i := range outs {
		outs[i] = Outcome{Kind: OutEnded, Seq: 1_000_000 + uint64(i)}
		if i%2 == 0 {
			outs[i] = Outcome{Kind: OutGranted, Seq: 1_000_000 + uint64(i), Fence: 1_700_000_000_000_000, Since: 1_700_000_000_000_000}
		}
	}
	bench(b, func(w *Writer) { EncodeOutcomes(w, outs) }, func(r *Reader) { DecodeOutcomes(r) })
}

func bench(b *testing.B, encode func(*Writer), decode func(*Reader)) {
	w := NewWriter()
	encode(w)
	input := w.Bytes()
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			encode(NewWriter())
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			decode(NewReader(input))
		}
	})
}
