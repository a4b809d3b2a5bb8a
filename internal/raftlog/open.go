package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/godistlock/distlock/internal/wire"
)

const lockTimeout = time.Second // how long an opening waits for another process to close the file

// OpenBolt opens or creates the log in dir, an existing directory that the caller has locked (LockDir).
//
// It reads the whole file before bbolt maps it, and answers an error for every file that is not sound and not this server's: a damaged one,
// a foreign one, one written by a newer version, one that doesn't fit the identity in dir, or none where the identity says that there was
// one. A server that goes on without its log could vote a second time in a term, so none of these is ever mended here.
func OpenBolt(dir string) (Store, error) {
	b, err := openBolt(dir)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func openBolt(dir string) (*bolt, error) {
	id, known, err := LoadIdentity(dir)
	if err != nil {
		return nil, err
	}
	b, server, err := openOrCreate(dir, id, known)
	if err != nil {
		return nil, err
	}
	if known && server != id.Server && server == id.former && !server.IsZero() { // a crash came before Wipe had ended
		if err := errors.Join(b.Close(), Wipe(dir)); err != nil {
			return nil, err
		}
		if b, server, err = openOrCreate(dir, id, known); err != nil {
			return nil, err
		}
	}
	if err := b.belongs(dir, id, known, server); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// openOrCreate opens the log, or makes one where none can have been.
func openOrCreate(dir string, id Identity, known bool) (*bolt, wire.UUID, error) {
	path := filepath.Join(dir, logFile)
	switch _, err := os.Lstat(path); {
	case err == nil:
	case !errors.Is(err, os.ErrNotExist):
		return nil, wire.UUID{}, dirError(dir, err)
	case known && id.logged:
		return nil, wire.UUID{}, id.CheckLog(dir)
	default:
		if left, _ := os.ReadDir(filepath.Join(dir, snapshotsDir)); len(left) > 0 {
			return nil, wire.UUID{}, fmt.Errorf("DataDir %q: there are snapshots, but no log %s: %s", dir, logFile, moveAway)
		}
		if err := createBolt(dir, path, id.Server); err != nil {
			return nil, wire.UUID{}, dirError(dir, err)
		}
	}
	b, server, err := openVerified(path)
	if err != nil {
		return nil, wire.UUID{}, openError(dir, err)
	}
	return b, server, nil
}

// belongs sees to it that log and identity are of the same server, and that each knows of the other.
func (b *bolt) belongs(dir string, id Identity, known bool, server wire.UUID) error {
	switch {
	case !known && server.IsZero():
		return nil // no identity yet
	case !known:
		return fmt.Errorf("DataDir %q: the log %s is of server %s, but its file %q is missing: %s", dir, logFile, server, identityFile, moveAway)
	case server.IsZero():
		if err := b.bind(id.Server); err != nil {
			return openError(dir, err)
		}
	case server != id.Server:
		return fmt.Errorf("DataDir %q: the log %s is of server %s, the file %q of %s: %s", dir, logFile, server, identityFile, id.Server, moveAway)
	}
	if id.logged {
		return nil
	}
	return noteLog(dir, id)
}

const moveAway = "move the directory away and start this process again; it joins as a newcomer and the others send it the state"

func openError(dir string, err error) error {
	var corrupt *corruptError
	switch {
	case errors.As(err, &corrupt):
		return fmt.Errorf("DataDir %q: log %s is corrupt (%w): %s", dir, logFile, err, moveAway)
	case errors.Is(err, bolterrors.ErrTimeout), errors.Is(err, ErrLocked):
		return fmt.Errorf("DataDir %q: %w: another process has the log %s open; give each process a directory of its own", dir, ErrLocked, logFile)
	}
	return dirError(dir, err)
}

// createBolt makes an empty log under another name and renames it when it is durable: a file of the right name is never half made, so an
// empty one is a damaged one.
func createBolt(dir, path string, server wire.UUID) error {
	fresh := path + newSuffix
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := bbolt.Open(fresh, fileMode, boltOptions(nil, nil))
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketAbout, bucketLogs, bucketStable} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		about := tx.Bucket(bucketAbout)
		if err := about.Put(keyServer, sealed(nil, keyServer, server[:])); err != nil {
			return err
		}
		return about.Put(keyVersion, sealed(nil, keyVersion, binary.BigEndian.AppendUint64(nil, logVersion)))
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	return syncDir(dir)
}

func boltOptions(open func(string, int, os.FileMode) (*os.File, error), logger bbolt.Logger) *bbolt.Options {
	return &bbolt.Options{
		Timeout:        lockTimeout,
		NoFreelistSync: true, // else every commit writes the list of all pages that compaction freed
		FreelistType:   bbolt.FreelistMapType,
		NoStatistics:   true,
		OpenFile:       open,
		Logger:         logger,
	}
}

// openVerified verifies the file and opens it. server is the one it was made for, zero for none yet.
func openVerified(path string) (b *bolt, server wire.UUID, err error) {
	var f *os.File
	var found contents
	open := func(name string, _ int, _ os.FileMode) (*os.File, error) {
		file, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		if found, err = verifyLocked(file); err != nil {
			file.Close()
			return nil, err
		}
		f = file
		return file, nil
	}
	b = &bolt{path: path, log: &commitLogger{}, enc: wire.NewWriter()}
	err = shielded(func() error {
		var err error
		b.db, err = bbolt.Open(path, fileMode, boltOptions(open, b.log))
		return err
	})
	if err != nil {
		if f != nil {
			f.Close() // bbolt panicked with it in hand, or closed it already
		}
		return nil, wire.UUID{}, err
	}
	b.file = f
	b.span.Store(&found.span)
	return b, found.server, nil
}
