package distlock

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/testpki"
)

var oldSecret, newSecret = strings.Repeat("old!", 11), strings.Repeat("new!", 11)

func withSecrets(secrets ...string) func(int, *Config) {
	return func(_ int, c *Config) { c.Secrets = secrets }
}

// What keeps a stranger out is said on both sides, in the log and in Status, and changes nothing inside.
func TestStrangersAreKeptOut(t *testing.T) {
	for _, c := range []struct {
		name    string
		inside  func(*Config)
		outside func(*Config)
		reason  string
		said    string // by the stranger's Join
	}{
		{"another secret", func(c *Config) { c.Secret = newSecret }, func(c *Config) { c.Secret = oldSecret }, "secret", "another Secret"},
		{"no secret", func(c *Config) { c.Secret = newSecret }, func(c *Config) { c.Secret = "" }, "secret", "this process has neither"},
		{"a secret among those without", func(*Config) {}, func(c *Config) { c.Secret = newSecret }, "secret", "it has neither Secret nor TLS"},
		{"another group", func(c *Config) { c.Secret = newSecret }, func(c *Config) { c.Group = "other" }, "group", "another group"},
		{"another group, in the open", func(*Config) {}, func(c *Config) { c.Group = "other" }, "group", "another group"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ms := newMembers(t, 3, durable(t), func(_ int, cfg *Config) { c.inside(cfg) })
			ctx := testContext(t, 60*time.Second)
			held := mustLock(t, ctx, ms.all[0], "held")
			cfg := ms.configs[0]
			cfg.Name, cfg.Bind, cfg.DataDir, cfg.JoinTimeout = "stranger", freePorts(t, 1)[0], "", 3*time.Second
			c.outside(&cfg)
			stranger, err := Join(cfg)
			if err == nil {
				stranger.Close()
				t.Fatal("it is let in")
			}
			if !strings.Contains(err.Error(), c.said) {
				t.Errorf("its Join does not say %q: %v", c.said, err)
			}
			seen := func(s Status) bool {
				return slices.ContainsFunc(s.Strangers, func(x Stranger) bool { return x.Reason == c.reason && x.Addr == "127.0.0.1" && x.Incoming })
			}
			if !slices.ContainsFunc(ms.all, func(m *Cluster) bool { return seen(m.Status()) }) {
				t.Errorf("no member says that a stranger came: %+v", ms.all[0].Status().Strangers)
			}
			for _, m := range ms.all {
				if s := m.Status(); len(s.Members) != 3 || len(s.Conflicts) != 0 {
					t.Errorf("a member sees %+v", s)
				}
			}
			wantHeld(t, ctx, ms.all[1], held)
			mustUnlock(t, ctx, held)
		})
	}
}

// A secret is replaced in three roll-outs, one process after the other, while all members take the same lock: none is granted twice, fences
// rise, and nobody is ever a stranger.
func TestSecretsRotate(t *testing.T) {
	t.Parallel()
	ms := newMembers(t, 3, durable(t), withSecrets(oldSecret))
	ctx := testContext(t, 3*time.Minute)
	var work sync.WaitGroup
	var mu sync.Mutex // guards ms.all while members are restarted
	var inside atomic.Int32
	var last, taken atomic.Uint64
	stop := make(chan struct{})
	for i := range ms.all {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				c := ms.all[i]
				mu.Unlock()
				err := c.Do(ctx, "key", func(_ context.Context, fence Fence) error {
					if inside.Add(1) != 1 {
						t.Error("two are inside")
					}
					if before := last.Swap(uint64(fence)); before >= uint64(fence) {
						t.Errorf("fence %d after %d", fence, before)
					}
					taken.Add(1)
					inside.Add(-1)
					return nil
				})
				if err != nil && !errors.Is(err, ErrLeaving) && !errors.Is(err, ErrClosed) { // else it is being restarted
					t.Errorf("member %d: %v", i, err)
					return
				}
				waitABit(ctx)
			}
		})
	}
	for _, secrets := range [][]string{{oldSecret, newSecret}, {newSecret, oldSecret}, {newSecret}} {
		before := taken.Load()
		for i := range ms.all {
			if err := ms.all[i].Leave(ctx); err != nil {
				t.Fatal(err)
			}
			cfg := ms.configs[i]
			cfg.Secrets = secrets
			ms.configs[i] = cfg
			c, err := Join(cfg)
			if err != nil {
				t.Fatalf("member %d with %d secrets: %v", i, len(secrets), err)
			}
			mu.Lock()
			ms.all[i] = c
			mu.Unlock()
			eventually(t, ctx, "its role is settled", func() bool { return c.node.Settled(ctx) == nil })
		}
		if taken.Load() == before {
			t.Error("no lock was taken during a roll-out")
		}
	}
	close(stop)
	work.Wait()
	t.Logf("%d locks were taken during 9 restarts", taken.Load())
	for i, m := range ms.all {
		for _, x := range m.Status().Strangers {
			t.Errorf("member %d met a stranger: %+v", i, x)
		}
	}
	cfg := ms.configs[0]
	cfg.Name, cfg.Bind, cfg.DataDir, cfg.JoinTimeout, cfg.Secrets = "late", freePorts(t, 1)[0], "", 2*time.Second, []string{oldSecret}
	if c, err := Join(cfg); err == nil {
		c.Close()
		t.Error("the old secret still lets in")
	}
}

// With a PKI of the user's own, members know each other by the DNS names of their certificates, UDP is not used, and a certificate that is
// renewed counts at the next stream.
func TestOwnPKICluster(t *testing.T) {
	t.Parallel()
	ca := testpki.New(t)
	soon := time.Now().Add(time.Hour)
	config := func(name string) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, soon, testpki.Both, name)}, RootCAs: ca.Pool}
	}
	ms := newMembers(t, 3, func(_ int, c *Config) { c.TLS = config(c.Name) })
	ctx := testContext(t, 60*time.Second)
	held := mustLock(t, ctx, ms.all[0], "held")
	for i, m := range ms.all {
		mustUnlock(t, ctx, mustLock(t, ctx, m, "key"))
		eventually(t, ctx, "all are seen", func() bool { return len(m.Status().Members) == 3 })
		udp, err := net.ListenPacket("udp", ms.configs[i].Bind)
		if err != nil {
			t.Errorf("UDP is used: %v", err)
			continue
		}
		_ = udp.Close()
	}
	ms.crash(2)
	eventually(t, ctx, "one is seen to have failed", func() bool {
		return slices.ContainsFunc(ms.all[0].Status().Members, func(m Member) bool { return m.Name == "m2" && m.State == Failed })
	})
	ms.configs[2].TLS = config("m2") // a newer certificate
	ms.join(2)
	wantHeld(t, ctx, ms.all[2], held)

	outsider := ms.configs[0]
	outsider.Bind, outsider.JoinTimeout = freePorts(t, 1)[0], 2*time.Second
	for what, c := range map[string]struct {
		name string
		conf *tls.Config
		is   error
		says string
	}{
		"under a name that it has no certificate for": {"m9", config("m3"), ErrInvalid, `"m9"`},
		"of another authority":                        {"m3", &tls.Config{Certificates: []tls.Certificate{testpki.New(t).Issue(t, soon, testpki.Both, "m3")}, RootCAs: ca.Pool}, ErrInvalid, "refused by the others"},
		"which only it accepts":                       {"m3", strangers(t, "m3"), ErrNoQuorum, "secret"},
	} {
		outsider.Name, outsider.TLS = c.name, c.conf
		m, err := Join(outsider)
		if err == nil {
			m.Close()
		}
		wantFaults(t, what, err, c.is, c.says)
	}
}

// strangers is the TLS of a member of another PKI.
func strangers(t *testing.T, name string) *tls.Config {
	ca := testpki.New(t)
	return &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, time.Now().Add(time.Hour), testpki.Both, name)}, RootCAs: ca.Pool}
}

// A Secret beside TLS seals gossip's packets, which then go by UDP again.
func TestOwnPKIWithSecret(t *testing.T) {
	t.Parallel()
	ca := testpki.New(t)
	ms := newMembers(t, 3, withSecrets(newSecret), func(_ int, c *Config) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, time.Now().Add(time.Hour), testpki.Both, c.Name)}, ClientCAs: ca.Pool}
	})
	ctx := testContext(t, 60*time.Second)
	mustUnlock(t, ctx, mustLock(t, ctx, ms.all[2], "key"))
	if udp, err := net.ListenPacket("udp", ms.configs[0].Bind); err == nil {
		_ = udp.Close()
		t.Error("UDP is not used")
	}
}
