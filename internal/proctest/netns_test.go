//go:build linux

package proctest

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// podTTL is short, for a process that is gone keeps its locks for so long, and longer than the least: the scenarios run side by side.
const podTTL = 4 * time.Second

// TestNetworkNamespaces runs fleets of pods: each process has a network namespace and an address of its own, new in each of its lives, and
// finds the others by the one name of their service. Where that is not asked for it looks at what can be seen without.
func TestNetworkNamespaces(t *testing.T) {
	if os.Getenv(netnsEnv) == "" {
		namesResolve(t)
		return
	}
	for _, scenario := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"names", namesResolve},
		{"StatefulSet", statefulSet},
		{"Deployment", deployment},
		{"only TCP", onlyTCP},
		{"killed durable", func(t *testing.T) { killedPods(t, true, 3) }},
		{"killed memory", func(t *testing.T) { killedPods(t, false, 1) }},
		{"all move", allMove},
		{"all leave durable", func(t *testing.T) { allLeave(t, 3, true) }},
		{"all leave memory", func(t *testing.T) { allLeave(t, 5, false) }},
		{"cuts", cuts},
		{"majority and minority", halves},
		{"by way of another", byAnother},
	} {
		t.Run(scenario.name, func(t *testing.T) {
			t.Parallel()
			scenario.run(t)
		})
	}
}

// pods is a fleet on a network of its own.
type pods struct {
	*fleet
	net *network
}

func newPods(t *testing.T, n int, durable bool, ttl time.Duration) *pods {
	t.Helper()
	net := newNetwork(t)
	p := &pods{emptyFleet(t, n, durable, ttl), net}
	p.ground = net
	for range n {
		p.add()
	}
	return p
}

func startPods(t *testing.T, n int, durable bool) *pods {
	t.Helper()
	p := newPods(t, n, durable, podTTL)
	p.run()
	return p
}

// run starts all at once, and puts them under load.
func (p *pods) run() {
	p.t.Helper()
	p.start(p.members...)
	p.leader()
	p.voters(3)
	p.load(updateLoad)
}

// statefulSet is updated pod by pod, the last one first: each comes back with its name and its volume, at a new address.
func statefulSet(t *testing.T) {
	p := startPods(t, 3, true)
	last := slices.Clone(p.members)
	slices.Reverse(last)
	u := &update{fleet: p.fleet}
	u.inPlace(last...)
	u.finish()
}

// deployment is updated with one pod more than it has (maxSurge 1, maxUnavailable 0): a new pod has a new name and a new address and nothing
// of the one that it replaces.
func deployment(t *testing.T) {
	p := startPods(t, 3, false)
	u := &update{fleet: p.fleet}
	u.surge()
	u.finish()
}

// onlyTCP forms a cluster and updates it where no packet of UDP comes through.
func onlyTCP(t *testing.T) {
	p := newPods(t, 3, true, podTTL)
	p.net.onlyTCP = true
	p.run()
	u := &update{fleet: p.fleet}
	u.inPlace(p.others(p.leader())[0])
	u.finish()
}

// killedPods kills leaders and followers, of which some fall silent as a machine does that loses its power; each comes back at a new address.
func killedPods(t *testing.T, durable bool, times int) {
	p := startPods(t, 3, durable)
	var failovers []time.Duration
	for round := range 2 * times {
		p.progress(20)
		victim := p.leader()
		led := round%2 == 0
		if !led {
			victim = p.others(victim)[round/2%2]
		}
		silent := round%4 > 1 || !durable && !led
		if silent {
			p.net.unplug(victim)
		}
		at := victim.kill()
		if next := time.Duration(p.nextGrant(p.others(victim), round) - at); led {
			failovers = append(failovers, next)
		}
		p.start(victim)
		p.load(updateLoad, victim)
		p.voters(3)
	}
	p.progress(20)
	p.rest()
	p.verdict()
	report(t, "death of the leader to the next grant", failovers)
}

// allMove kills all at once, and all come back with what they had on disk, at addresses that none of the others knows.
func allMove(t *testing.T) {
	p := startPods(t, 3, true)
	p.progress(20)
	var kills sync.WaitGroup
	for _, m := range p.members {
		kills.Go(func() { m.kill() })
	}
	kills.Wait()
	p.run()
	p.progress(20)
	p.rest()
	p.verdict()
}

// allLeave sends SIGTERM to all at once: nobody may wait for the others for longer than its own time. What is durable comes back.
func allLeave(t *testing.T, n int, durable bool) {
	p := startPods(t, n, durable)
	p.progress(20)
	for _, m := range p.members {
		m.mourn()
	}
	told := now()
	for _, m := range p.members {
		m.signal(syscall.SIGTERM)
	}
	for _, m := range p.members {
		took, err := m.ended(told)
		if err != nil {
			t.Error(err)
			continue
		}
		t.Logf("%s ended in %v; Leave: %q", m.id, took.Round(time.Millisecond), m.left.Error)
	}
	if durable {
		p.run()
		p.progress(20)
		p.rest()
	}
	p.verdict()
}

// served lets each of members take a key of its own, within limit. It says how long the slowest took.
func (p *pods) served(limit time.Duration, members ...*member) time.Duration {
	p.t.Helper()
	p.keys++
	began := now()
	took := make([]time.Duration, len(members))
	var takes sync.WaitGroup
	for i, m := range members {
		key := fmt.Sprintf("served %d %s", p.keys, m.name)
		takes.Go(func() {
			if a := m.call(command{Do: "take", Key: key, Timeout: limit}); a.Error != "" {
				p.t.Errorf("%s is not served within %v: %s", m.id, limit, a.Error)
			}
			took[i] = time.Duration(now() - began)
		})
	}
	takes.Wait()
	return slices.Max(took)
}
