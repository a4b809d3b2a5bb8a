package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/godistlock/distlock"
)

// fakeCluster grants locks to shops that are goroutines of the test. Its faults are what the demo must not let pass.
type fakeCluster struct {
	mu    sync.Mutex // guards all below
	cond  *sync.Cond
	fence distlock.Fence
	held  map[string]*fakeGrant
	alive map[string]*fakeMember // by name: the latest
	waits map[string][]*fakeWait // by key, as they came

	twice       bool // every lock is granted whoever holds it
	sameFence   bool
	lostQuorum  bool // nothing is granted after a member died
	neverExpire bool // a paused member keeps its locks
	mayNotJoin  bool
}

func newFakeCluster() *fakeCluster {
	c := &fakeCluster{fence: 1_000_000, held: map[string]*fakeGrant{}, alive: map[string]*fakeMember{}, waits: map[string][]*fakeWait{}}
	c.cond = sync.NewCond(&c.mu)
	return c
}

// fakeMember is one process's membership.
type fakeMember struct {
	cluster *fakeCluster
	name    string
	gone    bool // guarded by cluster.mu
	asleep  bool // guarded by cluster.mu: its process is paused and asks for nothing
}

// fakeWait is one who waits for a key.
type fakeWait struct{ member *fakeMember }

type fakeGrant struct {
	member *fakeMember
	key    string
	fence  distlock.Fence
	err    error // guarded by member.cluster.mu
}

func (c *fakeCluster) join(_ context.Context, s start) (locks, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mayNotJoin {
		return nil, errors.New("no quorum: nobody was seen")
	}
	m := &fakeMember{cluster: c, name: s.Name}
	c.alive[s.Name] = m
	return m, nil
}

// expire ends the session of the member of that name; a dead one's process is gone as well.
func (c *fakeCluster) expire(name string, dead bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.alive[name]
	if m == nil {
		return
	}
	m.gone = m.gone || dead
	for key, g := range c.held {
		if g.member == m {
			g.err = distlock.ErrSessionLost
			delete(c.held, key)
		}
	}
	if dead {
		delete(c.alive, name)
	}
	c.cond.Broadcast()
}

// sleep pauses or wakes the member of that name.
func (c *fakeCluster) sleep(name string, asleep bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.alive[name]; m != nil {
		m.asleep = asleep
	}
	c.cond.Broadcast()
}

func (m *fakeMember) lock(ctx context.Context, key string) (grant, error) {
	c := m.cluster
	defer context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.cond.Broadcast()
	})()
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &fakeWait{m}
	c.waits[key] = append(c.waits[key], w)
	defer func() {
		c.waits[key] = slices.DeleteFunc(c.waits[key], func(o *fakeWait) bool { return o == w })
		c.cond.Broadcast()
	}()
	for ctx.Err() == nil && !m.gone {
		if !m.asleep && (c.first(key) == w && c.held[key] == nil || c.twice) && !(c.lostQuorum && len(c.alive) < 3) {
			if !c.sameFence {
				c.fence++
			}
			g := &fakeGrant{member: m, key: key, fence: c.fence}
			c.held[key] = g
			return g, nil
		}
		c.cond.Wait()
	}
	return nil, errors.Join(ctx.Err(), distlock.ErrNoQuorum)
}

// first is whose turn it is to have key: first come, first served, as in a cluster.
func (c *fakeCluster) first(key string) *fakeWait {
	for _, w := range c.waits[key] {
		if !w.member.asleep && !w.member.gone {
			return w
		}
	}
	return nil
}

func (m *fakeMember) leader() string {
	c := m.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range []string{"shop-1", "shop-2", "shop-3"} {
		if c.alive[name] != nil {
			return name
		}
	}
	return ""
}

func (m *fakeMember) close() error {
	m.cluster.expire(m.name, true)
	return nil
}

func (g *fakeGrant) Fence() distlock.Fence { return g.fence }

func (g *fakeGrant) Err() error {
	g.member.cluster.mu.Lock()
	defer g.member.cluster.mu.Unlock()
	return g.err
}

func (g *fakeGrant) Unlock(context.Context) error {
	c := g.member.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if g.err != nil {
		return errors.Join(distlock.ErrNotHeld, g.err)
	}
	g.err = distlock.ErrUnlocked
	if c.held[g.key] == g {
		delete(c.held, g.key)
	}
	c.cond.Broadcast()
	return nil
}

// fakeProcess runs a shop in the test's own process.
type fakeProcess struct {
	io.Writer // to the shop
	io.Reader // from the shop

	cluster  *fakeCluster
	name     string
	toParent io.Writer
	cut      func()        // ends both pipes
	ended    chan struct{} // the shop has ended

	mu     sync.Mutex // guards all below; to the parent only one write at a time
	paused bool
	unsaid []byte // while paused
}

func (c *fakeCluster) launch(_, name string) (process, error) {
	childIn, parentOut := io.Pipe()
	parentIn, childOut := io.Pipe()
	p := &fakeProcess{Writer: parentOut, Reader: parentIn, cluster: c, name: name, toParent: childOut, ended: make(chan struct{})}
	p.cut = func() { parentOut.Close(); childOut.Close(); childIn.Close() }
	s := newShop(childIn, gate{p, childOut}, c.join)
	go func() { // ended by the end of childIn
		defer close(p.ended)
		s.serve()
		s.leave()
		p.cut()
	}()
	return p, nil
}

// gate holds back what a paused shop says. It never blocks for long, since virtual time stands still for those who wait for a mutex.
type gate struct {
	p *fakeProcess
	w io.Writer
}

func (g gate) Write(b []byte) (int, error) {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	if g.p.paused {
		g.p.unsaid = append(g.p.unsaid, b...)
		return len(b), nil
	}
	return g.w.Write(b)
}

func (p *fakeProcess) pid() int    { return 1 }
func (p *fakeProcess) log() string { return "its last words" }
func (p *fakeProcess) wait() error { <-p.ended; return nil }

func (p *fakeProcess) kill() error {
	p.cut()
	p.cluster.expire(p.name, true)
	return nil
}

func (p *fakeProcess) pause() error {
	p.mu.Lock()
	p.paused = true
	p.mu.Unlock()
	p.cluster.sleep(p.name, true)
	if !p.cluster.neverExpire {
		time.AfterFunc(sessionTTL, func() { p.cluster.expire(p.name, false) })
	}
	return nil
}

func (p *fakeProcess) resume() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = false
	_, err := p.toParent.Write(p.unsaid)
	p.unsaid = nil
	p.cluster.sleep(p.name, false)
	return err
}
