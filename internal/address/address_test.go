package address

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		in, host string
		port     int
	}{
		{"127.0.0.1:7950", "127.0.0.1", 7950},
		{":0", "", 0},
		{"[::1]:65535", "::1", 65535},
		{"[fe80::1%eth0]:1", "fe80::1%eth0", 1},
		{"shop-1.internal:7950", "shop-1.internal", 7950},
		{"bücher.example:1", "bücher.example", 1},
	} {
		host, port, err := Split(c.in)
		if err != nil || host != c.host || port != c.port {
			t.Errorf("Split(%q) = %q, %d, %v; want %q, %d", c.in, host, port, err, c.host, c.port)
		}
	}
	for _, in := range []string{
		"", "shop-1", "10.0.0.1", "::1", "a:b:1", "a:", ":", "a:-1", "a:+1", "a:65536", "a:http", "a: 1", "http://a:1", "a b:1",
		"a\x00:1", "a\xff:1", "user@a:1", "a/b:1", strings.Repeat("a", 254) + ":1",
	} {
		if host, port, err := Split(in); err == nil {
			t.Errorf("Split(%q) = %q, %d; want an error", in, host, port)
		}
	}
}

func TestDialable(t *testing.T) {
	for _, in := range []string{"127.0.0.1:1", "[::1]:1", "shop:7950", "10.0.0.1:65535"} {
		if err := Dialable(in); err != nil {
			t.Errorf("Dialable(%q): %v", in, err)
		}
	}
	for _, in := range []string{":1", "0.0.0.0:1", "[::]:1", "shop:0", "224.0.0.1:1", "shop"} {
		if Dialable(in) == nil {
			t.Errorf("Dialable(%q): no error", in)
		}
	}
}

func TestResolve(t *testing.T) {
	m := Machine{Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
		switch host {
		case "both":
			return addrs("fd00::1", "10.0.0.1"), nil
		case "six":
			return addrs("fd00::1"), nil
		case "none":
			return nil, nil
		}
		return nil, errors.New("no such host")
	}}
	for host, want := range map[string]string{
		"": "::", "localhost": "127.0.0.1", "LocalHost": "127.0.0.1", "10.1.2.3": "10.1.2.3", "::1": "::1", "both": "10.0.0.1", "six": "fd00::1",
	} {
		if ip, err := m.Resolve(t.Context(), host); err != nil || ip.String() != want {
			t.Errorf("Resolve(%q) = %v, %v; want %s", host, ip, err, want)
		}
	}
	for _, host := range []string{"none", "elsewhere"} {
		if ip, err := m.Resolve(t.Context(), host); err == nil {
			t.Errorf("Resolve(%q) = %v; want an error", host, ip)
		}
	}
}

func TestLoopback(t *testing.T) {
	for in, want := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9": true, "::1": true, "::ffff:127.0.0.1": true,
		"0.0.0.0": false, "::": false, "10.0.0.1": false, "fe80::1": false, "::ffff:10.0.0.1": false,
	} {
		if got := Loopback(netip.MustParseAddr(in)); got != want {
			t.Errorf("Loopback(%s) = %v", in, got)
		}
	}
}

func TestAdvertised(t *testing.T) {
	for _, c := range []struct {
		name, bound, outgoing string
		interfaces            []string
		want                  string // "" = an error
	}{
		{"its own", "10.0.0.7", "10.0.0.1", nil, "10.0.0.7"},
		{"route", "0.0.0.0", "10.0.0.1", []string{"127.0.0.1", "10.0.0.1", "172.17.0.1"}, "10.0.0.1"},
		{"only one", "0.0.0.0", "", []string{"127.0.0.1", "::1", "10.0.0.1", "fe80::1"}, "10.0.0.1"},
		{"loopback only", "0.0.0.0", "", []string{"127.0.0.1", "::1"}, "127.0.0.1"},
		{"several", "0.0.0.0", "", []string{"127.0.0.1", "10.0.0.1", "172.17.0.1"}, ""},
		{"4 does not hear 6", "0.0.0.0", "fd00::1", []string{"fd00::1", "10.0.0.1"}, "10.0.0.1"},
		{"6 hears both", "::", "fd00::1", nil, "fd00::1"},
		{"mapped", "::", "::ffff:10.0.0.1", nil, "10.0.0.1"},
	} {
		m := Machine{
			Outgoing: func() (netip.Addr, error) {
				if c.outgoing == "" {
					return netip.Addr{}, errors.New("no route")
				}
				return netip.ParseAddr(c.outgoing)
			},
			Interfaces: func() ([]netip.Addr, error) { return addrs(c.interfaces...), nil },
		}
		ip, err := m.Advertised(netip.MustParseAddr(c.bound))
		if (err != nil) != (c.want == "") || err == nil && ip.String() != c.want {
			t.Errorf("%s: %v, %v; want %q", c.name, ip, err, c.want)
		}
	}
}

func TestThisMachineHasAddresses(t *testing.T) {
	all, err := This().Interfaces()
	if err != nil || len(all) == 0 {
		t.Fatalf("addresses of this machine: %v, %v", all, err)
	}
	ip, err := This().Outgoing() // a machine without a route answers an error
	if err == nil && (!ip.IsValid() || ip.IsUnspecified()) {
		t.Fatalf("packets leave from %v", ip)
	}
}

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, s := range texts {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}
