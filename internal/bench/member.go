package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"time"

	"github.com/godistlock/distlock"
)

// memberMode as the first argument makes this program a member.
const memberMode = "member"

// member is the side of a process that is measured.
type member struct {
	cluster *distlock.Cluster // set by the first command, which the parent awaits
	swarm   []*simulated      // or these, instead
	held    []held            // set by doHold, which the parent awaits before doFree
	cpu     *os.File          // the profile that is being written; doProfile and doWrite are not sent at once
}

// runMember obeys the parent until that is gone. All ends with the process.
func runMember(in io.Reader, out io.Writer) {
	ignoreInterrupt()
	m, p := &member{}, newPipe(in, out)
	for {
		var c command
		if err := p.receive(&c); err != nil {
			return
		}
		go func() { // ends with the process at the latest
			_ = p.send(m.obey(c)) // a parent that is gone is noticed by receive
		}()
	}
}

func (m *member) obey(c command) answer {
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	defer cancel()
	a := answer{ID: c.ID}
	var err error
	switch c.Do {
	case doJoin:
		err = m.join(ctx, c.Join)
	case doSwarm:
		err = m.joinSwarm(ctx, c.Swarm)
	case doAwait:
		a.Took, err = m.await(ctx, c.Await)
	case doLost:
		a.Lost = m.lost()
	case doIndex:
		a.Index, err = m.index(ctx)
	case doFirst:
		a.Took, err = m.first(ctx, c.Join)
	case doStatus:
		a.State = m.state()
	case doPair:
		a.Took, err = m.pairs(ctx, c.Key)
	case doLoad:
		a.Load, err = m.load(ctx, c.Load)
	case doSpin:
		spin(c.Load)
	case doBehind:
		err = stepBehind()
	case doHold:
		err = m.hold(ctx, c.Load)
	case doFree:
		err = m.free(ctx, c.Load)
	case doUsage:
		a.Usage, err = ownUsage(c.Collect)
	case doProfile:
		err = m.profile(c.File)
	case doWrite:
		err = m.writeProfiles(c.File)
	default:
		err = fmt.Errorf("no command: %q", c.Do)
	}
	if err != nil {
		a.Error = err.Error()
	}
	return a
}

func (m *member) join(ctx context.Context, j *join) (err error) {
	m.cluster, err = joinAs(ctx, j)
	return err
}

func joinAs(ctx context.Context, j *join) (*distlock.Cluster, error) {
	return distlock.JoinContext(ctx, distlock.Config{
		Name: j.Name, Bind: j.Bind, Peers: j.Peers, Expect: j.Expect, DataDir: j.Dir, Secret: j.Secret,
		JoinTimeout: time.Hour, // ctx ends before
		Logger:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
}

// first is what a program waits that takes one lock after its start.
func (m *member) first(ctx context.Context, j *join) (time.Duration, error) {
	began := time.Now()
	if err := m.join(ctx, j); err != nil {
		return 0, err
	}
	lock, err := m.cluster.Lock(ctx, "first")
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took, lock.Unlock(ctx)
}

func (m *member) state() *state { return stateOf(m.cluster) }

func stateOf(c *distlock.Cluster) *state {
	st := c.Status()
	s := &state{Ready: st.Ready, Leader: st.Leader, Client: st.Role == distlock.Client}
	for _, o := range st.Members {
		if o.State == distlock.Alive || o.State == distlock.Suspect { // whom nobody but this process misses lives
			s.Alive++
		}
		if o.Role == distlock.Voter && o.State == distlock.Alive {
			s.Voters++
		}
	}
	return s
}

// ownUsage tells of this process, with collect after all that is garbage has been given back.
func ownUsage(collect bool) (*usage, error) {
	if collect {
		runtime.GC() // what finalizers and pools let go is gone after the second, which FreeOSMemory is
		debug.FreeOSMemory()
	}
	u := &usage{}
	if err := u.ask(); err != nil {
		return nil, err
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	u.Heap = int64(mem.HeapAlloc)
	u.Goroutines = runtime.NumGoroutine()
	return u, nil
}

// Sampled, so that the profile does not slow down what it shows.
const mutexFraction = 100

func (m *member) profile(file string) error {
	f, err := os.Create(file + ".cpu")
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(err, f.Close())
	}
	runtime.SetMutexProfileFraction(mutexFraction)
	m.cpu = f
	return nil
}

// writeProfiles ends what profile began. Besides processor time it writes what was allocated and what was waited for since the process began.
func (m *member) writeProfiles(file string) error {
	pprof.StopCPUProfile()
	runtime.SetMutexProfileFraction(0)
	err := m.cpu.Close()
	for _, name := range []string{"allocs", "mutex"} {
		f, cerr := os.Create(file + "." + name)
		if cerr != nil {
			return errors.Join(err, cerr)
		}
		err = errors.Join(err, pprof.Lookup(name).WriteTo(f, 0), f.Close())
	}
	return err
}
