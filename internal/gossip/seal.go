package gossip

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/hashicorp/memberlist"
)

// KeySize is that of each of Config.Keys: AES-256.
const KeySize = 32

// maxKeys bounds how many are tried on what a stranger sends.
const maxKeys = 8

// memberlist's sealed message is a version, a nonce, and what AES-GCM makes of the plain text: its security.go. Version 0 pads, which none of us
// does; memberlist panics on a padding that is longer than its message.
const (
	sealVersion = 1
	nonceSize   = 12
	sealExtra   = 1 + nonceSize + 16
)

var errSealed = errors.New("no key opens it")

// seals opens and seals as memberlist does with the same keys, so that what it sent and is about to read can be looked at. Nil: all is plain.
type seals []cipher.AEAD

// newSeals takes the keys of a Config; the first one seals.
func newSeals(keys [][]byte) (seals, error) {
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("gossip: %d keys, at most %d", len(keys), maxKeys)
	}
	var all seals
	for i, key := range keys {
		if len(key) != KeySize {
			return nil, fmt.Errorf("gossip: key %d has %d bytes, it must have %d", i, len(key), KeySize)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("gossip: key %d: %w", i, err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("gossip: key %d: %w", i, err)
		}
		all = append(all, aead)
	}
	return all, nil
}

// open appends to dst what p holds, authenticated together with extra.
func (s seals) open(dst, p, extra []byte) ([]byte, error) {
	if len(p) < sealExtra || p[0] != sealVersion {
		return nil, errSealed
	}
	for _, aead := range s {
		if plain, err := aead.Open(dst, p[1:1+nonceSize], p[1+nonceSize:], extra); err == nil {
			return plain, nil
		}
	}
	return nil, errSealed
}

// seal appends what memberlist would send of plain.
func (s seals) seal(dst, plain, extra []byte) []byte {
	var nonce [nonceSize]byte
	_, _ = rand.Read(nonce[:]) // never fails
	dst = append(append(dst, sealVersion), nonce[:]...)
	return s[0].Seal(dst, nonce[:], plain, extra)
}

// keyring is what memberlist needs of the same keys.
func keyring(keys [][]byte) (*memberlist.Keyring, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	var own [][]byte
	for _, key := range keys {
		own = append(own, append([]byte(nil), key...))
	}
	return memberlist.NewKeyring(own, own[0])
}
