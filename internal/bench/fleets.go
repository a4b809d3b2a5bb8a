package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

const (
	seeds      = 3  // that a member of a fleet is told of
	realOfMany = 6  // processes of the largest fleet beside the one that simulates all others: voters, standbys, and a client to look at
	leastSwarm = 10 // members of it
	swarmPace  = 64 // that join at once
	forFleet   = 2 * time.Minute
)

// fleets measures fleets of several sizes: how long they take to come together, what they cost when they idle, without locks and with, and what the
// death of the leader does to them.
func (b *bench) fleets(ctx context.Context) error {
	r := &fleetReport{
		together: [][]string{{"members", "all start at once: all have a session and see all", "one more joins: it has a session", "all see it"}},
		idle: [][]string{{
			"members", "locks held", "leader, of a core", "leader, resident", "leader, goroutines", "leader, TCP", "a client, of a core", "a client, resident",
			"loopback, for each member", "log entries",
		}},
		death: [][]string{{"members", "all have their session at the next leader", "all were granted another lock", "all see that it is dead", "locks held by others", "lost"}},
	}
	for _, n := range b.sizes {
		if err := b.fleetOf(ctx, n, 0, r); err != nil {
			return err
		}
	}
	if b.swarm > 0 {
		if err := b.fleetOf(ctx, realOfMany, b.swarm-realOfMany, r); err != nil {
			return err
		}
	}
	writeTable(b.out, "A fleet comes together", r.together)
	writeTable(b.out, fmt.Sprintf("A fleet idles for %s", b.idle), r.idle)
	writeTable(b.out, "The leader of a fleet is killed", r.death)
	return nil
}

// fleetReport gathers the rows of the three tables.
type fleetReport struct{ together, idle, death [][]string }

// fleetOf measures a fleet of n processes, and one more that is so many members by itself.
func (b *bench) fleetOf(ctx context.Context, n, swarm int, r *fleetReport) (err error) {
	f, err := b.newFleet(n, swarm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.end()) }()
	for _, step := range []func(context.Context, *crowd, *fleetReport) error{b.comesTogether, b.idles, b.leaderDies} {
		if err := step(ctx, f, r); err != nil {
			return fmt.Errorf("%d members: %w", n+swarm, err)
		}
	}
	return nil
}

// profiled runs do, with profiles of all processes if they are wanted.
func (b *bench) profiled(ctx context.Context, f *crowd, phase string, do func() error) error {
	if b.profile == "" {
		return do()
	}
	folder, err := filepath.Abs(b.profile)
	if err != nil {
		return err
	}
	all := func(what string) error {
		_, err := f.all(ctx, func(i int) command {
			return command{Do: what, File: filepath.Join(folder, fmt.Sprintf("%s-%d-%s.%s", partFleet, f.real+f.swarm, phase, f.procs[i].name))}
		})
		return err
	}
	if err := all(doProfile); err != nil {
		return err
	}
	return errors.Join(do(), all(doWrite))
}

// comesTogether starts all, and one more when they stand.
func (b *bench) comesTogether(ctx context.Context, f *crowd, r *fleetReport) error {
	b.note("fleet: %s members come together", f)
	f.procs = make([]*process, f.real)
	for i := range f.procs {
		if err := f.launch(i); err != nil {
			return err
		}
	}
	began := time.Now()
	f.alive = f.real
	if err := together(f.real, func(i int) error { return f.join(ctx, i) }); err != nil {
		return err
	}
	if f.swarm > 0 {
		p, err := launch(swarmName, filepath.Join(f.folder, "swarm.log"))
		if err != nil {
			return err
		}
		f.procs = append(f.procs, p)
		s := &swarm{AtOnce: swarmPace}
		for i := range f.swarm {
			s.Joins = append(s.Joins, join{Name: fmt.Sprintf("s%d", i+1), Bind: f.addrs[f.real+1+i], Peers: f.seeds})
		}
		began = time.Now()
		if err := b.profiled(ctx, f, "joins", func() error {
			_, err := p.call(ctx, command{Do: doSwarm, Swarm: s, Timeout: forFleet})
			return err
		}); err != nil {
			return err
		}
		f.alive += f.swarm
	} else if err := f.know(ctx, await{Alive: f.alive}); err != nil {
		return err
	}
	whole := short(time.Since(began))
	b.note("fleet: whole after %s", whole)
	if f.swarm > 0 {
		whole += ", to have sessions"
		if err := f.know(ctx, await{Least: f.alive * 95 / 100}); err != nil {
			return err
		}
	}
	if err := wait(ctx, b.settle); err != nil {
		return err
	}
	more, err := launch(nameOf(f.real), filepath.Join(f.folder, "more.log"))
	if err != nil {
		return err
	}
	f.procs = append(f.procs, more)
	began = time.Now()
	j := &join{Name: more.name, Bind: f.addrs[f.real], Peers: f.seeds, Expect: f.expect}
	if _, err := more.call(ctx, command{Do: doJoin, Join: j}); err != nil {
		return err
	}
	session := time.Since(began)
	f.alive++
	seen := notSimulated
	if f.swarm == 0 {
		if err := f.know(ctx, await{Alive: f.alive}); err != nil {
			return err
		}
		seen = short(time.Since(began))
	}
	r.together = append(r.together, []string{f.String(), whole, short(session), seen})
	return nil
}

// idles measures the fleet without locks and with.
func (b *bench) idles(ctx context.Context, f *crowd, r *fleetReport) error {
	free, err := b.measureIdle(ctx, f)
	if err != nil {
		return err
	}
	total := 0
	if _, err := f.all(ctx, func(i int) command {
		return command{Do: doHold, Load: &load{Callers: 64, Pairs: f.share(i, b.held), Prefix: f.procs[i].name}, Timeout: forFleet}
	}); err != nil {
		return err
	}
	for i := range f.procs {
		total += f.share(i, b.held)
	}
	held, err := b.measureIdle(ctx, f)
	if err != nil {
		return err
	}
	r.idle = append(r.idle, free.row(f, 0, nil), held.row(f, total, free))
	return nil
}

// idling is what a fleet takes that is left alone.
type idling struct {
	leader, other spent
	goroutines    int
	bytes         float64 // a second, over loopback, for each member
	packets       float64
	entries       float64 // a second, of the log
}

// spent is what one process takes.
type spent struct {
	cpu      float64 // of a core
	resident int64
	streamed float64 // bytes a second, both ways
}

// measureIdle leaves the fleet alone. It begins when what there was to say has been said.
func (b *bench) measureIdle(ctx context.Context, f *crowd) (*idling, error) {
	if err := wait(ctx, b.settle); err != nil {
		return nil, err
	}
	b.note("fleet: %s members idle for %s", f, b.idle)
	leader, other, err := f.roles(ctx)
	if err != nil {
		return nil, err
	}
	var index [3]uint64
	var asked [3]time.Time
	look := func(i int) error { // at the log; the look itself makes as many entries as there are between the first two
		asked[i] = time.Now()
		a, err := f.procs[other].call(ctx, command{Do: doIndex})
		index[i] = a.Index
		return err
	}
	if err := errors.Join(look(0), look(1)); err != nil {
		return nil, err
	}
	var lo traffic
	procs := []*process{f.procs[leader], f.procs[other]}
	var before [2]*usage
	for i, p := range procs {
		a, err := p.call(ctx, command{Do: doUsage})
		if err != nil {
			return nil, err
		}
		before[i] = a.Usage
	}
	if err := lo.ask(); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := wait(ctx, b.idle); err != nil {
		return nil, err
	}
	took := time.Since(began).Seconds()
	now := lo
	if err := now.ask(); err != nil {
		return nil, err
	}
	out := &idling{
		bytes:   float64(now.bytes-lo.bytes) / took / float64(f.alive),
		packets: float64(now.packets-lo.packets) / took / float64(f.alive),
	}
	for i, p := range procs {
		a, err := p.call(ctx, command{Do: doUsage})
		if err != nil {
			return nil, err
		}
		u := a.Usage
		s := spent{(u.CPU - before[i].CPU).Seconds() / took, u.Resident, float64(u.Streamed-before[i].Streamed) / took}
		if i == 0 {
			out.leader, out.goroutines = s, u.Goroutines
		} else {
			out.other = s
		}
	}
	if err := look(2); err != nil {
		return nil, err
	}
	out.entries = max(0, float64(index[2]-index[1])-float64(index[1]-index[0])) / asked[2].Sub(asked[1]).Seconds()
	return out, nil
}

// row is a line of the table; of what is compared with free it says the ratio.
func (m *idling) row(f *crowd, held int, free *idling) []string {
	ratio := func(now, was float64) string {
		if free == nil || was == 0 {
			return ""
		}
		return fmt.Sprintf(" (%.2f)", now/was)
	}
	if free == nil {
		free = m
		ratio = func(float64, float64) string { return "" }
	}
	locks := "none"
	if held > 0 {
		locks = grouped(int64(held))
	}
	if m.leader.resident == 0 {
		const no = "not measured here"
		return []string{f.String(), locks, no, no, fmt.Sprint(m.goroutines), no, no, no, no, fmt.Sprintf("%.1f/s", m.entries)}
	}
	loopback := fmt.Sprintf("%.1f packets/s, %.2f kB/s", m.packets, m.bytes/1000) + ratio(m.bytes, free.bytes)
	if f.swarm > 0 {
		loopback = notSimulated
	}
	return []string{
		f.String(), locks,
		fmt.Sprintf("%.2f %%", 100*m.leader.cpu) + ratio(m.leader.cpu, free.leader.cpu),
		mebi(m.leader.resident), grouped(int64(m.goroutines)),
		fmt.Sprintf("%.1f kB/s", m.leader.streamed/1000) + ratio(m.leader.streamed, free.leader.streamed),
		fmt.Sprintf("%.2f %%", 100*m.other.cpu) + ratio(m.other.cpu, free.other.cpu), mebi(m.other.resident),
		loopback,
		fmt.Sprintf("%.1f/s", m.entries) + ratio(m.entries, free.entries),
	}
}

// leaderDies kills the leader while all hold locks.
func (b *bench) leaderDies(ctx context.Context, f *crowd, r *fleetReport) error {
	leader, _, err := f.roles(ctx)
	if err != nil {
		return err
	}
	b.note("fleet: the leader of %s members dies", f)
	dead := f.procs[leader]
	held := 0
	for i := range f.procs {
		if i != leader {
			held += f.share(i, b.held)
		}
	}
	began := time.Now()
	if err := dead.kill(); err != nil {
		return err
	}
	f.procs[leader] = nil
	f.alive--
	var took [3]time.Duration
	err = b.profiled(ctx, f, "dies", func() error {
		return together(len(took), func(i int) (err error) {
			switch i {
			case 0:
				err = f.know(ctx, await{Not: dead.name})
			case 1:
				_, err = f.all(ctx, func(i int) command { return command{Do: doPair, Key: "after-" + f.procs[i].name, Timeout: forFleet} })
			case 2:
				if f.swarm == 0 {
					err = f.know(ctx, await{Alive: f.alive, Not: dead.name})
				}
			}
			took[i] = time.Since(began)
			return err
		})
	})
	if err != nil {
		return err
	}
	answers, err := f.all(ctx, func(int) command { return command{Do: doLost} })
	if err != nil {
		return err
	}
	lost := 0
	for _, a := range answers {
		lost += a.Lost
	}
	seen := notSimulated
	if f.swarm == 0 {
		seen = short(took[2])
	}
	r.death = append(r.death, []string{f.String(), short(took[0]), short(took[1]), seen, grouped(int64(held)), fmt.Sprintf("%d locks", lost)})
	return nil
}
