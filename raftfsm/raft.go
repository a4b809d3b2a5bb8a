package raftfsm

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/hashicorp/raft"
)

// ErrBroken is matched by every result after a bug in this package panicked: the state may be half changed, so nothing more is
// applied to it, saved of it or, but for the cluster's name and its like, seen of it. The process must leave the cluster.
var ErrBroken = errors.New("the lock state machine is broken")

// FSM is the state machine as hashicorp/raft drives it. What Apply and ApplyBatch answer are *Result.
type FSM struct {
	observe  func(*Result) // set before raft starts
	restored func(error)   // set before raft starts
	reader   *wire.Reader  // used by the applying goroutine only

	bindings atomic.Pointer[Bindings] // the state's; written with mu held

	mu     sync.Mutex // guards what follows; held over a whole batch, so a View never stands inside one
	m      *machine
	view   *View // of the present state; nil when nobody has asked since the last entry
	broken error
	watch  bool // see Watch

	waiting, requests, each atomic.Int64 // see Size; each is the bytes of one request
}

var (
	_ raft.BatchingFSM = (*FSM)(nil)
	_ raft.FSMSnapshot = (*snapshot)(nil)
)

// New returns the state machine of a cluster that has not been founded.
func New() *FSM {
	return &FSM{m: newMachine(), reader: wire.NewReader(nil)}
}

// Observe has f called for every entry of commands, in the order of the log, on the applying goroutine and before Apply returns. A
// View taken in f may be ahead of the result by what came in the same batch. Call it before raft starts.
func (f *FSM) Observe(observe func(*Result)) { f.observe = observe }

// Watch says whether results are to tell events, from the next entry on.
func (f *FSM) Watch(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watch = on
}

// Restored has f called on the applying goroutine after raft has handed in a snapshot: with nil when it has replaced the state,
// of which Observe hears nothing; else with the reason why the state is as before. Raft only logs that, and the process would
// carry on with no way to catch up: it must leave the cluster. Call it before raft starts.
func (f *FSM) Restored(restored func(error)) { f.restored = restored }

// View returns the state after the last batch, from any goroutine, in constant time.
func (f *FSM) View() *View {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.view == nil {
		f.view = &View{f.m.freeze()}
	}
	return f.view
}

// Session looks one session up in the present state: for callers who would take a View for each entry, each of which makes
// the applies after it copy what they touch.
func (f *FSM) Session(id uint64) (SessionInfo, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ses := f.m.session(id); ses != nil {
		return ses.info(), true
	}
	return SessionInfo{}, false
}

// Apply applies one entry.
func (f *FSM) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies entries in order. Raft also hands in configurations; they change nothing here, and their result is nil.
func (f *FSM) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	f.applyAll(logs, answers)
	if f.observe != nil {
		for _, a := range answers {
			if res, ok := a.(*Result); ok {
				f.observe(res)
			}
		}
	}
	return answers
}

func (f *FSM) applyAll(logs []*raft.Log, answers []any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.noteSize()
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			answers[i] = f.applyOne(l)
		}
	}
	f.bindings.Store(f.m.bindings)
}

func (f *FSM) applyOne(l *raft.Log) (res *Result) {
	if f.broken != nil {
		return &Result{Index: l.Index, Term: l.Term, Err: f.broken}
	}
	f.reader.Reset(l.Data)
	defer f.reader.Reset(nil) // keeps no entry alive
	e, err := decodeEntry(f.reader)
	if err != nil {
		return &Result{Index: l.Index, Term: l.Term, Err: fmt.Errorf("entry %d of term %d: %w", l.Index, l.Term, err)}
	}
	defer func() { // raft's goroutine must not die of a bug of ours: it is the host's process
		if p := recover(); p != nil {
			f.broken = fmt.Errorf("%w: entry %d of term %d: %v\n%s", ErrBroken, l.Index, l.Term, p, debug.Stack())
			f.m.trees, f.m.holders = newState().trees, 0 // a View of what is half changed could mislead, or panic as well
			res = &Result{Index: l.Index, Term: l.Term, Err: f.broken}
		}
	}()
	f.view = nil
	f.m.watched = f.watch
	return f.m.apply(l.Index, l.Term, e)
}

// Snapshot returns the present state in constant time; writing it goes on beside later applies.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	broken := f.broken
	f.mu.Unlock()
	if broken != nil {
		return nil, broken
	}
	return &snapshot{f, f.View()}, nil
}

// Restore replaces the state by a snapshot's, or leaves it as it is and says why.
func (f *FSM) Restore(rc io.ReadCloser) error {
	in := &counted{Reader: rc}
	s, err := readSnapshot(in)
	if err = errors.Join(err, rc.Close()); err != nil {
		err = fmt.Errorf("restore locks: %w", err)
	} else {
		f.mu.Lock()
		f.m, f.view, f.broken = &machine{state: s}, nil, nil
		f.bindings.Store(s.bindings)
		f.noteSize()
		f.noteSnapshot(s.requests.Len(), in.n)
		f.mu.Unlock()
	}
	if f.restored != nil {
		f.restored(err)
	}
	return err
}

// snapshot is a View on its way to raft's snapshot store.
type snapshot struct {
	fsm  *FSM
	view *View
}

func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	out := &counted{Writer: sink}
	if err := s.view.WriteSnapshot(out); err != nil {
		return errors.Join(fmt.Errorf("save locks: %w", err), sink.Cancel())
	}
	s.fsm.noteSnapshot(s.view.s.requests.Len(), out.n)
	return sink.Close()
}

func (s *snapshot) Release() {}
