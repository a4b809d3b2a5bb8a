//go:build linux

package proctest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock"
)

const (
	// serveTime is how long a process that reaches a majority may wait for a lock after a cut: an election and a new way to the leader.
	serveTime = 5 * time.Second
	// cutTime is how long a cut lasts at least where nobody loses a session by it: longer than gossip takes to give a process up.
	cutTime = 6 * time.Second
	// cutTTL outlasts an election that begins with the cut, on a busy machine too.
	cutTTL = 8 * time.Second
)

// cast are the parts in a cluster of three voters and processes that never vote.
type cast struct {
	leader, follower, other *member
	clients                 []*member
}

func (p *pods) cast() (c cast) {
	p.t.Helper()
	c.leader = p.leader()
	for _, m := range p.others(c.leader) {
		switch {
		case m.quiet:
			c.clients = append(c.clients, m)
		case c.follower == nil:
			c.follower = m
		default:
			c.other = m
		}
	}
	return c
}

// startCast starts three that vote and some that never do.
func startCast(t *testing.T, clients int, ttl time.Duration) *pods {
	t.Helper()
	p := newPods(t, 3+clients, true, ttl)
	for _, m := range p.members[3:] {
		m.quiet = true
	}
	p.run()
	return p
}

// cuts is every shape of cut among three voters and one client, one after the other.
func cuts(t *testing.T) {
	p := startCast(t, 1, cutTTL)
	for _, shape := range []struct {
		name string
		cut  func(c cast) (cuts []cut, alone, far []*member)
	}{
		{"the leader is alone", func(c cast) ([]cut, []*member, []*member) {
			return apart([]*member{c.leader}, p.others(c.leader)), []*member{c.leader}, nil
		}},
		{"the leader does not reach a follower", func(c cast) ([]cut, []*member, []*member) {
			return []cut{{from: c.leader, to: c.follower}}, nil, []*member{c.follower}
		}},
		{"a follower does not reach the leader", func(c cast) ([]cut, []*member, []*member) {
			return []cut{{from: c.follower, to: c.leader}}, nil, []*member{c.follower}
		}},
		{"the leader and a follower do not reach each other", func(c cast) ([]cut, []*member, []*member) {
			return apart([]*member{c.leader}, []*member{c.follower}), nil, []*member{c.follower}
		}},
		{"the client and the leader do not reach each other", func(c cast) ([]cut, []*member, []*member) {
			return apart([]*member{c.leader}, c.clients), nil, c.clients
		}},
		{"a follower is alone", func(c cast) ([]cut, []*member, []*member) {
			return apart([]*member{c.follower}, p.others(c.follower)), []*member{c.follower}, nil
		}},
		{"no UDP", func(cast) ([]cut, []*member, []*member) {
			var all []cut
			for _, m := range p.members {
				all = append(all, cut{to: m, udp: true})
			}
			return all, nil, nil
		}},
	} {
		p.under(shape.name, shape.cut)
	}
	p.progress(20)
	p.rest()
	p.verdict()
}

// halves leaves the leader with one client, and two voters with another.
func halves(t *testing.T) {
	p := startCast(t, 2, cutTTL)
	p.under("the leader and a client apart from the rest", func(c cast) ([]cut, []*member, []*member) {
		minority := []*member{c.leader, c.clients[0]}
		return apart(minority, []*member{c.follower, c.other, c.clients[1]}), minority, nil
	})
	p.progress(20)
	p.rest()
	p.verdict()
}

// under cuts, looks at what each can do, and heals. Those who are alone reach no majority: they are granted nothing, and lose what they
// hold, before anybody else gets it. Those who are far reach the leader only by way of others.
func (p *pods) under(name string, shape func(cast) (cuts []cut, alone, far []*member)) {
	p.t.Helper()
	p.progress(20)
	c, alone, far := shape(p.cast())
	serve := slices.DeleteFunc(slices.Clone(p.members), func(m *member) bool { return slices.Contains(alone, m) || slices.Contains(far, m) })
	for _, m := range alone {
		m.must(command{Do: "keep", Key: name + m.name})
	}
	p.excuse(append(slices.Clone(alone), far...)...)
	began := now()
	p.net.cut(c...)
	p.served(serveTime, serve...)
	first := time.Duration(now() - began)
	for _, m := range alone {
		if a := m.call(command{Do: "trylock", Key: "alone" + name + m.name, Timeout: time.Second}); a.Error == "" {
			p.t.Errorf("%s: %s was granted a lock with fence %d, and reaches no majority", name, m.id, a.Fence)
		}
	}
	for _, m := range alone { // once its session has run out
		serve[0].must(command{Do: "take", Key: name + m.name})
	}
	if len(alone) == 0 {
		p.rideOut(name, began)
	}
	p.progress(20)
	lasted := time.Duration(now() - began)
	healed := now()
	p.net.heal(p.members...)
	last := p.served(patience, p.members...)
	p.leader()
	p.t.Logf("%s for %v: who reach a majority were served within %v, all within %v of its end, and agreed after %v", name,
		lasted.Round(time.Millisecond), first.Round(time.Millisecond), last.Round(time.Millisecond), time.Duration(now()-healed).Round(time.Millisecond))
}

// excuse lets members lose their sessions from now on.
func (p *pods) excuse(members ...*member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range members {
		p.cutOff = append(p.cutOff, pause{m.id, now()})
	}
}

// rideOut watches that no voter is given up while a cut lasts under which every voter is heard of.
func (p *pods) rideOut(name string, began instant) {
	p.t.Helper()
	for over := began + instant(cutTime); now() < over; {
		p.progress(5)
		nap(nil, 100*time.Millisecond)
	}
	for _, m := range p.members {
		st := m.must(command{Do: "status"}).Status
		if living, all := seats(st); all != 3 || living != 3 {
			p.t.Errorf("%s: after %v %s sees %d of %d voters alive: %s", name, cutTime, m.id, living, all, members(st))
		}
	}
}

func members(st *distlock.Status) string {
	var all []string
	for _, m := range st.Members {
		all = append(all, fmt.Sprintf("%s %s %s", m.Name, m.State, m.Role))
	}
	return strings.Join(all, ", ")
}
