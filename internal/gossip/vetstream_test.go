package gossip

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/vmihailenco/msgpack/v5"
)

// packed is a msgpack map of alternating names and values after kind.
func packed(tb testing.TB, kind byte, pairs ...any) []byte {
	tb.Helper()
	out := bytes.NewBuffer([]byte{kind})
	e := msgpack.NewEncoder(out)
	err := e.EncodeMapLen(len(pairs) / 2)
	for _, v := range pairs {
		err = errors.Join(err, e.Encode(v))
	}
	if err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func nodeState(tb testing.TB, name string) []byte {
	return packed(tb, 0, "Name", name, "Addr", []byte{10, 0, 0, 1}, "Port", 7950, "Meta", []byte("meta"), "Incarnation", 1, "State", 0, "Vsn", []byte{1, 5, 2, 0, 0, 0})[1:]
}

func exchangeOf(tb testing.TB, nodes int) []byte {
	p := packed(tb, msgPushPull, "Nodes", nodes, "UserStateLen", 0, "Join", true)
	return append(p, bytes.Repeat(nodeState(tb, strings.Repeat("n", 36)), nodes)...)
}

// sealedStream is p as memberlist seals it on a stream.
func sealedStream(s seals, label string, p []byte) []byte {
	head := binary.BigEndian.AppendUint32([]byte{msgSealed}, uint32(len(p)+sealExtra))
	return s.seal(head, p, append(head[:len(head):len(head)], label...))
}

// hostile are streams, without their label, for which a peer would pay less than memberlist.
func hostile(tb testing.TB) map[string][]byte {
	deep := bytes.Repeat([]byte{0x91}, 60000)
	return map[string][]byte{
		"a million nodes":       packed(tb, msgPushPull, "Nodes", 1<<20, "UserStateLen", 0, "Join", true),
		"nodes of nothing":      append(packed(tb, msgPushPull, "Nodes", 30000, "Join", true), bytes.Repeat([]byte{0x80}, 30000)...),
		"nodes said twice":      packed(tb, msgPushPull, "Nodes", 0, "Nodes", 1<<20),
		"nodes in an array":     {msgPushPull, 0x93, 0xce, 0, 16, 0, 0, 0, 0xc3},
		"user state":            packed(tb, msgPushPull, "Nodes", 0, "UserStateLen", 20<<20),
		"a user message":        packed(tb, 8, "UserMsgLen", 20<<20),
		"an extension":          {msgPing, 0x81, 0xa1, 'x', 0xc9, 0xff, 0xff, 0xff, 0xff, 0xff}, // a time of 4 GiB
		"deep":                  append([]byte{msgPing, 0x81, 0xa1, 'x'}, deep...),
		"deep instead of a map": append([]byte{msgPing}, deep...),
		"deep maps":             append([]byte{msgPing}, bytes.Repeat([]byte{0x81}, 60000)...),
		"a long text":           {msgPing, 0x81, 0xa4, 'N', 'o', 'd', 'e', 0xdb, 0xff, 0xff, 0xff, 0xff},
		"bytes as an array":     {msgPing, 0x81, 0xaa, 'S', 'o', 'u', 'r', 'c', 'e', 'A', 'd', 'd', 'r', 0xdd, 0xff, 0xff, 0xff, 0xff},
		"many fields":           {msgPing, 0xdf, 0xff, 0xff, 0xff, 0xff},
		"compressed":            compressed(bytes.Repeat([]byte{msgPing, 0x80}, 1<<20)),
		"more than a message":   append(packed(tb, msgPing, "SeqNo", 1), msgPing, 0x80),
		"a name too long":       packed(tb, msgPing, "SeqNo", 1, "Node", strings.Repeat("n", maxNodeName+1)),
		"an answer":             packed(tb, msgAck, "SeqNo", 1),
		"encrypted":             sealedStream(sealed(tb, key('x')), "distlock/test", packed(tb, msgPing, "SeqNo", 1)),
		"no type there is":      {200, 0x80},
	}
}

// sent is a stream on which a peer has sent p and gone on listening.
type sent struct {
	net.Conn
	r *bytes.Reader
}

func (s sent) Read(p []byte) (int, error) {
	if s.r.Len() == 0 {
		return 0, errNothingMore
	}
	return s.r.Read(p)
}

var errNothingMore = errors.New("the stream goes on, with nothing more in it")

func receive(p []byte, label string, keys seals, accepted bool) ([]byte, error) {
	m := incoming{room: new(room), seals: keys, label: label, accepted: accepted}
	defer m.drop()
	return m.receive(sent{r: bytes.NewReader(p)})
}

func withLabel(p []byte) []byte { return append([]byte{labelMark, 4, 't', 'e', 's', 't'}, p...) }

func TestStreamsAreJudgedBeforeTheyAreDecoded(t *testing.T) {
	mine := sealed(t, key('a'))
	long := exchangeOf(t, 2000)
	for name, p := range map[string][]byte{"a probe": packed(t, msgPing, "SeqNo", 1), "an exchange": exchangeOf(t, 3), "a long one": long, "of nobody": exchangeOf(t, 0),
		"with user state": append(packed(t, msgPushPull, "Nodes", 0, "UserStateLen", 3), 1, 2, 3)} {
		if got, err := receive(withLabel(p), "test", nil, true); err != nil || !bytes.Equal(got, withLabel(p)) {
			t.Errorf("%s: %v", name, err)
		}
		s := sealedStream(mine, "test", p)
		if got, err := receive(withLabel(s), "test", sealed(t, key('b'), key('a')), true); err != nil || !bytes.Equal(got, withLabel(s)) {
			t.Errorf("%s, sealed: %v", name, err)
		}
		var no *refusal
		if _, err := receive(withLabel(s), "test", sealed(t, key('b')), true); !errors.As(err, &no) || no.why != otherSecret {
			t.Errorf("%s, sealed with another key: %v", name, err)
		}
		if _, err := receive(withLabel(p), "test", mine, true); !errors.As(err, &no) || no.why != otherSecret {
			t.Errorf("%s, not sealed: %v", name, err)
		}
		if _, err := receive(withLabel(p), "tess", nil, true); !errors.As(err, &no) || no.why != otherGroup {
			t.Errorf("%s, of another group: %v", name, err)
		}
		if _, err := receive(withLabel(p[:len(p)-1]), "test", nil, true); !errors.Is(err, errNothingMore) {
			t.Errorf("%s, cut: %v", name, err)
		}
	}
	for name, p := range hostile(t) {
		var no *refusal
		if _, err := receive(withLabel(p), "test", nil, true); !errors.As(err, &no) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := receive(withLabel(sealedStream(mine, "test", p)), "test", mine, true); !errors.As(err, &no) {
			t.Errorf("%s, from one with the key: %v", name, err)
		}
	}
	empty := sealedStream(mine, "test", nil) // of which memberlist would read the first byte, and panic
	if _, err := receive(withLabel(empty), "test", mine, true); err == nil {
		t.Error("a sealed nothing is let through")
	}
	for name, p := range map[string][]byte{"an ack": packed(t, msgAck, "SeqNo", 1), "an error": packed(t, msgError, "Error", "no"), "an exchange": long} {
		if _, err := receive(p, "test", nil, false); err != nil {
			t.Errorf("the answer %s: %v", name, err)
		}
	}
	if _, err := receive(packed(t, msgPing, "SeqNo", 1), "test", nil, false); err == nil {
		t.Error("a probe is an answer")
	}
}

// All that comes in at a time is bounded, and short messages get through however much that is.
func TestStreamsShareTheirRoom(t *testing.T) {
	house := new(room)
	long := withLabel(exchangeOf(t, maxNodes-1))
	var full []*incoming
	for {
		m := &incoming{room: house, label: "test", accepted: true}
		_, err := m.receive(sent{r: bytes.NewReader(long)})
		if errors.Is(err, errFullHouse) {
			m.drop()
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		full = append(full, m)
		if len(full) > 100 {
			t.Fatalf("a hundred messages of %d bytes are held", len(long))
		}
	}
	if house.used > allExchanges || len(full) == 0 {
		t.Errorf("%d bytes are held by %d streams", house.used, len(full))
	}
	m := &incoming{room: house, label: "test", accepted: true}
	if _, err := m.receive(sent{r: bytes.NewReader(withLabel(exchangeOf(t, 200)))}); err != nil {
		t.Errorf("with no room left, an exchange of 200 processes: %v", err)
	}
	for _, m := range append(full, m) {
		m.drop()
	}
	if house.used != 0 {
		t.Errorf("%d bytes are held by nobody", house.used)
	}
	if _, err := receive(withLabel(sealedStream(sealed(t, key('a')), "test", make([]byte, maxExchange))), "test", sealed(t, key('a')), true); err == nil {
		t.Error("a message beyond the bound is let through")
	}
}

// fed is a process alone to which a test is the network.
type fed struct {
	*Gossip
	packets chan []byte
	streams chan net.Conn
}

// fedPackets is its socket: what it sends vanishes.
type fedPackets struct {
	*deaf
	in chan []byte
}

func (p fedPackets) WriteTo(b []byte, _ net.Addr) (int, error) { return len(b), nil }

func (p fedPackets) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case packet := <-p.in:
		return copy(b, packet), &net.UDPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 9}, nil
	case <-p.over:
		return 0, nil, net.ErrClosed
	}
}

func newFed(tb testing.TB, keys ...[]byte) *fed {
	tb.Helper()
	f := &fed{packets: make(chan []byte), streams: make(chan net.Conn)}
	self := meta("fed")
	self.Addr = "127.0.0.1:9"
	g, err := Start(Config{
		Self: self, Group: "test", Keys: keys, Packets: fedPackets{newDeaf(), f.packets},
		Dial: func(ctx context.Context, _ string) (net.Conn, error) { return nobody(ctx) },
		Accept: func(ctx context.Context) (net.Conn, error) {
			select {
			case c := <-f.streams:
				return c, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = g.Close() })
	f.Gossip = g
	return f
}

// stream sends p and waits until the other side has hung up.
func (f *fed) stream(p []byte) {
	near, far := net.Pipe()
	f.streams <- far
	_ = near.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := near.Write(p); err == nil {
		_, _ = io.Copy(io.Discard, near)
	}
	_ = near.Close()
}

// A payload of some bytes makes memberlist neither end the program nor take memory that was not paid for.
func TestHostilePayloadsCostLittle(t *testing.T) {
	for name, keys := range map[string][][]byte{"plain": nil, "with keys": {key('a')}} {
		t.Run(name, func(t *testing.T) {
			f := newFed(t, keys...)
			var before, after runtime.MemStats
			group := f.tr.label
			allowed := uint64(4 << 20)
			for name, p := range hostile(t) {
				s, packet := p, p
				if keys != nil {
					s, packet = sealedStream(f.tr.seals, group, p), f.tr.seals.seal(nil, p, []byte(group))
				}
				s = append(append([]byte{labelMark, byte(len(group))}, group...), s...)
				packet, err := memberlist.AddLabelHeaderToPacket(packet[:min(len(packet), 1<<16-100)], group)
				if err != nil {
					t.Fatal(err)
				}
				runtime.ReadMemStats(&before)
				f.stream(s)
				f.packets <- packet
				f.packets <- nil // taken when the one before has been dealt with
				runtime.ReadMemStats(&after)
				if took := after.TotalAlloc - before.TotalAlloc; took > allowed {
					t.Errorf("%s: %d bytes took %d of memory", name, len(p), took)
				}
			}
			if len(f.Strangers()) == 0 {
				t.Error("nobody is noted")
			}
		})
	}
}

// onWire is p as it stands on the wire, after its label.
func onWire(label string, p []byte) []byte {
	return append(append([]byte{labelMark, byte(len(label))}, label...), p...)
}

// FuzzGossip feeds a real memberlist, past its labels and seals.
func FuzzGossip(f *testing.F) {
	for _, p := range hostile(f) {
		f.Add(p)
	}
	f.Add(exchangeOf(f, 2))
	f.Add(packed(f, msgPing, "SeqNo", 1))
	f.Add(compound([]byte{msgPing, 0x80}, aliveMessage(f, 20)))
	plain, keyed := newFed(f), newFed(f, key('a'))
	f.Fuzz(func(_ *testing.T, p []byte) {
		if len(p) > 1<<15 {
			return
		}
		group := keyed.tr.label
		plain.packets <- onWire(plain.tr.label, p)
		keyed.packets <- onWire(group, keyed.tr.seals.seal(nil, p, []byte(group)))
		plain.streamWhole(onWire(plain.tr.label, p))
		keyed.streamWhole(onWire(group, sealedStream(keyed.tr.seals, group, p)))
	})
}

// streamWhole is stream of a peer that says no more: what is cut is not waited for.
func (f *fed) streamWhole(p []byte) {
	near, far := net.Pipe()
	f.streams <- said{Conn: far, r: bytes.NewReader(p)}
	_ = near.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.Copy(io.Discard, near)
	_ = near.Close()
}

// said is a stream that ends after what r holds.
type said struct {
	net.Conn
	r *bytes.Reader
}

func (s said) Read(p []byte) (int, error) { return s.r.Read(p) }
