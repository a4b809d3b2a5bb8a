package raftlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

const (
	keptSnapshots = 2      // the older one serves when the newest cannot be read
	unfinished    = ".tmp" // of the folder of a snapshot that is being written, as raft.FileSnapshotStore names it
)

// FileSnapshots keeps snapshots in the folder "snapshots" of dir: written under another name, with a checksum, and renamed when complete.
func FileSnapshots(dir string, logger hclog.Logger) (raft.SnapshotStore, error) {
	if logger == nil {
		logger = hclog.NewNullLogger()
	}
	folder := filepath.Join(dir, snapshotsDir)
	if err := os.MkdirAll(folder, dirMode); err != nil { // raft's own would be open to all
		return nil, dirError(dir, err)
	}
	s, err := raft.NewFileSnapshotStoreWithLogger(dir, keptSnapshots, logger)
	if err != nil {
		return nil, fmt.Errorf("DataDir %q: snapshots: %w", dir, err)
	}
	return &fileSnapshots{s, folder}, nil
}

// fileSnapshots are raft's, whose files nobody but their owner can read.
type fileSnapshots struct {
	*raft.FileSnapshotStore
	folder string
}

// Create closes what raft has made before a byte of the state is in it. Its files keep their mode from then on.
func (s *fileSnapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64,
	trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.FileSnapshotStore.Create(version, index, term, conf, confIndex, trans)
	if err != nil {
		return nil, err
	}
	if err := s.closeOff(filepath.Join(s.folder, sink.ID()+unfinished)); err != nil {
		return nil, errors.Join(err, sink.Cancel())
	}
	return sink, nil
}

func (s *fileSnapshots) closeOff(folder string) error {
	if err := os.Chmod(folder, dirMode); err != nil {
		return err
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Chmod(filepath.Join(folder, f.Name()), fileMode); err != nil {
			return err
		}
	}
	return nil
}
