//go:build linux

package proctest

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// nameServer answers one name with the addresses of all pods, as a cluster's DNS does for a headless service.
type nameServer struct {
	conn  net.PacketConn
	name  string
	addrs func() []netip.Addr
}

// serveNames listens for UDP at addr, until the test ends.
func serveNames(t *testing.T, addr, name string, addrs func() []netip.Addr) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{conn: conn, name: name, addrs: addrs}
	done := make(chan struct{})
	go func() { defer close(done); s.serve() }() // ends with conn
	t.Cleanup(func() { conn.Close(); <-done })
	return s
}

func (s *nameServer) serve() {
	query := make([]byte, 512)
	for {
		n, from, err := s.conn.ReadFrom(query)
		if err != nil {
			return
		}
		if reply := s.answer(query[:n]); reply != nil {
			_, _ = s.conn.WriteTo(reply, from) // who asked asks again
		}
	}
}

// What of RFC 1035 is needed.
const (
	dnsHeader   = 12
	dnsFlags    = 0x8580 // a response, by who has authority, recursion asked for and to be had
	dnsNotFound = 3
	dnsA        = 1
	dnsInternet = 1
	dnsQuestion = 0xc000 | dnsHeader // the name there
)

// answer is nil for what is no question.
func (s *nameServer) answer(query []byte) []byte {
	if len(query) < dnsHeader || binary.BigEndian.Uint16(query[4:]) != 1 {
		return nil
	}
	var labels []string
	at := dnsHeader
	for {
		if at >= len(query) {
			return nil
		}
		n := int(query[at])
		at++
		if n == 0 {
			break
		}
		if at+n > len(query) {
			return nil
		}
		labels = append(labels, strings.ToLower(string(query[at:at+n])))
		at += n
	}
	if at+4 > len(query) {
		return nil
	}
	kind := binary.BigEndian.Uint16(query[at:])
	var found []netip.Addr
	flags := uint16(dnsFlags)
	if strings.Join(labels, ".") != s.name {
		flags |= dnsNotFound
	} else if found = s.addrs(); len(found) == 0 {
		flags |= dnsNotFound // as for a service with no pods
	}
	if kind != dnsA {
		found = nil
	}
	reply := slices.Clone(query[:at+4])
	binary.BigEndian.PutUint16(reply[2:], flags)
	for i, count := range []int{1, len(found), 0, 0} {
		binary.BigEndian.PutUint16(reply[4+2*i:], uint16(count))
	}
	for _, addr := range found {
		for _, v := range []uint16{dnsQuestion, dnsA, dnsInternet, 0, 0, 4} { // name, type, class, time to live, length
			reply = binary.BigEndian.AppendUint16(reply, v)
		}
		ip := addr.As4()
		reply = append(reply, ip[:]...)
	}
	return reply
}

// namesResolve: what the members' resolver makes of the name server.
func namesResolve(t *testing.T) {
	var known atomic.Pointer[[]netip.Addr]
	known.Store(&[]netip.Addr{})
	s := serveNames(t, "127.0.0.1:0", serviceName, func() []netip.Addr { return *known.Load() })
	var d net.Dialer
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return d.DialContext(ctx, network, s.conn.LocalAddr().String())
	}}
	look := func(name string) ([]netip.Addr, bool) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		got, err := r.LookupNetIP(ctx, "ip", name)
		var dns *net.DNSError
		none := errors.As(err, &dns) && dns.IsNotFound
		if err != nil && !none {
			t.Errorf("%s: %v", name, err)
		}
		for i := range got {
			got[i] = got[i].Unmap()
		}
		slices.SortFunc(got, netip.Addr.Compare)
		return got, none
	}
	if got, none := look(serviceName); !none {
		t.Errorf("a service without pods: %v", got)
	}
	pods := []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("10.1.2.4")}
	known.Store(&pods)
	if got, _ := look(serviceName); !slices.Equal(got, pods) {
		t.Errorf("pods %v, found %v", pods, got)
	}
	if got, none := look("other.test"); !none {
		t.Errorf("another name: %v", got)
	}
}
