package redisfence

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/godistlock/distlock"
)

// Client is what is needed of a client. *redis.Client, *redis.ClusterClient, redis.UniversalClient and the like of go-redis v9 have it, R being
// *redis.Cmd, and so has whatever has the same two methods. A pipeline has them as well and is of no use here, since it answers later.
type Client[R Reply] interface {
	Eval(ctx context.Context, script string, keys []string, args ...any) R
	EvalSha(ctx context.Context, sha1 string, keys []string, args ...any) R
}

// Reply is what a Client's methods answer.
type Reply interface{ Result() (any, error) }

// Redis is a server, or a Cluster, that checks fences. It is safe for concurrent use if its client is.
type Redis struct {
	eval, evalSHA func(ctx context.Context, script string, keys []string, args []any) (any, error)
}

var _ distlock.FenceStore = (*Redis)(nil)

// New is a Redis behind client, which stays the caller's.
func New[R Reply](client Client[R]) *Redis {
	return &Redis{
		eval: func(ctx context.Context, script string, keys []string, args []any) (any, error) {
			return client.Eval(ctx, script, keys, args...).Result()
		},
		evalSHA: func(ctx context.Context, sha string, keys []string, args []any) (any, error) {
			return client.EvalSha(ctx, sha, keys, args...).Result()
		},
	}
}

// Script is a Lua script behind the check of a fence. Make it once.
type Script struct {
	source, sha string
	guarded     int
}

// NewScript puts the check of a fence before body, which finds its KEYS and ARGV as they were given to Run. The first guarded keys of those are what
// the fence is checked for, one by one; what else the script touches without a lock of its own comes behind them. What the body answers is Run's
// answer. It runs only if no guarded key has a greater fence. Redis takes nothing back: when the body fails, what it has written until then stays, and so do the
// fences. It must not begin with a shebang (#!lua).
func NewScript(guarded int, body string) *Script {
	// All on the first line, so that errors name the body's own lines.
	return newScript(guarded, strings.Join(strings.Fields(fmt.Sprintf(check, guarded)), " ")+" "+body)
}

func newScript(guarded int, source string) *Script {
	sum := sha1.Sum([]byte(source))
	return &Script{source: source, sha: hex.EncodeToString(sum[:]), guarded: guarded}
}

// Numbers of Lua are exact up to 2^53, as fences are, but lose digits when they are written: what is stored and answered is always the text that was
// given. A text that is no number ends the script with an error, before anything is written.
const (
	// check takes the fence off the end of ARGV, and the keys of fences off that of KEYS.
	check = `
		do
			local fence, stored, n = table.remove(ARGV), {}, %d
			for i = 1, n do
				stored[i] = redis.call('GET', KEYS[#KEYS - n + i])
				if stored[i] and tonumber(stored[i]) > tonumber(fence) then return {err = '` + stale + `' .. i .. ' ' .. stored[i]} end
			end
			for i = n, 1, -1 do
				local key = table.remove(KEYS)
				if stored[i] ~= fence then redis.call('SET', key, fence) end
			end
		end`
	raise = `
		local stored = redis.call('GET', KEYS[1])
		if stored and tonumber(stored) >= tonumber(ARGV[1]) then return stored end
		redis.call('SET', KEYS[1], ARGV[1])
		return ARGV[1]`
	stale = "STALEFENCE " // then which of the guarded keys, from 1, and its fence
)

var (
	raiseScript = newScript(1, raise)
	setScript   = NewScript(1, `return redis.call('SET', KEYS[1], ARGV[1])`)
)

// Run runs s if none of its guarded keys has a greater fence than fence, and keeps fence as theirs, all in one step; else nothing is done and the error
// matches distlock.ErrStaleFence. It blocks as the client does. What matches distlock.ErrInvalid was not sent; other errors are
// the client's own, such as redis.Nil for a script that answers nothing.
func (r *Redis) Run(ctx context.Context, s *Script, fence distlock.Fence, keys []string, args ...any) (any, error) {
	if err := checkFence(fence); err != nil {
		return nil, err
	}
	if s.guarded < 1 || s.guarded > len(keys) {
		return nil, fmt.Errorf("%w script: it guards %d of %d keys", distlock.ErrInvalid, s.guarded, len(keys))
	}
	all := slices.Clone(keys)
	for _, key := range keys[:s.guarded] {
		if key == "" {
			return nil, errNoKey
		}
		all = append(all, FenceKey(key))
	}
	answer, err := r.run(ctx, s, all, append(slices.Clone(args), decimal(fence)))
	if err == nil {
		return answer, nil
	}
	if text, ok := strings.CutPrefix(err.Error(), stale); ok {
		var i int
		var stored distlock.Fence
		if n, _ := fmt.Sscan(text, &i, &stored); n == 2 && 1 <= i && i <= s.guarded {
			return nil, fmt.Errorf("key %q: %w: fence %d, and %d was admitted", keys[i-1], distlock.ErrStaleFence, fence, stored)
		}
	}
	return nil, err
}

// Set sets key to value, as Run does a script of one's own. Numbers, texts and bytes are values, as the client has it.
func (r *Redis) Set(ctx context.Context, key string, fence distlock.Fence, value any) error {
	_, err := r.Run(ctx, setScript, fence, []string{key}, value)
	return err
}

// Raise implements distlock.FenceStore. The fence is the one that Run checks for a key of that name.
func (r *Redis) Raise(ctx context.Context, key string, fence distlock.Fence) (distlock.Fence, error) {
	if err := checkFence(fence); err != nil {
		return 0, err
	}
	if key == "" {
		return 0, errNoKey
	}
	answer, err := r.run(ctx, raiseScript, []string{FenceKey(key)}, []any{decimal(fence)})
	if err != nil {
		return 0, err
	}
	text, _ := answer.(string)
	stored, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w answer of Redis, no fence: %v", distlock.ErrInvalid, answer)
	}
	return distlock.Fence(stored), nil
}

// run sends the whole script only to a server that doesn't know it yet, or no more.
func (r *Redis) run(ctx context.Context, s *Script, keys []string, args []any) (any, error) {
	answer, err := r.evalSHA(ctx, s.sha, keys, args)
	if err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT") {
		answer, err = r.eval(ctx, s.source, keys, args)
	}
	if answer == nil && err == nil {
		return nil, fmt.Errorf("%w client: it has not answered yet, as pipelines do", distlock.ErrInvalid)
	}
	return answer, err
}

// FenceKey is the key of key's fence: "fence:{stock:sku-42}" or, where key has a hash tag already, "{sku-42}:stock:fence". Both are in key's slot of a
// Redis Cluster; only for a key that has a } and no hash tag there is no such name, and a Cluster refuses its scripts.
func FenceKey(key string) string {
	if tagged(key) || strings.Contains(key, "}") {
		return key + ":fence"
	}
	return "fence:{" + key + "}"
}

// tagged is whether a Cluster hashes only a part of key: what is between the first { and the next }, if that is anything.
func tagged(key string) bool {
	_, rest, _ := strings.Cut(key, "{")
	return strings.Index(rest, "}") > 0
}

var errNoKey = fmt.Errorf("%w key: it is empty", distlock.ErrInvalid)

func checkFence(fence distlock.Fence) error {
	const most = 1<<53 - 1
	if fence == 0 || fence > most {
		return fmt.Errorf("%w fence %d: a grant's is from 1 to %d", distlock.ErrInvalid, fence, uint64(most))
	}
	return nil
}

func decimal(fence distlock.Fence) string { return strconv.FormatUint(uint64(fence), 10) }
