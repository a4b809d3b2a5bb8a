package distlock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"

	"github.com/godistlock/distlock/internal/address"
	"github.com/godistlock/distlock/internal/clock"
	"github.com/godistlock/distlock/internal/discover"
	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/node"
	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/internal/secure"
	"github.com/godistlock/distlock/internal/wire"
)

// surroundings are what a Cluster takes from the machine; tests in virtual time give their own.
type surroundings struct {
	network mux.Network
	clock   clock.Clock
	proof   wire.Proof // of the machine; the rest is filled in per Cluster
	machine address.Machine
	names   discover.Resolver // of peers; nil: the machine's
	hooks   node.Hooks        // faults; of tests only
}

func machine() surroundings {
	return surroundings{network: mux.System(), clock: clock.Boot(), proof: node.MachineProof(), machine: address.This()}
}

// transport is the one port of a Cluster, open, and the directory, locked: all that another process could be in the way of.
type transport struct {
	listener net.Listener
	packets  net.PacketConn   // nil where gossip runs over streams
	dir      *raftlog.DirLock // nil in memory
	identity raftlog.Identity
}

// openTransport opens one TCP listener and one UDP socket, then locks DataDir. On an error nothing stays open.
func openTransport(s *settings, env surroundings) (*transport, error) {
	t := &transport{}
	if err := t.open(s, env); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *transport) open(s *settings, env surroundings) (err error) {
	if t.listener, t.packets, err = env.network.Listen(s.Bind); err != nil {
		return fmt.Errorf("Config.Bind: %w", err)
	}
	_, port, err := address.Split(t.listener.Addr().String())
	if err != nil {
		return fmt.Errorf("Config.Bind: bound to %s: %w", t.listener.Addr(), err)
	}
	s.bound(port)
	if s.credentials != nil {
		if len(s.credentials.GossipKeys()) == 0 { // nothing would seal them
			_ = t.packets.Close() // nothing was sent
			t.packets = nil
		}
		if err := s.credentials.CheckOwn(secure.Identity{Group: s.Group, Name: s.Name}); err != nil {
			return fmt.Errorf("%w Config.TLS: %w", ErrInvalid, err)
		}
	}
	if s.DataDir == "" {
		return nil
	}
	return t.openDir(s)
}

// openDir comes after the port: where that is taken, most likely by a process with the same Config, no directory is made.
func (t *transport) openDir(s *settings) (err error) {
	if t.dir, err = raftlog.LockDir(s.DataDir); err != nil {
		return fmt.Errorf("Config.DataDir: %w", err)
	}
	for _, remark := range t.dir.Remarks() {
		s.Logger.Info("the DataDir is more open than it need be", "dir", s.DataDir, "remark", remark)
	}
	if t.identity, _, err = raftlog.LoadIdentity(s.DataDir); err != nil {
		return fmt.Errorf("Config.DataDir: %w", err)
	}
	if t.identity.Group != "" && t.identity.Group != s.Group {
		return fmt.Errorf("%w Config.DataDir %q: it belongs to group %q and Config.Group is %q; use another directory or that group",
			ErrInvalid, s.DataDir, t.identity.Group, s.Group)
	}
	if s.namesProven() {
		if err := t.identity.CheckName(s.DataDir, s.Name); err != nil {
			return fmt.Errorf("%w Config.DataDir: %w", ErrInvalid, err)
		}
	}
	if err := t.identity.CheckLog(s.DataDir); err != nil {
		return fmt.Errorf("Config.DataDir: %w", err)
	}
	return nil
}

// close gives up what was opened but not handed on.
func (t *transport) close() {
	if t.listener != nil {
		t.listener.Close()
	}
	if t.packets != nil {
		t.packets.Close()
	}
	t.abandon()
}

// abandon is release after a Join that came to nothing: a directory that nothing was kept in goes too.
func (t *transport) abandon() {
	if t.dir != nil {
		_ = t.dir.Abandon() // the lock goes with the process at the latest, and a directory that stays is harmless
	}
}

// release gives up the directory: the last thing, after every Done is closed.
func (t *transport) release() {
	if t.dir != nil {
		_ = t.dir.Release() // the lock goes with the process at the latest
	}
}

// nodeConfig turns the settings and the open port into what a node needs.
func (t *transport) nodeConfig(s *settings, env surroundings, failed func(error)) node.Config {
	proof := env.proof
	proof.Bound = t.listener.Addr().String()
	proof.Started = env.clock.Now().Microseconds() // bound and locked by now
	if t.dir != nil {
		proof.Dir = t.dir.ID()
	}
	id := t.identity
	id.Group = s.Group
	return node.Config{
		Name: s.Name, Group: s.Group, Instance: wire.NewUUID(), Addr: s.Advertise, Proof: proof,
		Listener: t.listener, Packets: t.packets, Dial: env.network.Dial, Credentials: s.credentials,
		Dir: s.DataDir, Identity: id,
		Expect: s.Expect, Voters: s.Voters, MayVote: !s.NoVote, NamesProven: s.namesProven(),
		Alone: len(s.Peers) == 0 && s.Discover == nil, Loopback: isLoopback(t.listener.Addr()),
		SelfAddr: dialable(t.listener.Addr()), Seeds: seeds(s, env.names), Resolver: env.names, Logger: s.Logger, Hooks: env.hooks, Failed: failed,
	}
}

// namesProven says that certificates of a PKI prove names: those that come of a Secret are each process's own word.
func (s *settings) namesProven() bool { return s.TLS != nil }

func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// seeds asks Peers and Discover, side by side, for addresses to gossip with. What fails is an error beside what was found: some addresses are
// better than none.
func seeds(s *settings, names discover.Resolver) func(context.Context) ([]string, error) {
	peers := func(ctx context.Context) ([]string, error) { return discover.Resolve(ctx, s.Peers, names) }
	if s.Discover == nil {
		return peers
	}
	d := &discovery{ask: s.Discover}
	return func(ctx context.Context) ([]string, error) {
		var static []string
		var err error
		looked := make(chan struct{})
		go func() { // ends with the look-ups, and is waited for below
			defer close(looked)
			static, err = peers(ctx)
		}()
		found, derr := d.found(ctx)
		more, rerr := discover.Resolve(ctx, found, names)
		if derr = errors.Join(derr, rerr); derr != nil {
			derr = fmt.Errorf("Config.Discover: %w", derr)
		}
		<-looked
		return append(static, more...), errors.Join(err, derr)
	}
}

// discovery asks Config.Discover, once at a time: it is the user's code, and may not come back when its context ends.
type discovery struct {
	ask func(context.Context) ([]string, error)

	mu      sync.Mutex      // guards pending
	pending chan discovered // cap 1; nil while nothing is asked
}

type discovered struct {
	peers []string
	err   error
}

// found waits for an answer until ctx ends. A call that has not come back by then is waited for the next time.
func (d *discovery) found(ctx context.Context) ([]string, error) {
	d.mu.Lock()
	if d.pending == nil {
		answer := make(chan discovered, 1)
		d.pending = answer
		go func() { // ends when the user's code does; nobody can make it
			peers, err := d.ask(ctx)
			answer <- discovered{peers, err}
		}()
	}
	answer := d.pending
	d.mu.Unlock()
	select {
	case a := <-answer:
		d.mu.Lock()
		d.pending = nil
		d.mu.Unlock()
		return a.peers, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("it has not come back: %w", ctx.Err())
	}
}

// dialable is a bound address as this machine itself reaches it.
func dialable(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return a.String()
	}
	loop := net.IPv4(127, 0, 0, 1)
	if tcp.IP.To4() == nil {
		loop = net.IPv6loopback
	}
	return net.JoinHostPort(loop.String(), strconv.Itoa(tcp.Port))
}
