// Package redisfence has Redis and Valkey check the fences of distlock's grants. A command that checks and one that writes are two, and a newer holder
// may write between them; here they are one Lua script, which the server runs as one:
//
//	fenced := redisfence.New(redis.NewClient(&redis.Options{Addr: "redis:6379"})) // of github.com/redis/go-redis/v9
//
//	err = cluster.Do(ctx, "sku-42", func(ctx context.Context, fence distlock.Fence) error {
//		return fenced.Set(ctx, "stock:sku-42", fence, 54) // distlock.ErrStaleFence when a newer holder has written
//	})
//
// What is more than a Set is a script of one's own, which stays as it is and is put behind the check:
//
//	var sell = redisfence.NewScript(1, `return redis.call('DECRBY', KEYS[1], ARGV[1])`)
//
//	left, err := fenced.Run(ctx, sell, fence, []string{"stock:sku-42"}, 2)
//
// For servers in front of something else, distlock.StoredGuard(fenced) is a distlock.Guard that keeps its fences in Redis. Its check is not one step
// with what the server does next.
//
// Every write of the data must go through the check: a plain SET is asked for no fence. Reads need none.
//
// # In a Redis Cluster
//
// All keys of a script must be in one slot. The fence of a key is in the slot of that key (see FenceKey); the guarded keys of one script need a common
// hash tag, such as {sku-42}:stock and {sku-42}:reserved, as they do without fences.
//
// # What Redis forgets
//
// A fence that is forgotten is admitted again, until a newer one has come. Fence and data are written by one script, so a replica or an
// append-only file has both or neither of a write. But what Redis acknowledged it may still lose:
//
//   - In a failover, what the new primary had not yet been sent: replication is asynchronous. WAIT and min-replicas-to-write make that less, not nothing.
//   - In a crash, what was not on disk: everything without persistence or since the last snapshot, about a second's with appendfsync everysec. With
//     appendfsync always nothing, if the disk is honest and the same server comes back.
//   - Under memory pressure, any key with an allkeys-… policy. Fences have no TTL, so noeviction and the volatile-… policies keep them.
//   - By EXPIRE, DEL or FLUSHALL of somebody's.
//
// Where that must not be, keep data and fence in a database that is durable (distlock.SQLGuard). distlock.Cooldown helps beside it: a holder that was
// lost is then not overtaken before that time is over.
//
// # Sent twice
//
// Equal fences are admitted, so a fence does not keep a script from running twice. go-redis sends again by itself what had no answer, three times
// by default. A Set is the same when repeated; for scripts that are not, such as the one above, turn that off with MaxRetries: -1. An error of the client's
// after sending leaves open whether the script has run.
package redisfence
