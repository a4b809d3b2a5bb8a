// Package session is this process's side of the locks: one session for all of them, its renewals, its deadline, and what is
// outstanding at the leader.
//
// A request has a sequence number and exactly one operation that stands for what it wants now (acquire, or finish). Until the
// leader has answered that operation it is sent again on every new link, in the order of the numbers; the state machine meets a
// copy with its own record, so nothing here asks whether an earlier copy arrived. Whatever comes back is handled by the state the
// request is in, so an answer that is late, doubled or from a link of yesterday does no harm.
//
// Time: a session is renewed by numbered attempts, each with the time at which it was sent. The process gives its locks up
// 4/5 of the TTL after the last answered attempt was sent. The leader expires the session a whole TTL after it received an attempt
// at the earliest, so Done closes first as long as the two clocks differ in rate by less than a fifth. A session that was given up
// is never renewed; another is opened, and its creation ends the one before in the same entry of the log.
//
// A grant with a TTL is ended by this side, when the clock says so. A detached one has a time that the leader counts, from some moment after
// it was told of it; this side relies on 4/5 of it, from before it was told. It outlives its session: see detached.
package session
