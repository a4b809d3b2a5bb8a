package node

import (
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/session"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// fakeLog is Raft as a lead sees it: entries go in, and commit, or are lost, when the test says so.
type fakeLog struct {
	fsm  *raftfsm.FSM
	lead *lead

	mu      sync.Mutex // guards what follows
	index   uint64
	waiting []*fakeEntry
	auto    bool          // entries commit at once
	oldest  string        // who knows format 1 only; "": nobody
	came    chan struct{} // cap 1: an entry came
}

type fakeEntry struct {
	log  raft.Log
	done chan struct{} // closed once the entry is settled
	res  *raftfsm.Result
	err  error
}

var errLost = errors.New("leadership lost while committing log")

const fakeTerm = 7

// newFakeLead is a lead of fakeTerm over a fakeLog. It ends with the test.
func newFakeLead(t *testing.T) (*fakeLog, *lead) {
	f := &fakeLog{fsm: raftfsm.New(), came: make(chan struct{}, 1)}
	g := &group{fsm: f.fsm}
	f.fsm.Observe(func(r *raftfsm.Result) { f.lead.observe(r) })
	f.lead = startLead(g, fakeTerm, f.propose, f.allowed, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		f.lead.endAsync()
		f.lose()
		f.lead.end()
	})
	return f, f.lead
}

// allowed is the format that all members read.
func (f *fakeLog) allowed() (uint64, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.oldest != "" {
		return 1, tooOldText(f.oldest)
	}
	return wire.Format, ""
}

// newFakeCluster is a lead that is ready, of an open cluster; its entries commit at once.
func newFakeCluster(t *testing.T) (*fakeLog, *lead) {
	t.Helper()
	f, l := newFakeLead(t)
	f.commitAll(true)
	cluster, server := wire.UUID{1}, wire.UUID{2}
	for _, c := range []raftfsm.Command{
		raftfsm.Found{Cluster: cluster, Expect: 1, Voters: 1},
		raftfsm.Confirm{Cluster: cluster, Server: server, Name: "m", Clock: 1},
	} {
		if _, err := l.propose(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.begin(); err != nil {
		t.Fatal(err)
	}
	return f, l
}

func (f *fakeLog) propose(data []byte) proposal {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index++
	e := &fakeEntry{log: raft.Log{Index: f.index, Term: fakeTerm, Type: raft.LogCommand, Data: data}, done: make(chan struct{})}
	f.waiting = append(f.waiting, e)
	if f.auto {
		f.commitLocked()
	}
	select {
	case f.came <- struct{}{}:
	default:
	}
	return e
}

func (e *fakeEntry) wait() (*raftfsm.Result, error) {
	<-e.done
	return e.res, e.err
}

// commitAll commits what waits, and with auto whatever comes.
func (f *fakeLog) commitAll(auto bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.auto = auto
	f.commitLocked()
}

func (f *fakeLog) commitLocked() {
	for _, e := range f.waiting {
		e.res = f.fsm.Apply(&e.log).(*raftfsm.Result)
		close(e.done)
	}
	f.waiting = nil
}

// lose answers what waits as Raft does that lost its leadership.
func (f *fakeLog) lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.waiting {
		e.err = errLost
		close(e.done)
	}
	f.waiting, f.auto = nil, false
}

func (f *fakeLog) inFlight() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting)
}

// fakeSink is a session's owner.
type fakeSink struct {
	mu      sync.Mutex // guards what follows
	renewed []bool     // answers to renewals
	outs    []wire.Outcome
}

func (s *fakeSink) Outcomes(_ uint64, outs []wire.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outs = append(s.outs, outs...)
}

func (s *fakeSink) Renewed(_, _ uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewed = append(s.renewed, ok)
}

func (s *fakeSink) got() (renewed []bool, outs []wire.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.renewed, s.outs
}

// give submits as a connection of its own does.
func (l *lead) give(id uint64, ops []wire.Op, sink session.Sink) {
	l.submit(id, ops, sink, l.batch.newLane(nil))
}

// commitOne commits the entry that came first.
func (f *fakeLog) commitOne() {
	f.mu.Lock()
	defer f.mu.Unlock()
	rest := f.waiting[1:]
	f.waiting = f.waiting[:1]
	f.commitLocked()
	f.waiting = rest
}
