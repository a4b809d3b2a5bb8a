// Package discover turns the peers that a user names into addresses that can be dialed.
package discover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/godistlock/distlock/internal/address"
)

// Bounds: Discover is somebody else's function, and a name may resolve to anything.
const (
	MaxPeers   = 4096 // given
	MaxAddrs   = 8192 // answered
	maxLookups = 16   // at once
)

// Lookup answers the addresses of a host name.
type Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

// System looks up as the machine does.
func System(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// Resolve answers the IP:port of every peer, in the order of peers and each once, without those in self. A peer is an IP or a name, with
// a port; a name may stand for many processes, all on that port. Names are looked up side by side and a nil lookup is System's.
// What fails for one peer (a bad address, a name that doesn't resolve before ctx ends) is in the error, beside the others' addresses.
func Resolve(ctx context.Context, peers []string, lookup Lookup, self ...string) ([]string, error) {
	if lookup == nil {
		lookup = System
	}
	var errs []error
	if len(peers) > MaxPeers {
		errs = append(errs, fmt.Errorf("%d peers, only the first %d are used", len(peers), MaxPeers))
		peers = peers[:MaxPeers]
	}
	found := make([][]netip.AddrPort, len(peers))
	failed := make([]error, len(peers))
	done := make(chan int)
	slots := make(chan struct{}, maxLookups)
	for i, peer := range peers {
		go func() { // ends when lookup does; it is waited for below
			slots <- struct{}{}
			found[i], failed[i] = resolve(ctx, peer, lookup)
			<-slots
			done <- i
		}()
	}
	for range peers {
		<-done
	}

	seen := make(map[string]bool, len(self))
	for _, s := range self {
		seen[canonical(s)] = true
	}
	var addrs []string
	for i := range peers {
		if failed[i] != nil {
			errs = append(errs, failed[i])
		}
		for _, ap := range found[i] {
			if s := ap.String(); !seen[s] && len(addrs) < MaxAddrs {
				seen[s] = true
				addrs = append(addrs, s)
			}
		}
	}
	return addrs, errors.Join(errs...)
}

func resolve(ctx context.Context, peer string, lookup Lookup) ([]netip.AddrPort, error) {
	if err := address.Dialable(peer); err != nil {
		return nil, fmt.Errorf("peer %q: %w", peer, err)
	}
	host, n, err := address.Split(peer)
	if err != nil {
		return nil, fmt.Errorf("peer %q: %w", peer, err)
	}
	port := uint16(n)
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a.Unmap(), port)}, nil
	}
	ips, err := lookup(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("peer %q: %w", peer, err)
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("peer %q: the name has no addresses", peer)
	}
	slices.SortFunc(ips, netip.Addr.Compare) // resolvers shuffle
	var aps []netip.AddrPort
	for _, ip := range ips[:min(len(ips), MaxAddrs)] {
		aps = append(aps, netip.AddrPortFrom(ip.Unmap(), port))
	}
	return aps, nil
}

// canonical is how Resolve would write s.
func canonical(s string) string {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return s
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
}
