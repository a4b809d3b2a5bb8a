package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// With a PKI of the user's own a certificate proves a name, and nothing proves a server's UUID: whoever has a certificate could act as any
// server. So the leader commits under which name a server goes, before it is in the Raft configuration, by the certificate with which it answers,
// and for those that a cluster begins with as soon as they answer. From then on nobody speaks with, or for, a server under another name.
//
// A server that is bound to nothing, as far as this process's state goes, is let through: a process whose state is empty or behind must hear the
// leader that brings it up to date. What lets that one speak is that the leaders before it had bound it when they took it in; what was let
// through is looked at again with everything that is read and written.

// formatOfNames is the log's format that binds servers to names. While some process can't read it none is.
const formatOfNames = 4

// nameAgain is how long a server that did not say its name is left alone.
const nameAgain = 5 * time.Second

// nameTimeout bounds that question, for which the steward waits.
const nameTimeout = 500 * time.Millisecond

// strangerError says that somebody acts as a server that is bound to another name.
type strangerError struct {
	server      wire.UUID
	name, bound string
}

func (e *strangerError) Error() string {
	return fmt.Sprintf("%q claims to be server %s, which is %q by the cluster's records: start it with a DataDir of its own, or under that name",
		e.name, e.server, e.bound)
}

// stranger is an error when server is bound to another name.
func (n *Node) stranger(server wire.UUID, name string) error {
	if !n.cfg.NamesProven {
		return nil
	}
	fsm := n.fsm.Load()
	if fsm == nil {
		return nil
	}
	if bound, ok := fsm.Bindings().NameOf(server); ok && bound != name {
		return &strangerError{server: server, name: name, bound: bound}
	}
	return nil
}

// misnamed is an error when a call from a process says what only another may say: that a server has another name than it is bound to, or than
// the one that its own stream has proven. What comes through another member has that one's Hello.
func (n *Node) misnamed(from wire.Hello, server wire.UUID, name string) error {
	if err := n.stranger(server, name); err != nil {
		return err
	}
	if n.cfg.NamesProven && from.Server == server && from.Name != name {
		return fmt.Errorf("%q says that its name is %q", from.Name, name)
	}
	return nil
}

// members are those that gossip hears of, without those that claim a server that is bound to another name: their word is not that server's.
func (n *Node) members() []gossip.Member {
	all := n.gossip.Members()
	if !n.cfg.NamesProven {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(m gossip.Member) bool { return n.stranger(m.Server, m.Name) != nil })
}

// dial opens a stream, unless a stranger answers it.
func (n *Node) dial(ctx context.Context, addr string, kind wire.Kind, target wire.UUID) (net.Conn, wire.Welcome, error) {
	conn, w, err := n.mux.Dial(ctx, addr, kind, target)
	if err != nil {
		return nil, w, err
	}
	if err := n.stranger(w.Server, w.Name); err != nil {
		conn.Close()
		return nil, w, fmt.Errorf("dial %s: %w", addr, err)
	}
	return conn, w, nil
}

// binds says that l's cluster binds servers to names.
func (n *Node) binds(l *lead) bool { return n.cfg.NamesProven && l.format() >= formatOfNames }

// unnamed says that server can't be given a vote yet: it is bound to no name.
func (n *Node) unnamed(l *lead, server wire.UUID) bool {
	_, ok := l.group.fsm.Bindings().NameOf(server)
	return !ok && n.binds(l)
}

// enlistServer asks a server to run Raft, directly: whom this process can't reach itself it can't send its log to either. It binds it to the name with which it answers. It may be in the configuration after that.
func (n *Node) enlistServer(ctx context.Context, l *lead, server wire.UUID) error {
	name, err := n.askToRunRaft(ctx, server)
	if err != nil || !n.binds(l) {
		return err
	}
	return n.bind(ctx, l, server, name)
}

// askToRunRaft answers the name under which server has said that it runs Raft.
func (n *Node) askToRunRaft(ctx context.Context, server wire.UUID) (name string, err error) {
	addr, ok := n.addrOf(server)
	if !ok {
		return "", fmt.Errorf("%w of server %s", errNoAddress, server)
	}
	_, w, err := n.callAt(ctx, addr, server, callEnlist, encodeUUID(n.clusterID()))
	return w.Name, err
}

// tendNames makes what is bound fit the configuration: who has no place in it any more is bound to nothing, and who has one, but had none when it
// was taken in, to the name with which it answers.
func (n *Node) tendNames(ctx context.Context, l *lead) error {
	if !n.binds(l) || l.group.fsm.View().Cluster().IsZero() {
		return nil
	}
	conf, index, err := l.group.configuration()
	if err != nil || index > l.group.raft.AppliedIndex() {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for _, b := range l.group.fsm.Bindings().All() {
		if inConfiguration(conf, b.Server) {
			continue
		}
		if _, err := l.propose(ctx, raftfsm.Unbind{Server: b.Server, Term: l.term}); err != nil {
			return err
		}
		n.logger.Info("a server without a seat is bound to no name any more", "server", b.Server, "name", b.Name)
	}
	return n.bindSeats(ctx, l, conf)
}

func (n *Node) bindSeats(ctx context.Context, l *lead, conf raft.Configuration) error {
	now := time.Now()
	var failed error
	for _, s := range conf.Servers {
		server, err := wire.ParseUUID(string(s.ID))
		if err != nil || !n.unnamed(l, server) {
			continue
		}
		name := n.cfg.Name
		if server != n.serverID() {
			if l.silentFor(server, now) > heardWithin || now.Sub(l.asked[server]) < nameAgain {
				continue
			}
			l.asked[server] = now
			if name, err = n.askName(ctx, server); err != nil {
				failed = errors.Join(failed, fmt.Errorf("the name of server %s is not known yet: %w", server, err))
				continue
			}
		}
		delete(l.asked, server)
		failed = errors.Join(failed, n.bind(ctx, l, server, name))
	}
	return failed
}

// askName is the name with which server answers.
func (n *Node) askName(ctx context.Context, server wire.UUID) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	addr, ok := n.addrOf(server)
	if !ok {
		return "", errNoAddress
	}
	conn, w, err := n.dial(ctx, addr, wire.KindCall, server)
	if err != nil {
		return "", err
	}
	conn.Close()
	return w.Name, nil
}

// bind commits that server goes by name.
func (n *Node) bind(ctx context.Context, l *lead, server wire.UUID, name string) error {
	reply, err := l.propose(ctx, raftfsm.Bind{Server: server, Name: name})
	if err == nil && reply.Code != wire.CodeOK {
		err = fmt.Errorf("server %s, which answers as %q, gets no seat: %s", server, name, reply.Text)
	}
	return err
}

// checkName ends this process when its server is bound to another name than it has: nobody speaks with it.
func (f *life) checkName() {
	if err := f.n.stranger(f.n.serverID(), f.n.cfg.Name); err != nil {
		f.n.fail(fmt.Errorf("nobody speaks with this process: %w", err))
	}
}

// named is a stream of Raft whose other side is looked at again whenever something is read from it or written to it: what it was let through
// for may have changed.
type named struct {
	net.Conn
	check func() error
}

// Read drops what a stranger has sent.
func (c named) Read(p []byte) (int, error) {
	got, err := c.Conn.Read(p)
	if stranger := c.check(); stranger != nil {
		c.Close()
		return 0, stranger
	}
	return got, err
}

// Write sends nothing to a stranger.
func (c named) Write(p []byte) (int, error) {
	if err := c.check(); err != nil {
		c.Close()
		return 0, err
	}
	return c.Conn.Write(p)
}
