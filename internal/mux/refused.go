package mux

import (
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
		return "knows the server that this process claims to be under another name"
	}
	return "gave an unknown reason, " + refusalName(r)
}

// refusalName is a reason in one word, for logs.
func refusalName(r wire.Refusal) string {
	names := [...]string{"welcome", "version", "group", "cluster", "target", "busy", "muted", "identity"}
	if int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("reason %d", r)
}
