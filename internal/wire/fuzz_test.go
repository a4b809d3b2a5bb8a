package wire

import (
	"bytes"
	"strings"
	"testing"

	"github.com/godistlock/distlock/internal/alloctest"
)

// fuzzDecoder checks that decode never panics or allocates too much, and that what it lets through is written and read back to
// the same bytes.
func fuzzDecoder[T any](f *testing.F, decode func(*Reader) T, encode func(*Writer, T), seeds ...T) {
	for _, s := range seeds {
		w := NewWriter()
		encode(w, s)
		f.Add(bytes.Clone(w.Bytes()))
		f.Add(bytes.Clone(w.Bytes()[:w.Len()/2]))
	}
	f.Add([]byte{0xdd, 0x00, 0xff, 0xff, 0xff})
	f.Add(bytes.Repeat([]byte{0x91}, 1000)) // arrays in arrays
	f.Fuzz(func(t *testing.T, p []byte) {
		alloctest.Paid(t, len(p), func() { decode(NewReader(p)) })
		r := NewReader(p)
		v := decode(r)
		if r.Err() != nil {
			return
		}
		w := NewWriter()
		encode(w, v)
		again := NewReader(w.Bytes())
		v = decode(again)
		if err := again.End(); err != nil {
			t.Fatalf("what was read of %x is written as %x: %v", p, w.Bytes(), err)
		}
		w2 := NewWriter()
		if encode(w2, v); !bytes.Equal(w.Bytes(), w2.Bytes()) {
			t.Fatalf("%x is written as %x, then as %x", p, w.Bytes(), w2.Bytes())
		}
	})
}

func FuzzOps(f *testing.F) {
	fuzzDecoder(f, DecodeOps, EncodeOps,
		[]Op{{Kind: OpAcquire, Seq: 1, Key: "sku-42"}, {Kind: OpAcquire, Seq: 2, Key: "sku-43", Try: true}},
		[]Op{{Kind: OpFinish, Seq: 1}, {Kind: OpConfirm, Seq: 300}, {Kind: OpForce, Seq: 70_000, Key: "k"}, {Kind: OpForget, Seq: MaxSeq}},
		[]Op{
			{Kind: OpRequest, Seq: 1, Try: true, Ask: &Ask{Keys: []string{"a", "b"}, Mode: Shared, Owner: 1, TTL: 1, Cooldown: 2, Value: []byte("v"), Where: "main.go:7"}},
			{Kind: OpRequest, Seq: 2, Ask: &Ask{Keys: []string{"a"}, Mode: Units, Limit: MaxUnits, Weight: 2}},
			{Kind: OpRequest, Seq: 3, Ask: &Ask{Keys: []string{"a"}, Detached: MaxTime, Origin: Origin{1, 2}, Only: true}},
		},
		[]Op{
			{Kind: OpExpire, Seq: 1}, {Kind: OpTime, Seq: 2, Ask: &Ask{Time: MaxTime, Nth: 1}}, {Kind: OpDowngrade, Seq: 3},
			{Kind: OpRelease, Seq: 4, Ask: &Ask{Handle: NewHandle(UUID{1}, Origin{1, 2}, 3)}}, {Kind: OpAdopt, Seq: 5, Ask: &Ask{Handle: NewHandle(UUID{1}, Origin{1, 2}, 3)}},
		},
		nil)
}

func FuzzOutcomes(f *testing.F) {
	fuzzDecoder(f, DecodeOutcomes, EncodeOutcomes,
		[]Outcome{{Kind: OutGranted, Seq: 1, Fence: 1 << 52, Since: 1_700_000_000_000_000}},
		[]Outcome{{Kind: OutFailed, Seq: 2, Code: CodeHeld, Text: `held by "web-1"`}, {Kind: OutEnded, Seq: 3}, {Kind: OutRevoked, Seq: 4, Code: CodeForced}},
		[]Outcome{
			{Kind: OutQueued, Seq: 5, Fence: 7, Since: 8, Text: "held"}, {Kind: OutNoted, Seq: 6},
			{Kind: OutAdopted, Seq: 7, Fence: 9, Grant: &Grant{Keys: []string{"a", "b"}, Mode: Units, Limit: 3, Weight: 2, TTL: 5}},
		})
}

func FuzzHandle(f *testing.F) {
	fuzzDecoder(f, DecodeHandle, func(w *Writer, h Handle) { h.Encode(w) }, NewHandle(UUID{1}, Origin{1, MaxSeq}, 1<<52))
}

func FuzzParseHandle(f *testing.F) {
	f.Add(NewHandle(UUID{1}, Origin{1, MaxSeq}, 1<<52).String())
	f.Add(handlePrefix)
	f.Add(handlePrefix + "A000000000000000000000000000000000000000\r0000000\r00000")
	f.Fuzz(func(t *testing.T, s string) {
		if h, err := ParseHandle(s); err == nil && h.String() != s {
			t.Fatalf("%q is written as %q", s, h)
		}
	})
}

func FuzzGrant(f *testing.F) {
	fuzzDecoder(f, DecodeGrant, func(w *Writer, g *Grant) { g.Encode(w) }, &Grant{Keys: []string{"a", "b"}, Mode: Shared, TTL: MaxTime})
}

func FuzzHello(f *testing.F) {
	fuzzDecoder(f, DecodeHello, func(w *Writer, h Hello) {
		if h.Version != ProtocolVersion {
			h = Hello{Version: ProtocolVersion} // of another version nothing else is read
		}
		h.Encode(w)
	}, Hello{Version: ProtocolVersion, Kind: KindRaft, Group: "distlock", Cluster: UUID{1}, Server: UUID{2}, Instance: UUID{3}, Name: "web-1", Target: UUID{4}})
}

func FuzzWelcome(f *testing.F) {
	fuzzDecoder(f, DecodeWelcome, func(w *Writer, a Welcome) {
		if a.Version != ProtocolVersion {
			a = Welcome{Version: ProtocolVersion}
		}
		a.Encode(w)
	}, Welcome{Version: ProtocolVersion, Refusal: RefusedCluster, Text: "of another cluster", Cluster: UUID{1}, Server: UUID{2}, Instance: UUID{3}, Name: "web-1"})
}

func FuzzSession(f *testing.F) {
	fuzzDecoder(f, DecodeCreateSession, func(w *Writer, c CreateSession) { c.Encode(w) }, CreateSession{
		Nonce: UUID{1}, Name: "web-1", Server: UUID{2}, Instance: UUID{3}, TTL: 10_000, Previous: 7,
		Proof: Proof{Boot: "b", NetNS: "n", Bound: "127.0.0.1:7950", Dir: "8:1", Started: 9},
	})
}

func FuzzSessionReply(f *testing.F) {
	fuzzDecoder(f, DecodeSessionReply, func(w *Writer, s SessionReply) { s.Encode(w) },
		SessionReply{Code: CodeNameTaken, Session: 1, Term: 2, Renewals: 3, Text: "lives"})
}

func FuzzParseUUID(f *testing.F) {
	f.Add(UUID{1, 0xab}.String())
	f.Add(strings.ToUpper(UUID{1, 0xab}.String()))
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := ParseUUID(s); err == nil && u.String() != s {
			t.Fatalf("%q is written as %q", s, u)
		}
	})
}
