package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/simnet"
)

// world is a network in virtual time with processes on it; process i has the host 10.0.0.i+1 and the name pi.
type world struct {
	t     *testing.T
	net   *simnet.Net
	seeds []string
	procs map[int]*proc

	strangers bool // there are to be some

	change func(*Config) // of the next start; nil: as it is

	packets, bytes atomic.Int64 // that were sent
}

// countedPackets counts what is sent.
type countedPackets struct {
	net.PacketConn
	w *world
}

func (p countedPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	p.w.packets.Add(1)
	p.w.bytes.Add(int64(len(b)))
	return p.PacketConn.WriteTo(b, to)
}

type proc struct {
	*Gossip
	tcp net.Listener
	udp net.PacketConn
}

func (w *world) ip(i int) string { return fmt.Sprintf("10.0.%d.%d", (i+1)/256, (i+1)%256) }

func newWorld(t *testing.T, n int) *world {
	const seed = 1
	t.Logf("seed %d", seed)
	w := &world{t: t, net: simnet.New(seed), procs: map[int]*proc{}}
	for i := range n {
		w.seeds = append(w.seeds, w.ip(i)+":7950")
	}
	return w
}

func (w *world) start(i, expect int) *proc {
	w.t.Helper()
	return w.startWith(i, expect, w.seeds)
}

func (w *world) startWith(i, expect int, seeds []string) *proc {
	w.t.Helper()
	h := w.net.Host(w.ip(i))
	tcp, udp, err := h.Listen(":7950")
	if err != nil {
		w.t.Fatal(err)
	}
	self := meta(fmt.Sprint("p", i))
	self.Addr, self.Expect = w.ip(i)+":7950", uint8(expect)
	cfg := Config{
		Self: self, Group: "test", Packets: countedPackets{udp, w}, Dial: h.Dial, Logger: testLogger(),
		Accept: func(ctx context.Context) (net.Conn, error) {
			stop := context.AfterFunc(ctx, func() { _ = tcp.Close() })
			defer stop()
			return tcp.Accept()
		},
		Seeds: func(context.Context) ([]string, error) { return seeds, nil },
	}
	if w.change != nil {
		w.change(&cfg)
	}
	g, err := Start(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.procs[i] = &proc{g, tcp, udp}
	return w.procs[i]
}

// crash ends a process with no word to anybody.
func (w *world) crash(i int) {
	w.net.CloseHost(w.ip(i))
	w.close(i)
}

func (w *world) close(i int) {
	p := w.procs[i]
	if s := p.Strangers(); len(s) > 0 && !w.strangers {
		w.t.Errorf("p%d takes others for strangers: %v", i, s)
	}
	_ = p.Close()
	_, _ = p.tcp.Close(), p.udp.Close()
	delete(w.procs, i)
}

func (w *world) end() {
	for i := range w.procs {
		w.close(i)
	}
}

// after runs until every process of who sees want, and says how long that took.
func (w *world) after(limit time.Duration, want string, who ...int) time.Duration {
	w.t.Helper()
	began := time.Now()
	for {
		late := slices.IndexFunc(who, func(i int) bool { return see(w.procs[i].Gossip) != want })
		if late < 0 {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			w.t.Fatalf("after %s p%d sees %s, want %s", limit, who[late], see(w.procs[who[late]].Gossip), want)
		}
		time.Sleep(5 * time.Millisecond) // virtual: the step of what is measured
	}
}

// states is "p0 alive, ..." for n processes, with other states for some.
func states(n int, others map[int]State) string {
	var all []string
	for i := range n {
		s := Alive
		if o, ok := others[i]; ok {
			s = o
		}
		all = append(all, fmt.Sprintf("p%d %s", i, s))
	}
	return strings.Join(all, ", ")
}

func count(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

func TestVirtualConvergence(t *testing.T) {
	for _, n := range []int{3, 7} {
		for _, apart := range []time.Duration{0, 100 * time.Millisecond, 3 * time.Second} {
			t.Run(fmt.Sprintf("%d processes started %s apart", n, apart), func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					w := newWorld(t, n)
					defer w.end()
					for i := range n {
						if i > 0 {
							time.Sleep(apart)
						}
						w.start(i, n)
					}
					took := w.after(time.Second, states(n, nil), count(n)...)
					t.Logf("everybody saw everybody %s after the last start", took)
					time.Sleep(hurryRetry + streamTimeout)
					for i, p := range w.procs {
						if got := p.KnownUnanswered(); len(got) != 0 {
							t.Errorf("p%d has no answer from %q", i, got)
						}
					}
				})
			})
		}
	}
}

// Hazard 23: memberlist forgets the dead. Two halves that have forgotten each other must meet again.
func TestVirtualHalvesMeetAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, 4)
		defer w.end()
		for i := range 4 {
			w.start(i, 1) // nobody is missed, so nobody hurries
		}
		w.after(time.Second, states(4, nil), count(4)...)
		w.net.Partition([]string{w.ip(0), w.ip(1)})
		w.after(20*time.Second, states(4, map[int]State{2: Failed, 3: Failed}), 0, 1)
		w.after(20*time.Second, states(4, map[int]State{0: Failed, 1: Failed}), 2, 3)
		time.Sleep(2 * deadFor)
		w.after(0, "p0 alive, p1 alive", 0, 1)
		w.net.HealAll()
		t.Logf("they met %s after the heal", w.after(2*calmRetry, states(4, nil), count(4)...))
	})
}

// A process that is alone again looks for others at once, not when its calm pause is over.
func TestVirtualTheLastOneHurries(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.end()
		w.start(0, 1)
		w.start(1, 1)
		w.after(time.Second, states(2, nil), 0, 1)
		time.Sleep(100 * time.Millisecond) // into the calm pause
		w.crash(1)
		w.after(10*time.Second, states(2, map[int]State{1: Failed}), 0)
		w.startWith(2, 1, nil) // knows nobody
		took := w.after(2*hurryRetry, "p0 alive, p1 failed, p2 alive", 0)
		t.Logf("found after %s", took)
	})
}

func TestVirtualAPausedProcessComesBack(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.end()
		for i := range 3 {
			w.start(i, 3)
		}
		w.after(time.Second, states(3, nil), count(3)...)
		w.net.Freeze(w.ip(2))
		t.Logf("failed after %s", w.after(10*time.Second, states(3, map[int]State{2: Failed}), 0, 1))
		w.net.Thaw(w.ip(2))
		t.Logf("alive again after %s", w.after(10*time.Second, states(3, nil), 0, 1, 2))
	})
}

// A network that loses a third of all packets, or delays them by more than a probe's time, makes nobody fail: probes go by streams too.
func TestVirtualNobodyFailsOnABadNetwork(t *testing.T) {
	for name, spoil := range map[string]func(*simnet.Net){
		"losses":     func(n *simnet.Net) { n.SetLosses(0.3) },
		"no packets": func(n *simnet.Net) { n.SetLosses(1) },
		"delays":     func(n *simnet.Net) { n.SetDelays(20*time.Millisecond, 60*time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t, 5)
				defer w.end()
				spoil(w.net)
				for i := range 5 {
					w.start(i, 5)
				}
				t.Logf("everybody saw everybody after %s", w.after(time.Minute, states(5, nil), count(5)...))
				began := time.Now()
				for time.Since(began) < time.Minute {
					time.Sleep(100 * time.Millisecond)
					for i, p := range w.procs {
						if strings.Contains(see(p.Gossip), "failed") {
							t.Fatalf("after %s p%d sees %s", time.Since(began), i, see(p.Gossip))
						}
					}
				}
			})
		})
	}
}

func TestVirtualLeave(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.end()
		for i := range 3 {
			w.start(i, 3)
		}
		w.after(time.Second, states(3, nil), count(3)...)
		began := time.Now()
		if err := w.procs[2].Leave(time.Second); err != nil {
			t.Error(err)
		}
		t.Logf("leaving took %s", time.Since(began))
		w.close(2)
		w.after(time.Second, states(3, map[int]State{2: Left}), 0, 1)
	})
}

// startAt is start with more of the Config's own.
func (w *world) startAt(i, expect int, change func(*Config)) *proc {
	w.t.Helper()
	w.change = change
	defer func() { w.change = nil }()
	return w.startWith(i, expect, nil)
}

// Seeds are asked, and names looked up, anew in every round: what a name stands for may move while others are looked for.
func TestVirtualNamesAreLookedUpAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.end()
		names := &oneName{ip: w.ip(2)} // where nobody is
		p := w.startAt(0, 2, func(c *Config) {
			c.Seeds = func(context.Context) ([]string, error) { return []string{"shop:7950"}, nil }
			c.Resolver = names
		})
		w.startWith(1, 1, nil) // looks for nobody
		time.Sleep(10 * time.Second)
		w.after(0, "p0 alive", 0)
		if got := p.KnownUnanswered(); len(got) != 1 || got[0] != w.ip(2)+":7950" {
			t.Errorf("unanswered: %q", got)
		}
		names.move(w.ip(1))
		t.Logf("found after %s", w.after(2*hurryRetry+streamTimeout, states(2, nil), 0, 1))
	})
}

// oneName is a resolver to which every name stands for one address.
type oneName struct {
	mu sync.Mutex // guards ip
	ip string
}

func (o *oneName) move(ip string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ip = ip
}

func (o *oneName) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return []netip.Addr{netip.MustParseAddr(o.ip)}, nil
}

func (o *oneName) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	return "", nil, errors.New("no services")
}

// A process that sees enough others and still not whom it needs has others looked for soon, and, if that goes on, ever less soon.
func TestVirtualHurry(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.end()
		var asked atomic.Int64
		p := w.startAt(0, 2, func(c *Config) {
			c.Seeds = func(context.Context) ([]string, error) {
				asked.Add(1)
				return w.seeds, nil
			}
		})
		w.startWith(1, 1, nil)
		w.after(time.Second, states(2, nil), 0, 1)
		time.Sleep(2 * calmRetry) // into a calm pause
		w.startWith(2, 1, nil)
		p.Hurry()
		took := w.after(2*firstHurry, states(3, nil), 0)
		t.Logf("found after %s", took)

		before, began := asked.Load(), time.Now()
		for time.Since(began) < 5*time.Minute {
			p.Hurry()
			time.Sleep(100 * time.Millisecond)
		}
		if rounds := asked.Load() - before; rounds < 8 || rounds > 30 {
			t.Errorf("%d rounds in five minutes of hurry", rounds)
		}
		time.Sleep(3 * calmRetry)
		before = asked.Load()
		p.Hurry()
		time.Sleep(2 * firstHurry)
		if asked.Load() == before {
			t.Errorf("after a calm time, no round within %s", 2*firstHurry)
		}
	})
}

// However many remembered addresses lead nowhere, a seed is tried in every round; and where no seed is right, a remembered one finds the others.
func TestVirtualRemembered(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.end()
		old := []string{"no.longer.there:7950"}
		old = append(old, w.dead(200)...)
		w.startWith(1, 1, nil)
		first := w.startAt(0, 1, func(c *Config) {
			c.Seeds = func(context.Context) ([]string, error) { return w.seeds, nil }
			c.Remembered = func() []string { return old }
			c.Resolver = nowhere{}
		})
		t.Logf("a seed found after %s", w.after(2*time.Second, states(2, nil), 0, 1))
		time.Sleep(2 * calmRetry) // into a calm pause
		w.startWith(2, 1, nil)
		t.Logf("another in the next calm round, after %s", w.after(2*calmRetry, states(3, nil), 0))
		if got := first.KnownUnanswered(); !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "no.longer.there") }) {
			t.Errorf("a remembered name that doesn't resolve may hide somebody, and is not in %q", got)
		}
		w.crash(0)
		w.after(20*time.Second, states(3, map[int]State{0: Failed}), 1, 2)
		w.startAt(0, 3, func(c *Config) {
			c.Seeds = func(context.Context) ([]string, error) { return nil, nil }
			c.Remembered = func() []string { return []string{w.seeds[1]} }
		})
		t.Logf("without seeds after %s", w.after(2*time.Second, states(3, nil), 0))
	})
}

// dead are addresses at which nobody is; whoever of the first process dials them waits.
func (w *world) dead(n int) (addrs []string) {
	for i := range n {
		ip := fmt.Sprintf("10.0.1.%d", i)
		w.net.Host(ip)
		w.net.Cut(w.ip(0), ip)
		addrs = append(addrs, ip+":7950")
	}
	return addrs
}

// A process that restarts alone tries seeds and remembered addresses, however many of the others lead nowhere: more than it tries at once.
func TestVirtualSeedsAndRememberedLeaveEachOtherRoom(t *testing.T) {
	for name, lists := range map[string]func(dead, right []string) (seeds, remembered []string){
		"dead seeds":                func(dead, right []string) ([]string, []string) { return dead, right },
		"dead remembered addresses": func(dead, right []string) ([]string, []string) { return right, dead },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t, 2)
				defer w.end()
				seeds, remembered := lists(w.dead(maxAttempts+8), w.seeds[1:])
				w.startAt(0, 3, func(c *Config) {
					c.Seeds = func(context.Context) ([]string, error) { return seeds, nil }
					c.Remembered = func() []string { return remembered }
				})
				time.Sleep(20 * time.Second) // virtual: there are as many under way as may be
				w.startWith(1, 1, nil)
				t.Logf("found after %s", w.after(2*hurryRetry, states(2, nil), 0, 1))
			})
		})
	}
}

// nowhere is a resolver that knows no name.
type nowhere struct{ *oneName }

func (nowhere) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return nil, &net.DNSError{Err: "no such host", Name: "no.longer.there", IsNotFound: true}
}
