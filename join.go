package distlock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/godistlock/distlock/internal/node"
	"github.com/godistlock/distlock/internal/session"
	"github.com/godistlock/distlock/internal/wire"
)

func join(ctx context.Context, cfg Config, env surroundings) (*Cluster, error) {
	s, err := cfg.settleOn(ctx, env.machine)
	if err != nil {
		return nil, fmt.Errorf("distlock: join: %w", err)
	}
	s.logAside()
	c, err := s.join(ctx, env)
	if err != nil {
		s.endLog()
	}
	return c, err
}

func (s *settings) join(ctx context.Context, env surroundings) (*Cluster, error) {
	t, err := openTransport(s, env)
	if err != nil {
		return nil, fmt.Errorf("distlock: join: %w", err)
	}
	c := &Cluster{settings: s, transport: t, leaving: make(chan struct{}), stopping: make(chan struct{}), done: make(chan struct{}), failed: make(chan error, 1)}
	nc := t.nodeConfig(s, env, func(err error) { c.failed <- err })
	if c.node, err = node.Start(nc); err != nil {
		t.close()
		return nil, fmt.Errorf("distlock: join: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.JoinTimeout)
	defer cancel()
	if err := c.openSession(ctx, nc, env); err != nil {
		if errors.Is(err, ErrNoQuorum) {
			err = fmt.Errorf("%w; %s", err, c.describeSeen())
		}
		c.node.Close()
		t.abandon()
		return nil, fmt.Errorf("distlock: join group %q as %q: %w", s.Group, s.Name, err)
	}
	c.owner.Go(c.watchFailure) // ends with the Cluster
	return c, nil
}

// openSession waits for the first session, or for the end of ctx or of the node.
func (c *Cluster) openSession(ctx context.Context, nc node.Config, env surroundings) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	opened := make(chan struct{})
	go func() { // ends with openSession
		defer close(opened)
		c.sessions, err = session.Open(ctx, session.Config{
			Connect: c.node.Link, Clock: env.clock, TTL: c.settings.SessionTTL, Name: c.settings.Name, Logger: c.settings.Logger,
			MaxPending: c.settings.MaxPending,
			Create: func(nonce wire.UUID, previous uint64) wire.CreateSession {
				return wire.CreateSession{
					Nonce: nonce, Name: c.settings.Name, Server: c.node.Server(), Instance: nc.Instance,
					TTL: c.settings.SessionTTL.Milliseconds(), Proof: nc.Proof, Previous: previous,
				}
			},
		})
	}()
	tell := time.NewTicker(stillJoining)
	defer tell.Stop()
	for {
		select {
		case <-opened:
			return err
		case failure := <-c.failed:
			cancel(failure)
			<-opened
			if err == nil {
				c.sessions.Stop(ErrClosed)
			}
			return failure
		case <-tell.C:
			c.settings.Logger.Info("still joining", "state", c.describeSeen())
		}
	}
}

// stillJoining is how often a Join that takes long says in the log what it waits for.
const stillJoining = 10 * time.Second

const maxStrangersNamed = 4 // in an error

// describeSeen says who was seen and who was missing, for the error of a Join that came to nothing.
func (c *Cluster) describeSeen() string {
	seen, missing := c.node.Seen()
	text := fmt.Sprintf("seen %d of the %d processes it needs", len(seen), c.settings.Expect)
	if len(seen) > 0 {
		text += " (" + strings.Join(seen, ", ") + ")"
	}
	if len(missing) > 0 {
		text += "; missing: " + strings.Join(missing, ", ")
	}
	if reason := c.node.Waiting(); reason != "" {
		text += "; " + reason
	}
	for i, x := range c.node.Strangers() {
		if i == maxStrangersNamed {
			text += "; and more who belong elsewhere"
			break
		}
		text += fmt.Sprintf("; %s belongs elsewhere (%s): %s", x.Addr, x.Reason, x.Text)
	}
	return text + "; check Peers, that those processes run, and that TCP and UDP of the port pass between them"
}

// watchFailure stops the Cluster when its member can't go on.
func (c *Cluster) watchFailure() {
	select {
	case err := <-c.failed:
		c.stop(fmt.Errorf("%w: %w", ErrClosed, err))
	case <-c.done:
	}
}
