package redisfence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/godistlock/distlock"
)

// What a server does with the scripts is tested beside one, in contrib/storetest.

type reply struct {
	value any
	err   error
}

func (r reply) Result() (any, error) { return r.value, r.err }

// client answers what it is told, and keeps what it was asked.
type client struct {
	replies []reply
	calls   []string
}

func (c *client) call(name, script string, keys []string, args []any) reply {
	c.calls = append(c.calls, fmt.Sprint(name, " ", len(script), keys, args))
	r := c.replies[0]
	c.replies = c.replies[1:]
	return r
}

func (c *client) Eval(_ context.Context, script string, keys []string, args ...any) reply {
	return c.call("EVAL", script, keys, args)
}

func (c *client) EvalSha(_ context.Context, sha1 string, keys []string, args ...any) reply {
	return c.call("EVALSHA", sha1, keys, args)
}

var errGone = errors.New("connection lost")

func TestAnswers(t *testing.T) {
	two := NewScript(2, "return 1")
	run := func(r *Redis) (any, error) { return r.Run(t.Context(), two, 5, []string{"a", "b", "c"}, "x", 2) }
	raise := func(r *Redis) (any, error) { return r.Raise(t.Context(), "a", 5) }
	whole := fmt.Sprint("EVAL ", len(two.source), " [a b c fence:{a} fence:{b}] [x 2 5]")
	for name, c := range map[string]struct {
		call    func(*Redis) (any, error)
		replies []reply
		calls   []string
		value   any
		err     error
		says    string
	}{
		"run":                  {run, []reply{{int64(3), nil}}, []string{"EVALSHA 40 [a b c fence:{a} fence:{b}] [x 2 5]"}, int64(3), nil, ""},
		"the server forgot it": {run, []reply{{nil, errors.New("NOSCRIPT No matching script.")}, {"OK", nil}}, []string{"EVALSHA 40 [a b c fence:{a} fence:{b}] [x 2 5]", whole}, "OK", nil, ""},
		"stale":                {run, []reply{{nil, errors.New("STALEFENCE 2 7")}}, nil, nil, distlock.ErrStaleFence, `key "b"`},
		"no key of that kind":  {run, []reply{{nil, errors.New("STALEFENCE 3 7")}}, nil, nil, nil, "STALEFENCE 3 7"},
		"lost":                 {run, []reply{{nil, errGone}}, nil, nil, errGone, ""},
		"a pipeline":           {run, []reply{{nil, nil}}, nil, nil, distlock.ErrInvalid, "pipeline"},
		"raise":                {raise, []reply{{"5", nil}}, []string{"EVALSHA 40 [fence:{a}] [5]"}, distlock.Fence(5), nil, ""},
		"raised by another":    {raise, []reply{{"9007199254740991", nil}}, nil, distlock.Fence(1<<53 - 1), nil, ""},
		"raise in a pipeline":  {raise, []reply{{nil, nil}}, nil, distlock.Fence(0), distlock.ErrInvalid, "pipeline"},
		"no fence":             {raise, []reply{{int64(5), nil}}, nil, distlock.Fence(0), distlock.ErrInvalid, ""},
		"raise, lost":          {raise, []reply{{nil, errGone}}, nil, distlock.Fence(0), errGone, ""},
	} {
		f := &client{replies: c.replies}
		value, err := c.call(New(f))
		failed := c.err != nil || c.says != ""
		if value != c.value || (err != nil) != failed || !errors.Is(err, c.err) && c.err != nil || failed && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v", name, value, err)
		}
		if c.calls != nil && !slices.Equal(f.calls, c.calls) {
			t.Errorf("%s: sent %q, want %q", name, f.calls, c.calls)
		}
	}
}

func TestNonsenseIsNotSent(t *testing.T) {
	f := &client{}
	r := New(f)
	one, three, none := NewScript(1, ""), NewScript(3, ""), NewScript(0, "")
	for i, call := range []func() error{
		func() error { _, err := r.Run(t.Context(), one, 0, []string{"a"}); return err },
		func() error { _, err := r.Run(t.Context(), one, 1<<53, []string{"a"}); return err },
		func() error { _, err := r.Run(t.Context(), one, 5, nil); return err },
		func() error { _, err := r.Run(t.Context(), three, 5, []string{"a", "b"}); return err },
		func() error { _, err := r.Run(t.Context(), none, 5, []string{"a"}); return err },
		func() error { return r.Set(t.Context(), "", 5, "x") },
		func() error { _, err := r.Raise(t.Context(), "a", 0); return err },
		func() error { _, err := r.Raise(t.Context(), "", 5); return err },
	} {
		if err := call(); !errors.Is(err, distlock.ErrInvalid) || len(f.calls) > 0 {
			t.Errorf("%d: %v, sent %q", i, err, f.calls)
		}
	}
}

func TestTheCallersArgumentsStay(t *testing.T) {
	keys, args := append(make([]string, 0, 9), "a"), append(make([]any, 0, 9), "x")
	if _, err := New(&client{replies: []reply{{"OK", nil}}}).Run(t.Context(), setScript, 5, keys, args...); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(keys[:2], args[:2]); got != "[a ] [x <nil>]" {
		t.Errorf("the arrays behind the arguments are now %s", got)
	}
}

// hashed is the part of a key that a Cluster hashes, as its specification has it.
func hashed(key string) string {
	open := strings.Index(key, "{")
	if open < 0 {
		return key
	}
	length := strings.Index(key[open+1:], "}")
	if length <= 0 {
		return key
	}
	return key[open+1 : open+1+length]
}

func TestFenceKey(t *testing.T) {
	for key, want := range map[string]string{
		"stock:sku-42": "fence:{stock:sku-42}", "{sku-42}:stock": "{sku-42}:stock:fence", "a{b": "fence:{a{b}", "{{b}": "{{b}:fence",
		"a{b}{c}": "a{b}{c}:fence", "a}b": "a}b:fence", "{}": "{}:fence", "x{}{y}": "x{}{y}:fence", "}{a}": "}{a}:fence",
	} {
		if got := FenceKey(key); got != want {
			t.Errorf("%q: %q, want %q", key, got, want)
		}
	}
	seen := map[string]string{}
	for n := range 5 * 5 * 5 * 5 * 5 { // every text of up to five of these
		var key string
		for ; n > 0; n /= 5 {
			key += []string{"", "a", "{", "}", ":fence"}[n%5]
		}
		if key == "" {
			continue
		}
		fence := FenceKey(key)
		if other, ok := seen[fence]; ok && other != key {
			t.Errorf("%q and %q have the one fence %q", key, other, fence)
		}
		seen[fence] = key
		if possible := hashed(key) != key || !strings.Contains(key, "}"); possible && hashed(fence) != hashed(key) {
			t.Errorf("%q is hashed by %q, and its fence by %q", key, hashed(key), hashed(fence))
		}
	}
}
