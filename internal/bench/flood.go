package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// What flood is made of.
const (
	ordinaryCallers = 4 // of each of the two members that are measured
	targetFlood     = 3 // p99 of their Lock beside a flood, in those without one
)

// Words of flood for what the third member does meanwhile.
const (
	besideNobody = "nothing"
	besideSpin   = "spins"
	besideFlood  = "floods"
)

// flood measures what two members with little to do notice of a third that asks for as much as it can, in a cluster in memory: there the disk
// doesn't hide it. All share this machine's processors, which a flooding one uses up as well: where it follows it gets only what the others leave,
// as if it were on a machine of its own. Where it leads that would slow all of them down; what its processor time alone does is measured
// beside, by a third member that computes.
func (b *bench) flood(ctx context.Context) error {
	rows := [][]string{{"the third", "is", "of the flood, pairs/s", "member", "pairs/s", "Lock p50", "Lock p99", "p99 to that beside nothing", "to that beside one that spins"}}
	for _, from := range b.from {
		f, err := b.startFleet(ctx, storeMemory, partFlood+"-"+from) // each its own: who has stepped behind stays there
		if err != nil {
			return err
		}
		more, err := b.floodOf(ctx, f, from)
		if err := errors.Join(err, f.end()); err != nil {
			return err
		}
		rows = append(rows, more...)
	}
	writeTable(b.out, fmt.Sprintf("Two members of %d callers beside a third of %d", ordinaryCallers, b.flooders), rows)
	return nil
}

func (b *bench) floodOf(ctx context.Context, f *fleet, from string) (rows [][]string, err error) {
	alone, spun := map[int]*rate{}, map[int]*rate{}
	for _, third := range []string{besideNobody, besideSpin, besideFlood} {
		leader, err := f.whole(ctx)
		if err != nil {
			return nil, err
		}
		b.note("flood: the %s %s", from, third)
		at := place(from, leader)
		if at != leader {
			if _, err := f.procs[at].call(ctx, command{Do: doBehind}); err != nil {
				return nil, err
			}
		}
		rates, err := b.besideThird(ctx, f, at, third)
		if err != nil {
			return nil, err
		}
		for i, r := range rates {
			if i == at {
				continue
			}
			who := fromFollower
			if i == leader {
				who = fromLeader
			}
			row := []string{third, from, "-", who, grouped(int64(r.PerSecond)), short(r.P50), short(r.P99), "1", "-"}
			switch third {
			case besideNobody:
				alone[i] = r
			case besideSpin:
				spun[i] = r
				row[7] = fmt.Sprintf("%.1f", quotient(r, alone[i]))
			case besideFlood:
				q := quotient(r, alone[i])
				row[2], row[7] = grouped(int64(rates[at].PerSecond)), fmt.Sprintf("%.1f", q)+judged(q <= targetFlood, "%d", targetFlood)
				row[8] = fmt.Sprintf("%.1f", quotient(r, spun[i]))
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// quotient is r's p99 in those of base; base may be nil, when another leads by now.
func quotient(r, base *rate) float64 {
	if base == nil || base.P99 == 0 {
		return 0
	}
	return float64(r.P99) / float64(base.P99)
}

// besideThird lets all members work at once, the one at place third as it is told, and answers what each got done.
func (b *bench) besideThird(ctx context.Context, f *fleet, at int, third string) ([]*rate, error) {
	const margin = 500 * time.Millisecond // the third begins earlier and ends later
	rates, errs := make([]*rate, len(f.procs)), make([]error, len(f.procs))
	var home sync.WaitGroup
	ask := func(i int, do string, l *load) {
		home.Go(func() { // ends with the call, which has its limit
			a, err := f.procs[i].call(ctx, command{Do: do, Load: l, Timeout: patience + l.Warm + l.Measure})
			rates[i], errs[i] = a.Load, err
		})
	}
	long := &load{Callers: b.flooders, Warm: margin, Measure: b.warm + b.measure + margin, Prefix: "flood-"}
	switch third {
	case besideSpin:
		ask(at, doSpin, long)
	case besideFlood:
		ask(at, doLoad, long)
	}
	if err := wait(ctx, margin); err != nil {
		return nil, err
	}
	for i := range f.procs {
		if i != at {
			ask(i, doLoad, &load{Callers: ordinaryCallers, Warm: b.warm, Measure: b.measure, Prefix: nameOf(i) + "-"})
		}
	}
	home.Wait()
	return rates, errors.Join(errs...)
}

// spin keeps all processors busy for as long as l takes.
func spin(l *load) {
	until := time.Now().Add(l.Warm + l.Measure)
	var home sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		home.Go(func() { // ends with the time
			for time.Now().Before(until) {
			}
		})
	}
	home.Wait()
}
