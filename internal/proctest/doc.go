// Package proctest tests the library as real processes: the test's own binary is started again as members of a cluster, which are
// killed, paused and restarted under load. What they did is recorded on a clock that all of them share, and judged as one history:
// a lock is exclusive, shared or a semaphore, fences rise, and what is detached or cools down stays blocked for its time.
//
// DISTLOCK_QUIET (make quiet) is for how long one of them watches that busy processors bring no election.
//
// All of it is test code; the short runs are part of go test, DISTLOCK_CHAOS=1 (make chaos) makes them long. DISTLOCK_OLD_MEMBER
// (make rolling-versions) names such a binary of an earlier commit, whose processes are replaced one by one by present ones.
// DISTLOCK_NETNS=1 (make netns) gives every process a network namespace of its own, where there is DNS, and what can be cut.
package proctest
