// Package distlock makes the processes of an application a lock cluster: a process that calls Join finds the others by gossip, becomes
// a member of an in-process Raft group, and can then Lock. There is no server beside them.
//
//	cluster, err := distlock.Join(distlock.Config{Peers: []string{"shop-1:7950", "shop-2:7950", "shop-3:7950"}})
//	…
//	lock, err := cluster.Lock(ctx, "sku-42")
//	if err != nil {
//		return err
//	}
//	defer lock.Unlock(ctx)
//
// # What a lock promises
//
// A grant stands on a majority of the voters before Lock returns. As long as the holder's process runs and clocks differ in rate by less
// than a fifth, Lock.Done closes before anybody else is granted. A process that was paused, by its machine or by its garbage, may sleep
// through that: it acts for a moment on a lock that is not its own any more. Only the resource itself can keep it out, by refusing a
// Fence that is smaller than one it has seen. So hand Lock.Fence to what the lock protects.
//
// # What is there
//
// Everything that is declared, but for what its comment calls not built yet: that answers an error matching errors.ErrUnsupported which
// names it, and does nothing.
package distlock
