//go:build !linux

package node

import "github.com/godistlock/distlock/internal/wire"

// MachineProof is empty here: without a boot ID nothing proves that two processes run under the same kernel, so a predecessor's session
// runs out by its TTL.
func MachineProof() wire.Proof { return wire.Proof{} }
