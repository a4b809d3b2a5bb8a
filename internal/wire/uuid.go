package wire

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// UUID is 128 random bits: a cluster's, a server's (one Raft log), an instance's (one run of a process) or a nonce.
// The zero UUID means "none".
type UUID [16]byte

// NewUUID draws a random UUID.
func NewUUID() UUID {
	var u UUID
	rand.Read(u[:]) // never fails (crypto/rand ends the program itself when the system has no randomness)
	return u
}

func (u UUID) IsZero() bool     { return u == UUID{} }
func (u UUID) String() string   { return hex.EncodeToString(u[:]) }
func (u UUID) Less(v UUID) bool { return bytes.Compare(u[:], v[:]) < 0 }

// ParseUUID reads what String wrote, and nothing else that would mean the same: texts are compared too.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	if len(s) != hex.EncodedLen(len(u)) {
		return UUID{}, fmt.Errorf("%w: %q is no UUID", ErrMalformed, s)
	}
	if _, err := hex.Decode(u[:], []byte(s)); err != nil || u.String() != s {
		return UUID{}, fmt.Errorf("%w: %q is no UUID", ErrMalformed, s)
	}
	return u, nil
}
