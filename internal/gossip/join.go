package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godistlock/distlock/internal/discover"
)

// How often others are looked for: from firstRetry on, doubling up to hurryRetry, while this process is alone or sees fewer than it
// expects; then every calmRetry, so that two halves of a group that have forgotten each other meet again. Hurry brings the first round of
// a calm time forward to firstHurry, and those that follow from there, doubling, back to calmRetry.
const (
	firstRetry = 50 * time.Millisecond
	hurryRetry = 2 * time.Second
	calmRetry  = 30 * time.Second
	firstHurry = time.Second

	maxSeeds     = 4096 // noted
	maxAttempts  = 32   // at once, while in a hurry
	calmAttempts = 4    // a round, when not; and of the remembered addresses always
)

// seedBook remembers what is known of the addresses that we were given.
type seedBook struct {
	own []netip.AddrPort

	mu        sync.Mutex // guards what follows
	asked     bool
	exchanged bool                    // with anybody, once
	err       error                   // of the last time that Seeds was asked
	known     map[netip.AddrPort]bool // whether an exchange with it has succeeded
	current   []netip.AddrPort        // of the last time
	old       []netip.AddrPort        // remembered from before, as of the last time
	inFlight  map[netip.AddrPort]bool
}

func (b *seedBook) init(advertise netip.AddrPort, bound net.Addr) {
	b.own = []netip.AddrPort{advertise}
	if bound != nil {
		if ap, err := netip.ParseAddrPort(bound.String()); err == nil {
			b.own = append(b.own, unmap(ap))
		}
	}
	b.known = map[netip.AddrPort]bool{}
	b.inFlight = map[netip.AddrPort]bool{}
}

// learn takes what Seeds answered, and Remembered, resolved.
func (b *seedBook) learn(seeds, old []string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked, b.err = true, err
	b.current = b.note(b.current[:0], seeds)
	b.old = b.note(b.old[:0], old)
}

// note appends addrs to list, but for our own; b.mu is held.
func (b *seedBook) note(list []netip.AddrPort, addrs []string) []netip.AddrPort {
	for _, s := range addrs[:min(len(addrs), maxSeeds)] {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			continue // Resolve answers no such thing
		}
		if ap = unmap(ap); slices.Contains(b.own, ap) {
			continue
		}
		list = append(list, ap)
		if _, ok := b.known[ap]; !ok && len(b.known) < maxSeeds {
			b.known[ap] = false
		}
	}
	return list
}

// begin picks up to n current seeds and some remembered addresses that are not in skip and not being tried, at random, and notes that they are
// being tried. However many seeds do not answer, there is room for remembered addresses.
func (b *seedBook) begin(n int, skip map[netip.AddrPort]bool) []netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	room := maxAttempts
	if len(b.old) > 0 {
		room -= calmAttempts
	}
	return append(b.pick(b.current, n, room, skip), b.pick(b.old, calmAttempts, maxAttempts, skip)...)
}

// pick picks up to n while fewer than room are being tried.
func (b *seedBook) pick(from []netip.AddrPort, n, room int, skip map[netip.AddrPort]bool) []netip.AddrPort {
	var picked []netip.AddrPort
	for _, i := range rand.Perm(len(from)) {
		ap := from[i]
		if len(b.inFlight) >= room || len(picked) >= n {
			break
		}
		if !skip[ap] && !b.inFlight[ap] {
			b.inFlight[ap] = true
			picked = append(picked, ap)
		}
	}
	return picked
}

func (b *seedBook) end(ap netip.AddrPort, answered bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.inFlight, ap)
	b.exchanged = b.exchanged || answered
	if _, ok := b.known[ap]; ok && answered {
		b.known[ap] = true
	}
}

// Exchanged says that this process has once taken in all that another one knows.
func (g *Gossip) Exchanged() bool {
	b := &g.seeds
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.exchanged
}

// Survey is Members and KnownUnanswered as one finding: whoever is reached while it looks is among the members, or its address still counts
// as unanswered. Asked in another order, a process that answers in between would be in neither, and its cluster would be taken for none.
func (g *Gossip) Survey() (members []Member, unanswered []string) {
	unanswered = g.KnownUnanswered() // first: who answers from here on is a member by the time that we look
	return g.Members(), unanswered
}

// KnownUnanswered lists what may hide processes that we know nothing of: the addresses that Seeds ever answered at which nobody has
// answered since Start, and in words what Seeds could not find out. Empty means that all who are known of have been heard.
func (g *Gossip) KnownUnanswered() []string {
	silent, all := g.seeds.unanswered()
	if g.cfg.Seeds == nil {
		all = nil
	}
	g.members.strikeEverAlive(silent)
	for ap := range silent {
		all = append(all, ap.String())
	}
	slices.Sort(all)
	return all
}

// unanswered is at which addresses no exchange has succeeded, and in words why there may be more: both as of one moment.
func (b *seedBook) unanswered() (silent map[netip.AddrPort]bool, unknown []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	silent = map[netip.AddrPort]bool{}
	for ap, answered := range b.known {
		if !answered {
			silent[ap] = true
		}
	}
	if b.err != nil {
		unknown = append(unknown, b.err.Error())
	}
	if !b.asked {
		unknown = append(unknown, "peers not looked up yet")
	}
	return silent, unknown
}

// joiner looks for others until Close. An attempt at one address never holds up another's.
func (g *Gossip) joiner() {
	if g.cfg.Seeds == nil {
		return
	}
	wait, soon := firstRetry, firstHurry
	for {
		g.ask()
		enough := g.members.enough()
		n := maxAttempts
		if enough {
			n = calmAttempts
		}
		living := g.members.livingAt()
		for _, ap := range g.seeds.begin(n, living) {
			g.wg.Go(func() { g.attempt(ap) }) // ends with memberlist's stream time-out, or Shutdown
		}
		if !enough {
			if g.pause(jitter(wait), 0) == closed {
				return
			}
			wait, soon = min(2*wait, hurryRetry), firstHurry
			continue
		}
		wait = firstRetry
		switch g.pause(jitter(calmRetry), jitter(soon)) {
		case closed:
			return
		case hurried:
			soon = min(2*soon, calmRetry)
		default:
			soon = firstHurry
		}
	}
}

func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

func (g *Gossip) ask() {
	ctx, cancel := context.WithTimeout(g.ctx, lookupTimeout)
	defer cancel()
	seeds, err := g.cfg.Seeds(ctx)
	seeds, unresolved := discover.Resolve(ctx, seeds, g.cfg.Resolver) // mostly they are resolved already
	if err = errors.Join(err, unresolved); err != nil && g.ctx.Err() == nil && g.members.lines.due("seeds") {
		g.log.Warn("gossip: not all peers could be looked up", "error", err)
	}
	var old []string
	if g.cfg.Remembered != nil {
		var gone error // of a process that is no more, as like as not: no news to people
		old, gone = discover.Resolve(ctx, g.cfg.Remembered(), g.cfg.Resolver)
		err = errors.Join(err, gone)
	}
	g.seeds.learn(seeds, old, err)
}

// attempt exchanges all that both sides know.
func (g *Gossip) attempt(ap netip.AddrPort) {
	_, err := g.ml.Join([]string{ap.String()})
	g.seeds.end(ap, err == nil)
	if err == nil {
		hint(g.changed)
	}
}

// ending is why a pause is over.
type ending int

const (
	passed  ending = iota
	hurried        // Hurry was called, which may have cut it short
	closed
)

// pause waits for d. A calm one, which has a soon, is over when others are missing, and soon after it began when Hurry is called.
func (g *Gossip) pause(d, soon time.Duration) ending {
	began, end := time.Now(), passed
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return end
		case <-g.wake:
			if soon > 0 && !g.members.enough() {
				return passed
			}
		case <-g.hurry:
			if soon > 0 && end != hurried {
				end = hurried
				timer.Reset(min(soon, d) - time.Since(began))
			}
		case <-g.ctx.Done():
			return closed
		}
	}
}

// advertised is the address for packets.
func advertised(cfg Config) (netip.AddrPort, error) {
	addr := cfg.Advertise
	if addr == "" {
		addr = cfg.Self.Addr
	}
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		if ap.Port() == 0 || ap.Addr().IsUnspecified() {
			return netip.AddrPort{}, fmt.Errorf("gossip: nobody can reach %s: advertise an address with a host and a port", addr)
		}
		return unmap(ap), nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("gossip: address %q: %w", addr, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil || n == 0 {
		return netip.AddrPort{}, fmt.Errorf("gossip: address %q has no usable port", addr)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(ips) == 0 {
		return netip.AddrPort{}, fmt.Errorf("gossip: looking up the advertised %q: %w", strings.TrimSpace(host), err)
	}
	// A machine's own name often stands for a loopback address in its hosts file, where no other machine can send to.
	slices.SortStableFunc(ips, func(a, b netip.Addr) int { return rank(a) - rank(b) })
	return unmap(netip.AddrPortFrom(ips[0], uint16(n))), nil
}

func rank(a netip.Addr) int {
	switch a = a.Unmap(); {
	case a.IsLoopback():
		return 2
	case a.Is6():
		return 1
	}
	return 0
}

func unmap(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
