package main

import "syscall"

// The shops of a program that was killed become this process's children, as in a container where its own parent is process 1. Without
// this they would be somebody's of another session, and then the kernel wakes the paused one of its own accord.
func init() {
	const setChildSubreaper = 36
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, setChildSubreaper, 1, 0); errno != 0 {
		panic(errno)
	}
}
