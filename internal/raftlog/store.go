// Package raftlog keeps what Raft must not forget: the log, the stable values and the snapshots, in a directory or in memory; and the
// identity of the server that they belong to. Guard stands between Raft and the store so that a bad disk ends this member and never
// the process that hosts it.
//
// What it does not promise: a file that was changed behind its back while it is open may be noticed late (a read then fails and the
// member stops); a directory that was copied and is used twice on two machines is not noticed here.
package raftlog

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// Store is a log and the stable values beside it. The log is contiguous at every moment, also after a crash: its entries are those from
// FirstIndex to LastIndex. So it is a raft.MonotonicLogStore, and Raft empties it after a snapshot was installed.
//
// A missing stable key is an error whose text is exactly "not found", which is how Raft recognises it.
type Store interface {
	raft.LogStore
	raft.StableStore
	raft.MonotonicLogStore
	Close() error
}

// Names of the files in a DataDir. Files beside them mean that the directory is not ours.
const (
	logFile      = "raft.db"
	identityFile = "identity"
	lockFileName = "distlock.lock"
	snapshotsDir = "snapshots" // named by raft.FileSnapshotStore
	newSuffix    = ".new"      // of a file that is being written and will be renamed
)

// Bounds of one log entry as it is read from a disk.
const (
	maxEntryData       = 64 << 20
	maxEntryExtensions = 1 << 20
)

// errNotFound has the text that Raft compares (raft.go: err.Error() != "not found").
var errNotFound = errors.New("not found")

// RefusedError says that a store was asked for something that would break its order, or that no Raft of ours writes. Nothing was done and
// the store is sound.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "refused: " + e.Reason }

func refuse(format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// span is the indexes of a contiguous log; the zero span is an empty log.
type span struct{ first, last uint64 }

func (s span) empty() bool { return s.last == 0 }

// appended is s with logs stored on top. With reset the logs begin past the end of s: Raft leaves such a gap only when a snapshot covers
// all of s, so the older entries go in the same step and the log stays contiguous.
func (s span) appended(logs []*raft.Log) (after span, reset bool, err error) {
	first, last := logs[0].Index, logs[len(logs)-1].Index
	for i, l := range logs {
		if l.Index == 0 || l.Index != first+uint64(i) {
			return s, false, refuse("entry %d stands where %d belongs", l.Index, first+uint64(i))
		}
	}
	switch {
	case s.empty():
		return span{first, last}, false, nil
	case first > s.last+1:
		return span{first, last}, true, nil
	case last+1 < s.first:
		return s, false, refuse("entries %d to %d would leave a hole before %d", first, last, s.first)
	}
	return span{min(s.first, first), max(s.last, last)}, false, nil
}

// deleted is s without lo to hi, and the part of lo to hi that is there.
func (s span) deleted(lo, hi uint64) (after, gone span, err error) {
	if s.empty() || lo > hi || hi < s.first || lo > s.last {
		return s, span{}, nil
	}
	gone = span{max(lo, s.first), min(hi, s.last)}
	switch {
	case gone == s:
		return span{}, gone, nil
	case gone.first == s.first:
		return span{gone.last + 1, s.last}, gone, nil
	case gone.last == s.last:
		return span{s.first, gone.first - 1}, gone, nil
	}
	return s, span{}, refuse("deleting %d to %d would leave a hole in the log from %d to %d", lo, hi, s.first, s.last)
}
