package raftfsm

import (
	"slices"
	"strings"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// View is the state as it was after one entry. It never changes; any goroutine may use it, also several at once.
type View struct{ s state }

// SessionInfo is a living session.
type SessionInfo struct {
	ID       uint64
	Name     string
	Server   wire.UUID
	Instance wire.UUID
	TTL      time.Duration
	Renewed  uint64 // index of the entry that made it or last met its nonce; what Expire calls Seen
	Requests int    // requests in use
	Revoked  int    // grants that it must confirm
}

// GrantInfo is a grant of a key.
type GrantInfo struct {
	Key      string
	Session  uint64 // 0 if it has outlived its own
	Seq      uint64
	Fence    uint64
	Since    int64  // µs since 1970
	Member   string // name of the session's process; "" if detached
	Mode     wire.Mode
	Weight   uint32 // units of a semaphore
	Revoked  bool
	Detached bool
	Value    []byte
	Where    string // in the holder's code
}

// WaiterInfo is a request in a key's queue.
type WaiterInfo struct {
	Session uint64
	Seq     uint64
	Since   int64 // µs since 1970
	Member  string
}

// LockInfo is a key in use.
type LockInfo struct {
	Key     string
	Mode    wire.Mode    // of the holders, or of the first waiter while there is none
	Limit   uint32       // units that the semaphore has; 0: it is none
	Holders []GrantInfo  // by their fences; none while the cluster is silent or only a cooldown has the key
	Waiters []WaiterInfo // in the order in which they will be served
}

// Counters count what there is now and what there was since the cluster began.
type Counters struct {
	Keys, Holders, Waiters, Sessions int    // now; Keys are those in use, a grant or a request for several counts at each
	Grants                           uint64 // given
	Releases                         uint64 // ended by their session: finished, confirmed or closed with it; or by who has their handle
	Expirations                      uint64 // ended by time, or with a session that expired or was proven dead
	LastFence                        uint64
}

func (v *View) Index() uint64      { return v.s.index } // of the last entry of commands that was applied
func (v *View) Term() uint64       { return v.s.term }  // of that entry
func (v *View) Cluster() wire.UUID { return v.s.cluster }
func (v *View) Expect() int        { return v.s.expect }
func (v *View) Voters() int        { return v.s.voters }
func (v *View) Open() bool         { return v.s.open }
func (v *View) Silent() bool       { return v.s.silent }

// Dead lists the servers that were proven dead, the latest last: at most MaxDead, and not those that took a session since.
func (v *View) Dead() []wire.UUID { return slices.Clone(v.s.dead) }

// Dissolved says that the cluster ended before it opened.
func (v *View) Dissolved() bool { return v.s.dissolved }

// HasConfirmed says that server is among the founders of a cluster that has not opened yet.
func (v *View) HasConfirmed(server wire.UUID) bool { return slices.Contains(v.s.founders, server) }

// Confirmed counts the servers that have confirmed, until the cluster opens.
func (v *View) Confirmed() int { return len(v.s.founders) }

// Counters costs no more than a look.
func (v *View) Counters() Counters {
	return Counters{
		Keys: v.s.locks.Len(), Holders: v.s.holders, Waiters: v.s.queue.Len(), Sessions: v.s.sessions.Len(),
		Grants: v.s.grants, Releases: v.s.releases, Expirations: v.s.expirations, LastFence: v.s.fence,
	}
}

// Session finds a living session.
func (v *View) Session(id uint64) (SessionInfo, bool) {
	ses, ok := v.s.sessions.Get(&session{id: id})
	if !ok {
		return SessionInfo{}, false
	}
	return ses.info(), true
}

// SessionNamed finds the living session of the process called name.
func (v *View) SessionNamed(name string) (SessionInfo, bool) {
	ses, ok := v.s.names.Get(&session{who: &wire.CreateSession{Name: name}})
	if !ok {
		return SessionInfo{}, false
	}
	return ses.info(), true
}

// Sessions lists the living sessions by id.
func (v *View) Sessions() []SessionInfo {
	all := make([]SessionInfo, 0, v.s.sessions.Len())
	v.s.sessions.Ascend(func(ses *session) bool {
		all = append(all, ses.info())
		return true
	})
	return all
}

func (ses *session) info() SessionInfo {
	return SessionInfo{
		ID: ses.id, Name: ses.who.Name, Server: ses.who.Server, Instance: ses.who.Instance,
		TTL: time.Duration(ses.who.TTL) * time.Millisecond, Renewed: ses.renewed,
		Requests: int(ses.requests), Revoked: int(ses.revoked),
	}
}

// Grant finds the grant of a key with a fence; with 0 the one that is held longest.
func (v *View) Grant(key string, fence uint64) (info GrantInfo, ok bool) {
	l, found := v.s.locks.Get(&lock{key: key})
	if !found {
		return GrantInfo{}, false
	}
	v.s.eachHolder(l, func(h *request) bool {
		if h.state == granted && (fence == 0 || h.fence == fence) {
			info, ok = v.grant(key, h), true
		}
		return !ok
	})
	return info, ok
}

func (v *View) grant(key string, h *request) GrantInfo {
	g := GrantInfo{
		Key: key, Session: h.session, Seq: h.seq, Fence: h.fence, Since: h.since, Member: v.s.member(h.session), Mode: h.mode, Weight: h.weight,
		Revoked: h.revoked,
	}
	if h.session == nobody {
		g.Session = 0
	}
	if h.more != nil {
		g.Detached, g.Value, g.Where = h.more.detached > 0, h.more.value, h.more.where
		if g.Detached {
			g.Member = ""
		}
	}
	return g
}

// Format is the version of the log's format that is in use.
func (v *View) Format() uint64 { return v.s.format }

// Timers are all times that run, as far as was committed.
func (v *View) Timers() []Timer {
	all := make([]Timer, 0, v.s.timers.Len())
	v.s.timers.Ascend(func(p place) bool {
		all = append(all, v.s.at(p).timer())
		return true
	})
	return all
}

// Revoked lists what a session must still confirm, as it was told of it: for a link that has just been made.
func (v *View) Revoked(id uint64) []wire.Outcome {
	ses, ok := v.s.sessions.Get(&session{id: id})
	if !ok || ses.revoked == 0 {
		return nil
	}
	outs := make([]wire.Outcome, 0, ses.revoked)
	for _, r := range v.s.requestsOf(ses) {
		if r.state == granted && r.revoked {
			outs = append(outs, revocation(r))
		}
	}
	return outs
}

// Locks lists at most limit keys in use that begin with prefix and come after after, in the order of their bytes. A key's waiters
// are all listed with it.
func (v *View) Locks(prefix, after string, limit int) []LockInfo {
	from := prefix
	if after >= prefix {
		from = after
	}
	var all []LockInfo
	v.s.locks.AscendGreaterOrEqual(&lock{key: from}, func(l *lock) bool {
		if !strings.HasPrefix(l.key, prefix) || len(all) >= limit {
			return false
		}
		if l.key != after {
			all = append(all, v.lockInfo(l))
		}
		return true
	})
	return all
}

func (v *View) lockInfo(l *lock) LockInfo {
	info := LockInfo{Key: l.key, Limit: l.limit, Mode: l.mode}
	v.s.eachHolder(l, func(h *request) bool {
		if h.state == granted {
			info.Holders = append(info.Holders, v.grant(l.key, h))
		}
		return true
	})
	if l.waiters == 0 {
		return info
	}
	info.Waiters = make([]WaiterInfo, 0, l.waiters)
	v.s.queue.AscendGreaterOrEqual(place{key: l.key}, func(p place) bool {
		if p.key != l.key {
			return false
		}
		r := v.s.at(p)
		if l.holders == 0 && len(info.Waiters) == 0 {
			info.Mode = r.mode
		}
		info.Waiters = append(info.Waiters, WaiterInfo{Session: p.session, Seq: p.seq, Since: r.since, Member: v.s.member(p.session)})
		return true
	})
	return info
}
