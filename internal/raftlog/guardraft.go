package raftlog

import (
	"bytes"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// FSM stands between Raft and fsm. A panic, a result of the wrong length (on which Raft panics) and a failed Restore (which Raft logs, and then
// carries on with the old state) poison g. Once g is poisoned or released fsm is left alone, and what Raft still applies has g's error as its
// response: an unknown outcome.
func (g *Guarded) FSM(fsm raft.FSM) raft.BatchingFSM { return &guardedFSM{g: g, fsm: fsm} }

type guardedFSM struct {
	g   *Guarded
	fsm raft.FSM
}

// try runs f if g lives, and poisons g if f panics or fails.
func (f *guardedFSM) try(what string, do func() error) error {
	if err := f.g.Err(); err != nil {
		return err
	}
	if err := shielded(do); err != nil {
		f.g.Poison(fmt.Errorf("%w: %s: %w", ErrStateMachine, what, err))
		return f.g.Err()
	}
	return nil
}

func (f *guardedFSM) Apply(l *raft.Log) any {
	return f.ApplyBatch([]*raft.Log{l})[0]
}

func (f *guardedFSM) ApplyBatch(logs []*raft.Log) []any {
	var out []any
	err := f.try("apply", func() error {
		out = f.apply(logs)
		if len(out) != len(logs) {
			return fmt.Errorf("%d results for %d entries", len(out), len(logs))
		}
		return nil
	})
	if err == nil {
		return out
	}
	out = make([]any, len(logs))
	for i := range out {
		out[i] = err
	}
	return out
}

func (f *guardedFSM) apply(logs []*raft.Log) []any {
	if b, ok := f.fsm.(raft.BatchingFSM); ok {
		return b.ApplyBatch(logs)
	}
	out := make([]any, len(logs))
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			out[i] = f.fsm.Apply(l)
		}
	}
	return out
}

func (f *guardedFSM) Snapshot() (raft.FSMSnapshot, error) {
	var s raft.FSMSnapshot
	err := f.try("snapshot", func() (err error) {
		s, err = f.fsm.Snapshot()
		return err
	})
	if err != nil {
		return nil, err
	}
	return &guardedFSMSnapshot{f, s}, nil
}

func (f *guardedFSM) Restore(r io.ReadCloser) error {
	return f.try("restore a snapshot", func() error { return f.fsm.Restore(r) })
}

type guardedFSMSnapshot struct {
	f *guardedFSM
	s raft.FSMSnapshot
}

// Persist poisons only when it panics: its errors are the sink's, and Raft tries again later.
func (s *guardedFSMSnapshot) Persist(sink raft.SnapshotSink) error {
	var err error
	if perr := s.f.try("write a snapshot", func() error {
		err = s.s.Persist(sink)
		return nil
	}); perr != nil {
		return perr
	}
	return err
}

func (s *guardedFSMSnapshot) Release() {
	_ = shielded(func() error { s.s.Release(); return nil }) // the snapshot is written or given up: nothing depends on it any more
}

// Snapshots stands between Raft and s, so that a disk that hangs in a snapshot can't hold up a shutdown: every call returns at once when g is
// poisoned or released. Errors of s are Raft's to log; a snapshot that failed is written again later, to another file. There is no watchdog: a
// large snapshot may take its time.
func (g *Guarded) Snapshots(s raft.SnapshotStore) raft.SnapshotStore { return &guardedSnapshots{g, s} }

type guardedSnapshots struct {
	g *Guarded
	s raft.SnapshotStore
}

// detached runs op until it returns or g ends. It returns what op gave only in the first case.
func detached[T any](g *Guarded, op func() (T, error)) (T, error) {
	var none, v T
	if err := g.Err(); err != nil {
		return none, err
	}
	if !g.begin() {
		return none, g.Err()
	}
	done := make(chan error, 1)
	go func() { // ends when the disk answers; Close waits for it
		err := shielded(func() (err error) {
			v, err = op()
			return err
		})
		g.finish()
		done <- err
	}()
	select {
	case err := <-done:
		return v, err
	case <-g.dead:
		return none, g.err
	}
}

func (s *guardedSnapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64,
	trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := detached(s.g, func() (raft.SnapshotSink, error) {
		return s.s.Create(version, index, term, conf, confIndex, trans)
	})
	if err != nil {
		return nil, err
	}
	return &guardedSink{s.g, sink, sink.ID()}, nil
}

func (s *guardedSnapshots) List() ([]*raft.SnapshotMeta, error) { return detached(s.g, s.s.List) }

func (s *guardedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	type opened struct {
		meta *raft.SnapshotMeta
		r    io.ReadCloser
	}
	o, err := detached(s.g, func() (o opened, err error) {
		o.meta, o.r, err = s.s.Open(id)
		return o, err
	})
	if err != nil {
		return nil, nil, err
	}
	return o.meta, &guardedReader{s.g, o.r}, nil
}

type guardedSink struct {
	g    *Guarded
	sink raft.SnapshotSink
	id   string
}

func (s *guardedSink) ID() string { return s.id }

func (s *guardedSink) Write(p []byte) (int, error) {
	own := bytes.Clone(p) // the caller uses p again when this write is given up
	return detached(s.g, func() (int, error) { return s.sink.Write(own) })
}

func (s *guardedSink) Close() error  { return s.end(s.sink.Close) }
func (s *guardedSink) Cancel() error { return s.end(s.sink.Cancel) }

func (s *guardedSink) end(f func() error) error {
	_, err := detached(s.g, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

type guardedReader struct {
	g *Guarded
	r io.ReadCloser
}

func (r *guardedReader) Read(p []byte) (int, error) {
	own := make([]byte, len(p)) // the caller uses p again when this read is given up
	n, err := detached(r.g, func() (int, error) { return r.r.Read(own) })
	return copy(p, own[:n]), err
}

func (r *guardedReader) Close() error { return r.r.Close() }
