package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/godistlock/distlock"
	"github.com/godistlock/distlock/internal/clock"
	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/node"
	"github.com/godistlock/distlock/internal/session"
	"github.com/godistlock/distlock/internal/wire"
)

// simulated is one of very many members that one process is. Its port, its connection to the leader, its session and all that looks for the
// leader are the library's own, and so is its gossip, but that it lets in only those who may vote: a thousand processes tell one another a
// thousand things, twelve times each, which takes a thousand machines. The real ones know and probe all as they would in a fleet of real ones. But
// nobody passes on to others what is said of the simulated: how long news takes is measured in virtual time (internal/gossip, TestVirtualFleet).
type simulated struct {
	node     *node.Node
	sessions *session.Manager
}

const (
	simulatedTTL = 10 * time.Second // the default
	// simulatedProbe lets the few who are known be probed twice a second all together, as each of a real fleet is, if there are a thousand.
	simulatedProbe = 80 * time.Second
	// swarmGarbage is how much garbage a swarm gathers, in percent of what it keeps: to collect it is no part of what members do.
	swarmGarbage = 400
)

func simulate(ctx context.Context, j *join) (*simulated, error) {
	listener, packets, err := mux.System().Listen(j.Bind)
	if err != nil {
		return nil, err
	}
	proof := node.MachineProof()
	proof.Bound, proof.Started = j.Bind, clock.Boot().Now().Microseconds()
	instance, logger := wire.NewUUID(), slog.New(slog.DiscardHandler)
	n, err := node.Start(node.Config{
		Name: j.Name, Group: "distlock", Instance: instance, Addr: j.Bind, SelfAddr: j.Bind, Proof: proof, Loopback: true,
		Listener: listener, Packets: packets, Dial: mux.System().Dial, Expect: members, Voters: members, Logger: logger,
		Seeds: func(context.Context) ([]string, error) { return j.Peers, nil },
		Hooks: node.Hooks{Gossip: func(c *gossip.Config) {
			c.Simulated = &gossip.Simulated{Knows: func(m gossip.Meta) bool { return m.MayVote }, Probe: simulatedProbe}
		}},
		Failed: func(error) {}, // its session tells
	})
	if err != nil {
		return nil, err
	}
	sessions, err := session.Open(ctx, session.Config{
		Connect: n.Link, Clock: clock.Boot(), TTL: simulatedTTL, Name: j.Name, Logger: logger,
		Create: func(nonce wire.UUID, previous uint64) wire.CreateSession {
			return wire.CreateSession{
				Nonce: nonce, Name: j.Name, Server: n.Server(), Instance: instance, TTL: simulatedTTL.Milliseconds(), Proof: proof, Previous: previous,
			}
		},
	})
	return &simulated{n, sessions}, err
}

// joinSwarm makes this process many members.
func (m *member) joinSwarm(ctx context.Context, s *swarm) error {
	debug.SetGCPercent(swarmGarbage)
	m.swarm = make([]*simulated, len(s.Joins))
	return share(&load{Callers: s.AtOnce, Pairs: len(s.Joins)}, func(i int) (err error) {
		m.swarm[i], err = simulate(ctx, &s.Joins[i])
		return err
	})
}

// somebody is a member, real or simulated.
type somebody interface {
	lock(ctx context.Context, key string) (held, error)
	knows(a *await) bool
}

type held interface {
	Done() <-chan struct{}
	Unlock(ctx context.Context) error
}

// everybody are all members that this process is.
func (m *member) everybody() []somebody {
	if m.cluster != nil {
		return []somebody{genuine{m.cluster}}
	}
	all := make([]somebody, len(m.swarm))
	for i, s := range m.swarm {
		all[i] = s
	}
	return all
}

type genuine struct{ *distlock.Cluster }

func (g genuine) lock(ctx context.Context, key string) (held, error) { return g.Lock(ctx, key) }

func (g genuine) knows(a *await) bool {
	s := stateOf(g.Cluster)
	return s.Ready && s.Leader != "" && s.Leader != a.Not && (a.Alive == 0 || s.Alive == a.Alive) && s.Alive >= a.Least
}

func (s *simulated) lock(ctx context.Context, key string) (held, error) {
	g, err := s.sessions.Acquire(ctx, key, false)
	return simulatedLock{g}, err
}

func (g genuine) String() string { return fmt.Sprintf("%+v", *stateOf(g.Cluster)) }

func (s *simulated) knows(*await) bool { return s.sessions.Ready() }

type simulatedLock struct{ *session.Grant }

func (l simulatedLock) Unlock(ctx context.Context) error { return l.Release(ctx) }

// await waits until each member has once known what a says. They are looked at one after the other: who knows it is not looked at again.
func (m *member) await(ctx context.Context, a *await) (time.Duration, error) {
	began := time.Now()
	tick := time.NewTicker(a.Pause)
	defer tick.Stop()
	all := m.everybody()
	for i := 0; i < len(all); {
		if all[i].knows(a) {
			i++
			continue
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("%w while member %d of %d does not know of %+v but %v", ctx.Err(), i+1, len(all), *a, all[i])
		}
	}
	return time.Since(began), nil
}

// pairs lets each member lock a key of its own and unlock it, all at once, and answers how long the slowest waited for its lock.
func (m *member) pairs(ctx context.Context, key string) (time.Duration, error) {
	all := m.everybody()
	took, errs := make([]time.Duration, len(all)), make([]error, len(all))
	var home sync.WaitGroup
	for i, s := range all {
		home.Go(func() { took[i], errs[i] = pair(ctx, s, fmt.Sprintf("%s-%d", key, i)) })
	}
	home.Wait()
	return slices.Max(took), errors.Join(errs...)
}

func pair(ctx context.Context, s somebody, key string) (time.Duration, error) {
	began := time.Now()
	lock, err := s.lock(ctx, key)
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took, lock.Unlock(ctx)
}

// lost counts the locks of hold that have ended.
func (m *member) lost() (n int) {
	for _, l := range m.held {
		select {
		case <-l.Done():
			n++
		default:
		}
	}
	return n
}

// index takes a lock for nothing but its place in the log.
func (m *member) index(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	const key = "index"
	events, err := m.cluster.Watch(ctx, key)
	if err != nil {
		return 0, err
	}
	if _, err := pair(ctx, genuine{m.cluster}, key); err != nil {
		return 0, err
	}
	for e := range events {
		if e.Index > 0 {
			return e.Index, nil
		}
	}
	return 0, errors.New("the watch has ended")
}
