package storetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/godistlock/distlock"
	"github.com/godistlock/distlock/contrib/redisfence"
)

var (
	_ redisfence.Client[*redis.Cmd] = (*redis.Client)(nil)
	_ redisfence.Client[*redis.Cmd] = (*redis.ClusterClient)(nil)
	_ redisfence.Client[*redis.Cmd] = redis.UniversalClient(nil)
)

// dial is a client of the server that DISTLOCK_TEST_REDIS names, emptied, or of miniredis where it names none.
func dial(t testing.TB) *redis.Client {
	addr := os.Getenv("DISTLOCK_TEST_REDIS")
	if addr == "" {
		if os.Getenv("DISTLOCK_TEST_DATABASES") == "all" {
			t.Fatal("DISTLOCK_TEST_DATABASES=all, and DISTLOCK_TEST_REDIS names no server")
		}
		addr = miniredis.RunT(t).Addr()
	}
	c := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	t.Cleanup(func() { _ = c.Close() })
	if err := c.FlushDB(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	_ = c.ScriptFlush(t.Context()).Err() // so that each test sends its scripts first
	server := "miniredis, no real server"
	if os.Getenv("DISTLOCK_TEST_REDIS") != "" {
		info, err := c.Info(t.Context(), "server").Result()
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(info)
		if i := slices.IndexFunc(fields, func(f string) bool { return strings.Contains(f, "_version:") }); i >= 0 {
			server = fields[i]
		}
	}
	t.Log(server)
	return c
}

func TestRedisRaise(t *testing.T) {
	c := dial(t)
	r := redisfence.New(c)
	for i, step := range []struct {
		key         string
		fence, want distlock.Fence
	}{
		{"a", 9, 9}, {"a", 10, 10}, {"a", 9, 10}, {"a", 10, 10}, // by text 9 would be greater
		{"a", 1795400835142333, 1795400835142333}, {"a", 1795400835142332, 1795400835142333}, {"a", 1795400835142334, 1795400835142334},
		{"a", 1<<53 - 1, 1<<53 - 1}, {"a", 1<<53 - 2, 1<<53 - 1}, {"a", 1, 1<<53 - 1},
		{"b", 1, 1}, {"\x00\xff{} ", 1<<53 - 1, 1<<53 - 1}, {"\x00\xff{} ", 5, 1<<53 - 1},
	} {
		if got, err := r.Raise(t.Context(), step.key, step.fence); err != nil || got != step.want {
			t.Errorf("%d: %q raised to %d: %d, %v; want %d", i, step.key, step.fence, got, err, step.want)
		}
	}
	if text, err := c.Get(t.Context(), redisfence.FenceKey("a")).Result(); text != "9007199254740991" {
		t.Errorf("stored is %q, %v", text, err)
	}
	if ttl := c.TTL(t.Context(), redisfence.FenceKey("a")).Val(); ttl != -1 {
		t.Errorf("a fence lives %v", ttl)
	}
}

func TestRedisGuard(t *testing.T) {
	c := dial(t)
	g := distlock.StoredGuard(redisfence.New(c))
	for i, step := range []struct {
		fence distlock.Fence
		want  error
	}{{1795400835142333, nil}, {1795400835142333, nil}, {1795400835142332, distlock.ErrStaleFence}, {1795400835142334, nil}} {
		if err := g.Admit(t.Context(), "sku-42", step.fence); !errors.Is(err, step.want) {
			t.Errorf("%d: %v, want %v", i, err, step.want)
		}
	}
	// A guard that can't tell refuses.
	for name, spoil := range map[string]error{
		"a text":    c.Set(t.Context(), redisfence.FenceKey("text"), "hello", 0).Err(),
		"a number":  c.Set(t.Context(), redisfence.FenceKey("number"), "1e300", 0).Err(),
		"a list":    c.RPush(t.Context(), redisfence.FenceKey("list"), "5").Err(),
		"too great": c.Set(t.Context(), redisfence.FenceKey("great"), "99999999999999999999999", 0).Err(),
	} {
		key := strings.Fields(name)[1]
		if err := g.Admit(t.Context(), key, 1<<53-1); spoil != nil || err == nil {
			t.Errorf("%s in the fence's place: %v, %v", name, spoil, err)
		}
		if err := redisfence.New(c).Set(t.Context(), key, 1<<53-1, "x"); err == nil || c.Exists(t.Context(), key).Val() != 0 {
			t.Errorf("%s in the fence's place: written, %v", name, err)
		}
	}
}

func TestRedisSet(t *testing.T) {
	c := dial(t)
	r := redisfence.New(c)
	for i, step := range []struct {
		fence distlock.Fence
		value any
		want  error
		left  string
	}{
		{1795400835142333, 54, nil, "54"}, {1795400835142333, "x", nil, "x"}, {1795400835142332, "late", distlock.ErrStaleFence, "x"},
		{1795400835142334, []byte("\x00\xff"), nil, "\x00\xff"}, {9, "late", distlock.ErrStaleFence, "\x00\xff"}, {1<<53 - 1, "last", nil, "last"},
		{1<<53 - 2, "late", distlock.ErrStaleFence, "last"},
	} {
		if err := r.Set(t.Context(), "stock:sku-42", step.fence, step.value); !errors.Is(err, step.want) {
			t.Errorf("%d: %v, want %v", i, err, step.want)
		}
		if got := c.Get(t.Context(), "stock:sku-42").Val(); got != step.left {
			t.Errorf("%d: %q is stored, want %q", i, got, step.left)
		}
	}
}

// The body sees what it was given and nothing of the check, and runs only if no guarded key refuses.
func TestRedisRun(t *testing.T) {
	c := dial(t)
	r := redisfence.New(c)
	sees := redisfence.NewScript(2, `
		redis.call('INCR', KEYS[3])
		return {#KEYS, #ARGV, KEYS[1], KEYS[2], KEYS[3], ARGV[1] or 'none'}`)
	keys := []string{"a", "b", "ran"}
	for _, args := range [][]any{{"x"}, nil} {
		got, err := r.Run(t.Context(), sees, 5, keys, args...)
		if want := fmt.Sprint([]any{3, len(args), "a", "b", "ran", append(args, "none")[0]}); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%v, %v; want %s", got, err, want)
		}
	}
	if _, err := r.Raise(t.Context(), "b", 7); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Run(t.Context(), sees, 6, keys); !errors.Is(err, distlock.ErrStaleFence) || !strings.Contains(err.Error(), `key "b"`) {
		t.Errorf("stale for the second key: %v", err)
	}
	if got := c.Get(t.Context(), "ran").Val(); got != "2" {
		t.Errorf("the body ran %s times, want 2", got)
	}
	if got, err := r.Raise(t.Context(), "a", 1); got != 5 {
		t.Errorf("a refusal has raised the other key's fence to %d, %v", got, err)
	}
	if _, err := r.Raise(t.Context(), "ran", 1); err != nil { // it was not guarded
		t.Error(err)
	}

	nothing := redisfence.NewScript(1, `-- only a comment`)
	if _, err := r.Run(t.Context(), nothing, 7, []string{"b"}); !errors.Is(err, redis.Nil) {
		t.Errorf("a body that answers nothing: %v", err)
	}
	fails := redisfence.NewScript(1, "redis.call('SET', KEYS[1], 'x')\nreturn nil + 1")
	_, err := r.Run(t.Context(), fails, 8, []string{"b"})
	if err == nil || errors.Is(err, distlock.ErrStaleFence) || !strings.Contains(err.Error(), ":2:") && !strings.Contains(err.Error(), "line:2") {
		t.Errorf("the error names no line 2: %v", err)
	}
	if got, err := r.Raise(t.Context(), "b", 1); got != 8 {
		t.Errorf("a body that failed leaves fence %d, %v", got, err)
	}
	if _, err := redisfence.New(c.Pipeline()).Run(t.Context(), sees, 9, keys); !errors.Is(err, distlock.ErrInvalid) {
		t.Errorf("in a pipeline: %v", err)
	}
}

// A server that is started anew knows no script.
func TestRedisForgetsScripts(t *testing.T) {
	c := dial(t)
	r := redisfence.New(c)
	for range 2 {
		if err := r.Set(t.Context(), "a", 5, "x"); err != nil {
			t.Fatal(err)
		}
		if err := c.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// What this package is there for: an old holder has checked its fence, and before it writes a newer one does both.
func TestRedisInTwoCommandsIsNotEnough(t *testing.T) {
	c := dial(t)
	r := redisfence.New(c)
	ctx := t.Context()
	guard := distlock.StoredGuard(r)
	if err := guard.Admit(ctx, "stock", 5); err != nil {
		t.Fatal(err)
	}
	if err := r.Set(ctx, "stock", 6, "of the newer"); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(ctx, "stock", "of the older", 0).Err(); err != nil { // admitted a moment ago
		t.Fatal(err)
	}
	if got := c.Get(ctx, "stock").Val(); got != "of the older" {
		t.Errorf("after a check and a write there is %q", got)
	}
	if err := r.Set(ctx, "stock", 6, "of the newer"); err != nil {
		t.Fatal(err)
	}
	if err := r.Set(ctx, "stock", 5, "of the older"); !errors.Is(err, distlock.ErrStaleFence) {
		t.Errorf("in one script: %v", err)
	}
	if got := c.Get(ctx, "stock").Val(); got != "of the newer" {
		t.Errorf("in one script there is %q", got)
	}
}

// Eight writers, of which three write with fences that newer ones have overtaken; the others overtake each other.
func TestRedisWriters(t *testing.T) {
	c := dial(t)
	r := redisfence.New(c)
	write := redisfence.NewScript(1, `redis.call('RPUSH', KEYS[2], ARGV[1]) return redis.call('INCR', KEYS[1])`)
	total := 10_000
	if os.Getenv("DISTLOCK_TEST_REDIS") == "" {
		total = 2_000 // Lua in Go is slow
	}
	count := writers(t, total, func(ctx context.Context, fence distlock.Fence) error {
		_, err := r.Run(ctx, write, fence, []string{"{n}", "{n}:audit"}, uint64(fence))
		return err
	})
	if got := c.Get(t.Context(), "{n}").Val(); got != strconv.Itoa(count) {
		t.Errorf("the counter is %s, and %d writes were admitted", got, count)
	}
	audit, err := c.LRange(t.Context(), "{n}:audit", 0, -1).Result()
	if err != nil || len(audit) != count {
		t.Fatalf("%d writes in the audit, %v; %d were admitted", len(audit), err, count)
	}
	rises(t, audit)
}

// The price of the check, by turns, so that all have the same weather: a plain SET, the same in a script, a fenced one under a grant that writes
// again, and one under a new grant each time. The medians.
func BenchmarkRedisSet(b *testing.B) {
	c := dial(b)
	r := redisfence.New(c)
	ctx := b.Context()
	plain := redis.NewScript(`return redis.call('SET', KEYS[1], ARGV[1])`)
	ways := []struct {
		name string
		set  func(i int) error
	}{
		{"plain-µs", func(i int) error { return c.Set(ctx, "plain", i, 0).Err() }},
		{"script-µs", func(i int) error { return plain.Run(ctx, c, []string{"script"}, i).Err() }},
		{"same-fence-µs", func(i int) error { return r.Set(ctx, "same", 1795400835142333, i) }},
		{"new-fence-µs", func(i int) error { return r.Set(ctx, "new", distlock.Fence(1795400835142333+i), i) }},
	}
	took := make([][]time.Duration, len(ways))
	for i := range b.N {
		for w, way := range ways {
			begin := time.Now()
			if err := way.set(i); err != nil {
				b.Fatal(err)
			}
			took[w] = append(took[w], time.Since(begin))
		}
	}
	for w, way := range ways {
		slices.Sort(took[w])
		b.ReportMetric(float64(took[w][b.N/2].Nanoseconds())/1e3, way.name)
	}
}
