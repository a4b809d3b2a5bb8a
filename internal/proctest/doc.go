// Package proctest tests the library as real processes: the test's own binary is started again as members of a cluster, which are
// killed, paused and restarted under load. What they did is recorded on a clock that all of them share, and judged as one history:
// a lock has one holder at a time, and fences rise.
//
// All of it is test code; the short runs are part of go test, DISTLOCK_CHAOS=1 (make chaos) makes them long.
package proctest
