package distlock

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/address"
	"github.com/godistlock/distlock/internal/session"
	"github.com/godistlock/distlock/internal/wire"
)

// office is a machine with one address in a network; its names resolve as in a small DNS.
var office = address.Machine{
	Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
		switch host {
		case "office.internal":
			return []netip.Addr{netip.MustParseAddr("10.0.0.7")}, nil
		case "loop.internal":
			return []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("127.0.0.2")}, nil
		}
		return nil, errors.New("no such host")
	},
	Outgoing:   func() (netip.Addr, error) { return netip.MustParseAddr("10.0.0.7"), nil },
	Interfaces: func() ([]netip.Addr, error) { return nil, errors.New("not asked") },
}

func TestConfigDefaults(t *testing.T) {
	s, err := Config{}.settleOn(t.Context(), office)
	if err != nil {
		t.Fatal(err)
	}
	s.bound(7950)
	if s.Bind != "127.0.0.1:7950" || s.Advertise != "127.0.0.1:7950" || s.Group != "distlock" || s.Expect != 1 || s.Voters != 3 ||
		s.SessionTTL != 10*time.Second || s.JoinTimeout != 30*time.Second || s.MaxPending != 262_144 || s.Logger == nil || !strings.HasSuffix(s.Name, ":7950") {
		t.Errorf("defaults: %+v", s.Config)
	}
	discover := func(context.Context) ([]string, error) { return nil, nil }
	for _, c := range []Config{{Peers: []string{"office.internal:7950"}}, {Discover: discover}} {
		if s, err := c.settleOn(t.Context(), office); err != nil || s.Expect != 3 {
			t.Errorf("with others to find: %+v, %v; want Expect 3", s, err)
		}
	}
}

// What a user set stays.
func TestConfigKeeps(t *testing.T) {
	given := Config{
		Name: "office 7, Zürich", Bind: "127.0.0.1:0", Advertise: "shop.example:80", Peers: []string{"a:1", "[fd00::1]:2", "_x._tcp.shop"}, Group: "stock", Expect: 5, Voters: 7,
		NoVote: true, DataDir: "somewhere", Insecure: true, SessionTTL: 2 * time.Second, JoinTimeout: time.Millisecond, MaxPending: 1,
	}
	s, err := given.settleOn(t.Context(), office)
	if err != nil {
		t.Fatal(err)
	}
	s.bound(40000)
	s.Logger = nil
	if fmt.Sprintf("%+v", s.Config) != fmt.Sprintf("%+v", given) {
		t.Errorf("settled  %+v\nfrom     %+v", s.Config, given)
	}
}

// The address that is listened on is the one that was judged, and the one that peers are told by default.
func TestConfigBind(t *testing.T) {
	for _, c := range []struct{ bind, settled, advertise string }{
		{"localhost:0", "127.0.0.1:0", "127.0.0.1:4242"},
		{"[::1]:7950", "[::1]:7950", "[::1]:4242"},
		{"loop.internal:7950", "127.0.0.2:7950", "127.0.0.2:4242"},
	} {
		s, err := Config{Bind: c.bind}.settleOn(t.Context(), office)
		if err != nil {
			t.Errorf("%s: %v", c.bind, err)
			continue
		}
		s.bound(4242)
		if s.Bind != c.settled || s.Advertise != c.advertise {
			t.Errorf("%s: listens on %s, advertises %s; want %s, %s", c.bind, s.Bind, s.Advertise, c.settled, c.advertise)
		}
	}
	for _, c := range []struct{ bind, settled, advertise string }{
		{"0.0.0.0:7950", "0.0.0.0:7950", "10.0.0.7:4242"},
		{"[::]:7950", "[::]:7950", "10.0.0.7:4242"},
		{":7950", ":7950", "10.0.0.7:4242"},
		{"10.0.0.7:7950", "10.0.0.7:7950", "10.0.0.7:4242"},
		{"office.internal:7950", "10.0.0.7:7950", "10.0.0.7:4242"},
	} {
		_, err := Config{Bind: c.bind}.settleOn(t.Context(), office)
		wantFaults(t, c.bind, err, ErrInvalid, "Config.Bind", c.bind, "Insecure")
		s, err := Config{Bind: c.bind, Insecure: true}.settleOn(t.Context(), office)
		if err != nil {
			t.Errorf("%s with Insecure: %v", c.bind, err)
			continue
		}
		s.bound(4242)
		if s.Bind != c.settled || s.Advertise != c.advertise {
			t.Errorf("%s: listens on %s, advertises %s; want %s, %s", c.bind, s.Bind, s.Advertise, c.settled, c.advertise)
		}
	}
	lost := office
	lost.Outgoing = func() (netip.Addr, error) { return netip.Addr{}, errors.New("no route") }
	_, err := Config{Bind: ":0", Insecure: true}.settleOn(t.Context(), lost)
	wantFaults(t, "no address", err, ErrInvalid, "Config.Bind", "set Advertise")
}

func TestConfigNonsense(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		says []string
	}{
		{Config{Name: strings.Repeat("x", 129)}, []string{"Config.Name", "129 bytes", "at most 128"}},
		{Config{Name: "a\nb"}, []string{"Config.Name", `a\nb`, "printable"}},
		{Config{Name: "a\xff"}, []string{"Config.Name", "printable"}},
		{Config{Group: strings.Repeat("g", 65)}, []string{"Config.Group", "at most 64"}},
		{Config{Group: "\x00"}, []string{"Config.Group", "printable"}},
		{Config{Bind: "127.0.0.1"}, []string{"Config.Bind", `"127.0.0.1"`, "host:port"}},
		{Config{Bind: "127.0.0.1:http"}, []string{"Config.Bind", "port", "0 to 65535"}},
		{Config{Bind: "127.0.0.1:65536"}, []string{"Config.Bind", "0 to 65535"}},
		{Config{Bind: "nowhere.internal:1"}, []string{"Config.Bind", "no such host", "IP address"}},
		{Config{Advertise: "0.0.0.0:7950"}, []string{"Config.Advertise", "0.0.0.0:7950", "dial"}},
		{Config{Advertise: "10.0.0.1:0"}, []string{"Config.Advertise", "port 0"}},
		{Config{Advertise: "10.0.0.1"}, []string{"Config.Advertise", "host:port"}},
		{Config{Advertise: strings.Repeat("a.", 125) + "aaa:65535"}, []string{"Config.Advertise", "255"}},
		{Config{Peers: []string{"a:1", "b"}}, []string{"Config.Peers[1]", `"b"`, "host:port"}},
		{Config{Peers: []string{""}}, []string{"Config.Peers[0]", `""`}},
		{Config{Peers: []string{"a:0"}}, []string{"Config.Peers[0]", "port 0"}},
		{Config{Peers: []string{"_x"}}, []string{"Config.Peers[0]", `"_x"`, "host:port", "_distlock._tcp.shop.internal"}},
		{Config{Peers: []string{"_x._tcp.shop:1"}}, []string{"Config.Peers[0]", "_x._tcp.shop:1", "no port", "leave it out"}},
		{Config{Advertise: "_x._tcp.shop"}, []string{"Config.Advertise", "host:port"}},
		{Config{Expect: -1}, []string{"Config.Expect", "-1", "1 to 1000"}},
		{Config{Expect: 1001}, []string{"Config.Expect", "1001"}},
		{Config{Voters: 2}, []string{"Config.Voters", "2", "1, 3, 5 or 7"}},
		{Config{Voters: 9}, []string{"Config.Voters", "9"}},
		{Config{Voters: -3}, []string{"Config.Voters", "-3"}},
		{Config{SessionTTL: 2*time.Second - 1}, []string{"Config.SessionTTL", "2s to 1m0s"}},
		{Config{SessionTTL: time.Minute + 1}, []string{"Config.SessionTTL", "2s to 1m0s"}},
		{Config{SessionTTL: -time.Second}, []string{"Config.SessionTTL", "-1s"}},
		{Config{JoinTimeout: -1}, []string{"Config.JoinTimeout", "-1ns", "negative"}},
		{Config{MaxPending: -1}, []string{"Config.MaxPending", "-1", "1 to 262144"}},
		{Config{MaxPending: 262_145}, []string{"Config.MaxPending", "262145", "1 to 262144"}},
		{Config{Secret: "too short"}, []string{"Config.Secret", "9 characters", "at least 32"}},
		{Config{Secrets: []string{strings.Repeat("x", 32), ""}}, []string{"Config.Secrets[1]", "0 characters", "at least 32"}},
	} {
		_, err := c.cfg.settleOn(t.Context(), office)
		wantFaults(t, fmt.Sprintf("%+v", c.cfg), err, ErrInvalid, c.says...)
	}
}

func TestConfigFaultsAllAtOnce(t *testing.T) {
	_, err := Config{Name: "\t", Bind: "x", Advertise: ":1", Peers: []string{"p"}, Group: "\t", Expect: -1, Voters: 4, SessionTTL: 1, JoinTimeout: -1}.settleOn(t.Context(), office)
	wantFaults(t, "all wrong", err, ErrInvalid,
		"Name", "Bind", "Advertise", "Peers[0]", "Group", "Expect", "Voters", "SessionTTL", "JoinTimeout")
	if lines := strings.Count(err.Error(), "\n") + 1; lines != 9 {
		t.Errorf("9 faults in %d lines:\n%v", lines, err)
	}
}

func TestSecretsAreSettled(t *testing.T) {
	one, two := strings.Repeat("s3cr3t! ", 4), strings.Repeat("0ther!! ", 4)
	for _, bind := range []string{"127.0.0.1:0", "10.0.0.7:0"} {
		for _, c := range []struct {
			cfg  Config
			keys int // of gossip
		}{{Config{}, 0}, {Config{Secret: one}, 1}, {Config{Secrets: []string{one, two}}, 2}, {Config{Secret: one, Secrets: []string{two}}, 2}} {
			c.cfg.Bind, c.cfg.Insecure = bind, c.keys == 0
			s, err := c.cfg.settleOn(t.Context(), office)
			if err != nil {
				t.Fatalf("%s, %d keys: %v", bind, c.keys, err)
			}
			if (s.credentials != nil) != (c.keys > 0) || c.keys > 0 && len(s.credentials.GossipKeys()) != c.keys {
				t.Errorf("%s: credentials %v for %d keys", bind, s.credentials != nil, c.keys)
			}
		}
	}
	first := func(cfg Config) []byte {
		s, err := cfg.settleOn(t.Context(), office)
		if err != nil {
			t.Fatal(err)
		}
		return s.credentials.GossipKeys()[0]
	}
	if !bytes.Equal(first(Config{Secret: one, Secrets: []string{two}}), first(Config{Secrets: []string{one}})) {
		t.Error("Secret beside Secrets is not the first")
	}
	for _, c := range []struct {
		cfg  Config
		says []string
	}{
		{Config{Secret: one[:31]}, []string{"Config.Secret", "31 characters"}},
		{Config{Secret: one, Secrets: []string{two[:31]}}, []string{"Config.Secrets[0]", "31 characters"}},
		{Config{Secrets: slices.Repeat([]string{one}, maxSecrets+1)}, []string{"Config.Secrets", "at most 8"}},
		{Config{TLS: &tls.Config{}}, []string{"Config.TLS", "RootCAs", "ClientCAs"}},
		{Config{TLS: &tls.Config{RootCAs: x509.NewCertPool()}}, []string{"Config.TLS", "GetCertificate"}},
	} {
		_, err := c.cfg.settleOn(t.Context(), office)
		wantFaults(t, fmt.Sprint(c.says), err, ErrInvalid, c.says...)
		if strings.Contains(err.Error(), "s3cr3t") || strings.Contains(err.Error(), "0ther") {
			t.Errorf("a secret in an error: %v", err)
		}
	}
}

// Join says so before it opens anything: the port that it was given is free after as before.
func TestJoinJudgesFirst(t *testing.T) {
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = port.Close() }()
	taken := port.Addr().String() // Join would fail on it with another error
	dir := filepath.Join(t.TempDir(), "data")
	c, err := Join(Config{Bind: taken, DataDir: dir, Voters: 2, SessionTTL: time.Second})
	if c != nil {
		t.Error("a Cluster beside an error")
	}
	wantFaults(t, "Join", err, ErrInvalid, "Voters", "SessionTTL")
	_, err = JoinContext(t.Context(), Config{Bind: taken, DataDir: dir, Secret: strings.Repeat("x", 31)})
	wantFaults(t, "JoinContext", err, ErrInvalid, "Config.Secret")
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("DataDir was made: %v", err)
	}
}

func TestLockOptionsNonsense(t *testing.T) {
	beyond := maxLimit
	beyond++
	for _, c := range []struct {
		name string
		opts []LockOption
		is   error
		says []string
	}{
		{"nil", []LockOption{Shared(), nil}, ErrInvalid, []string{"number 2 of 2"}},
		{"limit 0", []LockOption{Limit(0)}, ErrInvalid, []string{"Limit 0"}},
		{"limit -1", []LockOption{Limit(-1)}, ErrInvalid, []string{"Limit -1"}},
		{"limit over", []LockOption{Limit(maxLimit), Limit(beyond)}, ErrLimit, []string{"Limit", "2147483647"}},
		{"weight 0", []LockOption{Limit(1), Weight(0)}, ErrInvalid, []string{"Weight 0"}},
		{"weight alone", []LockOption{Weight(2)}, ErrInvalid, []string{"Weight 2", "add Limit"}},
		{"weight above", []LockOption{Weight(3), Limit(2)}, ErrInvalid, []string{"Weight 3", "Limit 2"}},
		{"shared limit", []LockOption{Limit(2), Shared()}, ErrInvalid, []string{"Shared", "Limit"}},
		{"ttl -1", []LockOption{TTL(-1)}, ErrInvalid, []string{"TTL -1ns"}},
		{"ttl 0", []LockOption{TTL(0)}, ErrInvalid, []string{"TTL 0s"}},
		{"ttl over", []LockOption{TTL(maxLockTime + 1)}, ErrLimit, []string{"TTL", "30 days"}},
		{"detached -1", []LockOption{Detached(-1)}, ErrInvalid, []string{"Detached -1ns"}},
		{"detached 0", []LockOption{Detached(0)}, ErrInvalid, []string{"Detached 0s"}},
		{"detached over", []LockOption{Detached(maxLockTime + 1)}, ErrLimit, []string{"Detached", "30 days"}},
		{"cooldown -1", []LockOption{Cooldown(-1)}, ErrInvalid, []string{"Cooldown -1ns"}},
		{"cooldown over", []LockOption{Cooldown(maxLockTime + 1)}, ErrLimit, []string{"Cooldown", "30 days"}},
		{"value over", []LockOption{Value(make([]byte, 4097))}, ErrLimit, []string{"Value", "4097", "4096"}},
		{"two times", []LockOption{TTL(1), Detached(1)}, ErrInvalid, []string{"TTL", "Detached"}},
		{"both", []LockOption{TTL(-1), Weight(1)}, ErrInvalid, []string{"TTL", "Weight"}},
	} {
		_, err := buildLockOptions(c.opts)
		wantFaults(t, c.name, err, c.is, c.says...)
		if errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: nonsense is called not built yet: %v", c.name, err)
		}
	}
}

// What makes sense alone and together is asked for as it is.
func TestLockOptions(t *testing.T) {
	for _, c := range []struct {
		opts []LockOption
		want session.Request
	}{
		{nil, session.Request{}},
		{[]LockOption{Cooldown(0), Value(nil)}, session.Request{}},
		{[]LockOption{Shared()}, session.Request{Mode: wire.Shared}},
		{[]LockOption{Limit(maxLimit), Weight(maxLimit)}, session.Request{Mode: wire.Units, Limit: maxLimit, Weight: maxLimit}},
		{[]LockOption{Limit(3)}, session.Request{Mode: wire.Units, Limit: 3, Weight: 1}},
		{[]LockOption{TTL(maxLockTime), Cooldown(1)}, session.Request{TTL: maxLockTime, Cooldown: 1}},
		{[]LockOption{Detached(1), Cooldown(2)}, session.Request{Detached: 1, Cooldown: 2}},
		{[]LockOption{Value(make([]byte, 4096))}, session.Request{Value: make([]byte, 4096)}},
	} {
		o, err := buildLockOptions(c.opts)
		got := o.request()
		if len(got.Value) == 0 {
			got.Value = nil
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v, want %+v; %v", got, c.want, err)
		}
	}
}

func TestValueIsCopied(t *testing.T) {
	b := []byte("order 7")
	opt := Value(b)
	b[0] = 'X'
	var o lockOptions
	opt(&o)
	if !bytes.Equal(o.value, []byte("order 7")) {
		t.Errorf("value is %q", o.value)
	}
}

func TestKeys(t *testing.T) {
	for _, key := range []string{"k", "\x00\xff", strings.Repeat("k", 1024)} {
		if err := checkKey(key); err != nil {
			t.Errorf("key %q: %v", key, err)
		}
	}
	wantFaults(t, "empty", checkKey(""), ErrInvalid, "empty")
	wantFaults(t, "long", checkKey(strings.Repeat("k", 1025)), ErrLimit, "1025", "1024")
}

// wantFaults wants err to match is and to say every one of says.
func wantFaults(t *testing.T, what string, err, is error, says ...string) {
	t.Helper()
	if !errors.Is(err, is) {
		t.Errorf("%s: %v; want one that matches %q", what, err, is)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%s: %q does not say %q", what, err, s)
		}
	}
}
