package gossip

import (
	"bytes"
	"compress/lzw"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/vmihailenco/msgpack/v5"
)

// deaf is a packet socket whose writes and reads never come back until it is closed or its deadline has passed.
type deaf struct {
	net.PacketConn
	over chan struct{}
}

func newDeaf() *deaf { return &deaf{over: make(chan struct{})} }

func (d *deaf) WriteTo([]byte, net.Addr) (int, error) {
	<-d.over
	return 0, net.ErrClosed
}

func (d *deaf) ReadFrom([]byte) (int, net.Addr, error) {
	<-d.over
	return 0, nil, net.ErrClosed
}

func (d *deaf) SetDeadline(time.Time) error { return errors.ErrUnsupported }
func (d *deaf) LocalAddr() net.Addr         { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9} }

func (d *deaf) Close() error {
	close(d.over)
	return nil
}

func bareTransport(packets net.PacketConn, dial func(context.Context, string) (net.Conn, error), accept func(context.Context) (net.Conn, error)) *transport {
	cfg := Config{Group: "test", Packets: packets, Dial: dial, Accept: accept}
	return newTransport(cfg, nil, netip.MustParseAddrPort("127.0.0.1:9"), func(string) {}, slog.New(slog.DiscardHandler))
}

func nobody(ctx context.Context) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// finishes fails when f takes more than ten seconds, which it does only if it blocks for good.
func finishes(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { // ends with f
		f()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s blocks", what)
	}
}

// Hazard 25: WriteTo must not block, and nothing may after Shutdown.
func TestTransportNeverBlocks(t *testing.T) {
	tr := bareTransport(newDeaf(), func(ctx context.Context, _ string) (net.Conn, error) { return nobody(ctx) }, nobody)
	write := func() error {
		_, err := tr.WriteToAddress([]byte("packet"), memberlist.Address{Addr: "127.0.0.1:1"})
		return err
	}
	finishes(t, "WriteTo on a socket that takes nothing", func() {
		for range 10 * packetsWaiting {
			if err := write(); err != nil {
				t.Errorf("a full queue is an error: %v", err)
				return
			}
		}
	})
	dialed := make(chan error, 1)
	go func() { // ends with Shutdown
		_, err := tr.DialAddressTimeout(memberlist.Address{Addr: "127.0.0.1:1"}, time.Hour)
		dialed <- err
	}()
	finishes(t, "Shutdown", func() { _ = tr.Shutdown() })
	finishes(t, "a dial under way", func() {
		if err := <-dialed; err == nil {
			t.Error("a dial under way succeeds")
		}
	})
	finishes(t, "WriteTo after Shutdown", func() {
		if write() == nil {
			t.Error("a packet is taken after Shutdown")
		}
	})
	finishes(t, "Dial after Shutdown", func() {
		if _, err := tr.DialTimeout("127.0.0.1:1", time.Hour); err == nil {
			t.Error("a stream is dialed after Shutdown")
		}
	})
	finishes(t, "Shutdown again", func() { _ = tr.Shutdown() })
}

func TestPacketsGoToAddressesOnly(t *testing.T) {
	tr := bareTransport(newDeaf(), nil, nobody)
	defer tr.Shutdown()
	for _, addr := range []string{"", "localhost:80", "127.0.0.1", "127.0.0.1:0", "?0102:80"} {
		if _, err := tr.WriteTo([]byte("x"), addr); err == nil {
			t.Errorf("a packet to %q is taken", addr)
		}
	}
	if _, err := tr.WriteTo(make([]byte, maxPacket+1), "127.0.0.1:1"); err == nil {
		t.Error("a packet that no socket can send is taken")
	}
}

func TestStreamsAreBoundedAndClosed(t *testing.T) {
	var far []net.Conn
	incoming := make(chan net.Conn)
	tr := bareTransport(newDeaf(), nil, func(ctx context.Context) (net.Conn, error) {
		select {
		case c := <-incoming:
			return c, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	closed := func(c net.Conn) bool { // as its far side sees it
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err := c.Read(make([]byte, 1))
		return err != nil && !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err)
	}
	var near []net.Conn
	for i := range maxStreams + 1 {
		a, b := net.Pipe()
		far = append(far, b)
		incoming <- a
		if i < maxStreams {
			near = append(near, <-tr.StreamCh())
		}
	}
	if !closed(far[maxStreams]) {
		t.Error("one stream more than the bound is kept")
	}
	_ = near[0].Close()
	a, b := net.Pipe()
	incoming <- a
	<-tr.StreamCh() // there is room again
	far[0] = b
	_ = tr.Shutdown()
	for i, c := range far {
		if !closed(c) {
			t.Errorf("stream %d survives Shutdown", i)
		}
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func TestAFailedLabelClosesItsStream(t *testing.T) {
	a, b := net.Pipe()
	tr := bareTransport(newDeaf(), func(context.Context, string) (net.Conn, error) { return a, nil }, nobody)
	defer tr.Shutdown()
	s, err := tr.DialTimeout("127.0.0.1:1", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	if memberlist.AddLabelHeaderToStream(s, "label") == nil {
		t.Fatal("the label was written to nobody")
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.conns) != 0 {
		t.Error("the stream that memberlist has forgotten is still open")
	}
}

// compressed is memberlist's message that unpacks to p.
func compressed(p []byte) []byte {
	var packed bytes.Buffer
	w := lzw.NewWriter(&packed, lzw.LSB, 8)
	_, _ = w.Write(p)
	_ = w.Close()
	out := bytes.NewBuffer([]byte{msgCompress})
	_ = msgpack.NewEncoder(out).Encode(map[string]any{"Algo": 0, "Buf": packed.Bytes()})
	return out.Bytes()
}

func compound(msgs ...[]byte) []byte {
	out := []byte{msgCompound, byte(len(msgs))}
	for _, m := range msgs {
		out = append(out, byte(len(m)>>8), byte(len(m)))
	}
	return append(out, bytes.Join(msgs, nil)...)
}

// acceptable says whether p, plain, would reach memberlist.
func acceptable(p []byte) bool {
	tr := transport{label: "l"}
	_, ok := tr.judge(p, nil)
	return ok
}

func labelled(t testing.TB, p []byte) []byte {
	t.Helper()
	out, err := memberlist.AddLabelHeaderToPacket(p, "l")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPacketsThatUnpackThemselvesAreDropped(t *testing.T) {
	ping := []byte{msgPing, 0x80}
	pack := compressed(ping)
	crc := func(p []byte) []byte { return append([]byte{msgCRC, 1, 2, 3, 4}, p...) }
	for name, p := range map[string][]byte{
		"empty": {}, "compressed": pack, "with a checksum": crc(pack), "with two checksums": crc(crc(ping)),
		"in a compound": compound(ping, pack), "in a compound in a compound": compound(compound(ping)), "all at once": crc(compound(pack)),
		"a compound that is cut": compound(ping, ping)[:5], "an empty part": compound(ping, nil),
	} {
		if acceptable(labelled(t, p)) {
			t.Errorf("%s: memberlist would get %x", name, p)
		}
	}
	for name, p := range map[string][]byte{"nothing": {}, "a broken label": {244}, "no label": ping} {
		if acceptable(p) {
			t.Errorf("%s: memberlist would get %x", name, p)
		}
	}
	for name, p := range map[string][]byte{"a ping": ping, "with a checksum": crc(ping), "a compound": crc(compound(ping, ping))} {
		if !acceptable(labelled(t, p)) {
			t.Errorf("%s: dropped", name)
		}
	}
}

func TestPingsAreReadAndAnswered(t *testing.T) {
	ping := func(seq uint32) []byte {
		out := bytes.NewBuffer([]byte{msgPing})
		_ = msgpack.NewEncoder(out).Encode(map[string]any{"Node": "n", "SourceAddr": []byte{127, 0, 0, 1}, "SeqNo": seq})
		return out.Bytes()
	}
	for i, p := range [][]byte{ping(70000), compound(ping(70000), []byte{3}), append([]byte{msgCRC, 0, 0, 0, 0}, compound(ping(70000))...)} {
		if seq, ok := pingSeq(p); !ok || seq != 70000 {
			t.Errorf("packet %d: read %d, %v", i, seq, ok)
		}
	}
	var p pings
	for i := range uint32(1000) {
		p.note(ping(i))
	}
	if got := p.take(); len(got) != len(p.recent) {
		t.Errorf("%d probes are answered, want the last %d", len(got), len(p.recent))
	}
	if p.note(ping(1)) {
		t.Error("a probe goes out that nobody will answer")
	}
	ack, err := ackPacket("l", nil, 5)
	if err != nil || !acceptable(ack.Buf) {
		t.Errorf("our own answer is not acceptable: %v %x", err, ack.Buf)
	}
	_ = fmt.Sprint(ack.From) // memberlist prints it
}
