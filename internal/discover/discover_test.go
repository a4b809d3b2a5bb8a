package discover

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// names is a resolver of a test: what it doesn't have fails; "hangs" answers only when ctx ends.
func names(table map[string][]string) Lookup {
	return func(ctx context.Context, host string) ([]netip.Addr, error) {
		if host == "hangs" {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		ips, ok := table[host]
		if !ok {
			return nil, fmt.Errorf("lookup %s: %w", host, errNoHost)
		}
		var all []netip.Addr
		for _, ip := range ips {
			all = append(all, netip.MustParseAddr(ip))
		}
		return all, nil
	}
}

var errNoHost = errors.New("no such host")

func TestResolve(t *testing.T) {
	lookup := names(map[string][]string{
		"shop":  {"10.0.0.3", "10.0.0.1", "10.0.0.2"},
		"six":   {"2001:db8::2", "::ffff:10.0.0.9"},
		"empty": {},
	})
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
		{name: "all that is wrong is said", peers: []string{"10.0.0.1", "10.0.0.1:0", ":81", "0.0.0.0:81", "empty:81", "10.0.0.1:http", "a b:1"},
			errs: []string{"not host:port", "port 0", "every address", "no addresses", `"http"`, "' ' cannot"}},
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
	if _, err := Resolve(t.Context(), []string{"nowhere:1"}, names(nil)); !errors.Is(err, errNoHost) {
		t.Errorf("got %v, want one that matches the resolver's", err)
	}
}

func TestResolveEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got, err := Resolve(ctx, []string{"hangs:1", "10.0.0.1:2"}, names(nil))
	if !slices.Equal(got, []string{"10.0.0.1:2"}) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %q, %v: want the address beside context.Canceled", got, err)
	}
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
	got, err := Resolve(t.Context(), peers, names(map[string][]string{"many": ten}))
	if len(got) != MaxAddrs {
		t.Errorf("%d addresses, want %d", len(got), MaxAddrs)
	}
	if err == nil || !strings.Contains(err.Error(), "only the first") {
		t.Errorf("nothing says that peers were left out: %v", err)
	}
}
