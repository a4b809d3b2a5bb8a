package raftlog

import (
	"bytes"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
)

// A value is whole with all that its length claims, also with something behind it, and not with one byte or value less.
func TestWhole(t *testing.T) {
	bytesOf := func(n int) []byte { return bytes.Repeat([]byte{0x01}, n) } // n bytes of a string, or n values
	for name, p := range map[string][]byte{
		"nil": {0xc0}, "false": {0xc2}, "true": {0xc3}, "fixnum": {0x7f}, "negative fixnum": {0xe0},
		"float": append([]byte{0xca}, bytesOf(4)...), "double": append([]byte{0xcb}, bytesOf(8)...),
		"uint8": {0xcc, 1}, "uint16": {0xcd, 1, 1}, "uint32": append([]byte{0xce}, bytesOf(4)...), "uint64": append([]byte{0xcf}, bytesOf(8)...),
		"int8": {0xd0, 1}, "int16": {0xd1, 1, 1}, "int32": append([]byte{0xd2}, bytesOf(4)...), "int64": append([]byte{0xd3}, bytesOf(8)...),
		"fixstr":   append([]byte{0xbf}, bytesOf(31)...),
		"str8":     append([]byte{0xd9, 200}, bytesOf(200)...),
		"str16":    append([]byte{0xda, 1, 2}, bytesOf(0x102)...),
		"str32":    append([]byte{0xdb, 0, 1, 0, 2}, bytesOf(0x10002)...),
		"bin8":     append([]byte{0xc4, 200}, bytesOf(200)...),
		"bin16":    append([]byte{0xc5, 1, 2}, bytesOf(0x102)...),
		"bin32":    append([]byte{0xc6, 0, 1, 0, 2}, bytesOf(0x10002)...),
		"ext8":     append([]byte{0xc7, 200, 0xff}, bytesOf(200)...),
		"ext16":    append([]byte{0xc8, 1, 2, 0xff}, bytesOf(0x102)...),
		"ext32":    append([]byte{0xc9, 0, 1, 0, 2, 0xff}, bytesOf(0x10002)...),
		"empty":    {0xc7, 0, 0xff},
		"fixext1":  append([]byte{0xd4, 0xff}, bytesOf(1)...),
		"fixext2":  append([]byte{0xd5, 0xff}, bytesOf(2)...),
		"fixext4":  append([]byte{0xd6, 0xff}, bytesOf(4)...),
		"fixext8":  append([]byte{0xd7, 0xff}, bytesOf(8)...),
		"fixext16": append([]byte{0xd8, 0xff}, bytesOf(16)...),
		"fixarray": append([]byte{0x9f}, bytesOf(15)...),
		"array16":  append([]byte{0xdc, 1, 2}, bytesOf(0x102)...),
		"array32":  append([]byte{0xdd, 0, 1, 0, 2}, bytesOf(0x10002)...),
		"fixmap":   append([]byte{0x8f}, bytesOf(30)...),
		"map16":    append([]byte{0xde, 1, 2}, bytesOf(2*0x102)...),
		"map32":    append([]byte{0xdf, 0, 1, 0, 2}, bytesOf(2*0x10002)...),
		"nested":   {0x92, 0x81, 0xa1, 'k', 0xdc, 0, 2, 0xc4, 1, 'b', 0xc0, 0x90}, // [{"k": [b"b", nil]}, []]
		"deep":     append(bytes.Repeat([]byte{0x91}, 16<<20), 0xc0),              // more levels than a stack has room for
		"a configuration": raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{
			{Suffrage: raft.Voter, ID: "a", Address: "b"}, {Suffrage: raft.Nonvoter, ID: "c", Address: "d"},
		}}),
		"no servers": raft.EncodeConfiguration(raft.Configuration{}),
	} {
		t.Run(name, func(t *testing.T) {
			if !whole(p) {
				t.Error("not taken")
			}
			if !whole(append(slices.Clip(p), 0xc1)) {
				t.Error("not taken with something behind it")
			}
			for _, n := range []int{0, 1, 2, 3, len(p) / 2, len(p) - 1} {
				if n < len(p) && whole(p[:n]) {
					t.Errorf("taken although only %d of %d bytes are there", n, len(p))
				}
			}
		})
	}
	for _, p := range [][]byte{
		{0xc1}, {0x91, 0xc1}, {0x81, 0xc0, 0xc1}, {0xdb, 0xff, 0xff, 0xff, 0xff}, {0xc9, 0xff, 0xff, 0xff, 0xff, 0xff}, {0xdd, 0xff, 0xff, 0xff, 0xff, 0xc0},
		bytes.Repeat([]byte{0xdf, 0xff, 0xff, 0xff, 0xff}, 1000), // the claims add up
	} {
		if whole(p) {
			t.Errorf("%x is taken", p[:min(len(p), 8)])
		}
	}
}
