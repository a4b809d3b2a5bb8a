//go:build !linux

package main

import (
	"os"
	"os/signal"
	"runtime"
)

func thisMachine(string) machine {
	return machine{cpu: "a processor of type " + runtime.GOARCH, system: runtime.GOOS, files: "a file system of unknown type"}
}

// ask leaves zeros: not measured.
func (u *usage) ask() error { return nil }

// ask leaves zeros: not measured.
func (t *traffic) ask() error { return nil }

// ignoreInterrupt leaves the end of a member to its parent.
func ignoreInterrupt() { signal.Ignore(os.Interrupt) }
