package distlock_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/godistlock/distlock"
)

// join is a cluster of this one process, for the examples. A real one names its Peers.
func join() *distlock.Cluster {
	cluster, err := distlock.Join(distlock.Config{Bind: "127.0.0.1:0"})
	if err != nil {
		panic(err)
	}
	return cluster
}

func must(lock *distlock.Lock, err error) *distlock.Lock {
	if err != nil {
		panic(err)
	}
	return lock
}

func ExampleCluster_Lock() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	lock, err := cluster.Lock(ctx, "sku-42")
	if err != nil {
		panic(err)
	}
	defer lock.Unlock(ctx)
	fmt.Println(lock.Key(), lock.Fence() > 0, lock.Err())
	// Output: sku-42 true <nil>
}

func ExampleCluster_TryLock() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	defer must(cluster.Lock(ctx, "sku-42")).Unlock(ctx)
	_, err := cluster.TryLock(ctx, "sku-42")
	fmt.Println(errors.Is(err, distlock.ErrHeld))
	// Output: true
}

func ExampleCluster_Do() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	err := cluster.Do(ctx, "sku-42", func(ctx context.Context, fence distlock.Fence) error {
		carried, _ := distlock.FenceFrom(ctx) // ctx ends when the lock is lost, and carries the fence
		fmt.Println(carried == fence)
		return nil
	})
	fmt.Println(err)
	// Output:
	// true
	// <nil>
}

func ExampleCluster_LockAll() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	transfer := must(cluster.LockAll(ctx, []string{"account-2", "account-1"})) // in whatever order: it never deadlocks with another
	defer transfer.Unlock(ctx)
	fmt.Println(transfer.Keys())
	// Output: [account-2 account-1]
}

func ExampleShared() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	defer must(cluster.Lock(ctx, "catalogue", distlock.Shared())).Unlock(ctx)
	defer must(cluster.Lock(ctx, "catalogue", distlock.Shared())).Unlock(ctx) // readers together
	_, err := cluster.TryLock(ctx, "catalogue")                               // a writer alone
	fmt.Println(errors.Is(err, distlock.ErrHeld))
	// Output: true
}

func ExampleLimit() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	defer must(cluster.Lock(ctx, "gpu", distlock.Limit(4))).Unlock(ctx)
	defer must(cluster.Lock(ctx, "gpu", distlock.Limit(4), distlock.Weight(3))).Unlock(ctx)
	_, err := cluster.TryLock(ctx, "gpu", distlock.Limit(4)) // all four are taken
	fmt.Println(errors.Is(err, distlock.ErrHeld))
	// Output: true
}

func ExampleTTL() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	lock := must(cluster.Lock(ctx, "report", distlock.TTL(50*time.Millisecond)))
	<-lock.Done()
	fmt.Println(lock.Err())
	// Output: expired
}

func ExampleLock_Extend() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	lock := must(cluster.Lock(ctx, "report", distlock.TTL(time.Minute)))
	fmt.Println(lock.Extend(ctx, time.Hour)) // there is more to do than was thought
	fmt.Println(lock.Unlock(ctx))
	// Output:
	// <nil>
	// <nil>
}

// A lock that outlives its process: taken by who starts a payment, released by whoever hears of its end.
func ExampleDetached() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	lock := must(cluster.Lock(ctx, "payment-7", distlock.Detached(time.Hour)))
	handle := lock.Handle() // goes along with the payment
	fmt.Println(cluster.Release(ctx, handle))
	fmt.Println(errors.Is(cluster.Release(ctx, handle), distlock.ErrNotHeld)) // it is gone
	// Output:
	// <nil>
	// true
}

func ExampleCluster_Adopt() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	lock := must(cluster.Lock(ctx, "upload"))
	taken := must(cluster.Adopt(ctx, lock.Handle())) // in another process, most of the time
	fmt.Println(lock.Err(), taken.Fence() == lock.Fence(), taken.Unlock(ctx))
	// Output: moved to another holder true <nil>
}

func ExampleCooldown() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	must(cluster.Lock(ctx, "printer", distlock.Cooldown(time.Minute))) // what it does can't be fenced
	fmt.Println(cluster.ForceUnlock(ctx, "printer"))
	_, err := cluster.TryLock(ctx, "printer") // who was forced may still be at it
	fmt.Println(errors.Is(err, distlock.ErrHeld))
	// Output:
	// <nil>
	// true
}

func ExampleValue() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	defer must(cluster.Lock(ctx, "leader", distlock.Value([]byte("10.0.0.7:8080")))).Unlock(ctx)
	locks, err := cluster.Locks(ctx, "leader")
	fmt.Println(string(locks[0].Holders[0].Value), err)
	// Output: 10.0.0.7:8080 <nil>
}

func ExampleCaller() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	defer must(cluster.Lock(ctx, "sku-42", distlock.Caller())).Unlock(ctx)
	locks, err := cluster.Locks(ctx, "sku-42")
	fmt.Println(locks[0].Holders[0].Caller != "", err) // file and line
	// Output: true <nil>
}

func ExampleLock_Downgrade() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	lock := must(cluster.Lock(ctx, "config")) // to write
	fmt.Println(lock.Downgrade(ctx))          // written: others may read it, nobody could write in between
	defer must(cluster.Lock(ctx, "config", distlock.Shared())).Unlock(ctx)
	fmt.Println(lock.Unlock(ctx))
	// Output:
	// <nil>
	// <nil>
}

// Two that lock the same keys in opposite orders: one of them is told, instead of both waiting for ever.
func ExampleLock_Context() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	lock := must(cluster.Lock(ctx, "a"))
	defer lock.Unlock(ctx)
	_, err := cluster.Lock(lock.Context(ctx), "a") // the same owner asks for what it holds
	fmt.Println(errors.Is(err, distlock.ErrDeadlock))
	// Output: true
}

func ExampleCluster_Watch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cluster := join()
	defer cluster.Close()
	events, err := cluster.Watch(ctx, "sku-")
	if err != nil {
		panic(err)
	}
	must(cluster.Lock(ctx, "sku-42")).Unlock(ctx)
	for e := range events {
		fmt.Println(e.Type, e.Key)
		if e.Type == distlock.EventReleased {
			cancel() // which closes events
		}
	}
	// Output:
	// granted sku-42
	// released sku-42
}

// The file of peers that a tool keeps up to date is read again whenever others are looked for.
func ExamplePeersFile() {
	dir, err := os.MkdirTemp("", "peers")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "peers")
	if err := os.WriteFile(file, []byte("# written by the deployment\n127.0.0.1:17950\nshop 2\n"), 0o600); err != nil {
		panic(err)
	}
	discover := distlock.PeersFile(file) // to be a Config's Discover
	peers, err := discover(context.Background())
	fmt.Println(peers, strings.Contains(err.Error(), "line 3"))
	// Output: [127.0.0.1:17950] true
}

func ExampleCluster_Stats() {
	ctx, cluster := context.Background(), join()
	defer cluster.Close()
	defer must(cluster.Lock(ctx, "sku-42")).Unlock(ctx)
	stats, err := cluster.Stats(ctx)
	fmt.Println(stats.Keys, stats.Holders, stats.Sessions, err)
	// Output: 1 1 1 <nil>
}

// An order is written only if nobody with a newer fence was there before; check and write are one transaction.
func ExampleSQLGuard() {
	guard := distlock.SQLGuard{Dialect: distlock.Postgres} // its table: guard.CreateTable, or guard.TableSQL in a migration
	sell := func(ctx context.Context, db *sql.DB, sku string, fence distlock.Fence) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if err := guard.Admit(ctx, tx, sku, fence); err != nil { // before the first read
			return err // errors.Is(err, distlock.ErrStaleFence): somebody newer was there
		}
		if _, err := tx.ExecContext(ctx, "UPDATE stock SET count = count - 1 WHERE sku = $1 AND count > 0", sku); err != nil {
			return err
		}
		return tx.Commit()
	}
	_ = sell
}

// The same for a table that has a fence column of its own: one statement, and no transaction.
func ExampleStaleIfNone() {
	setPrice := func(ctx context.Context, db *sql.DB, sku string, cents int, fence distlock.Fence) error {
		return distlock.StaleIfNone(db.ExecContext(ctx, "UPDATE stock SET cents = $1, fence = $2 WHERE sku = $3 AND fence <= $2", cents, fence, sku))
	}
	_ = setPrice
}

func ExampleSQLGuard_TableSQL() {
	fmt.Println(distlock.SQLGuard{Dialect: distlock.MySQL}.TableSQL())
	// Output: CREATE TABLE IF NOT EXISTS `distlock_fences` (`key` VARBINARY(1024) NOT NULL PRIMARY KEY, fence BIGINT NOT NULL) ENGINE=InnoDB <nil>
}
