package distlock

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// leaveWithin is Leave; after the wait for the locks, which ctx bounds, it takes rest at the most.
func (c *Cluster) leaveWithin(ctx context.Context, rest time.Duration) error {
	if err := c.usable(); err != nil {
		return err
	}
	first := false
	c.leave.Do(func() { first = true; close(c.leaving) })
	if !first { // another Leave, or Close, is at it
		select {
		case <-c.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.sessions.Refuse()
	err := c.sessions.Drain(ctx)
	// What follows must be tried even when ctx has ended: it is what spares the others the wait for our session to run out.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), rest)
	defer cancel()
	if cerr := c.sessions.CloseSession(after); cerr != nil {
		err = errors.Join(err, cerr)
	}
	err = errors.Join(err, c.resign(ctx, after, rest))
	c.stop(ErrClosed)
	if err != nil {
		return fmt.Errorf("distlock: leave: %w", err)
	}
	return nil
}

// resign gives up what this process is in the cluster. It waits for others that leave as long as ctx lets it, and then takes rest at the most;
// if ctx has ended, after bounds all of it.
func (c *Cluster) resign(ctx, after context.Context, rest time.Duration) error {
	if ctx.Err() != nil {
		wait, cancel := context.WithTimeout(after, rest/2)
		defer cancel()
		return errors.Join(c.node.TakeTurn(wait), c.node.Resign(after))
	}
	err := c.node.TakeTurn(ctx)
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), rest)
	defer cancel()
	return errors.Join(err, c.node.Resign(after))
}

// leaveRest bounds what Leave does after the locks: ending the session, giving up the seat and the leadership.
const leaveRest = 10 * time.Second
