package distlock

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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
				switch {
				case errors.Is(err, ErrLeaving) || errors.Is(err, ErrClosed): // it is being restarted
					waitABit(ctx)
				case err != nil:
					t.Errorf("member %d: %v", i, err)
					return
				}
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
