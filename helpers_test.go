package distlock

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/testport"
)

func freePorts(t testing.TB, n int) []string { t.Helper(); return testport.Distlock.Pick(t, n) }

// members are the processes of a test cluster, all inside this one.
type members struct {
	t       testing.TB
	configs []Config
	envs    []surroundings // where each joins
	all     []*Cluster     // nil: not joined
}

// newMembers joins n members, changed by opts, and closes them with the test.
func newMembers(t testing.TB, n int, opts ...func(i int, c *Config)) *members {
	t.Helper()
	return newMembersIn(t, n, func(int) surroundings { return machine() }, opts...)
}

// newMembersIn is newMembers with member i in env(i).
func newMembersIn(t testing.TB, n int, env func(i int) surroundings, opts ...func(i int, c *Config)) *members {
	t.Helper()
	ports := freePorts(t, n)
	ms := &members{t: t, all: make([]*Cluster, n)}
	for i := range n {
		c := Config{
			Name: fmt.Sprintf("m%d", i), Bind: ports[i], Peers: ports, Expect: min(n, 3), JoinTimeout: 30 * time.Second,
			Logger: testLogger(t).With("m", i),
		}
		for _, o := range opts {
			o(i, &c)
		}
		ms.configs = append(ms.configs, c)
		ms.envs = append(ms.envs, env(i))
	}
	t.Cleanup(ms.closeAll)
	ms.joinAll()
	return ms
}

// inBothModes runs a test with three members in memory and with three on disk.
func inBothModes(t *testing.T, test func(t *testing.T, ms *members)) {
	t.Run("memory", func(t *testing.T) { test(t, newMembers(t, 3)) })
	t.Run("durable", func(t *testing.T) { test(t, newMembers(t, 3, durable(t))) })
}

func durable(t testing.TB) func(int, *Config) {
	return func(_ int, c *Config) { c.DataDir = t.TempDir() }
}

func (ms *members) joinAll() {
	ms.t.Helper()
	var wg sync.WaitGroup
	for i := range ms.all {
		if ms.all[i] == nil {
			wg.Go(func() { ms.join(i) })
		}
	}
	wg.Wait()
	if ms.t.Failed() {
		ms.t.FailNow()
	}
}

// join joins member i; an error fails the test.
func (ms *members) join(i int) *Cluster {
	ms.t.Helper()
	c, err := join(context.Background(), ms.configs[i], ms.envs[i])
	if err != nil {
		ms.t.Errorf("member %d: %v", i, err)
		return nil
	}
	ms.all[i] = c
	return c
}

// add joins one more member, as the first but for its name and port.
func (ms *members) add(name string) *Cluster {
	ms.t.Helper()
	cfg := ms.configs[0]
	cfg.Name, cfg.Bind = name, freePorts(ms.t, 1)[0]
	ms.configs, ms.envs, ms.all = append(ms.configs, cfg), append(ms.envs, ms.envs[0]), append(ms.all, nil)
	return ms.join(len(ms.all) - 1)
}

func (ms *members) closeAll() {
	for _, c := range ms.all {
		if c != nil {
			c.Close()
		}
	}
}

// crash closes member i as a crash would and forgets it.
func (ms *members) crash(i int) {
	ms.all[i].Close()
	ms.all[i] = nil
}

// leader is the index of the member that leads, as the others see it.
func (ms *members) leader(ctx context.Context) int {
	ms.t.Helper()
	for ctx.Err() == nil {
		for i, c := range ms.all {
			if c != nil && c.Status().Leader == ms.configs[i].Name {
				return i
			}
		}
		waitABit(ctx)
	}
	ms.t.Fatal("no member leads")
	return -1
}

// waitABit paces a loop that asks for something it can't be told of.
func waitABit(ctx context.Context) {
	select {
	case <-time.After(5 * time.Millisecond):
	case <-ctx.Done():
	}
}

// eventually asks until cond holds; it fails the test when ctx ends first.
func eventually(t testing.TB, ctx context.Context, what string, cond func() bool) {
	t.Helper()
	for !cond() {
		if ctx.Err() != nil {
			t.Fatalf("not in time: %s", what)
		}
		waitABit(ctx)
	}
}

func testContext(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// testLogger logs to the test, until that is over: what a member says at the end of its life may come after.
func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriterOf(t), nil))
}

func testWriterOf(t testing.TB) *testWriter {
	w := &testWriter{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.t = nil
	})
	return w
}

type testWriter struct {
	mu sync.Mutex // guards t
	t  testing.TB
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Log(string(p[:len(p)-1]))
	}
	return len(p), nil
}

func mustLock(t testing.TB, ctx context.Context, l Locker, key string) *Lock {
	t.Helper()
	lock, err := l.Lock(ctx, key)
	if err != nil {
		t.Fatalf("lock %q: %v", key, err)
	}
	return lock
}

func mustUnlock(t testing.TB, ctx context.Context, l *Lock) {
	t.Helper()
	if err := l.Unlock(ctx); err != nil {
		t.Fatalf("unlock: %v", err)
	}
}
