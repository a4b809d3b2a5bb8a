//go:build unix

package raftlog

import (
	"io/fs"
	"syscall"
)

// modesTell says that a file's mode is who may do what with it.
const modesTell = true

// ownerOf is the user whose file it is, -1 where the system doesn't say.
func ownerOf(info fs.FileInfo) int {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1
	}
	return int(st.Uid)
}
