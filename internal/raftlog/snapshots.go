package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

const maxMemorySnapshot = 1 << 30 // bytes in one snapshot in memory

// MemorySnapshots keeps the latest complete snapshot in memory. A snapshot is visible once its sink is closed; who reads an older one
// keeps its bytes. Safe for concurrent use. (raft.InmemSnapshotStore shows a snapshot while it is being written, and loses the one before.)
func MemorySnapshots() raft.SnapshotStore { return &memorySnapshots{limit: maxMemorySnapshot} }

type memorySnapshots struct {
	limit int // bytes of one snapshot

	mu     sync.Mutex // guards what follows
	next   uint64     // makes IDs unique: the same (term, index) may be written twice
	latest *memorySnapshot
}

// memorySnapshot is complete and never changes.
type memorySnapshot struct {
	meta raft.SnapshotMeta
	data []byte
}

var _ raft.SnapshotStore = (*memorySnapshots)(nil)

func (m *memorySnapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64,
	_ raft.Transport) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("snapshot of version %d: only 1 is known", version)
	}
	m.mu.Lock()
	m.next++
	id := fmt.Sprintf("%d-%d-%d", term, index, m.next)
	m.mu.Unlock()
	return &memorySink{store: m, meta: raft.SnapshotMeta{
		Version: version, ID: id, Index: index, Term: term, Configuration: conf.Clone(), ConfigurationIndex: confIndex,
	}}, nil
}

func (m *memorySnapshots) List() ([]*raft.SnapshotMeta, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.latest == nil {
		return nil, nil
	}
	meta := m.latest.meta
	return []*raft.SnapshotMeta{&meta}, nil
}

func (m *memorySnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.latest == nil || m.latest.meta.ID != id {
		return nil, nil, fmt.Errorf("snapshot %s is not there (any more)", id)
	}
	meta := m.latest.meta
	return &meta, io.NopCloser(bytes.NewReader(m.latest.data)), nil
}

// memorySink is used by one goroutine, as Raft does.
type memorySink struct {
	store *memorySnapshots
	meta  raft.SnapshotMeta
	data  []byte
	done  bool // closed or cancelled
}

func (s *memorySink) ID() string { return s.meta.ID }

func (s *memorySink) Write(p []byte) (int, error) {
	if s.done {
		return 0, errors.New("snapshot: write after its end")
	}
	if len(p) > s.store.limit-len(s.data) {
		return 0, fmt.Errorf("snapshot: more than %d bytes: a state of this size needs a DataDir", s.store.limit)
	}
	s.data = append(s.data, p...)
	return len(p), nil
}

// Close makes the snapshot the latest, unless one of a later index came first.
func (s *memorySink) Close() error {
	if s.done {
		return nil
	}
	s.done = true
	s.meta.Size = int64(len(s.data))
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	if old := s.store.latest; old == nil || !older(s.meta, old.meta) {
		s.store.latest = &memorySnapshot{meta: s.meta, data: s.data}
	}
	s.data = nil
	return nil
}

func (s *memorySink) Cancel() error {
	s.done = true
	s.data = nil
	return nil
}

// older orders snapshots as raft.FileSnapshotStore does: by term, then by index.
func older(a, b raft.SnapshotMeta) bool {
	if a.Term != b.Term {
		return a.Term < b.Term
	}
	return a.Index < b.Index
}
