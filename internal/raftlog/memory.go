package raftlog

import (
	"bytes"
	"encoding/binary"
	"sync"

	"github.com/hashicorp/raft"
)

// Memory returns a Store that forgets everything with the process. Entries share their data with what Raft gave.
func Memory() Store { return &memory{stable: map[string][]byte{}} }

type memory struct {
	mu     sync.RWMutex // guards all below
	span   span
	logs   []*raft.Log // logs[0] is entry span.first
	stable map[string][]byte
}

var _ Store = (*memory)(nil)

func (m *memory) IsMonotonic() bool { return true }
func (m *memory) Close() error      { return nil }

// volatile tells Guard that no operation can hang.
func (m *memory) volatile() {}

func (m *memory) FirstIndex() (uint64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.span.first, nil
}

func (m *memory) LastIndex() (uint64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.span.last, nil
}

func (m *memory) GetLog(index uint64, l *raft.Log) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.span.empty() || index < m.span.first || index > m.span.last {
		return raft.ErrLogNotFound
	}
	*l = *m.logs[index-m.span.first]
	return nil
}

func (m *memory) StoreLog(l *raft.Log) error { return m.StoreLogs([]*raft.Log{l}) }

func (m *memory) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	after, reset, err := m.span.appended(logs)
	if err != nil {
		return err
	}
	first := logs[0].Index
	switch {
	case reset || m.span.empty():
		m.logs = append([]*raft.Log(nil), logs...)
	case first < m.span.first: // overwrites from before the beginning
		var tail []*raft.Log
		if n := after.first + uint64(len(logs)); n <= m.span.last {
			tail = m.logs[n-m.span.first:]
		}
		m.logs = append(append([]*raft.Log(nil), logs...), tail...)
	default:
		at := int(first - m.span.first)
		n := copy(m.logs[at:], logs)
		m.logs = append(m.logs, logs[n:]...)
	}
	m.span = after
	return nil
}

func (m *memory) DeleteRange(lo, hi uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	after, gone, err := m.span.deleted(lo, hi)
	if err != nil || gone.empty() {
		return err
	}
	switch {
	case after.empty():
		m.logs = nil
	case after.first > m.span.first: // a new slice, so that what was deleted can be collected
		m.logs = append([]*raft.Log(nil), m.logs[after.first-m.span.first:]...)
	default:
		keep := int(after.last - after.first + 1)
		clear(m.logs[keep:])
		m.logs = m.logs[:keep]
	}
	m.span = after
	return nil
}

func (m *memory) Set(key, val []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stable[string(key)] = bytes.Clone(val)
	return nil
}

func (m *memory) Get(key []byte) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	v, ok := m.stable[string(key)]
	if !ok {
		return nil, errNotFound
	}
	return bytes.Clone(v), nil
}

func (m *memory) SetUint64(key []byte, val uint64) error {
	return m.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

func (m *memory) GetUint64(key []byte) (uint64, error) { return getUint64(m, key) }

// getUint64 reads a number that SetUint64 wrote.
func getUint64(s raft.StableStore, key []byte) (uint64, error) {
	v, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, refuse("%q is no number: %d bytes", key, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}
