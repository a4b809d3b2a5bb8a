package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"
)

// crowd is a fleet of any size.
type crowd struct {
	*fleet
	real  int // processes that are one member each
	swarm int // members that one more process simulates
	alive int // members
}

const (
	swarmName    = "swarm"
	notSimulated = "not simulated here"
)

func (b *bench) newFleet(n, swarm int) (*crowd, error) {
	addrs, err := freePorts(n + 1 + swarm)
	if err != nil {
		return nil, err
	}
	f := &fleet{folder: filepath.Join(b.folder, fmt.Sprintf("%s-%d", partFleet, n+swarm)), addrs: addrs, seeds: addrs[:seeds]}
	f.expect = max(members, n/2+1) // more than half of those that start together
	if swarm > 0 {
		f.expect = members // the others come when it stands
	}
	return &crowd{fleet: f, real: n, swarm: swarm}, mkdir(f.folder)
}

func (f *crowd) String() string {
	if f.swarm > 0 {
		return fmt.Sprintf("%s (%s simulated)", grouped(int64(f.real+f.swarm)), grouped(int64(f.swarm)))
	}
	return fmt.Sprint(f.real)
}

// all calls all processes at once, or those that run, and answers what each said.
func (f *crowd) all(ctx context.Context, c func(i int) command) ([]answer, error) {
	answers, errs := make([]answer, len(f.procs)), make([]error, len(f.procs))
	var home sync.WaitGroup
	for i, p := range f.procs {
		if p != nil {
			home.Go(func() { answers[i], errs[i] = p.call(ctx, c(i)) })
		}
	}
	home.Wait()
	return answers, errors.Join(errs...)
}

// know waits until all members know what a says. All processes together look two hundred times a second: more would slow down what is measured.
func (f *crowd) know(ctx context.Context, a await) error {
	a.Pause = max(10*time.Millisecond, time.Duration(len(f.procs))*5*time.Millisecond)
	_, err := f.all(ctx, func(int) command { return command{Do: doAwait, Await: &a, Timeout: forFleet} })
	return err
}

// together does n things at once.
func together(n int, do func(i int) error) error {
	errs := make([]error, n)
	var home sync.WaitGroup
	for i := range n {
		home.Go(func() { errs[i] = do(i) })
	}
	home.Wait()
	return errors.Join(errs...)
}

// roles finds the leader, and another to compare it with: a client, where there is one.
func (f *crowd) roles(ctx context.Context) (leader, other int, err error) {
	leader, other = -1, -1
	client := false
	for i, p := range f.procs {
		if p.name == swarmName {
			continue
		}
		a, err := p.call(ctx, command{Do: doStatus})
		if err != nil {
			return 0, 0, err
		}
		switch {
		case a.State.Leader == p.name:
			leader = i
		case other < 0 || !client && a.State.Client:
			other, client = i, a.State.Client
		}
	}
	if leader < 0 {
		return 0, 0, errors.New("nobody leads")
	}
	return leader, other, nil
}

// share is how many of the locks to hold are process i's.
func (f *crowd) share(i, held int) int {
	if f.procs[i].name == swarmName {
		return f.swarm * held / f.alive
	}
	return max(1, held/f.alive)
}

// traffic is what has gone over loopback since the machine came up, whoever sent it.
type traffic struct{ bytes, packets int64 }
