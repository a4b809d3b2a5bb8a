package raftlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// ErrLocked is what LockDir's and OpenBolt's errors match when another process has the directory.
var ErrLocked = errors.New("in use by another process")

// DirLock keeps every other process, and every other Cluster of this one, out of a DataDir.
type DirLock struct {
	f    *os.File
	id   string
	dir  string
	made []string // directories that LockDir made, the innermost first

	remarks []string
}

// LockDir takes the lock of dir, which it creates if it is not there. It does not wait: when another has it, the error matches ErrLocked and
// names that process if it can. A directory with files that are not ours and no identity of ours in it is refused, and so is one that is somebody
// else's or that everybody may write to, or with files of ours that are; nothing is written to it. On an error nothing is left.
func LockDir(dir string) (*DirLock, error) {
	made := missingDirs(dir)
	l, err := lockDir(dir)
	if err != nil {
		removeEmpty(made)
		return nil, err
	}
	l.dir, l.made = dir, made
	return l, nil
}

// missingDirs are dir and those above it, as far as they are not there.
func missingDirs(dir string) []string {
	var missing []string
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		if _, err := os.Lstat(at); !errors.Is(err, fs.ErrNotExist) {
			return missing
		}
		missing = append(missing, at)
	}
}

// removeEmpty removes directories, the innermost first, as far as they are empty.
func removeEmpty(dirs []string) {
	for _, d := range dirs {
		if os.Remove(d) != nil {
			return
		}
	}
}

func lockDir(dir string) (*DirLock, error) {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, dirError(dir, err)
	}
	if err := notForeign(dir); err != nil {
		return nil, err
	}
	access, err := judgeAccess(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, lockFileName)
	for {
		l, err := lockPath(path)
		switch {
		case errors.Is(err, errReplaced):
			continue
		case errors.Is(err, ErrLocked):
			return nil, fmt.Errorf("DataDir %q: %w%s; give each process a directory of its own", dir, ErrLocked, lockedBy(path))
		case err != nil:
			return nil, dirError(dir, err)
		}
		l.remarks = access.close()
		if access.shared {
			l.remarks = append(l.remarks, "whoever is in its group may change what is in it")
		}
		return l, nil
	}
}

// errReplaced says that the file was removed between opening and locking it: what is locked is nobody's any more.
var errReplaced = errors.New("the file was removed meanwhile")

// lockFile takes the exclusive lock of f, waiting up to wait for it: the system's own waiting has no time limit.
func lockFile(f *os.File, wait time.Duration) error {
	err := tryLockFile(f)
	if wait <= 0 || !errors.Is(err, ErrLocked) {
		return err
	}
	patience, again := time.NewTimer(wait), time.NewTicker(20*time.Millisecond)
	defer patience.Stop()
	defer again.Stop()
	for errors.Is(err, ErrLocked) {
		select {
		case <-again.C:
			err = tryLockFile(f)
		case <-patience.C:
			return err
		}
	}
	return err
}

// lockPath locks the file at path and writes this process's id into it. It answers errReplaced when the file is no longer the one at path.
func lockPath(path string) (*DirLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, err
	}
	if err := tryLockFile(f); err != nil {
		f.Close()
		return nil, err
	}
	mine, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(mine, there) {
		err = errReplaced
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		f.Close()
		return nil, err
	}
	return &DirLock{f: f, id: fileID(mine)}, nil
}

// Remarks say what of the directory is more open than it need be, for the log.
func (l *DirLock) Remarks() []string { return l.remarks }

// ID names the locked file on this machine, as "device:inode"; "" on Windows.
func (l *DirLock) ID() string { return l.id }

// Release gives the lock back. The file stays: removing it would let two processes lock two files of that name.
func (l *DirLock) Release() error { return l.f.Close() }

// Abandon is Release of a directory that came to nothing: where it holds only the lock's file, that goes, and so do the directories that
// LockDir made. Whatever was promised in it stays.
func (l *DirLock) Abandon() error {
	path := filepath.Join(l.dir, lockFileName)
	if !l.unused() {
		return l.Release()
	}
	if runtime.GOOS == "windows" { // an open file can't be removed there
		defer removeEmpty(append([]string{path}, l.made...))
		return l.Release()
	}
	removeEmpty(append([]string{path}, l.made...)) // still locked: whoever opened it meanwhile sees that it is gone, and looks again
	return l.Release()
}

func (l *DirLock) unused() bool {
	entries, err := os.ReadDir(l.dir)
	return err == nil && len(entries) == 1 && entries[0].Name() == lockFileName
}

// lockedBy reads who has the lock at path.
func lockedBy(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	p, _ := io.ReadAll(io.LimitReader(f, 32))
	pid, err := strconv.Atoi(strings.TrimSpace(string(p)))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (process %d)", pid)
}

// notForeign refuses a directory in which something other than ours lives.
func notForeign(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return dirError(dir, err)
	}
	unknown := ""
	for _, e := range entries {
		switch name := e.Name(); strings.TrimSuffix(name, newSuffix) {
		case identityFile:
			if name == identityFile {
				return nil
			}
		case lockFileName, logFile, snapshotsDir, "lost+found":
		default:
			if unknown == "" {
				unknown = name
			}
		}
	}
	if unknown != "" {
		return fmt.Errorf("DataDir %q: it holds %q, which is not ours, and no file %q: give an empty directory, or one that this library made",
			dir, unknown, identityFile)
	}
	return nil
}

// dirError adds to err which directory it is about, and what can be done.
func dirError(dir string, err error) error {
	var newer *newerError
	switch {
	case errors.As(err, &newer):
		return fmt.Errorf("DataDir %q: %w", dir, err)
	case errors.Is(err, fs.ErrPermission), isReadOnly(err):
		return fmt.Errorf("DataDir %q can't be written (%w): let this process's user write to it, or give another directory", dir, err)
	case isFull(err):
		return fmt.Errorf("DataDir %q has no space left (%w): free some, or give another directory", dir, err)
	}
	return fmt.Errorf("DataDir %q: %w: give a directory that this process can make and write to", dir, err)
}

// newerError says that a file has a version from the future.
type newerError struct {
	what           string
	version, known uint64
}

func (e *newerError) Error() string {
	return fmt.Sprintf("%s was written by a newer version of this library (format %d, known is %d): upgrade this process", e.what, e.version, e.known)
}
