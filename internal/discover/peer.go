package discover

import (
	"errors"
	"fmt"
	"strings"

	"github.com/godistlock/distlock/internal/address"
	"github.com/godistlock/distlock/internal/wire"
)

var errNoPeer = errors.New("it is neither host:port, as in 10.0.0.7:7950, shop.internal:7950 or [fd00::7]:7950, " +
	"nor the name of a service in the DNS, as in _distlock._tcp.shop.internal")

// Check says why peer is none: neither the host:port of a process (or of several, by a name) nor the name of a service. It resolves nothing.
func Check(peer string) error {
	if len(peer) > wire.MaxAddr {
		return fmt.Errorf("it has more than %d bytes", wire.MaxAddr)
	}
	if isService(peer) {
		return checkService(peer)
	}
	if !strings.Contains(peer, ":") {
		return errNoPeer
	}
	return address.Dialable(peer)
}

// isService tells a service's name, whose port the DNS knows, from the host:port of a process. A host's name may begin with _ too: then a port
// follows.
func isService(peer string) bool {
	if !strings.HasPrefix(peer, "_") {
		return false
	}
	_, rest, _ := strings.Cut(peer, ".")
	return strings.HasPrefix(rest, "_") || !strings.Contains(peer, ":")
}

// checkService wants _service._proto.name (RFC 2782).
func checkService(name string) error {
	if strings.Contains(name, ":") {
		return errors.New("a service's name has no port: the DNS tells that of each process; leave it out")
	}
	name = strings.TrimSuffix(name, ".")
	labels := strings.Split(name, ".")
	if len(labels) < 3 || len(labels[0]) < 2 || len(labels[1]) < 2 || labels[1][0] != '_' {
		return errNoPeer
	}
	if len(name) > address.MaxHost {
		return fmt.Errorf("it is longer than %d bytes", address.MaxHost)
	}
	for _, label := range labels {
		if label == "" || len(label) > maxLabel {
			return fmt.Errorf("between two of its dots are %d bytes, and there must be 1 to %d", len(label), maxLabel)
		}
		for _, r := range label {
			if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_') {
				return fmt.Errorf("%q cannot be part of a service's name", r)
			}
		}
	}
	return nil
}

// maxLabel is the DNS's own bound of what is between two dots.
const maxLabel = 63
