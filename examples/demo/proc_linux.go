package main

import "syscall"

// wakeOrphan makes the kernel wake a paused shop when its parent dies, so that it sees the end of its input and goes. Elsewhere
// the kernel hangs up on the stopped processes of a group that lost its parent, which ends them too.
func wakeOrphan(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGCONT }
