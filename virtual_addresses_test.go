package distlock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// Members that gossip has forgotten, and members that are found at other addresses than before.

// onDisk gives every member a DataDir.
func onDisk(m *member) { m.cfg.DataDir = m.w.t.TempDir() }

// seesAll says that m sees all members that run, alive, and is of cluster.
func (m *member) seesAll(cluster wire.UUID) bool {
	id, open := m.cluster().node.Cluster()
	s := m.cluster().Status()
	alive := map[string]string{}
	for _, o := range s.Members {
		if o.State == Alive {
			alive[o.Name] = o.Addr
		}
	}
	for _, o := range m.w.running() {
		if alive[o.cfg.Name] != o.cfg.Bind {
			return false
		}
	}
	return open && id == cluster && len(s.Conflicts) == 0 && s.Leader != ""
}

// allMeet waits until every member that runs sees every other, of one cluster, with one leader.
func (w *world) allMeet(limit time.Duration, cluster wire.UUID) time.Duration {
	w.t.Helper()
	return w.within(limit, "all see each other alive in one cluster", func() bool {
		for _, m := range w.running() {
			if !m.seesAll(cluster) || m.cluster().Status().Leader != w.running()[0].cluster().Status().Leader {
				return false
			}
		}
		return true
	})
}

func (w *world) clusterID() wire.UUID {
	id, _ := w.running()[0].cluster().node.Cluster()
	return id
}

// A cut that lasts longer than everything that gossip remembers: both sides forget that there is another. When it is over they find each other
// by their Peers, and those who had lost their sessions have new ones.
func TestVirtualCutLongerThanGossipRemembers(t *testing.T) {
	virtual(t, 2, func(w *world) { // ten minutes of five members are seconds of a processor
		voters := 3 + 2*(int(w.seed)%2)
		w.add(5, func(m *member) { m.cfg.Voters, m.cfg.SessionTTL = voters, 10*time.Second })
		w.startVoters(voters)
		cluster := w.clusterID()
		var side []string
		var away, stay []*member
		for k, i := range w.rng.Perm(5) {
			m := w.members[i]
			if k < 2 {
				side, away = append(side, m.ip), append(away, m)
			} else {
				stay = append(stay, m)
			}
		}
		held := map[*member]*Lock{}
		for _, m := range w.members {
			held[m] = m.lock("held by " + m.cfg.Name)
		}
		w.note("cut off %v, of %d voters", side, voters)
		w.net.Partition(side)
		time.Sleep(10 * time.Minute)
		for _, m := range w.members {
			if n := len(m.cluster().Status().Members); n > 3 {
				w.errorf("%s still remembers %d members: the cut was too short", m.cfg.Name, n)
			}
		}
		w.net.HealAll()
		t.Logf("all met %s after the heal", w.allMeet(75*time.Second, cluster))
		t.Logf("all can lock %s later", w.mayLock(30*time.Second))
		lost := 0
		for _, m := range w.members {
			if errors.Is(held[m].Err(), ErrSessionLost) {
				lost++
			}
		}
		if lost != len(away) && lost != len(stay) {
			w.errorf("%d members lost their sessions, of sides of %d and %d", lost, len(away), len(stay))
		}
	})
}

// mayLock waits until every member that runs has locked and unlocked the same key, and answers how long that took. Unlike recovers it lets
// other locks be held.
func (w *world) mayLock(limit time.Duration) time.Duration {
	w.t.Helper()
	began := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex // guards last
	var last Fence
	for _, m := range w.running() {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			for {
				l, err := m.cluster().Lock(ctx, "may lock")
				if err == nil {
					mu.Lock()
					if l.Fence() <= last {
						w.errorf("%s: fence %d after %d", m.cfg.Name, l.Fence(), last)
					}
					last = l.Fence()
					mu.Unlock()
					err = l.Unlock(ctx)
				}
				if err == nil {
					return
				}
				if !errors.Is(err, ErrSessionLost) {
					w.errorf("%s can't lock within %s: %v", m.cfg.Name, limit, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if w.t.Failed() {
		w.t.FailNow()
	}
	return time.Since(began)
}

// A durable voter comes back at another address, with its name and its DataDir: it is the same server and has the same seat.
func TestVirtualVoterMoves(t *testing.T) {
	virtual(t, 4, func(w *world) {
		w.add(4, onDisk, func(m *member) { m.cfg.NoVote = m.i == 3 }, func(m *member) {
			if w.seed%2 == 0 { // on the same machine, which can prove the death of its predecessor
				m.proof = wire.Proof{Boot: "boot of all", NetNS: "net:[1]"}
			}
		})
		w.startVoters(3)
		cluster := w.clusterID()
		moves := w.leader()
		if w.rng.IntN(2) == 0 {
			moves = w.others(moves)[0]
		}
		held := map[*member]*Lock{}
		for _, m := range w.others(moves) {
			held[m] = m.lock("held by " + m.cfg.Name)
		}
		gone := moves.lock("held by who moves")
		server := moves.cluster().node.Server()
		moves.crash()
		moves.moveTo("10.0.1.7")
		pauseFor(w.rng, 2*time.Second)
		began := time.Now()
		if err := moves.join(w.until(time.Minute)); err != nil {
			w.fatalf("join: %v", err)
		}
		t.Logf("joined after %s", time.Since(began))
		if now := moves.cluster().node.Server(); now != server {
			w.errorf("server %s has become %s", server, now)
		}
		t.Logf("all met %s later", w.allMeet(20*time.Second, cluster))
		if role := moves.cluster().Status().Role; role != Voter {
			w.errorf("its role is %s", role)
		}
		for m, l := range held {
			if l.Err() != nil {
				w.errorf("%s lost its lock: %v", m.cfg.Name, l.Err())
			}
		}
		if again := moves.lock("held by who moves"); again.Fence() <= gone.Fence() {
			w.errorf("fence %d after %d", again.Fence(), gone.Fence())
		}
		// The seat counts: with another voter dead, the two that are left need each other.
		for _, m := range w.others(moves) {
			if m.cluster().Status().Role == Voter {
				m.crash()
				break
			}
		}
		t.Logf("with another voter dead all can lock after %s", w.mayLock(20*time.Second))
	})
}

// All voters at once come back at other addresses, each at one that was another's before, or at new ones. Whether the others find them by
// Discover or by a name in the DNS, the cluster is the same, with all that was committed.
func TestVirtualAllVotersMove(t *testing.T) {
	virtual(t, 6, func(w *world) {
		w.add(5, onDisk, func(m *member) { m.cfg.NoVote, m.cfg.SessionTTL = m.i >= 3, 10*time.Second })
		voters, clients := w.members[:3], w.members[3:]
		names := &zone{}
		w.names = names
		var mu sync.Mutex // guards current
		var current []string
		publish := func() { // the voters' addresses: nobody is told where the clients are
			mu.Lock()
			defer mu.Unlock()
			current = nil
			var ips, targets []string
			for i, m := range voters {
				current = append(current, m.cfg.Bind)
				ips = append(ips, m.ip)
				name := fmt.Sprintf("m%d.shop.test.", i)
				names.set(name, m.ip)
				targets = append(targets, name+":7950")
			}
			names.set("shop.test", ips...)
			names.set("_distlock._tcp.shop.test", targets...)
		}
		publish()
		for _, m := range w.members {
			switch m.cfg.Peers = nil; w.seed % 3 {
			case 0:
				m.cfg.Peers = []string{"shop.test:7950"}
			case 1:
				m.cfg.Peers = []string{"_distlock._tcp.shop.test"}
			case 2:
				m.cfg.Discover = func(context.Context) ([]string, error) {
					mu.Lock()
					defer mu.Unlock()
					return append([]string(nil), current...), nil
				}
			}
		}
		w.startVoters(3)
		cluster := w.clusterID()
		held := clients[0].lock("held by a client")
		detached, err := voters[0].cluster().Lock(w.until(time.Minute), "detached", Detached(time.Hour))
		if err != nil {
			w.fatalf("detached: %v", err)
		}
		servers := map[wire.UUID]bool{}
		for _, m := range voters {
			servers[m.cluster().node.Server()] = true
		}
		for _, m := range voters {
			m.crash()
		}
		swap := w.rng.IntN(2) == 0
		ips := []string{voters[1].ip, voters[2].ip, voters[0].ip}
		for i, m := range voters {
			if swap {
				m.moveTo(ips[i])
			} else {
				m.moveTo(fmt.Sprintf("10.0.1.%d", 1+i))
			}
		}
		pauseFor(w.rng, 500*time.Millisecond)
		publish()
		began := time.Now()
		for _, m := range voters {
			m.begin() // each waits until the session of its predecessor has run out
		}
		next := clients[1].lock("next")
		took := time.Since(began)
		t.Logf("the cluster serves the others %s after the start", took)
		if took > 8*time.Second {
			w.errorf("the cluster serves the others only %s after the start: their sessions may have run out", took)
		}
		if next.Fence() <= detached.Fence() {
			w.errorf("fence %d after %d", next.Fence(), detached.Fence())
		}
		for _, m := range voters {
			<-m.joining.done
			if err := m.joining.err; err != nil {
				w.fatalf("%s: join: %v", m.cfg.Name, err)
			}
		}
		t.Logf("all met %s after the start", w.allMeet(20*time.Second, cluster)+time.Since(began))
		for _, m := range voters {
			if !servers[m.cluster().node.Server()] {
				w.errorf("%s is another server than before", m.cfg.Name)
			}
		}
		if n := w.seated(); n != 3 {
			w.errorf("%d voters", n)
		}
		if held.Err() != nil {
			w.errorf("the client lost its lock: %v", held.Err())
		}
		if err := clients[1].cluster().CheckFence(w.until(time.Minute), "detached", detached.Fence()); err != nil {
			w.errorf("the detached lock is gone: %v", err)
		}
		w.mayLock(20 * time.Second)
	})
}

// Voters whose Peers name addresses at which nobody is any more find each other by what they have stored: also one that was away while all the
// others moved, and whose own store is out of date.
func TestVirtualVotersFindEachOtherByWhatIsStored(t *testing.T) {
	virtual(t, 2, func(w *world) {
		w.add(3, onDisk, restarts)
		w.startVoters(3)
		cluster := w.clusterID()
		m := w.members
		move := func(m *member, ip string) {
			m.crash()
			m.moveTo(ip)
			if err := m.join(w.until(time.Minute)); err != nil {
				w.fatalf("%s at %s: join: %v", m.cfg.Name, ip, err)
			}
			t.Logf("%s has moved to %s; all met after %s", m.cfg.Name, ip, w.allMeet(time.Minute, cluster))
			time.Sleep(10 * time.Second) // for it to be stored
		}
		move(m[1], "10.0.1.1")
		move(m[2], "10.0.1.2") // from here on, only m0 is where Peers says
		move(m[0], "10.0.1.3")
		m[0].crash()
		time.Sleep(time.Duration(w.rng.Int64N(int64(time.Minute))))
		move(m[1], "10.0.2.1")
		move(m[2], "10.0.2.2")
		began := time.Now()
		if err := m[0].join(w.until(time.Minute)); err != nil { // at its address of before, which the others have stored
			w.fatalf("join: %v", err)
		}
		t.Logf("the one that was away has joined after %s, all met after %s", time.Since(began), w.allMeet(time.Minute, cluster))
		w.mayLock(20 * time.Second)
	})
}

// In memory, with nothing to prove the death of its predecessor, a process that comes back at another address is a newcomer under an old name: it
// joins once its predecessor's session has run out, and not before.
func TestVirtualMemoryMemberMoves(t *testing.T) {
	virtual(t, 3, func(w *world) {
		w.add(4)
		w.startVoters(3)
		cluster := w.clusterID()
		moves := w.members[w.rng.IntN(4)]
		gone := moves.lock("k")
		server := moves.cluster().node.Server()
		moves.crash()
		crashed := time.Now()
		moves.moveTo("10.0.1.7")
		pauseFor(w.rng, time.Second)
		if err := moves.join(w.until(time.Minute)); err != nil {
			w.fatalf("join: %v", err)
		}
		took := time.Since(crashed)
		t.Logf("joined %s after the crash", took)
		if ttl := moves.cfg.SessionTTL; took < ttl*8/10 || took > ttl+8*time.Second {
			w.errorf("joined %s after the crash, with a SessionTTL of %s", took, ttl)
		}
		if moves.cluster().node.Server() == server {
			w.errorf("a process without a DataDir is the server that it was")
		}
		w.allMeet(20*time.Second, cluster)
		if next := moves.lock("k"); next.Fence() <= gone.Fence() {
			w.errorf("fence %d after %d", next.Fence(), gone.Fence())
		}
		w.mayLock(20 * time.Second)
	})
}
