package raftlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// What is in a DataDir decides who holds which lock, so only this process's user may have written it. The directory may be root's too, and of
// a group that may write to it, which is how an orchestrator hands a volume over; files with that group's access are what it makes of ours at
// the next start. So what others could only have read, and what the group was given, is closed; what others could have written, or what is
// somebody else's, is refused, since nobody knows what it has become.
const (
	dirMode  = 0o700
	fileMode = 0o600

	othersWrite = 0o002
	groupWrite  = 0o020
)

// access is what judgeAccess found.
type access struct {
	loose  []string // files and directories of ours that others, or the group, have access to
	shared bool     // the directory may be written by its group
}

// judgeAccess looks at dir and what is ours in it. It changes nothing. On Windows, where access is not a file's mode, it finds nothing.
func judgeAccess(dir string) (a access, err error) {
	if !modesTell {
		return a, nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return a, dirError(dir, err)
	}
	if err := judgeOwner(dir, dir, info, true); err != nil {
		return a, err
	}
	if info.Mode().Perm()&othersWrite != 0 {
		return a, fmt.Errorf("DataDir %q: every user may write to it (mode %#o): run chmod 700 %s, or give a directory below it, such as %s, which is made for this process alone",
			dir, info.Mode().Perm(), dir, filepath.Join(dir, "locks"))
	}
	a.shared = info.Mode().Perm()&groupWrite != 0
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // it went meanwhile
			return nil
		case err != nil:
			return dirError(dir, err)
		case path == dir:
			return nil
		case filepath.Dir(path) == filepath.Clean(dir) && !ours(e.Name()):
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return dirError(dir, err)
		}
		if err := judgeOwner(dir, path, info, false); err != nil {
			return err
		}
		mode := info.Mode().Perm()
		if mode&othersWrite != 0 {
			return fmt.Errorf("DataDir %q: every user may write to %s (mode %#o), so nobody knows what it is now: if it is sound, run chmod -R go-rwx %s; else %s",
				dir, path, mode, dir, moveAway)
		}
		if mode&^owners(info) != 0 {
			a.loose = append(a.loose, path)
		}
		return nil
	})
	return a, err
}

// ours says that a file of that name at the top of a DataDir is one of ours.
func ours(name string) bool {
	switch strings.TrimSuffix(name, newSuffix) {
	case identityFile, lockFileName, logFile, snapshotsDir:
		return true
	}
	return false
}

// owners is what a file may let be done to it, and by its owner only.
func owners(info fs.FileInfo) fs.FileMode {
	if info.IsDir() {
		return dirMode
	}
	return fileMode
}

// judgeOwner says whether path may be used: it must be this process's user's. The directory may be root's too, who may do anything anyway.
func judgeOwner(dir, path string, info fs.FileInfo, orRoot bool) error {
	owner, me := ownerOf(info), os.Geteuid()
	if owner < 0 || owner == me || orRoot && owner == 0 {
		return nil
	}
	return fmt.Errorf("DataDir %q: %s belongs to user %d, and this process is user %d: run chown -R %d %s, or give another directory", dir, path, owner, me, me, dir)
}

// close takes from others and the group what they need not have. It answers what it could not, for people; a filesystem may have modes of its own.
func (a access) close() (remarks []string) {
	for _, path := range a.loose {
		info, err := os.Stat(path)
		if err == nil {
			err = os.Chmod(path, info.Mode().Perm()&owners(info))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			remarks = append(remarks, fmt.Sprintf("others can read %s: %v", path, err))
		}
	}
	return remarks
}
