package raftlog

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

// The lock is on one byte far behind the end, so that the file's text stays readable for others (bbolt locks another one).
const lockOffsetHigh = 1 << 30

// lockFile takes the exclusive lock of f, waiting up to wait for it. The system gives it back when f is closed, so also when the process dies.
func lockFile(f *os.File, wait time.Duration) error {
	const pause = 20 * time.Millisecond
	for {
		err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0,
			&windows.Overlapped{OffsetHigh: lockOffsetHigh})
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, windows.ERROR_LOCK_VIOLATION):
			return os.NewSyscallError("LockFileEx", err)
		case wait <= 0:
			return ErrLocked
		}
		time.Sleep(pause)
		wait -= pause
	}
}

func unlockFile(f *os.File) {
	windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, &windows.Overlapped{OffsetHigh: lockOffsetHigh})
}

func fileID(os.FileInfo) string { return "" }

// syncDir does nothing: Windows makes a rename durable by itself and can't sync a directory.
func syncDir(string) error { return nil }

func isReadOnly(err error) bool { return errors.Is(err, windows.ERROR_WRITE_PROTECT) }
func isFull(err error) bool     { return errors.Is(err, windows.ERROR_DISK_FULL) }
