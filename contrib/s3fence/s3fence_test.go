package s3fence

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/godistlock/distlock"
)

// bucket is one in memory with the ETags of S3, which are of the contents only.
type bucket struct {
	mu      sync.Mutex
	objects map[string]string
	before  func()       // of the next Put, once
	answer  func() error // of a Put that was stored
	deaf    bool         // to conditions
	puts    int
}

func newBucket() *bucket { return &bucket{objects: map[string]string{}} }

func etag(body string) string { return fmt.Sprintf("%q", fmt.Sprintf("%x", md5.Sum([]byte(body)))) }

func (b *bucket) Get(_ context.Context, key string) ([]byte, string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	body, ok := b.objects[key]
	if !ok {
		return nil, "", nil
	}
	return []byte(body), etag(body), nil
}

func (b *bucket) Put(_ context.Context, key string, body []byte, tag string) error {
	if f := b.before; f != nil {
		b.before = nil
		f()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.puts++
	now, ok := b.objects[key]
	if matches := !ok && tag == "" || ok && tag == etag(now); !matches && !b.deaf {
		return ErrChanged
	}
	b.objects[key] = string(body)
	if b.answer != nil {
		return b.answer()
	}
	return nil
}

func want(t *testing.T, b Bucket, key, content string, fence distlock.Fence) {
	t.Helper()
	if got, f, err := Get(t.Context(), b, key); string(got) != content || f != fence || err != nil {
		t.Errorf("%s is %q with fence %d, %v; want %q with %d", key, got, f, err, content, fence)
	}
}

func TestPut(t *testing.T) {
	b := newBucket()
	want(t, b, "a", "", 0)
	for i, step := range []struct {
		fence   distlock.Fence
		content string
		err     error
		left    string
		stands  distlock.Fence
	}{
		{9, "x", nil, "x", 9}, {9, "y\nz", nil, "y\nz", 9}, {10, "", nil, "", 10}, {9, "late", distlock.ErrStaleFence, "", 10},
		{1795400835142333, "big", nil, "big", 1795400835142333}, {1795400835142332, "late", distlock.ErrStaleFence, "big", 1795400835142333},
		{0, "none", distlock.ErrInvalid, "big", 1795400835142333}, {1 << 53, "none", distlock.ErrInvalid, "big", 1795400835142333},
		{1<<53 - 1, "last", nil, "last", 1<<53 - 1},
	} {
		if err := Put(t.Context(), b, "a", step.fence, []byte(step.content)); !errors.Is(err, step.err) {
			t.Errorf("%d: %v, want %v", i, err, step.err)
		}
		want(t, b, "a", step.left, step.stands)
	}
}

// An old holder has read, and sleeps. A newer one writes, and leaves the very content that the old one has read.
func TestSleeperMeetsTheSameContent(t *testing.T) {
	for name, newer := range map[string][]string{"unchanged": {"x"}, "and back": {"y", "x"}, "changed": {"y"}} {
		b := newBucket()
		put := func(fence distlock.Fence, content string) error {
			return Put(t.Context(), b, "a", fence, []byte(content))
		}
		if err := put(4, "x"); err != nil {
			t.Fatal(err)
		}
		b.before = func() {
			for _, content := range newer {
				if err := put(7, content); err != nil {
					t.Error(err)
				}
			}
		}
		if err := put(5, "late"); !errors.Is(err, distlock.ErrStaleFence) {
			t.Errorf("%s: %v", name, err)
		}
		want(t, b, "a", newer[len(newer)-1], 7)
	}
}

func TestTheFirstWriteIsOneOfTwo(t *testing.T) {
	b := newBucket()
	b.before = func() {
		if err := Put(t.Context(), b, "a", 7, []byte("newer")); err != nil {
			t.Error(err)
		}
	}
	if err := Put(t.Context(), b, "a", 5, []byte("late")); !errors.Is(err, distlock.ErrStaleFence) {
		t.Error(err)
	}
	want(t, b, "a", "newer", 7)
}

// Whoever is overtaken by an older write, or by one of the same grant, starts from what that has left.
func TestUpdateStartsAgain(t *testing.T) {
	for _, other := range []distlock.Fence{4, 5} {
		b := newBucket()
		add := func(s string) func([]byte) ([]byte, error) {
			return func(old []byte) ([]byte, error) { return append(old, s...), nil }
		}
		b.before = func() {
			if err := Update(t.Context(), b, "a", other, add("1")); err != nil {
				t.Error(err)
			}
		}
		if err := Update(t.Context(), b, "a", 5, add("2")); err != nil {
			t.Error(err)
		}
		want(t, b, "a", "12", 5)
	}
}

// The answer is lost, the client sends again, and its first copy is what the second meets.
func TestOwnCopyIsNoFailure(t *testing.T) {
	b := newBucket()
	b.answer = func() error {
		b.answer = nil
		return ErrChanged
	}
	changes := 0
	err := Update(t.Context(), b, "a", 5, func(old []byte) ([]byte, error) {
		changes++
		return append(old, 'x'), nil
	})
	if err != nil || changes != 1 {
		t.Errorf("%v after %d changes", err, changes)
	}
	want(t, b, "a", "x", 5)
}

func TestErrorsAreAnswered(t *testing.T) {
	b := newBucket()
	gone := errors.New("connection lost")
	b.answer = func() error { return gone }
	if err := Put(t.Context(), b, "a", 5, nil); !errors.Is(err, gone) || b.puts != 1 {
		t.Errorf("a lost Put: %v, sent %d times", err, b.puts)
	}
	if err := Update(t.Context(), b, "a", 5, func([]byte) ([]byte, error) { return nil, gone }); err != gone || b.puts != 1 {
		t.Errorf("a change that fails: %v, sent %d times", err, b.puts)
	}
	for _, body := range []string{"", "content", "distlock-fence 5\n", "distlock-fence -5 x\n", "distlock-fence 0 x\n", "distlock-fence 5 \n", "distlock-fence 5 x y\n"} {
		b.objects["a"] = body
		_, _, err := Get(t.Context(), b, "a")
		if err2 := Put(t.Context(), b, "a", 5, nil); !errors.Is(err, distlock.ErrInvalid) || !errors.Is(err2, distlock.ErrInvalid) || b.objects["a"] != body {
			t.Errorf("%q: %v, %v", body, err, err2)
		}
	}
}

func TestUpdateEndsWithItsContext(t *testing.T) {
	b := newBucket()
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	err := Update(ctx, b, "a", 5, func([]byte) ([]byte, error) {
		switch tries++; tries {
		case 3:
			cancel()
		case 4:
			return nil, errors.New("it goes on")
		}
		b.objects["a"] = string(object{5, fmt.Sprint(tries), nil}.encode()) // somebody always writes in between
		return nil, nil
	})
	if !errors.Is(err, context.Canceled) || tries != 3 {
		t.Errorf("%v after %d tries", err, tries)
	}
}

func TestVerify(t *testing.T) {
	b := newBucket()
	for range 2 { // without the object, and with it
		if err := Verify(t.Context(), b, "check"); err != nil {
			t.Error(err)
		}
	}
	b.before = func() {
		if err := Verify(t.Context(), b, "check"); err != nil {
			t.Error(err)
		}
	}
	if err := Verify(t.Context(), b, "check"); err != nil {
		t.Errorf("beside another: %v", err)
	}
	deaf := newBucket()
	deaf.deaf = true
	for range 2 {
		if err := Verify(t.Context(), deaf, "check"); !errors.Is(err, distlock.ErrInvalid) || !strings.Contains(err.Error(), "condition") {
			t.Errorf("of one that knows no conditions: %v", err)
		}
	}
}
