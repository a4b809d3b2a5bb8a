package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// Windows has no signal that pauses a process.
const (
	canPause     = false
	faultDefault = "off"
)

func pause(*os.Process) error  { return errors.ErrUnsupported }
func resume(*os.Process) error { return errors.ErrUnsupported }

// detach puts a shop into a process group of its own: Ctrl-C reaches this process alone, which then ends its shops.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}
