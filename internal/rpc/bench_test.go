package rpc

import (
	"testing"
)

// BenchmarkSend is how many small messages go through one connection over loopback TCP, both ends in this process.
func BenchmarkSend(b *testing.B) {
	all := make(chan struct{})
	left := b.N
	x, _ := loopback(b, nil, handler{message: func(*Conn, uint8, []byte) {
		if left--; left == 0 {
			close(all)
		}
	}})
	body := make([]byte, 64)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := x.Send(1, body); err != nil {
			b.Fatal(err)
		}
	}
	<-all
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

func BenchmarkCall(b *testing.B) {
	x, _ := loopback(b, nil, handler{call: echo})
	body := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := x.Call(b.Context(), 1, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCallParallel(b *testing.B) {
	x, _ := loopback(b, nil, handler{call: echo})
	body := make([]byte, 64)
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := x.Call(b.Context(), 1, body); err != nil {
				b.Fatal(err)
			}
		}
	})
}
