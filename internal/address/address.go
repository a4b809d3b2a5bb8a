// Package address judges host:port texts: whether they are well formed, whether another process can dial them, whether they stay
// on this machine, and which of a machine's addresses its peers should use. It opens no connection.
package address

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
)

// MaxHost is the longest host name of the DNS, in bytes.
const MaxHost = 253

// Split takes hostport apart. The host may be empty (every address of the machine) and the port 0 (any free one).
func Split(hostport string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(hostport)
	if err != nil {
		return "", 0, errors.New("it is not host:port, as in 10.0.0.7:7950, shop-1.internal:7950 or [fd00::7]:7950")
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port %q is not a number from 0 to 65535", text)
	}
	if len(host) > MaxHost {
		return "", 0, fmt.Errorf("its host is longer than %d bytes", MaxHost)
	}
	for _, r := range host {
		if r == unicode.ReplacementChar || unicode.IsSpace(r) || !unicode.IsPrint(r) || strings.ContainsRune(`/\@?#"'`, r) {
			return "", 0, fmt.Errorf("%q cannot be part of a host", r)
		}
	}
	return host, int(n), nil
}

// Dialable says why no other process could dial hostport; nil when it looks as if one could. It resolves nothing.
func Dialable(hostport string) error {
	host, port, err := Split(hostport)
	if err != nil {
		return err
	}
	ip, _ := netip.ParseAddr(host)
	switch {
	case host == "" || ip.IsUnspecified():
		return errors.New("it stands for every address of a machine, so nobody can dial it")
	case ip.IsMulticast():
		return errors.New("it is a multicast address")
	case port == 0:
		return errors.New("port 0 means any free port, so nobody can dial it")
	}
	return nil
}

// Machine is what of the machine the decisions below need. A test gives its own.
type Machine struct {
	Lookup     func(ctx context.Context, host string) ([]netip.Addr, error) // of a host name
	Outgoing   func() (netip.Addr, error)                                   // the address that packets to far away leave from
	Interfaces func() ([]netip.Addr, error)                                 // all addresses of interfaces that are up
}

// Resolve turns a host to bind to into one address: a name into the first that it resolves to, IPv4 before IPv6, as net.Listen
// does. The empty host is [::], every address.
func (m Machine) Resolve(ctx context.Context, host string) (netip.Addr, error) {
	if host == "" {
		return netip.IPv6Unspecified(), nil
	}
	if strings.EqualFold(host, "localhost") { // a name with one meaning (RFC 6761), even where nothing resolves names
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip, nil
	}
	all, err := m.Lookup(ctx, host)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(all) == 0 {
		return netip.Addr{}, fmt.Errorf("host name %q has no address", host)
	}
	for _, ip := range all {
		if ip.Unmap().Is4() {
			return ip.Unmap(), nil
		}
	}
	return all[0], nil
}

// Loopback says that only processes of this machine can reach ip.
func Loopback(ip netip.Addr) bool { return ip.Unmap().IsLoopback() }

// Advertised is the address that peers can use for a listener on bound: bound itself, or, where that means every address, the
// one that packets leave by, else the only one that there is. A machine with loopback only is reached by loopback.
func (m Machine) Advertised(bound netip.Addr) (netip.Addr, error) {
	if !bound.IsUnspecified() {
		return bound, nil
	}
	v6 := bound.Is6()
	if ip, err := m.Outgoing(); err == nil && usable(ip, v6) {
		return ip.Unmap(), nil
	}
	all, err := m.Interfaces()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("the machine's addresses are not to be had (%w)", err)
	}
	var found []netip.Addr
	for _, ip := range all {
		if usable(ip, v6) {
			found = append(found, ip.Unmap())
		}
	}
	switch len(found) {
	case 0:
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	case 1:
		return found[0], nil
	}
	return netip.Addr{}, fmt.Errorf("the machine has several addresses (%v) and no route tells which one peers can reach", found)
}

// usable says that a peer may dial ip, and that a listener on 0.0.0.0 (or, with v6, on [::]) hears it there.
func usable(ip netip.Addr, v6 bool) bool {
	ip = ip.Unmap()
	return ip.IsGlobalUnicast() && (ip.Is4() || v6)
}
