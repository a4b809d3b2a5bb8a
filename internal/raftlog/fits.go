package raftlog

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// Fits says whether log and snapshots continue each other. Raft compacts the log only behind a snapshot; when that snapshot is gone, or can't
// be listed any more, what was compacted is lost, and NewRaft panics. Call it before NewRaft.
func Fits(dir string, log raft.LogStore, snaps raft.SnapshotStore) error {
	first, err := log.FirstIndex()
	if err != nil {
		return err
	}
	metas, err := snaps.List()
	if err != nil {
		return dirError(dir, err)
	}
	var covered uint64 // by the latest snapshot
	if len(metas) > 0 {
		covered = metas[0].Index
	}
	if first <= covered+1 {
		return nil
	}
	if covered == 0 {
		return fmt.Errorf("DataDir %q: the log begins at entry %d, but there is no snapshot of what was before: %s", dir, first, moveAway)
	}
	return fmt.Errorf("DataDir %q: the log begins at entry %d, but the latest snapshot ends at %d: %s", dir, first, covered, moveAway)
}
