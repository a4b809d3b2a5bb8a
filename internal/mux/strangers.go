package mux

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// Bounds of what is remembered of strangers.
const (
	maxStrangers = 64
	strangerFor  = 5 * time.Minute
)

// Stranger is another process with which this one has no stream, for a reason that a person can mend.
type Stranger struct {
	Addr     string // host:port where it was dialed, its host where it dialed
	Name     string // as it says; "" where it could not say
	Reason   string // group, cluster, secret, version or identity
	Text     string // for people
	Incoming bool   // it dialed
	Last     time.Time
}

// strangers remembers the last of each address and reason.
type strangers struct {
	mu   sync.Mutex // guards seen
	seen map[[2]string]Stranger
}

func (s *strangers) note(x Stranger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.Last = time.Now()
	key := [2]string{x.Addr, x.Reason}
	if _, ok := s.seen[key]; !ok && len(s.seen) >= maxStrangers {
		oldest, at := key, x.Last
		for k, y := range s.seen {
			if y.Last.Before(at) {
				oldest, at = k, y.Last
			}
		}
		delete(s.seen, oldest)
	}
	if s.seen == nil {
		s.seen = map[[2]string]Stranger{}
	}
	s.seen[key] = x
}

func (s *strangers) list() (out []Stranger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, x := range s.seen {
		if time.Since(x.Last) >= strangerFor {
			delete(s.seen, k)
			continue
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(x, y Stranger) int { return cmp.Or(cmp.Compare(x.Addr, y.Addr), cmp.Compare(x.Reason, y.Reason)) })
	return out
}

// Strangers lists the processes that were kept out, or that kept this one out, in the last minutes: those that belong elsewhere, by address.
func (m *Mux) Strangers() []Stranger { return m.strangers.list() }

// estranges says that a refusal is no passing state: the two processes were not given the same, or are of different clusters.
func estranges(r wire.Refusal) bool {
	switch r {
	case wire.RefusedVersion, wire.RefusedGroup, wire.RefusedCluster, wire.RefusedIdentity, wire.RefusedPlain, wire.RefusedTLS:
		return true
	}
	return false
}

// refusedBy notes that the process at addr keeps this one out.
func (m *Mux) refusedBy(addr string, a wire.Welcome, err error) {
	if !estranges(a.Refusal) || m.ctx.Err() != nil {
		return
	}
	reason := refusalName(a.Refusal)
	m.strangers.note(Stranger{Addr: addr, Name: a.Name, Reason: reason, Text: err.Error()})
	if m.quiet.may(addr, reason) {
		m.log.Warn("a process does not talk with this one", "addr", addr, "name", a.Name, "reason", reason, "error", err)
	}
}

// estrangedFrom is refusedBy for whom a handshake shows to be a stranger.
func (m *Mux) estrangedFrom(err *StrangerError) {
	if m.ctx.Err() != nil {
		return
	}
	m.strangers.note(Stranger{Addr: err.Addr, Name: err.Name, Reason: err.Reason, Text: err.Err.Error()})
	if m.quiet.may(err.Addr, err.Reason) {
		m.log.Warn("a process does not belong here", "addr", err.Addr, "name", err.Name, "reason", err.Reason, "error", err.Err)
	}
}
