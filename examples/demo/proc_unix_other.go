//go:build unix && !linux

package main

import "syscall"

func wakeOrphan(*syscall.SysProcAttr) {}
