package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// pair starts two processes that have found each other.
func pair(t *testing.T) (a, b *Gossip, ha, hb *host) {
	t.Helper()
	ha, hb = newHost(t), newHost(t)
	t.Cleanup(ha.close)
	a = start(t, config(ha, "a", hb.addr))
	b = start(t, config(hb, "b", ha.addr))
	untilSees(t, a, "a alive, b alive")
	untilSees(t, b, "a alive, b alive")
	return a, b, ha, hb
}

func TestOneThatStopsFailsAndItsSuccessorHidesIt(t *testing.T) {
	t.Parallel()
	a, b, ha, hb := pair(t)
	_ = b.Close()
	suspected := false
	until(t, a, "b has failed", func() bool {
		suspected = suspected || strings.Contains(see(a), "b suspect")
		return see(a) == "a alive, b failed"
	})
	if !suspected {
		t.Error("it was never suspect")
	}
	hb.close()
	hb = newHost(t)
	t.Cleanup(hb.close)
	start(t, config(hb, "b", ha.addr))
	untilSees(t, a, "a alive, b alive")
}

// A process that restarts at once on its old port is another one: found at once, and its predecessor fails.
func TestOneThatRestartsOnItsPortIsANewProcess(t *testing.T) {
	t.Parallel()
	a, b, ha, hb := pair(t)
	_ = b.Close()
	cfg := config(hb, "b", ha.addr)
	t.Cleanup(hb.close)
	start(t, cfg)
	finds := func() (alive, other int) {
		for _, m := range a.Members() {
			if m.Name == "b" && m.Instance == cfg.Self.Instance && m.State == Alive {
				alive++
			} else if m.Name == "b" {
				other++
			}
		}
		return alive, other
	}
	began := time.Now()
	until(t, a, "the new b", func() bool { alive, _ := finds(); return alive == 1 })
	t.Logf("the new b was found after %s", time.Since(began))
	until(t, a, "the old b is gone", func() bool { _, other := finds(); return other == 0 })
}

func TestOneThatLeavesHasLeft(t *testing.T) {
	t.Parallel()
	a, b, _, hb := pair(t)
	t.Cleanup(hb.close)
	if err := b.Leave(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	untilSees(t, a, "a alive, b left")
	b.Update(Meta{Term: 1}) // too late, and no harm
	if err := b.Leave(time.Second); err != nil {
		t.Errorf("leaving twice: %v", err)
	}
	_ = b.Close()
	if err := b.Leave(time.Second); err != nil {
		t.Errorf("leaving after Close: %v", err)
	}
}

func TestUpdatesSpread(t *testing.T) {
	a, b, _, hb := pair(t)
	t.Cleanup(hb.close)
	m := a.Members()[0].Meta
	for i := range 1000 {
		m.Term = uint64(i + 1)
		m.Leader = true
		a.Update(m)
	}
	m.Name, m.Instance = "another", wire.NewUUID() // which nobody can become
	a.Update(m)
	until(t, b, "the last update", func() bool {
		got := b.Members()[0]
		return got.Name == "a" && got.Term == 1000 && got.Leader
	})
	if a.Members()[0].Term != 1000 {
		t.Error("a doesn't show what it says of itself")
	}
}

// A change of which every packet is lost, as often as memberlist sends it, is heard all the same, and long before the next exchange of everything.
func TestChangesAreSaidAgain(t *testing.T) {
	t.Parallel()
	ha, hb := newHost(t), newHost(t)
	t.Cleanup(ha.close)
	t.Cleanup(hb.close)
	ca := config(ha, "a", hb.addr)
	mute := &mutedPackets{PacketConn: ca.Packets}
	ca.Packets = mute
	a, b := start(t, ca), start(t, config(hb, "b", ha.addr))
	untilSees(t, a, "a alive, b alive")
	untilSees(t, b, "a alive, b alive")
	m := a.Members()[0].Meta
	m.Term = 7
	mute.left.Store(1000)
	a.Update(m)
	until(t, a, "it has been sent as often as it is sent", func() bool { return mute.left.Load() <= 1000-8 })
	mute.left.Store(0)
	began := time.Now()
	until(t, b, "the change", func() bool { return b.Members()[0].Term == 7 })
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("heard after %v", took)
	}
}

// mutedPackets loses so many packets that are sent.
type mutedPackets struct {
	net.PacketConn
	left atomic.Int64
}

func (p *mutedPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	if p.left.Load() > 0 && p.left.Add(-1) >= 0 {
		return len(b), nil
	}
	return p.PacketConn.WriteTo(b, to)
}

func TestGroupsDoNotMix(t *testing.T) {
	ha, hb := newHost(t), newHost(t)
	t.Cleanup(ha.close)
	t.Cleanup(hb.close)
	tried := make(chan struct{}, 1)
	ca, cb := config(ha, "a"), config(hb, "b", ha.addr)
	cb.Group = "other"
	cb.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
		hint(tried)
		return dialTCP(ctx, addr)
	}
	a, b := start(t, ca), start(t, cb)
	for range 3 { // the third attempt comes after the first has ended
		<-tried
	}
	if see(a) != "a alive" || see(b) != "b alive" {
		t.Errorf("a sees %s, b sees %s", see(a), see(b))
	}
	if got := b.KnownUnanswered(); len(got) != 1 || got[0] != ha.addr {
		t.Errorf("another group's process counts as an answer: unanswered are %q", got)
	}
}

// Hazard 24, between processes.
func TestTwoOpenClustersNeverMerge(t *testing.T) {
	ha, hb, hc := newHost(t), newHost(t), newHost(t)
	for _, h := range []*host{ha, hb, hc} {
		t.Cleanup(h.close)
	}
	ca, cb, cc := config(ha, "a"), config(hb, "b", ha.addr), config(hc, "c", ha.addr, hb.addr)
	ca.Self.Cluster, ca.Self.Open = wire.NewUUID(), true
	cb.Self.Cluster, cb.Self.Open = wire.NewUUID(), true
	cc.Self.Cluster = wire.NewUUID() // not open: it must hear of both
	a, b, c := start(t, ca), start(t, cb), start(t, cc)
	untilSees(t, c, "a alive, b alive, c alive")
	untilSees(t, a, "a alive, c alive")
	untilSees(t, b, "b alive, c alive")
	until(t, a, "a's conflict", func() bool { return names(a.Conflicts()) == "b alive" })
	until(t, b, "b's conflict", func() bool { return names(b.Conflicts()) == "a alive" })
	if len(c.Conflicts()) != 0 {
		t.Errorf("c is at odds with %s", names(c.Conflicts()))
	}
}

// A seed that takes connections and never answers must hold up nobody, and is reported.
func TestASilentSeedDelaysNobody(t *testing.T) {
	silent := newHost(t) // its listener accepts; nobody serves the streams
	t.Cleanup(silent.close)
	ha, hb := newHost(t), newHost(t)
	t.Cleanup(ha.close)
	t.Cleanup(hb.close)
	gone := newHost(t)
	gone.close()
	a := start(t, config(ha, "a"))
	cb := config(hb, "b", silent.addr, gone.addr, hb.addr, ha.addr)
	cb.Seeds = func(context.Context) ([]string, error) {
		return []string{silent.addr, gone.addr, hb.addr, ha.addr}, errors.New("shop.internal doesn't resolve")
	}
	began := time.Now()
	b := start(t, cb)
	untilSees(t, b, "a alive, b alive")
	if took := time.Since(began); took >= streamTimeout {
		t.Errorf("it took %s, as long as the silent one's time-out", took)
	}
	untilSees(t, a, "a alive, b alive")
	got := strings.Join(b.KnownUnanswered(), ", ")
	for _, want := range []string{silent.addr, gone.addr, "shop.internal"} {
		if !strings.Contains(got, want) {
			t.Errorf("unanswered: %s, without %s", got, want)
		}
	}
	for _, other := range []string{ha.addr, hb.addr} {
		if strings.Contains(got, other) {
			t.Errorf("unanswered: %s, which names %s", got, other)
		}
	}
}

// Hazard 23: dead nodes are forgotten, so the seeds are joined again from time to time.
func TestSeedsAreAskedAgain(t *testing.T) {
	t.Parallel()
	ha := newHost(t)
	t.Cleanup(ha.close)
	late := newHost(t)
	addr := late.addr
	late.close()
	var asked atomic.Int32
	ca := config(ha, "a")
	ca.Seeds = func(context.Context) ([]string, error) {
		asked.Add(1)
		return []string{addr}, nil
	}
	a := start(t, ca)
	until(t, a, "several rounds", func() bool { return asked.Load() > 3 })
	if got := a.KnownUnanswered(); len(got) != 1 || got[0] != addr {
		t.Errorf("unanswered: %q", got)
	}
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	hb := serveHost(tcp, udp)
	t.Cleanup(hb.close)
	start(t, config(hb, "b")) // knows nobody: only a can find it
	untilSees(t, a, "a alive, b alive")
	if got := a.KnownUnanswered(); len(got) != 0 {
		t.Errorf("unanswered: %q", got)
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	h := newHost(t)
	t.Cleanup(h.close)
	for want, spoil := range map[string]func(*Config){
		"nobody can reach": func(c *Config) { c.Advertise = "0.0.0.0:80" },
		"127.0.0.1:0":      func(c *Config) { c.Advertise = "127.0.0.1:0" },
		"missing port":     func(c *Config) { c.Self.Addr = "shop" },
		"no usable port":   func(c *Config) { c.Self.Addr = "shop:nonsense" },
		"group":            func(c *Config) { c.Group = strings.Repeat("g", wire.MaxGroup+1) },
		"must be set":      func(c *Config) { c.Dial = nil },
	} {
		c := config(h, "a")
		spoil(&c)
		g, err := Start(c)
		if err == nil {
			_ = g.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v doesn't say %q", err, want)
		}
	}
}

// Nothing is left behind, also when a probe of somebody who is gone is under way. That it ends at once is shown by the tests in virtual
// time, whose bubbles don't end with a goroutine in them.
func TestCloseLeavesNoGoroutine(t *testing.T) {
	mine := func() string {
		buf := make([]byte, 1<<20)
		var all []string
		for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, "memberlist") && !strings.Contains(stack, "testing.tRunner") {
				all = append(all, stack)
			}
		}
		return strings.Join(all, "\n\n")
	}
	ha, hb := newHost(t), newHost(t)
	t.Cleanup(ha.close)
	a := start(t, config(ha, "a", hb.addr))
	b := start(t, config(hb, "b", ha.addr))
	untilSees(t, a, "a alive, b alive")
	_ = b.Close()
	until(t, a, "a probe that nobody answers", func() bool { return strings.Contains(mine(), "probeNode") })
	_ = a.Close()
	_ = a.Close()
	began := time.Now()
	for mine() != "" { // they are ending, which takes them no time but the scheduler's
		if time.Since(began) > 10*time.Second {
			t.Fatalf("still running after %s:\n%s", time.Since(began), mine())
		}
		time.Sleep(time.Millisecond)
	}
	hb.close()
}

func TestManyProcessesConverge(t *testing.T) {
	const n = 12
	hosts := make([]*host, n)
	for i := range hosts {
		hosts[i] = newHost(t)
		t.Cleanup(hosts[i].close)
	}
	began := time.Now()
	all := make([]*Gossip, n)
	for i, h := range hosts {
		cfg := config(h, fmt.Sprintf("p%02d", i), hosts[0].addr)
		cfg.Self.Expect = n
		all[i] = start(t, cfg)
	}
	for _, g := range all {
		until(t, g, "everybody", func() bool { return strings.Count(see(g), "alive") == n })
	}
	t.Logf("%d processes with one seed saw each other after %s", n, time.Since(began))
}
