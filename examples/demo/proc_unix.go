//go:build unix

package main

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

const canPause = true

func pause(p *os.Process) error  { return p.Signal(syscall.SIGSTOP) }
func resume(p *os.Process) error { return p.Signal(syscall.SIGCONT) }

// detach puts a shop into a process group of its own: Ctrl-C reaches the parent alone, which then ends its shops.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	wakeOrphan(cmd.SysProcAttr)
}

// ignoreSignals leaves the end of a shop to its parent: the end of its input is what tells it that the parent is gone, and it must not
// die of writing to it (SIGPIPE) or of its terminal before it has removed the demo's folder.
func ignoreSignals() { signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE) }

// columns is the width of the terminal f, 0 when it is none.
func columns(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}
