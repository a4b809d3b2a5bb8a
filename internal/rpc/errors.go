package rpc

import (
	"errors"
	"fmt"
)

var (
	// ErrBroken is matched by every error that comes of the connection's end. Whether the other side did what a call asked for is unknown.
	ErrBroken = errors.New("connection broken")
	// ErrSlow is matched too when the other side takes less than it is sent, so that MaxQueued bytes wait.
	ErrSlow = errors.New("the other side does not keep up")
	// ErrSilent is matched too when nothing was heard for Options.BrokenAfter.
	ErrSilent = errors.New("nothing heard from the other side")
	// ErrTooLarge refuses a body beyond MaxBody; nothing is sent, and the connection lives on.
	ErrTooLarge = fmt.Errorf("message of more than %d bytes", MaxBody)
)

// Codes of a RemoteError that this package gives. The others are the handlers'.
const (
	CodeBusy  uint8 = 255 // too many calls run on the connection, or their bodies are too large together; nothing was done
	CodePanic uint8 = 254 // the handler panicked; what was done is unknown
)

// RemoteError is what the other side's Handler.Call answered instead of a reply. A handler that returns one decides on the code; any other
// error is sent with code 0 and its text.
type RemoteError struct {
	Text string
	Code uint8
}

func (e *RemoteError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("remote error %d", e.Code)
	}
	return e.Text
}
