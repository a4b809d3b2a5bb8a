// Package lockerr holds the sentinel errors of the public surface, so that the rooms below it can answer them. Package distlock
// exports them under the same names.
package lockerr

import "errors"

var (
	ErrHeld        = errors.New("held by another")
	ErrUnlocked    = errors.New("unlocked")
	ErrExpired     = errors.New("expired")
	ErrForced      = errors.New("forced to unlock")
	ErrMoved       = errors.New("moved to another holder")
	ErrSessionLost = errors.New("session lost")
	ErrNotHeld     = errors.New("not held")
	ErrNoQuorum    = errors.New("no quorum")
	ErrDeadlock    = errors.New("deadlock")
	ErrStaleFence  = errors.New("stale fence")
	ErrLeaving     = errors.New("leaving")
	ErrClosed      = errors.New("closed")
	ErrInvalid     = errors.New("invalid")
	ErrLimit       = errors.New("limit reached")
	ErrNameTaken   = errors.New("name taken by a living process")
)
