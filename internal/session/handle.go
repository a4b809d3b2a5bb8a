package session

import (
	"context"

	"github.com/godistlock/distlock/internal/wire"
)

// Handle names the grant to whoever may Release or Adopt it. It means nothing once the grant has ended.
func (g *Grant) Handle() wire.Handle {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	switch x := g.more; {
	case x != nil && x.handle != nil:
		return *x.handle
	case g.under == nil: // it was never granted
		return wire.Handle{}
	case x != nil && x.detached != nil && !x.detached.origin.IsZero():
		return wire.NewHandle(g.under.nonce, x.detached.origin, g.fence)
	}
	return wire.NewHandle(g.under.nonce, wire.Origin{Session: g.under.session, Seq: g.seq}, g.fence)
}

// Release ends the grant that h names, whoever has it, and returns once it has ended: its holder has closed Done, or its session is gone.
// No grant has that handle (any more): ErrNotHeld. An error that wraps ctx's, or matches ErrSessionLost or ErrClosed, leaves the outcome
// unknown.
func (m *Manager) Release(ctx context.Context, h wire.Handle) error {
	return m.await(ctx, &Grant{m: m, errand: toRelease, more: &more{handle: &h, ask: &wire.Ask{Handle: h}}})
}

// Adopt makes the grant that h names this process's own, with the same fence, once its holder has closed Done or its session is gone. A
// TTL that it has starts anew when Adopt returns; a detached one becomes an ordinary one. No grant has that handle (any more): ErrNotHeld.
// When ctx ends first the wish is withdrawn, and a grant that has moved here is released. An error that matches ErrSessionLost leaves the
// outcome unknown; a grant that has moved here ended with the session.
func (m *Manager) Adopt(ctx context.Context, h wire.Handle) (*Grant, error) {
	g := &Grant{m: m, errand: toAdopt, more: &more{handle: &h, ask: &wire.Ask{Handle: h}}}
	if err := m.await(ctx, g); err != nil {
		return nil, err
	}
	return g, nil
}
