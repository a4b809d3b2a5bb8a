package redisfence_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/godistlock/distlock"
	"github.com/godistlock/distlock/contrib/redisfence"
)

// A client is one of go-redis: redis.NewClient(&redis.Options{Addr: "redis:6379", MaxRetries: -1}).
var client redisfence.Client[interface{ Result() (any, error) }]

var sell = redisfence.NewScript(1, `
	local left = tonumber(redis.call('GET', KEYS[1]) or 0) - ARGV[1]
	if left < 0 then return -1 end
	redis.call('SET', KEYS[1], left)
	redis.call('INCRBY', KEYS[2], ARGV[1])
	return left`)

// The stock of a product is guarded. What all of them have sold is not, since no one lock is for it.
func ExampleRedis_Run() {
	fenced := redisfence.New(client)
	var cluster distlock.Locker
	err := cluster.Do(context.Background(), "sku-42", func(ctx context.Context, fence distlock.Fence) error {
		left, err := fenced.Run(ctx, sell, fence, []string{"{stock}:sku-42", "{stock}:sold"}, 2)
		if errors.Is(err, distlock.ErrStaleFence) {
			return fmt.Errorf("somebody else has sku-42 by now: %w", err)
		}
		fmt.Println(left, "left")
		return err
	})
	fmt.Println(err)
}

// A server whose own store can't check fences keeps them in Redis, where a restart doesn't forget them.
func ExampleRedis_Raise() {
	guard := distlock.StoredGuard(redisfence.New(client))
	http.Handle("/stock/", distlock.RequireFence(guard, nil, http.NotFoundHandler()))
}
