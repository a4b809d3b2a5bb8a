package gossip

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Stranger is a machine whose gossip is dropped.
type Stranger struct {
	Addr        string // as last seen: of a packet with its port, of a stream without
	Reason      string // goes on from "what it sends"
	Word        string // the same in one word: secret, group or noise
	Since, Last time.Time
}

// Bounds of what is remembered of strangers. A sender of packets can pretend to be anybody, so those who come when there are too many are not
// noted, nor logged.
const (
	maxStrangers = 256
	strangerFor  = 5 * time.Minute // after it was last seen
	strangerLine = time.Minute     // between two lines of the log about one host
)

// reason is why something is dropped.
type reason int

const (
	otherSecret reason = iota
	theySeal
	otherGroup
	noise
)

func (r reason) String() string {
	return [...]string{
		"cannot be decrypted: that process has another Secret, or none (or somebody else sends here)",
		"is encrypted: that process has a Secret and this one has none; give all processes of a cluster the same",
		"is of another group: give the processes of one cluster the same Group, and others a port of their own",
		"cannot be read: another program sends here, or a release of distlock that doesn't fit",
	}[r]
}

// word is the reason in one word.
func (r reason) word() string { return [...]string{"secret", "secret", "group", "noise"}[r] }

// refusal is the error of a stream whose sender is a stranger.
type refusal struct{ why reason }

func (e *refusal) Error() string { return string(refusedText) + "what was sent " + e.why.String() }

func refuse(why reason) error { return &refusal{why} }

// strangers remembers them by host and reason.
type strangers struct {
	log *slog.Logger

	mu   sync.Mutex // guards seen
	seen map[strangerKey]*strangerSeen
}

type strangerKey struct {
	host string
	why  reason
}

type strangerSeen struct {
	Stranger
	said time.Time // in the log
}

// note takes down that what came from addr was dropped.
func (s *strangers) note(what string, from net.Addr, why reason) {
	addr := fmt.Sprint(from) // never nil in earnest
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	if what != packetWord {
		addr = host
	}
	if s.due(strangerKey{host, why}, addr) { // a logger is somebody else's code, so not under the lock
		s.log.Warn(fmt.Sprintf("gossip: a %s from %s %s", what, addr, why), "from", addr)
	}
}

const (
	packetWord = "packet"
	streamWord = "stream"
)

func (s *strangers) due(key strangerKey, addr string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	x := s.seen[key]
	if x == nil {
		if len(s.seen) >= maxStrangers && !s.forget(now) {
			return false
		}
		if s.seen == nil {
			s.seen = map[strangerKey]*strangerSeen{}
		}
		x = &strangerSeen{Stranger: Stranger{Reason: key.why.String(), Word: key.why.word(), Since: now}}
		s.seen[key] = x
	}
	if now.Sub(x.Last) > strangerFor {
		x.Since = now
	}
	x.Addr, x.Last = addr, now
	if !x.said.IsZero() && now.Sub(x.said) < strangerLine {
		return false
	}
	x.said = now
	return true
}

// forget makes room; s.mu is held.
func (s *strangers) forget(now time.Time) bool {
	for key, x := range s.seen {
		if now.Sub(x.Last) > strangerFor {
			delete(s.seen, key)
		}
	}
	return len(s.seen) < maxStrangers
}

func (s *strangers) list() []Stranger {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Stranger
	for _, x := range s.seen {
		if time.Since(x.Last) <= strangerFor {
			all = append(all, x.Stranger)
		}
	}
	slices.SortFunc(all, func(a, b Stranger) int {
		if c := strings.Compare(a.Addr, b.Addr); c != 0 {
			return c
		}
		return strings.Compare(a.Reason, b.Reason)
	})
	return all
}
