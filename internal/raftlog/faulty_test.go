package raftlog

import (
	"errors"
	"sync"

	"github.com/hashicorp/raft"
)

var errDisk = errors.New("input/output error")

// faulty is a Store whose operations can fail, panic or hang: before asks for each.
type faulty struct {
	Store

	mu     sync.Mutex            // guards before
	before func(op string) error // called before op; its error is op's; it may block or panic
	after  bool                  // a failing write is made all the same, as with a failing fsync
}

func (f *faulty) fail(before func(op string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = before
}

func (f *faulty) do(op string, run func() error) error {
	f.mu.Lock()
	before := f.before
	f.mu.Unlock()
	if before != nil {
		if err := before(op); err != nil {
			if f.after {
				run()
			}
			return err
		}
	}
	return run()
}

func (f *faulty) StoreLogs(l []*raft.Log) error {
	return f.do("StoreLogs", func() error { return f.Store.StoreLogs(l) })
}
func (f *faulty) StoreLog(l *raft.Log) error { return f.StoreLogs([]*raft.Log{l}) }
func (f *faulty) GetLog(i uint64, l *raft.Log) error {
	return f.do("GetLog", func() error { return f.Store.GetLog(i, l) })
}
func (f *faulty) DeleteRange(lo, hi uint64) error {
	return f.do("DeleteRange", func() error { return f.Store.DeleteRange(lo, hi) })
}
func (f *faulty) Set(k, v []byte) error {
	return f.do("Set", func() error { return f.Store.Set(k, v) })
}
func (f *faulty) SetUint64(k []byte, v uint64) error {
	return f.do("SetUint64", func() error { return f.Store.SetUint64(k, v) })
}
func (f *faulty) Get(k []byte) (v []byte, err error) {
	err = f.do("Get", func() error { v, err = f.Store.Get(k); return err })
	return v, err
}
func (f *faulty) GetUint64(k []byte) (v uint64, err error) {
	err = f.do("GetUint64", func() error { v, err = f.Store.GetUint64(k); return err })
	return v, err
}
