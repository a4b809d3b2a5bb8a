package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/godistlock/distlock/internal/wire"
)

// Bounds of an Identity; SaveIdentity keeps the newest refusals, and any of the peers.
const (
	MaxRefused  = 1024
	MaxPeers    = 1024
	maxIdentity = 1 << 20 // bytes in the file
)

const (
	identityMagic   = "DLKI"
	identityVersion = 1
	identityHeader  = len(identityMagic) + 4
)

// Identity is what a process with a DataDir knows about itself from one start to the next.
type Identity struct {
	Server    wire.UUID         // the Raft server whose log lies beside it
	Group     string            // Config.Group
	Name      string            // of the process, when it was saved
	Cluster   wire.UUID         // zero: knows none
	Confirmed bool              // Cluster is known for good, by a committed entry
	Accepted  wire.UUID         // the unconfirmed cluster whose invitation is accepted now, zero for none
	Refused   []wire.UUID       // clusters refused for good, oldest first
	Peers     map[string]string // address of each peer that was seen, by name
	Founding  []byte            // what the first start has promised, as package founding encodes it

	logged bool      // a log was made for Server: without it the directory is damaged
	former wire.UUID // the server before Server, whose log may still lie here, to be wiped; zero for none
}

// CheckGroup answers an error when the directory belongs to another group.
func (id Identity) CheckGroup(dir, group string) error {
	if id.Group == group {
		return nil
	}
	return fmt.Errorf("DataDir %q belongs to group %q, this process to %q: give it another directory, or set Group to %q", dir, id.Group, group, id.Group)
}

// CheckName answers an error when the directory is another process's, where a server is bound to its name.
func (id Identity) CheckName(dir, name string) error {
	if id.Name == "" || id.Name == name { // the first versions stored none
		return nil
	}
	return fmt.Errorf("DataDir %q is that of server %s, which is bound to the name %q, and this process is %q: set Name to %q, or give it an empty directory",
		dir, id.Server, id.Name, name, id.Name)
}

// CheckLog answers an error when the log that belongs to the identity is gone from dir. Without it the server must never vote again, and
// nothing but this would tell: a member that has no log waits for the leader to give it one.
func (id Identity) CheckLog(dir string) error {
	if !id.logged || exists(filepath.Join(dir, logFile)) {
		return nil
	}
	return fmt.Errorf("DataDir %q: the log %s of server %s is gone: %s", dir, logFile, id.Server, moveAway)
}

// LoadIdentity reads dir's identity; ok is false when there is none.
func LoadIdentity(dir string) (id Identity, ok bool, err error) {
	f, err := os.Open(filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Identity{}, false, nil
	} else if err != nil {
		return Identity{}, false, dirError(dir, err)
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, maxIdentity+1))
	if err != nil {
		return Identity{}, false, dirError(dir, err)
	}
	id, err = decodeIdentity(p)
	var newer *newerError
	if errors.As(err, &newer) {
		return Identity{}, false, dirError(dir, err)
	} else if err != nil {
		return Identity{}, false, fmt.Errorf("DataDir %q: file %q is corrupt (%w): %s", dir, identityFile, err, moveAway)
	}
	return id, true, nil
}

// SaveIdentity writes id durably: a crash leaves the old one or the new one. id.Server must be set. The caller holds dir's lock. Another Server
// than before makes this process a newcomer, whose predecessor's log is to be wiped (Wipe); OpenBolt does so if a crash came in between.
func SaveIdentity(dir string, id Identity) error {
	if id.Server.IsZero() {
		return refuse("an identity without a server")
	}
	if len(id.Group) > wire.MaxGroup || len(id.Name) > wire.MaxName {
		return refuse("an identity with a group of %d bytes and a name of %d", len(id.Group), len(id.Name))
	}
	old, known, err := LoadIdentity(dir)
	if err != nil {
		return err
	}
	switch {
	case !known:
		id.logged, id.former = exists(filepath.Join(dir, logFile)), wire.UUID{}
	case old.Server == id.Server:
		id.logged, id.former = old.logged, old.former
	default: // a newcomer: whatever log is here is not its own
		id.logged, id.former = false, old.Server
	}
	return saveAsIs(dir, id)
}

// noteLog notes that a log was made for id's server.
func noteLog(dir string, id Identity) error {
	id.logged, id.former = true, wire.UUID{}
	return saveAsIs(dir, id)
}

func saveAsIs(dir string, id Identity) error {
	path := filepath.Join(dir, identityFile)
	p := encodeIdentity(id)
	if len(p) > maxIdentity {
		return refuse("an identity of %d bytes", len(p))
	}
	if err := writeDurably(path, p); err != nil {
		return dirError(dir, err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// writeDurably replaces the file at path by one that holds p.
func writeDurably(path string, p []byte) error {
	if err := os.Remove(path + newSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a crash; or somebody else's, with a mode of his
		return err
	}
	f, err := os.OpenFile(path+newSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(p)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+newSuffix, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// encodeIdentity writes magic, version, fields, checksum.
func encodeIdentity(id Identity) []byte {
	w := wire.NewWriter()
	w.Array(11)
	w.UUID(id.Server)
	w.String(id.Group)
	w.String(id.Name)
	w.UUID(id.Cluster)
	w.Bool(id.Confirmed)
	w.UUID(id.Accepted)
	w.Bool(id.logged)
	w.UUID(id.former)
	refused := id.Refused[max(0, len(id.Refused)-MaxRefused):]
	w.Array(len(refused))
	for _, u := range refused {
		w.UUID(u)
	}
	names := make([]string, 0, len(id.Peers))
	for name, addr := range id.Peers {
		if len(name) <= wire.MaxName && len(addr) <= wire.MaxAddr {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = names[:min(len(names), MaxPeers)]
	w.Array(2 * len(names))
	for _, name := range names {
		w.String(name)
		w.String(id.Peers[name])
	}
	w.Blob(id.Founding)
	p := binary.BigEndian.AppendUint32([]byte(identityMagic), identityVersion)
	p = append(p, w.Bytes()...)
	return binary.BigEndian.AppendUint32(p, sum(nil, p))
}

func decodeIdentity(p []byte) (Identity, error) {
	if len(p) > maxIdentity {
		return Identity{}, corrupt("more than %d bytes", maxIdentity)
	}
	if len(p) < identityHeader+sumSize || string(p[:len(identityMagic)]) != identityMagic {
		return Identity{}, corrupt("it does not begin as an identity does")
	}
	body, err := unsealed(nil, p)
	if err != nil {
		return Identity{}, err
	}
	if v := binary.BigEndian.Uint32(body[len(identityMagic):]); v > identityVersion {
		return Identity{}, &newerError{what: "file " + identityFile, version: uint64(v), known: identityVersion}
	} else if v == 0 {
		return Identity{}, corrupt("it has no version")
	}
	r := wire.NewReader(body[identityHeader:])
	if n := r.Array(11); n != 11 {
		r.Fail("identity with %d fields", n)
	}
	id := Identity{
		Server: r.UUID(), Group: r.String(wire.MaxGroup), Name: r.String(wire.MaxName), Cluster: r.UUID(), Confirmed: r.Bool(),
		Accepted: r.UUID(), logged: r.Bool(), former: r.UUID(),
	}
	for range r.Array(MaxRefused) {
		id.Refused = append(id.Refused, r.UUID())
	}
	if n := r.Array(2 * MaxPeers); n > 0 {
		id.Peers = make(map[string]string, n/2)
		for range n / 2 {
			name := r.String(wire.MaxName)
			id.Peers[name] = r.String(wire.MaxAddr)
		}
	}
	id.Founding = r.Blob(maxIdentity)
	if err := r.End(); err != nil {
		return Identity{}, err
	}
	if id.Server.IsZero() {
		return Identity{}, corrupt("it names no server")
	}
	return id, nil
}
