package main

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// canPause: Windows has no signal that pauses a process.
const canPause = false

var errNoPause = errors.New("this system has no signal that pauses a process")

func pause(*os.Process) error  { return errNoPause }
func resume(*os.Process) error { return errNoPause }

// detach puts a shop into a process group of its own: Ctrl-C reaches the parent alone, which then ends its shops.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

func ignoreSignals() { signal.Ignore(os.Interrupt) }

// columns is 0: not every console of Windows understands escape codes, so that the demo prints plain lines.
func columns(*os.File) int { return 0 }
