package mux

import (
	"errors"
	"fmt"
	"strings"

	"github.com/godistlock/distlock/internal/wire"
)

// RefusedError is a peer's no. Welcome tells why, and who it is.
type RefusedError struct {
	Addr    string
	Welcome wire.Welcome
}

func (e *RefusedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", e.Addr)
	if e.Welcome.Name != "" {
		fmt.Fprintf(&b, " (%s)", e.Welcome.Name)
	}
	fmt.Fprintf(&b, " refused the stream: it %s", refusalText(e.Welcome.Refusal))
	if e.Welcome.Refusal == wire.RefusedVersion && e.Welcome.Version != wire.ProtocolVersion {
		fmt.Fprintf(&b, " (%d, here %d): run releases of distlock that fit together", e.Welcome.Version, wire.ProtocolVersion)
	}
	if e.Welcome.Text != "" {
		fmt.Fprintf(&b, ": %s", e.Welcome.Text)
	}
	return b.String()
}

// StrangerError says that the other side of a stream that was dialed could not prove that it belongs here, or that it does not take the
// proof of this process.
type StrangerError struct {
	Addr, Name string
	Reason     string // in one word, for logs
	Err        error
}

func (e *StrangerError) Error() string {
	who := e.Addr
	if e.Name != "" {
		who += " (" + e.Name + ")"
	}
	return fmt.Sprintf("no stream with %s: %v", who, e.Err)
}

func (e *StrangerError) Unwrap() error { return e.Err }

// Stranged is an error of Config.Secure, or of a stream that it made, which tells that the other side belongs elsewhere.
type Stranged interface {
	error
	Stranger() bool
}

// estranged is the reason of such an error, in one word.
func estranged(err error) (reason string, ok bool) {
	var s Stranged
	if errors.As(err, &s) && s.Stranger() {
		return refusalName(wire.RefusedPlain), true
	}
	return "", false
}

// strangerText says of one that was refused what it was told.
func strangerText(a wire.Welcome) string {
	switch a.Refusal {
	case wire.RefusedPlain:
		return "it speaks no TLS: it has neither Secret nor TLS, and this process has"
	case wire.RefusedTLS:
		return "it speaks TLS: it has a Secret, or TLS, and this process has neither"
	}
	return a.Text
}

// refusalText goes on from "it".
func refusalText(r wire.Refusal) string {
	switch r {
	case wire.RefusedVersion:
		return "speaks another protocol version"
	case wire.RefusedGroup:
		return "belongs to another group"
	case wire.RefusedCluster:
		return "belongs to another cluster"
	case wire.RefusedTarget:
		return "is not the server that is wanted"
	case wire.RefusedBusy:
		return "has too many connections"
	case wire.RefusedMuted:
		return "takes no streams of this kind now"
	case wire.RefusedIdentity:
		return "knows this process under another identity"
	case wire.RefusedPlain:
		return "takes streams with TLS only: it has a Secret, or TLS, and this process has neither"
	case wire.RefusedTLS:
		return "speaks no TLS: it has neither Secret nor TLS, and this process has"
	}
	return "gave an unknown reason, " + refusalName(r)
}

// refusalName is a reason in one word, for logs.
func refusalName(r wire.Refusal) string {
	names := [...]string{"welcome", "version", "group", "cluster", "target", "busy", "muted", "identity", "secret", "secret"}
	if int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("reason %d", r)
}
