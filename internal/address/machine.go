package address

import (
	"context"
	"net"
	"net/netip"
)

// This is the machine that the process runs on.
func This() Machine {
	return Machine{
		Lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
		Outgoing:   outgoing,
		Interfaces: interfaces,
	}
}

// outgoing asks the routing table: connecting a UDP socket chooses its local address and sends nothing. The far ends are of
// networks that are reserved for documentation.
func outgoing() (netip.Addr, error) {
	c, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		if c, err = net.Dial("udp6", "[2001:db8::1]:9"); err != nil {
			return netip.Addr{}, err
		}
	}
	defer func() { _ = c.Close() }()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr(), nil
}

func interfaces() ([]netip.Addr, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var found []netip.Addr
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok {
					found = append(found, ip)
				}
			}
		}
	}
	return found, nil
}
