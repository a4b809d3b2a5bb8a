package distlock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// zone is a resolver of a test: names have addresses, names that begin with _ have host:port.
type zone struct {
	mu    sync.Mutex // guards names
	names map[string][]string
}

func (z *zone) set(name string, values ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.names == nil {
		z.names = map[string][]string{}
	}
	z.names[name] = values
}

func (z *zone) get(name string) ([]string, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	found, ok := z.names[name]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return found, nil
}

func (z *zone) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	found, err := z.get(host)
	var all []netip.Addr
	for _, ip := range found {
		all = append(all, netip.MustParseAddr(ip))
	}
	return all, err
}

func (z *zone) LookupSRV(_ context.Context, _, _, name string) (string, []*net.SRV, error) {
	found, err := z.get(name)
	var all []*net.SRV
	for _, hostport := range found {
		host, port, _ := strings.Cut(hostport, ":")
		n, _ := strconv.Atoi(port)
		all = append(all, &net.SRV{Target: host, Port: uint16(n)})
	}
	return name, all, err
}

// What Discover answers may be anything that Peers may be, and what one source can't tell holds back nothing of the other.
func TestDiscoverAnswersNames(t *testing.T) {
	names := &zone{}
	names.set("shop.internal", "10.0.0.2", "10.0.0.1")
	names.set("_lock._tcp.shop", "a.shop:7951")
	names.set("a.shop", "10.0.0.3")
	errTool := errors.New("the tool is out of order")
	s := &settings{Config: Config{
		Peers: []string{"10.0.0.9:1", "gone.internal:1"},
		Discover: func(context.Context) ([]string, error) {
			return []string{"shop.internal:7950", "_lock._tcp.shop", "10.0.0.4:1", "nonsense"}, errTool
		},
	}}
	got, err := seeds(s, names)(t.Context())
	want := []string{"10.0.0.9:1", "10.0.0.1:7950", "10.0.0.2:7950", "10.0.0.3:7951", "10.0.0.4:1"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	wantFaults(t, "Discover", err, errTool, "Config.Discover", `"nonsense"`, `"gone.internal:1"`)

	names.set("gone.internal", "10.0.0.8") // asked again, it is looked up again
	s.Discover = nil
	if got, err := seeds(s, names)(t.Context()); !slices.Equal(got, []string{"10.0.0.9:1", "10.0.0.8:1"}) || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// A Discover that hangs takes only its own time: names among Peers are looked up beside it.
func TestDiscoverThatHangs(t *testing.T) {
	names := &zone{}
	names.set("shop.internal", "10.0.0.1")
	release := make(chan struct{})
	defer close(release)
	s := &settings{Config: Config{
		Peers:    []string{"shop.internal:7950"},
		Discover: func(context.Context) ([]string, error) { <-release; return nil, nil },
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	got, err := seeds(s, cutShort{names})(ctx)
	if !slices.Equal(got, []string{"10.0.0.1:7950"}) {
		t.Errorf("got %q", got)
	}
	wantFaults(t, "Discover", err, context.DeadlineExceeded, "Config.Discover", "not come back")
}

// cutShort is a resolver that does nothing once its context has ended, as the machine's.
type cutShort struct{ *zone }

func (c cutShort) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return c.zone.LookupNetIP(ctx, network, host)
}

// Three processes that share nothing but a file, which names them only when two of them run.
func TestPeersFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "peers")
	read := PeersFile(file)
	if _, err := read(t.Context()); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), file) {
		t.Errorf("a file that is not there: %v", err)
	}
	write := func(text string) { // as config management does
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Error(err)
		}
	}
	write("# nobody yet\r\n")
	var once sync.Once
	asked := make(chan struct{})
	ms := &members{t: t, all: make([]*Cluster, 3)}
	t.Cleanup(ms.closeAll)
	for i, addr := range freePorts(t, 3) {
		ms.configs = append(ms.configs, Config{
			Name: fmt.Sprintf("m%d", i), Bind: addr, Logger: testLogger(t).With("m", i),
			Discover: func(ctx context.Context) ([]string, error) {
				peers, err := read(ctx)
				if i == 1 && err == nil && len(peers) == 0 {
					once.Do(func() { close(asked) })
				}
				return peers, err
			},
		})
		ms.envs = append(ms.envs, machine())
	}
	go func() { // ends with m1's first look
		<-asked
		write(fmt.Sprintf("# three shops\r\n%s\r\n\r\n%s # the second\r\n%s", ms.configs[0].Bind, ms.configs[1].Bind, ms.configs[2].Bind))
	}()
	ms.joinAll()
	ctx := testContext(t, 30*time.Second)
	for _, c := range ms.all {
		mustUnlock(t, ctx, mustLock(t, ctx, c, "k"))
	}
}
