package raftlog

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// HasLog says that a log of dir's present server lies in dir.
func HasLog(dir string) bool {
	id, ok, err := LoadIdentity(dir)
	return err == nil && ok && id.logged && exists(filepath.Join(dir, logFile))
}

// Wipe removes the snapshots and the log from dir, durably, and leaves the identity, which has a new server already. The caller has closed the
// stores. The log goes last: as long as it is there, OpenBolt knows whose the snapshots are.
func Wipe(dir string) error {
	err := os.RemoveAll(filepath.Join(dir, snapshotsDir))
	if err == nil {
		err = syncDir(dir)
	}
	if err == nil {
		err = os.Remove(filepath.Join(dir, logFile))
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return dirError(dir, err)
	}
	return nil
}
