package raftlog

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Limits of GuardConfig where it names none.
const (
	DefaultMuteAfter   = 500 * time.Millisecond
	DefaultPoisonAfter = 10 * time.Second
	closeWait          = 2 * time.Second // how long Close waits for a disk that hangs
	deleteChunk        = 1024            // entries deleted in one transaction
)

// ErrPoisoned is matched by what a Guarded answers once it has been poisoned.
var ErrPoisoned = errors.New("this member can't go on")

// ErrStateMachine is matched by the reason where it was not the storage that failed but what is made of the log.
var ErrStateMachine = errors.New("state machine")

// ErrReleased is matched by what a Guarded answers after Release.
var ErrReleased = errors.New("storage released")

// GuardConfig says whom a Guard tells. The callbacks are called one at a time, from any goroutine (also Raft's), and must not wait for
// Raft, nor call the Guard.
type GuardConfig struct {
	Name        string        // of the store in errors; its directory
	MuteAfter   time.Duration // default DefaultMuteAfter
	PoisonAfter time.Duration // default DefaultPoisonAfter

	// OnMute(true): an operation has taken longer than MuteAfter. Raft's main loop waits for it while its heartbeats go on, so nobody else is
	// elected: all Raft traffic must stop now. OnMute(false): all such operations have returned. It never comes after OnPoison.
	OnMute func(bool)
	// OnPoison, once: the member must stop. When it returns, no Raft traffic may leave or enter this process any more; then it shuts Raft down
	// in its own time.
	OnPoison func(error)
}

// Guarded is a Store between Raft and the real one. Raft v1.8.0 treats errors of its stores in three ways, each met here:
//
//   - It answers the callers, or refuses the vote, and goes on (StoreLogs, DeleteRange, Set, Get, GetUint64, FirstIndex, LastIndex). So these
//     return the error.
//   - It panics on a goroutine of its own, where nobody can recover: SetUint64 of the term, GetLog while it applies. No answer is right there. An
//     error ends the host. Success would be a lie, a term that a restart forgets or a committed entry that the state machine misses. Waiting
//     for ever would make raft.Shutdown wait for ever. So that goroutine ends here, by runtime.Goexit: what it was doing is not done, Raft's own
//     deferred functions run (a vote that was being given is answered with no, futures fail with ErrLeadershipLost, the goroutine is counted as
//     gone), and Shutdown finds nobody left to wait for. The heartbeat handler is called on a goroutine of the transport, which ends too and
//     closes its connection.
//   - It panics in the caller of NewRaft, BootstrapCluster and the like. They must be called inside Do, which lends them a goroutine and turns
//     its end, by Goexit or panic, into an error.
//
// Before any of this is to be seen, OnPoison has returned: Raft's traffic is cut. So even what Raft says of itself in between (it may still
// call itself leader) reaches no other process.
//
// Operations of a store that can hang run on goroutines of their own. When one is given up (PoisonAfter, Release) Raft goes on and that
// goroutine stays in the system call, which nothing can end, until the disk answers; Close waits for it no longer than closeWait.
//
// raft.LogCache goes above it, and FSM, Snapshots and Vet keep panics of other origin out of Raft's goroutines.
type Guarded struct {
	store Store
	cfg   GuardConfig
	sync  bool // operations can't hang: run them in line

	ending atomic.Bool   // taken by the first that ends it; the others wait for dead
	dead   chan struct{} // closed when err is set and OnPoison has returned
	err    error         // written before dead is closed

	// telling is a lock round OnMute and OnPoison, and guards what follows. It is a channel since a callback may take its time: waiting for a
	// mutex stops the virtual time of tests.
	telling chan struct{}
	slow    int  // operations in flight for longer than MuteAfter
	ended   bool // OnMute is called no more

	ops     sync.Mutex    // guards what follows
	running int           // operations in flight in the store
	closing bool          // no operation begins any more
	idle    chan struct{} // closed when closing and running is 0
}

var _ Store = (*Guarded)(nil)

// Guard wraps s. From now on s belongs to the Guarded, which closes it.
func Guard(s Store, cfg GuardConfig) *Guarded {
	if cfg.MuteAfter <= 0 {
		cfg.MuteAfter = DefaultMuteAfter
	}
	if cfg.PoisonAfter <= cfg.MuteAfter {
		cfg.PoisonAfter = max(DefaultPoisonAfter, 2*cfg.MuteAfter)
	}
	if cfg.OnMute == nil {
		cfg.OnMute = func(bool) {}
	}
	if cfg.OnPoison == nil {
		cfg.OnPoison = func(error) {}
	}
	_, volatile := s.(interface{ volatile() })
	return &Guarded{store: s, cfg: cfg, sync: volatile, dead: make(chan struct{}), telling: make(chan struct{}, 1), idle: make(chan struct{})}
}

// Poisoned is closed once the Guarded answers nothing but errors: poisoned, or released.
func (g *Guarded) Poisoned() <-chan struct{} { return g.dead }

// Err is why; nil before.
func (g *Guarded) Err() error {
	select {
	case <-g.dead:
		return g.err
	default:
		return nil
	}
}

// Poison makes g answer nothing but errors, after OnPoison has returned. Only the first call does something; the others wait for it.
func (g *Guarded) Poison(err error) {
	g.end(fmt.Errorf("%w: %w", ErrPoisoned, err), true)
}

// Release lets go whoever waits for the store, with an error. It is for a shutdown whose traffic is cut already: call raft.Shutdown, then
// Release, then wait for the shutdown, so that a disk that hangs can't hold it.
func (g *Guarded) Release() { g.end(ErrReleased, false) }

func (g *Guarded) end(err error, tell bool) {
	if !g.ending.CompareAndSwap(false, true) {
		<-g.dead
		return
	}
	g.telling <- struct{}{}
	g.ended = true
	if tell {
		g.cfg.OnPoison(err)
	}
	<-g.telling
	g.err = err
	close(g.dead)
}

// Do runs f, which may call Raft's constructors, on a goroutine of its own and waits for it. A store's failure that ends that goroutine, and a
// panic, become errors. f must not be in the middle of something that has to be finished.
func (g *Guarded) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		finished := false
		var err error
		defer func() {
			if p := recover(); p != nil {
				err = &panicError{p}
			} else if !finished {
				err = g.Err() // Goexit
			}
			done <- err
		}()
		err = f()
		finished = true
	}()
	return <-done
}

// Close releases, waits for the operations in flight and closes the store. A disk that hangs makes it return after closeWait with an error; the
// store is then closed when the disk answers.
func (g *Guarded) Close() error {
	g.Release()
	g.ops.Lock()
	if g.closing {
		g.ops.Unlock()
		return nil
	}
	g.closing = true
	if g.running == 0 {
		close(g.idle)
	}
	g.ops.Unlock()
	if g.sync {
		<-g.idle
		return g.store.Close()
	}
	done := make(chan error, 1)
	go func() { // ends when the disk answers
		<-g.idle
		done <- shielded(g.store.Close)
	}()
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("%s: the disk still hangs %s after it was asked to close", g.cfg.Name, closeWait)
	}
}

// begin counts an operation in, if none has been forbidden.
func (g *Guarded) begin() bool {
	g.ops.Lock()
	defer g.ops.Unlock()
	if g.closing {
		return false
	}
	g.running++
	return true
}

func (g *Guarded) finish() {
	g.ops.Lock()
	defer g.ops.Unlock()
	if g.running--; g.running == 0 && g.closing {
		close(g.idle)
	}
}

// run runs op, watched. What op touches must belong to op alone until it has returned: on an error of run it may still be running.
func (g *Guarded) run(what string, op func() error) error {
	select {
	case <-g.dead:
		return g.err
	default:
	}
	if !g.begin() {
		return g.Err()
	}
	if g.sync {
		defer g.finish()
		return g.judge(what, shielded(op))
	}
	done := make(chan error, 1)
	go func() { // ends when the disk answers; Close waits for it
		err := shielded(op)
		g.finish()
		done <- err
	}()
	timer := time.NewTimer(g.cfg.MuteAfter)
	defer timer.Stop()
	select {
	case err := <-done:
		return g.judge(what, err)
	case <-g.dead:
		return g.err
	case <-timer.C:
	}
	g.mute(+1)
	defer g.mute(-1) // after judge: there is no moment between mute and poison in which traffic flows
	timer.Reset(g.cfg.PoisonAfter - g.cfg.MuteAfter)
	select {
	case err := <-done:
		return g.judge(what, err)
	case <-g.dead:
		return g.err
	case <-timer.C:
		return g.judge(what, fmt.Errorf("the disk did not answer for %g seconds", g.cfg.PoisonAfter.Seconds()))
	}
}

// mute tells of the first slow operation and of the end of the last.
func (g *Guarded) mute(d int) {
	g.telling <- struct{}{}
	defer func() { <-g.telling }()
	before := g.slow
	g.slow += d
	if !g.ended && (before == 0 || g.slow == 0) {
		g.cfg.OnMute(g.slow > 0)
	}
}

// judge poisons for every error but those that say that the store is sound.
func (g *Guarded) judge(what string, err error) error {
	var refused *RefusedError
	switch {
	case err == nil, errors.Is(err, raft.ErrLogNotFound), errors.Is(err, ErrPoisoned), errors.Is(err, ErrReleased):
		return err
	case err.Error() == errNotFound.Error(), errors.As(err, &refused):
		return err
	}
	g.Poison(fmt.Errorf("%s: %s: %w", g.cfg.Name, what, err))
	return g.Err()
}

// must ends the calling goroutine if err is one on which Raft would panic there.
func must(err error) error {
	if err == nil || !errors.Is(err, ErrPoisoned) && !errors.Is(err, ErrReleased) {
		return err
	}
	if replicating() {
		return err
	}
	runtime.Goexit()
	return nil
}

// replicating says whether the caller is one of Raft's replication goroutines. They take every error well, but must not end early: each has
// started another that only it stops (raft.pipelineDecode), for which a Shutdown would wait for ever. Their frame's name is the only mark they
// have; should another version rename it, the price is that Shutdown, not the host's life.
func replicating() bool {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, "/raft.(*Raft).replicate") {
			return true
		}
		if !more {
			return false
		}
	}
}

func (g *Guarded) IsMonotonic() bool { return g.store.IsMonotonic() }

func (g *Guarded) FirstIndex() (uint64, error) { return get(g, "first index", g.store.FirstIndex) }
func (g *Guarded) LastIndex() (uint64, error)  { return get(g, "last index", g.store.LastIndex) }

func (g *Guarded) Get(key []byte) ([]byte, error) {
	return get(g, "read", func() ([]byte, error) { return g.store.Get(key) })
}

func (g *Guarded) GetUint64(key []byte) (uint64, error) {
	return get(g, "read", func() (uint64, error) { return g.store.GetUint64(key) })
}

// get runs a reading operation.
func get[T any](g *Guarded, what string, op func() (T, error)) (T, error) {
	var v T // written by op's goroutine, read only if it returned
	err := g.run(what, func() (err error) {
		v, err = op()
		return err
	})
	if err != nil {
		var none T
		return none, err
	}
	return v, nil
}

// GetLog ends the calling goroutine instead of returning an error other than raft.ErrLogNotFound, unless that goroutine replicates.
func (g *Guarded) GetLog(index uint64, l *raft.Log) error {
	got, err := get(g, "read the log", func() (l raft.Log, err error) {
		err = g.store.GetLog(index, &l)
		return l, err
	})
	if err != nil {
		return must(err)
	}
	*l = got
	return nil
}

func (g *Guarded) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

// StoreLogs refuses what Raft could not take in again.
func (g *Guarded) StoreLogs(logs []*raft.Log) error {
	for _, l := range logs {
		if err := decodable(l); err != nil {
			return err
		}
	}
	return g.run("append to the log", func() error { return g.store.StoreLogs(logs) })
}

// DeleteRange deletes in short transactions, from the end of the log that lo to hi touches, so that others write in between, each can be
// watched by itself, and a crash leaves no hole.
func (g *Guarded) DeleteRange(lo, hi uint64) error {
	first, err := g.FirstIndex()
	if err != nil {
		return err
	}
	last, err := g.LastIndex()
	if err != nil {
		return err
	}
	gone := span{max(lo, first), min(hi, last)}
	for gone.first <= gone.last && gone.last > 0 {
		part := gone
		if gone.last-gone.first >= deleteChunk {
			if lo <= first {
				part.last = part.first + deleteChunk - 1
			} else {
				part.first = part.last - deleteChunk + 1
			}
		}
		if err := g.run("shorten the log", func() error { return g.store.DeleteRange(part.first, part.last) }); err != nil {
			return err
		}
		if lo <= first {
			gone.first = part.last + 1
		} else {
			gone.last = part.first - 1
		}
	}
	return nil
}

func (g *Guarded) Set(key, val []byte) error {
	return g.run("save", func() error { return g.store.Set(key, val) })
}

// SetUint64 ends the calling goroutine instead of returning an error.
func (g *Guarded) SetUint64(key []byte, val uint64) error {
	return must(g.run("save", func() error { return g.store.SetUint64(key, val) }))
}
