package distlock

import (
	"errors"
	"sync"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/node"
	"github.com/godistlock/distlock/internal/raftlog"
)

var errDisk = errors.New("input/output error")

// disk is below the stores of one Cluster and fails as it is told to.
type disk struct {
	mu     sync.Mutex // guards what follows
	writes int
	failAt int           // the write that fails, and all after it; 0: none
	late   bool          // the failing write is made all the same, as with a failing fsync
	hang   chan struct{} // writes and reads wait for its end; nil: they don't
	alter  func([]*raft.Log) []*raft.Log
}

// failFrom makes the next write and all after it fail.
func (d *disk) failFrom(now int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failAt = d.writes + now
}

// hangs stops the disk until the answer is called.
func (d *disk) hangs(t testing.TB) (goOn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	hang := make(chan struct{})
	d.hang = hang
	goOn = sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.hang = nil
		close(hang)
	})
	t.Cleanup(goOn)
	return goOn
}

func (d *disk) wait() {
	d.mu.Lock()
	hang := d.hang
	d.mu.Unlock()
	if hang != nil {
		<-hang
	}
}

func (d *disk) write(op func() error) error {
	d.wait()
	d.mu.Lock()
	d.writes++
	fails, late := d.failAt > 0 && d.writes >= d.failAt, d.late
	d.mu.Unlock()
	if !fails {
		return op()
	}
	if late {
		_ = op()
	}
	return errDisk
}

// under puts d below all stores of env.
func (d *disk) under(env surroundings) surroundings {
	env.hooks.Store = func(s raftlog.Store) raftlog.Store { return &diskStore{s, d} }
	return env
}

type diskStore struct {
	raftlog.Store
	disk *disk
}

func (s *diskStore) StoreLogs(logs []*raft.Log) error {
	s.disk.mu.Lock()
	alter := s.disk.alter
	s.disk.mu.Unlock()
	if alter != nil {
		logs = alter(logs)
	}
	return s.disk.write(func() error { return s.Store.StoreLogs(logs) })
}
func (s *diskStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }
func (s *diskStore) Set(key, val []byte) error {
	return s.disk.write(func() error { return s.Store.Set(key, val) })
}
func (s *diskStore) SetUint64(key []byte, val uint64) error {
	return s.disk.write(func() error { return s.Store.SetUint64(key, val) })
}
func (s *diskStore) DeleteRange(lo, hi uint64) error {
	return s.disk.write(func() error { return s.Store.DeleteRange(lo, hi) })
}
func (s *diskStore) GetLog(i uint64, l *raft.Log) error {
	s.disk.wait()
	return s.Store.GetLog(i, l)
}

// hooked is this machine with hooks.
func hooked(h node.Hooks) surroundings {
	env := machine()
	env.hooks = h
	return env
}
