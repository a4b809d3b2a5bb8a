package distlock

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"

	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/wire"
)

// A stream's opening, as internal/mux writes it: magic, kind, length, hello. A frame of internal/rpc begins with its length.
const (
	openingMagic  = "DLK1"
	openingLength = len(openingMagic) + 1 // where the length lies
	openingHeader = openingLength + 2
	frameLength   = 4
)

// raftTimeoutNow begins Raft's order to stand for election, on a stream of its own transport.
const raftTimeoutNow = 3

// maxThrown bounds a payload: far beyond what a handshake may have, and what one frame brings without being looked at.
const maxThrown = 256 << 10

// thrower makes what a hostile process could send: out of nothing, and out of what it has heard members say.
type thrower struct {
	heard *recorder
	rnd   *rand.Rand
	addrs []string // of the members
	group string

	// forges says that what it makes of Raft's streams and of calls may also be wrong behind an opening that is right. Where nothing keeps
	// strangers out, such a stream is a member's, and whatever it says counts: then it repeats what members said, or what is no message at all.
	forges bool
}

// thrown is one payload.
type thrown struct {
	udp     bool
	to      string
	payload []byte
}

// throws are the ways of making one, by name.
var throws = []struct {
	name string
	make func(t *thrower) thrown
}{
	{"random bytes", func(t *thrower) thrown { return t.anywhere(t.rnd.IntN(3) == 0, t.random(1+t.rnd.IntN(2000))) }},
	{"random bytes after a magic", func(t *thrower) thrown {
		head := binary.BigEndian.AppendUint16([]byte{openingMagic[0], 'L', 'K', '1', byte(t.rnd.Uint32())}, uint16(t.rnd.Uint32()))
		return t.anywhere(false, append(head, t.random(t.rnd.IntN(2000))...))
	}},
	{"random bytes after an opening", func(t *thrower) thrown {
		kind := []wire.Kind{wire.KindRaft, wire.KindCall, wire.KindGossip, wire.Kind(t.rnd.Uint32())}[t.rnd.IntN(4)]
		return t.anywhere(false, append(t.opening(kind), t.random(t.rnd.IntN(4000))...))
	}},
	{"more than a frame may have", func(t *thrower) thrown {
		p := append(t.opening(wire.KindCall), 0, 0x80, 0, 0, 2) // a call that claims all that may be
		if t.rnd.IntN(2) == 0 {
			binary.BigEndian.PutUint32(p[len(p)-5:], t.rnd.Uint32())
		}
		return t.anywhere(false, append(p, t.random(t.rnd.IntN(maxThrown))...))
	}},
	{"oversized packet", func(t *thrower) thrown {
		s, _ := t.heard.packet(t.rnd.Int())
		return t.anywhere(true, append(s.bytes, t.random(65507-len(s.bytes))...))
	}},
	{"replayed packet", func(t *thrower) thrown { return t.repeat(t.packet()) }},
	{"cut packet", func(t *thrower) thrown { return t.cut(t.packet()) }},
	{"flipped packet", func(t *thrower) thrown { return t.flip(t.packet()) }},
	{"packet of two", func(t *thrower) thrown {
		a, b := t.packet(), t.packet()
		a.payload = append(a.payload[:t.rnd.IntN(len(a.payload)+1)], b.payload[t.rnd.IntN(len(b.payload)+1):]...)
		return a
	}},
	{"replayed stream", func(t *thrower) thrown { return t.repeat(t.stream()) }},
	{"cut stream", func(t *thrower) thrown { return t.cut(t.stream()) }},
	{"flipped stream", func(t *thrower) thrown { return t.flip(t.stream()) }},
	{"stream with another length", func(t *thrower) thrown { return t.blow(t.stream()) }},
	{"oversized stream", func(t *thrower) thrown {
		s := t.stream()
		if !t.mayForge(s) {
			s.payload = s.payload[:t.rnd.IntN(openingEnd(s.payload))] // with what comes now the opening is none
		}
		s.payload = append(s.payload, t.random(t.rnd.IntN(maxThrown))...)
		return s
	}},
}

func (t *thrower) random(n int) []byte {
	p := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		binary.NativeEndian.PutUint64(p[i:], t.rnd.Uint64())
	}
	return p
}

// opening is one that names the group, but no cluster and no server.
func (t *thrower) opening(kind wire.Kind) []byte {
	w := wire.NewWriter()
	wire.Hello{Version: wire.ProtocolVersion, Kind: kind, Group: t.group, Server: wire.UUID{1}, Instance: wire.UUID{2}, Name: "stranger"}.Encode(w)
	p := binary.BigEndian.AppendUint16(append([]byte(openingMagic), byte(kind)), uint16(w.Len()))
	return append(p, w.Bytes()...)
}

func (t *thrower) anywhere(udp bool, p []byte) thrown {
	return thrown{udp, t.addrs[t.rnd.IntN(len(t.addrs))], p}
}

// packet and stream are what was heard, each half of the time for whom it was meant.
func (t *thrower) packet() thrown {
	s, _ := t.heard.packet(t.rnd.Int())
	return t.aim(thrown{true, s.to, s.bytes})
}

func (t *thrower) stream() thrown {
	kinds := t.heard.kinds()
	for {
		s, _ := t.heard.stream(kinds[t.rnd.IntN(len(kinds))], t.rnd.Int())
		if end := openingEnd(s.bytes); !t.forges && s.kind() == wire.KindRaft && len(s.bytes) > end && s.bytes[end] == raftTimeoutNow {
			continue // an order to stand for election has no term by which a late copy could be told
		}
		return t.aim(thrown{false, s.to, s.bytes})
	}
}

func (t *thrower) aim(s thrown) thrown {
	if t.rnd.IntN(2) == 0 {
		s.to = t.addrs[t.rnd.IntN(len(t.addrs))]
	}
	return s
}

// mayForge says that s may be changed anywhere.
func (t *thrower) mayForge(s thrown) bool {
	kind := mux.KindOf(s.payload)
	return s.udp || t.forges || kind != wire.KindRaft && kind != wire.KindCall
}

// openingEnd is where the opening ends.
func openingEnd(p []byte) int {
	if len(p) < openingHeader {
		return len(p)
	}
	return min(len(p), openingHeader+int(binary.BigEndian.Uint16(p[openingLength:])))
}

func (t *thrower) repeat(s thrown) thrown { return s }

func (t *thrower) cut(s thrown) thrown {
	s.payload = s.payload[:t.rnd.IntN(len(s.payload)+1)]
	return s
}

// flip changes up to eight bits.
func (t *thrower) flip(s thrown) thrown {
	end := len(s.payload)
	if !t.mayForge(s) {
		end = openingEnd(s.payload)
	}
	for range 1 + t.rnd.IntN(8) {
		s.payload[t.rnd.IntN(end)] ^= 1 << t.rnd.IntN(8)
	}
	return s
}

// blow changes a length: of the opening or of a frame, or what may be one.
func (t *thrower) blow(s thrown) thrown {
	at := openingLength
	switch {
	case t.mayForge(s):
		at = t.rnd.IntN(len(s.payload))
	case t.rnd.IntN(2) == 0 && mux.KindOf(s.payload) == wire.KindCall:
		if frames := frameStarts(s.payload); len(frames) > 0 {
			at = frames[t.rnd.IntN(len(frames))]
		}
	}
	blown := [][]byte{{0xff, 0xff}, {0xff, 0xff, 0xff, 0xff}, {0xdd, 0x7f, 0xff, 0xff, 0xff}, {0xdb, 0x7f, 0xff, 0xff, 0xff}, {0, 0x7f, 0xff, 0xff}, {0, 0}}
	if b := blown[t.rnd.IntN(len(blown))]; t.mayForge(s) {
		copy(s.payload[at:], b)
	} else {
		copy(s.payload[at:], bytes.Repeat([]byte{0xff}, 2))
	}
	return s
}

// frameStarts is where the frames of a stream of calls begin.
func frameStarts(p []byte) (all []int) {
	for at := openingEnd(p); at+frameLength <= len(p); {
		all = append(all, at)
		at += frameLength + int(binary.BigEndian.Uint32(p[at:]))
	}
	return all
}
