package discover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// names is a resolver of a test: what it doesn't have fails; "hangs" answers only when ctx ends. What begins with _ is a service, whose targets
// are host:port.
type names map[string][]string

func (n names) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if network != "ip" {
		return nil, fmt.Errorf("network %q", network)
	}
	found, err := n.lookup(ctx, host)
	var all []netip.Addr
	for _, ip := range found {
		all = append(all, netip.MustParseAddr(ip))
	}
	return all, err
}

func (n names) LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error) {
	if service != "" || proto != "" {
		return "", nil, fmt.Errorf("service %q, proto %q: the name has both", service, proto)
	}
	found, err := n.lookup(ctx, name)
	var all []*net.SRV
	for i, target := range found {
		if target == "malformed" {
			err = errMalformed // as *net.Resolver does, beside the others
			continue
		}
		host, port, _ := strings.Cut(target, ":")
		number, perr := strconv.ParseUint(port, 10, 16)
		if perr != nil {
			panic(perr)
		}
		all = append(all, &net.SRV{Target: host, Port: uint16(number), Priority: uint16(i), Weight: uint16(i)})
	}
	return name, all, err
}

func (n names) lookup(ctx context.Context, name string) ([]string, error) {
	if strings.Contains(name, "hangs") {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	found, ok := n[name]
	if !ok {
		return nil, fmt.Errorf("lookup %s: %w", name, errNoHost)
	}
	return found, nil
}

var (
	errNoHost    = errors.New("no such host")
	errMalformed = errors.New("a record makes no sense")
)

func TestResolve(t *testing.T) {
	lookup := names{
		"shop":  {"10.0.0.3", "10.0.0.1", "10.0.0.2"},
		"six":   {"2001:db8::2", "::ffff:10.0.0.9"},
		"empty": {},

		"_lock._tcp.shop":  {"c.shop.:83", "a.shop.:81", "b.shop.:82"},
		"a.shop.":          {"10.0.0.1"},
		"b.shop.":          {"10.0.0.2", "2001:db8::2"},
		"c.shop.":          {"10.0.0.3"},
		"_one._tcp.host":   {"a.shop.:82", "a.shop.:81", "b.shop.:80", "a.shop.:81"},
		"_gone._tcp.shop":  {"gone.shop.:81", "a.shop.:81"},
		"_no._tcp.shop":    {".:0"},
		"_none._tcp.shop":  {},
		"_zero._tcp.shop.": {"a.shop.:0", "b.shop.:9"},
		"_half._tcp.shop":  {"malformed", "a.shop.:81"},
		"_odd-host":        {"10.0.0.8"},
	}
	for _, c := range []struct {
		name  string
		peers []string
		self  []string
		want  []string
		errs  []string // parts of the error
	}{
		{name: "none"},
		{name: "static", peers: []string{"10.0.0.7:7950", "127.0.0.1:1"}, want: []string{"10.0.0.7:7950", "127.0.0.1:1"}},
		{name: "IPv6 in brackets", peers: []string{"[::1]:7950"}, want: []string{"[::1]:7950"}},
		{name: "a name of many, port kept, sorted", peers: []string{"shop:81"}, want: []string{"10.0.0.1:81", "10.0.0.2:81", "10.0.0.3:81"}},
		{name: "a name of both families", peers: []string{"six:81"}, want: []string{"10.0.0.9:81", "[2001:db8::2]:81"}},
		{name: "each once", peers: []string{"10.0.0.2:81", "shop:81", "10.0.0.2:81"}, want: []string{"10.0.0.2:81", "10.0.0.1:81", "10.0.0.3:81"}},
		{name: "same host, other port", peers: []string{"10.0.0.2:81", "10.0.0.2:82"}, want: []string{"10.0.0.2:81", "10.0.0.2:82"}},
		{name: "not self", peers: []string{"shop:81", "[::1]:81"}, self: []string{"10.0.0.2:81", "[0:0::1]:81"}, want: []string{"10.0.0.1:81", "10.0.0.3:81"}},
		{name: "self mapped into IPv6", peers: []string{"10.0.0.2:81"}, self: []string{"[::ffff:10.0.0.2]:81"}},
		{name: "one name fails beside the others", peers: []string{"nowhere:81", "shop:81"}, want: []string{"10.0.0.1:81", "10.0.0.2:81", "10.0.0.3:81"}, errs: []string{`"nowhere:81"`, "no such host"}},
		{name: "a service: each process with its port, sorted", peers: []string{"_lock._tcp.shop"}, want: []string{"10.0.0.1:81", "10.0.0.2:82", "10.0.0.3:83", "[2001:db8::2]:82"}},
		{name: "a service of several processes on a host", peers: []string{"_one._tcp.host"}, want: []string{"10.0.0.1:81", "10.0.0.1:82", "10.0.0.2:80", "[2001:db8::2]:80"}},
		{name: "a service without self", peers: []string{"_lock._tcp.shop", "10.0.0.9:1"}, self: []string{"10.0.0.2:82"}, want: []string{"10.0.0.1:81", "10.0.0.3:83", "[2001:db8::2]:82", "10.0.0.9:1"}},
		{name: "a target that has gone, beside the others", peers: []string{"_gone._tcp.shop"}, want: []string{"10.0.0.1:81"}, errs: []string{`"_gone._tcp.shop"`, `"gone.shop."`, "no such host"}},
		{name: "a record that makes no sense, beside the others", peers: []string{"_half._tcp.shop"}, want: []string{"10.0.0.1:81"}, errs: []string{`"_half._tcp.shop"`, "makes no sense"}},
		{name: "a service with a dot at the end, and a target without a port", peers: []string{"_zero._tcp.shop."}, want: []string{"10.0.0.2:9", "[2001:db8::2]:9"}, errs: []string{`"a.shop."`, "port 0"}},
		{name: "services that are not there", peers: []string{"_no._tcp.shop", "_none._tcp.shop", "_never._tcp.shop"},
			errs: []string{`"_no._tcp.shop": the service has no`, `"_none._tcp.shop": the service has no`, `"_never._tcp.shop": lookup`}},
		{name: "a host that begins with _", peers: []string{"_odd-host:81"}, want: []string{"10.0.0.8:81"}},
		{name: "all that is wrong is said", peers: []string{"10.0.0.1", "10.0.0.1:0", ":81", "0.0.0.0:81", "empty:81", "10.0.0.1:http", "a b:1", "_x._tcp.y:1"},
			errs: []string{"neither host:port", "has no port: ", "port 0", "every address", "no addresses", `"http"`, "' ' cannot"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Resolve(t.Context(), c.peers, lookup, c.self...)
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if (err != nil) != (len(c.errs) > 0) {
				t.Fatalf("error: %v", err)
			}
			for _, part := range c.errs {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error doesn't say %q: %v", part, err)
				}
			}
		})
	}
}

func TestResolveKeepsTheCause(t *testing.T) {
	if _, err := Resolve(t.Context(), []string{"nowhere:1"}, names{}); !errors.Is(err, errNoHost) {
		t.Errorf("got %v, want one that matches the resolver's", err)
	}
}

// Lookups that hang, more of them than there may be at once, keep none of the addresses back.
func TestResolveEndsWithItsContext(t *testing.T) {
	peers := []string{"10.0.0.1:2", "_hangs._tcp.shop", "_some._tcp.shop"}
	for i := range 2 * maxLookups {
		peers = append(peers, fmt.Sprintf("hangs-%d:1", i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	lookup := names{"_some._tcp.shop": {"hangs:1"}}
	got, err := Resolve(ctx, peers, lookup)
	if !slices.Equal(got, []string{"10.0.0.1:2"}) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %q, %v: want the address beside context.Canceled", got, err)
	}
	if more := fmt.Sprintf("and %d more peers", len(peers)-1-maxFaults); !strings.HasSuffix(err.Error(), more) {
		t.Errorf("the error doesn't end in %q:\n%v", more, err)
	}
}

// counting is how many lookups run, and how many ran at once.
type counting struct {
	names
	mu             sync.Mutex // guards the rest
	now, most, all int
}

func (c *counting) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	c.mu.Lock()
	c.now++
	c.all++
	c.most = max(c.most, c.now)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.now--
	}()
	runtime.Gosched()
	return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil
}

func TestResolveIsBounded(t *testing.T) {
	peers := make([]string, MaxPeers+10)
	for i := range peers {
		peers[i] = fmt.Sprintf("many:%d", i+1)
	}
	ten := make([]string, 10)
	for i := range ten {
		ten[i] = fmt.Sprintf("10.0.0.%d", i+1)
	}
	got, err := Resolve(t.Context(), peers, names{"many": ten})
	if len(got) != MaxAddrs {
		t.Errorf("%d addresses, want %d", len(got), MaxAddrs)
	}
	if err == nil || !strings.Contains(err.Error(), "only the first") {
		t.Errorf("nothing says that peers were left out: %v", err)
	}
}

// Services with more targets than are looked up: those that are come beside an error that says so, and few are looked up at once.
func TestResolveBoundsServices(t *testing.T) {
	c := &counting{names: names{}}
	var peers []string
	for i := range 5 {
		name := fmt.Sprintf("_lock._tcp.shop-%d", i)
		peers = append(peers, name)
		for j := range maxTargets / 4 {
			c.names[name] = append(c.names[name], fmt.Sprintf("pod-%d.shop-%d.:%d", j, i, j+1))
		}
	}
	_, err := Resolve(t.Context(), peers, c)
	if c.all != maxTargets {
		t.Errorf("%d targets were looked up, want %d", c.all, maxTargets)
	}
	if c.most > maxLookups {
		t.Errorf("%d lookups at once, at most %d", c.most, maxLookups)
	}
	if err == nil || !strings.Contains(err.Error(), "_lock._tcp.shop-") || !strings.Contains(err.Error(), "only 4096 are looked up") {
		t.Errorf("nothing says that targets were left out: %v", err)
	}

	gone := names{}
	for i := range 1000 {
		gone["_lock._tcp.shop"] = append(gone["_lock._tcp.shop"], fmt.Sprintf("pod-%d.:1", i))
	}
	if _, err := Resolve(t.Context(), []string{"_lock._tcp.shop"}, gone); err == nil || len(err.Error()) > 4096 || !strings.Contains(err.Error(), "and 984 more") {
		t.Errorf("of a service whose 1000 targets are gone: %v", err)
	}

	many := &counting{names: names{}}
	for i := range 1000 {
		many.names["_lock._tcp.host"] = append(many.names["_lock._tcp.host"], fmt.Sprintf("host.:%d", i+1))
	}
	got, err := Resolve(t.Context(), []string{"_lock._tcp.host"}, many)
	if len(got) != maxPorts || err != nil || many.all != 1 {
		t.Errorf("%d addresses by %d lookups, %v; want %d by one", len(got), many.all, err, maxPorts)
	}
}
