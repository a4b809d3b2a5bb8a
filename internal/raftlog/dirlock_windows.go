package raftlog

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// The lock is on one byte far behind the end, so that the file's text stays readable for others (bbolt locks another one).
const lockOffsetHigh = 1 << 30

// tryLockFile takes the exclusive lock of f, or answers ErrLocked at once. The system gives it back when f is closed, so also when the
// process dies.
func tryLockFile(f *os.File) error {
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0,
		&windows.Overlapped{OffsetHigh: lockOffsetHigh})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrLocked
	}
	return os.NewSyscallError("LockFileEx", err) // nil for nil
}

func unlockFile(f *os.File) {
	// Closing f gives it back anyway.
	_ = windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, &windows.Overlapped{OffsetHigh: lockOffsetHigh})
}

func fileID(os.FileInfo) string { return "" }

// syncDir does nothing: Windows makes a rename durable by itself and can't sync a directory.
func syncDir(string) error { return nil }

func isReadOnly(err error) bool { return errors.Is(err, windows.ERROR_WRITE_PROTECT) }
func isFull(err error) bool     { return errors.Is(err, windows.ERROR_DISK_FULL) }
