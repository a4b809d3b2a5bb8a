// Package discover turns the peers that a user names into addresses that can be dialed, and reads files of them.
package discover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/godistlock/distlock/internal/address"
)

// Bounds: Discover is somebody else's function, and a name may resolve to anything.
const (
	MaxPeers   = 4096 // given
	MaxAddrs   = 8192 // answered
	maxLookups = 16   // at once
	maxTargets = 4096 // of services, looked up in one call
	maxPorts   = 64   // of one of them
	maxPerHost = 64   // addresses of a service's target: it is one host
	maxFaults  = 16   // named in an error of each kind
)

// Resolver answers names. A *net.Resolver does, and a test's own.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (cname string, targets []*net.SRV, err error)
}

// Resolve answers the IP:port of every peer, in the order of peers and each once, without those in self. A peer is an IP or a name with
// a port, and a name may stand for many processes, all on that port; or it is the name of a service, whose SRV records name hosts and
// their ports, all of which count, whatever their priority and weight. Names are looked up side by side; a nil resolver is the machine's.
// What fails for one peer (a bad address, a name that doesn't resolve before ctx ends) is in the error, beside the others' addresses.
func Resolve(ctx context.Context, peers []string, resolver Resolver, self ...string) ([]string, error) {
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	var f faults
	if len(peers) > MaxPeers {
		f.add(fmt.Errorf("%d peers, only the first %d are used", len(peers), MaxPeers))
		peers = peers[:MaxPeers]
	}
	s := &search{resolver: resolver, slots: make(chan struct{}, maxLookups)}
	found := make([][]netip.AddrPort, len(peers))
	failed := make([]error, len(peers))
	var wg sync.WaitGroup
	for i, peer := range peers {
		wg.Go(func() { // ends with its lookups
			found[i], failed[i] = s.peer(ctx, peer)
		})
	}
	wg.Wait()

	seen := make(map[string]bool, len(self))
	for _, s := range self {
		seen[canonical(s)] = true
	}
	var addrs []string
	for i := range peers {
		if failed[i] != nil {
			f.add(fmt.Errorf("peer %q: %w", peers[i], failed[i]))
		}
		for _, ap := range found[i] {
			if s := ap.String(); !seen[s] && len(addrs) < MaxAddrs {
				seen[s] = true
				addrs = append(addrs, s)
			}
		}
	}
	return addrs, f.err("peers")
}

// faults is what went wrong, of which the first are named and the others counted.
type faults struct {
	named []error
	more  int
}

func (f *faults) add(err error) {
	switch {
	case err == nil:
	case len(f.named) < maxFaults:
		f.named = append(f.named, err)
	default:
		f.more++
	}
}

// err is all of it; what says of what there were more.
func (f *faults) err(what string) error {
	if f.more == 0 {
		return errors.Join(f.named...)
	}
	return errors.Join(errors.Join(f.named...), fmt.Errorf("and %d more %s", f.more, what))
}

// search is one Resolve.
type search struct {
	resolver Resolver
	slots    chan struct{} // cap maxLookups: held during a lookup
	targets  atomic.Int64  // that were looked up, or refused for being too many
}

func (s *search) peer(ctx context.Context, peer string) ([]netip.AddrPort, error) {
	if err := Check(peer); err != nil {
		return nil, err
	}
	if isService(peer) {
		return s.service(ctx, peer)
	}
	host, port, err := address.Split(peer)
	if err != nil {
		return nil, err
	}
	ips, err := s.addrs(ctx, host, MaxAddrs)
	return join(ips, []uint16{uint16(port)}), err
}

// service is all processes that the SRV records of name tell of. Where some targets don't resolve, as those of processes that have just ended,
// the others are answered beside the error.
func (s *search) service(ctx context.Context, name string) ([]netip.AddrPort, error) {
	records, err := s.records(ctx, name)
	var f faults
	f.add(err)
	ports := map[string][]uint16{} // of each target
	var hosts []string
	for _, r := range records {
		switch known := ports[r.Target]; {
		case r.Target == "." || r.Target == "": // RFC 2782: the service is decidedly not there
		case r.Port == 0:
			f.add(fmt.Errorf("its target %q has port 0", r.Target))
		case len(known) < maxPorts:
			if known == nil {
				hosts = append(hosts, r.Target)
			}
			ports[r.Target] = append(known, r.Port)
		}
	}
	if len(hosts) == 0 && len(f.named) == 0 {
		f.add(errors.New("the service has no processes"))
	}
	before := s.targets.Add(int64(len(hosts))) - int64(len(hosts))
	if room := max(0, maxTargets-before); room < int64(len(hosts)) {
		f.add(fmt.Errorf("the service has %d targets; with those of others, only %d are looked up", len(hosts), maxTargets))
		hosts = hosts[:room]
	}
	found := make([][]netip.AddrPort, len(hosts))
	failed := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, host := range hosts {
		wg.Go(func() { // ends with its lookup
			var ips []netip.Addr
			ips, failed[i] = s.addrs(ctx, host, maxPerHost)
			found[i] = join(ips, ports[host])
		})
	}
	wg.Wait()
	for i, host := range hosts {
		if failed[i] != nil {
			f.add(fmt.Errorf("its target %q: %w", host, failed[i]))
		}
	}
	all := slices.Concat(found...)
	slices.SortFunc(all, netip.AddrPort.Compare) // resolvers shuffle
	return all, f.err("of its targets")
}

// records are the SRV records of name. Some may come beside an error: that others made no sense.
func (s *search) records(ctx context.Context, name string) ([]*net.SRV, error) {
	if err := s.take(ctx); err != nil {
		return nil, err
	}
	defer s.give()
	_, records, err := s.resolver.LookupSRV(ctx, "", "", name)
	return records, err
}

// addrs is a host's addresses, at most limit.
func (s *search) addrs(ctx context.Context, host string, limit int) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	if err := s.take(ctx); err != nil {
		return nil, err
	}
	defer s.give()
	ips, err := s.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(ips) == 0 {
		return nil, errors.New("the name has no addresses")
	}
	slices.SortFunc(ips, netip.Addr.Compare) // resolvers shuffle
	return ips[:min(len(ips), limit)], nil
}

// take waits for a slot until ctx ends: addresses need none, and are answered even when lookups hang in all of them.
func (s *search) take(ctx context.Context) error {
	select {
	case s.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("not looked up: %w", ctx.Err())
	}
}

func (s *search) give() { <-s.slots }

func join(ips []netip.Addr, ports []uint16) []netip.AddrPort {
	var all []netip.AddrPort
	for _, ip := range ips {
		for _, port := range ports {
			all = append(all, netip.AddrPortFrom(ip.Unmap(), port))
		}
	}
	return all
}

// canonical is how Resolve would write s.
func canonical(s string) string {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return s
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
}
