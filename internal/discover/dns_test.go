package discover

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// nameserver answers questions over UDP from a zone: SRV records (host:port) for names that begin with _, else addresses. It is enough of the
// DNS for the machine's resolver to find what a headless service's name stands for.
type nameserver struct {
	conn net.PacketConn
	zone map[string][]string // by name, with a dot at the end
}

const (
	typeA, typeAAAA, typeSRV = 1, 28, 33
	headerSize               = 12
)

func serveNames(t *testing.T, zone map[string][]string) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameserver{conn: conn, zone: zone}
	done := make(chan struct{})
	go func() { // ends when the socket is closed
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(s.answer(buf[:n]), from)
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func (s *nameserver) answer(q []byte) []byte {
	name, end := "", headerSize
	for q[end] != 0 {
		name += string(q[end+1:end+1+int(q[end])]) + "."
		end += 1 + int(q[end])
	}
	kind := binary.BigEndian.Uint16(q[end+1:])
	question := q[headerSize : end+5]
	var records [][]byte
	found, known := s.zone[strings.ToLower(name)]
	for _, value := range found {
		switch ip, err := netip.ParseAddr(value); {
		case err == nil && (kind == typeA && ip.Is4() || kind == typeAAAA && ip.Is6()):
			records = append(records, ip.AsSlice())
		case err != nil && kind == typeSRV:
			ap := strings.Split(value, ":")
			port, _ := net.LookupPort("tcp", ap[1])
			record := []byte{0, 1, 0, 1, byte(port >> 8), byte(port)} // priority, weight, port
			for label := range strings.SplitSeq(strings.TrimSuffix(ap[0], "."), ".") {
				record = append(append(record, byte(len(label))), label...)
			}
			records = append(records, append(record, 0))
		}
	}
	flags := uint16(0x8580) // an answer, with authority
	if !known {
		flags |= 3 // no such name
	}
	a := binary.BigEndian.AppendUint16(slices.Clone(q[:2]), flags)
	for _, count := range []int{1, len(records), 0, 0} {
		a = binary.BigEndian.AppendUint16(a, uint16(count))
	}
	a = append(a, question...)
	for _, r := range records {
		a = append(a, 0xc0, headerSize) // the question's name
		a = binary.BigEndian.AppendUint16(a, kind)
		a = append(a, 0, 1, 0, 0, 0, 5) // class, time to live
		a = binary.BigEndian.AppendUint16(a, uint16(len(r)))
		a = append(a, r...)
	}
	return a
}

// The machine's resolver against a name server that knows a headless service.
func TestResolveByTheDNS(t *testing.T) {
	resolver := serveNames(t, map[string][]string{
		"shop.test.":                {"10.0.0.2", "10.0.0.1", "fd00::1"},
		"_distlock._tcp.shop.test.": {"shop-1.shop.test.:7951", "shop-0.shop.test.:7950"},
		"shop-0.shop.test.":         {"10.0.0.1"},
		"shop-1.shop.test.":         {"10.0.0.2", "fd00::2"},
		"_half._tcp.shop.test.":     {"shop-0.shop.test.:7950", "gone.shop.test.:7950"},
	})
	for _, c := range []struct {
		peer string
		want []string
		err  string
	}{
		{"shop.test.:7950", []string{"10.0.0.1:7950", "10.0.0.2:7950", "[fd00::1]:7950"}, ""},
		{"_distlock._tcp.shop.test.", []string{"10.0.0.1:7950", "10.0.0.2:7951", "[fd00::2]:7951"}, ""},
		{"_half._tcp.shop.test.", []string{"10.0.0.1:7950"}, "gone.shop.test."},
		{"_other._tcp.shop.test.", nil, "_other._tcp.shop.test."},
		{"nowhere.test.:7950", nil, "nowhere.test."},
	} {
		got, err := Resolve(t.Context(), []string{c.peer}, resolver)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.peer, got, c.want)
		}
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %v, want one that says %q", c.peer, err, c.err)
		}
	}
}
