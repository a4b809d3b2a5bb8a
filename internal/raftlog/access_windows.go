package raftlog

import "io/fs"

// modesTell is false: access is an ACL there, which a new directory has from the one above it.
const modesTell = false

func ownerOf(fs.FileInfo) int { return -1 }
