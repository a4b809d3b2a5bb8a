package session

import (
	"context"

	"github.com/godistlock/distlock/internal/wire"
)

// Link is one way to the leader. It ends (Done) when the connection broke or that process leads no more. Its methods may be called
// by several goroutines and after Close, and may call the Sink before they return.
type Link interface {
	// Create asks for a session. An error means that the outcome is unknown: the same nonce is sent again on the next link.
	Create(ctx context.Context, c wire.CreateSession) (wire.SessionReply, error)
	// Attach makes the leader push the outcomes of session to this link from now on, first those of its grants that are revoked.
	Attach(session uint64) error
	// Submit hands ops (at most wire.MaxOps) to the leader. It keeps the order, may keep the slice, and waits while too many are on their way
	// already, until the link ends at the longest. It is called by one goroutine at a time.
	Submit(session uint64, ops []wire.Op) error
	// Renew asks for a renewal; the answer comes by Sink.Renewed. It never blocks.
	Renew(session, attempt uint64) error
	// CloseSession ends the session and all its requests; nil once that is committed (also if it had ended before).
	CloseSession(ctx context.Context, session uint64) error
	Done() <-chan struct{}
	Close()
}

// Sink takes what a Link brings. Its methods don't block.
type Sink interface {
	// Outcomes are told in the order in which they were committed; outs is the caller's again afterwards.
	Outcomes(session uint64, outs []wire.Outcome)
	// Renewed answers Renew. ok is false when the session does not stand in the committed state (any more).
	Renewed(session, attempt uint64, ok bool)
}
