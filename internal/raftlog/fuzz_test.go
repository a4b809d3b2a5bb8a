package raftlog

import (
	"bytes"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/alloctest"
	"github.com/godistlock/distlock/internal/wire"
)

// FuzzRecord reads any bytes as an entry of the log's file.
func FuzzRecord(f *testing.F) {
	for _, l := range []raft.Log{
		{Index: 1, Term: 2, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte("more"), AppendedAt: time.Unix(0, 7)},
		{Index: 1<<64 - 1, Type: raft.LogConfiguration},
	} {
		w := wire.NewWriter()
		encodeLog(w, &l)
		f.Add(bytes.Clone(w.Bytes()))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		alloctest.Paid(t, len(p), func() { _, _ = decodeLog(wire.NewReader(p)) })
		l, err := decodeLog(wire.NewReader(p))
		if err != nil {
			return
		}
		w := wire.NewWriter()
		encodeLog(w, &l)
		again, err := decodeLog(wire.NewReader(w.Bytes()))
		w2 := wire.NewWriter()
		if encodeLog(w2, &again); err != nil || !bytes.Equal(w.Bytes(), w2.Bytes()) {
			t.Fatalf("%+v came back as %+v, %v", l, again, err)
		}
		_ = decodable(&l)
	})
}

// FuzzConfiguration hands any bytes to Raft's own decoder as Vet and the log's verification do: what it panics on is refused, and what
// it takes in can be written and read again.
func FuzzConfiguration(f *testing.F) {
	f.Add(raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{
		{Suffrage: raft.Voter, ID: "a", Address: "b"}, {Suffrage: raft.Nonvoter, ID: "c", Address: "d"},
	}}))
	f.Add(raft.EncodeConfiguration(raft.Configuration{}))
	f.Add([]byte{0x81, 0xa7, 'S', 'e', 'r', 'v', 'e', 'r', 's', 0xdd, 0x7f, 0xff, 0xff, 0xff}) // so many servers
	f.Add(bytes.Repeat([]byte{0x91}, 10_000))                                                  // arrays in arrays
	f.Add(append([]byte{0x81, 0xa1, 'x'}, bytes.Repeat([]byte{0x91}, 10_000)...))              // where nobody looks
	f.Add([]byte{0xdb, 0x7f, 0xff, 0xff, 0xff})
	f.Add([]byte("\x81\xa7S\xe5rvers\xdd\x7f\xff\xff\xc9\xc9\xc9\xc9\xc9\xc9\xff")) // a time of 3 GB in a list where nobody looks
	f.Fuzz(func(t *testing.T, p []byte) {
		alloctest.PaidWith(t, len(p), 1<<20, func() { _ = configuration(p) })
		if configuration(p) != nil {
			return
		}
		c := raft.DecodeConfiguration(p)
		if err := configuration(raft.EncodeConfiguration(c)); err != nil {
			t.Fatalf("%+v can't be read again: %v", c, err)
		}
	})
}
