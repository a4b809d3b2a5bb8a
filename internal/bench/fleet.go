package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const members = 3

// fleet is a cluster of real processes on loopback.
type fleet struct {
	folder  string
	durable bool
	addrs   []string
	seeds   []string // those that a member is told of
	expect  int
	secret  string     // "": none
	procs   []*process // nil: not running
}

// startFleet starts a cluster in a folder of its own and waits until it is whole.
func (b *bench) startFleet(ctx context.Context, store, part string) (*fleet, error) {
	return b.startSecretFleet(ctx, store, part, "")
}

// startSecretFleet is startFleet with a secret.
func (b *bench) startSecretFleet(ctx context.Context, store, part, secret string) (*fleet, error) {
	addrs, err := freePorts(members)
	if err != nil {
		return nil, err
	}
	f := &fleet{folder: filepath.Join(b.folder, part+"-"+store), durable: store == storeDurable, addrs: addrs, seeds: addrs, expect: members, secret: secret, procs: make([]*process, members)}
	if err := mkdir(f.folder); err != nil {
		return nil, err
	}
	var joins sync.WaitGroup
	errs := make([]error, members)
	for i := range members {
		joins.Go(func() { errs[i] = f.start(ctx, i) })
	}
	joins.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, f.end())
	}
	if _, err := f.whole(ctx); err != nil {
		return nil, errors.Join(err, f.end())
	}
	return f, nil
}

// start gives member i a process that joins.
func (f *fleet) start(ctx context.Context, i int) error {
	if err := f.launch(i); err != nil {
		return err
	}
	return f.join(ctx, i)
}

func (f *fleet) launch(i int) (err error) {
	name := nameOf(i)
	f.procs[i], err = launch(name, filepath.Join(f.folder, name+".log"))
	return err
}

func (f *fleet) join(ctx context.Context, i int) error {
	j := &join{Name: nameOf(i), Bind: f.addrs[i], Peers: f.seeds, Expect: f.expect, Secret: f.secret}
	if f.durable {
		j.Dir = filepath.Join(f.folder, j.Name)
	}
	_, err := f.procs[i].call(ctx, command{Do: doJoin, Join: j})
	return err
}

func nameOf(i int) string { return fmt.Sprintf("m%d", i+1) }

// end kills what runs.
func (f *fleet) end() error {
	var errs []error
	for _, p := range f.procs {
		if p != nil {
			errs = append(errs, p.kill())
		}
	}
	return errors.Join(errs...)
}

// whole waits until every member can take locks, sees three voters alive, and all name the same leader, whose number it answers.
func (f *fleet) whole(ctx context.Context) (leader int, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond) // nothing tells of it
	defer tick.Stop()
	for {
		leader, seen, err := f.look(ctx)
		if err != nil || leader >= 0 {
			return leader, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return -1, fmt.Errorf("the cluster is not whole: %w; %v", ctx.Err(), seen)
		}
	}
}

// look answers the leader of a cluster that is whole, else -1 and what was seen.
func (f *fleet) look(ctx context.Context) (leader int, seen []state, err error) {
	for _, p := range f.procs {
		a, err := p.call(ctx, command{Do: doStatus})
		if err != nil {
			return -1, seen, err
		}
		seen = append(seen, *a.State)
	}
	for _, s := range seen {
		if !s.Ready || s.Voters != members || s.Leader != seen[0].Leader {
			return -1, seen, nil
		}
	}
	return slices.IndexFunc(f.procs, func(p *process) bool { return p.name == seen[0].Leader }), seen, nil
}

// place is the member that takes the locks, given who leads.
func place(from string, leader int) int {
	if from == fromLeader {
		return leader
	}
	return (leader + 1) % members
}

// freePorts picks n loopback addresses whose port is free for TCP and for UDP. They lie below the range from which systems give ports to
// outgoing connections, so that a member which restarts finds its port free again.
func freePorts(n int) (addrs []string, err error) {
	const low, high, tries = 6_000, 10_000, 100 // the tests of other packages have those above: see internal/testport
	for range n * tries {
		if len(addrs) == n {
			return addrs, nil
		}
		addr := fmt.Sprintf("127.0.0.1:%d", low+rand.N(high-low))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		defer l.Close() // only then: or the next port might be the same
		p, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		defer p.Close()
		addrs = append(addrs, addr)
	}
	return nil, errors.New("no loopback ports are free for both TCP and UDP")
}
