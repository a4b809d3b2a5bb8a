package raftlog

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

// Run on a real disk: TMPDIR=/some/where go test -bench StoreLogs ./internal/raftlog
func BenchmarkStoreLogs(b *testing.B) {
	const size = 10 << 10
	data := make([]byte, size)
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("bolt/%dx10KiB", n), func(b *testing.B) {
			s, err := openBolt(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			benchStore(b, s, n, data)
		})
		b.Run(fmt.Sprintf("guarded/%dx10KiB", n), func(b *testing.B) {
			s, err := openBolt(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			g := Guard(s, GuardConfig{})
			defer g.Close()
			benchStore(b, g, n, data)
		})
		b.Run(fmt.Sprintf("write+fsync/%dx10KiB", n), func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "bare"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			all := make([]byte, n*size)
			b.SetBytes(int64(len(all)))
			for b.Loop() {
				if _, err := f.Write(all); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func benchStore(b *testing.B, s Store, n int, data []byte) {
	b.SetBytes(int64(n * len(data)))
	b.ReportAllocs()
	next := uint64(1)
	for b.Loop() {
		logs := make([]*raft.Log, n)
		for i := range logs {
			logs[i] = &raft.Log{Index: next, Term: 1, Data: data}
			next++
		}
		if err := s.StoreLogs(logs); err != nil {
			b.Fatal(err)
		}
		if next%4096 < uint64(n) && next > 4096 { // as Raft does, so that pages are reused
			b.StopTimer()
			if err := s.DeleteRange(1, next-2048); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	}
}

func BenchmarkGetLog(b *testing.B) {
	s, err := openBolt(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	g := Guard(s, GuardConfig{})
	defer g.Close()
	var logs []*raft.Log
	for i := range uint64(1000) {
		logs = append(logs, &raft.Log{Index: i + 1, Term: 1, Data: make([]byte, 10<<10)})
	}
	if err := g.StoreLogs(logs); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	i := uint64(0)
	var l raft.Log
	for b.Loop() {
		if err := g.GetLog(i%1000+1, &l); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
