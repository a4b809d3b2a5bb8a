package main

import (
	"os"
	"os/exec"
	"syscall"
)

const (
	canPause     = true
	faultDefault = "on"
)

func pause(p *os.Process) error  { return p.Signal(syscall.SIGSTOP) }
func resume(p *os.Process) error { return p.Signal(syscall.SIGCONT) }

// detach puts a shop into a process group of its own: Ctrl-C reaches this process alone, which then ends its shops. Should it die without
// a word, a paused shop is woken, sees the end of its input, and goes.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGCONT}
}
