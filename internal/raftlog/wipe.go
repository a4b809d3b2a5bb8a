package raftlog

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// HasLog says that a log lies in dir.
func HasLog(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, logFile))
	return err == nil
}

// Wipe removes the log and the snapshots from dir, durably, and leaves the identity. The caller has closed the stores.
func Wipe(dir string) error {
	err := os.Remove(filepath.Join(dir, logFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	err = errors.Join(err, os.RemoveAll(filepath.Join(dir, snapshotsDir)))
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return dirError(dir, err)
	}
	return nil
}
