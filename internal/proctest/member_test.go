//go:build unix

package proctest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/godistlock/distlock"
)

// memberEnv makes the test's binary a member.
const memberEnv = "DISTLOCK_TEST_MEMBER"

var sentinels = map[string]error{
	"ErrHeld": distlock.ErrHeld, "ErrUnlocked": distlock.ErrUnlocked, "ErrExpired": distlock.ErrExpired, "ErrSessionLost": distlock.ErrSessionLost,
	"ErrNotHeld": distlock.ErrNotHeld, "ErrNoQuorum": distlock.ErrNoQuorum, "ErrClosed": distlock.ErrClosed, "ErrNameTaken": distlock.ErrNameTaken,
	"DeadlineExceeded": context.DeadlineExceeded, "ErrForced": distlock.ErrForced, "ErrMoved": distlock.ErrMoved, "ErrInvalid": distlock.ErrInvalid,
	"ErrLimit": distlock.ErrLimit, "ErrLeaving": distlock.ErrLeaving, "ErrUnsupported": errors.ErrUnsupported, "Canceled": context.Canceled,
}

// process is the member's side.
type process struct {
	pipe    *pipe
	config  config
	cluster *distlock.Cluster // set by join, which the test awaits before all else

	mu    sync.Mutex // guards held, and load against being waited for while workers begin
	held  map[string]*distlock.Lock
	life  context.Context
	end   context.CancelFunc
	tasks sync.WaitGroup // every goroutine of this process but load's
	rest  context.CancelFunc
	load  *sync.WaitGroup // the workers; ended by rest, or, once they have what they wait for, by last
	last  chan struct{}   // closed when workers begin nothing new
	leave chan struct{}   // closed when it is about to leave
}

// runMember serves the test until it is gone.
func runMember(in io.Reader, out io.Writer) {
	signal.Ignore(syscall.SIGPIPE, syscall.SIGINT, syscall.SIGHUP)
	life, end := context.WithCancel(context.Background())
	p := &process{
		pipe: newPipe(in, out), held: make(map[string]*distlock.Lock), life: life, end: end, rest: func() {}, load: new(sync.WaitGroup),
		last: make(chan struct{}), leave: make(chan struct{}),
	}
	for {
		var c command
		if err := p.pipe.receive(&c); err != nil {
			return // and all ends with the process
		}
		p.tasks.Go(func() { p.say(p.obey(c)) })
	}
}

func (p *process) say(a answer) { _ = p.pipe.send(a) } // a test that is gone is noticed by receive

func (p *process) fault(format string, args ...any) {
	p.say(answer{Fault: p.config.Process + ": " + fmt.Sprintf(format, args...)})
}

func (p *process) obey(c command) answer {
	ctx := p.life
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	a := answer{ID: c.ID}
	var err error
	switch c.Do {
	case "join":
		err = p.join(ctx, *c.Config)
	case "lock", "trylock":
		take := p.cluster.Lock
		if c.Do == "trylock" {
			take = p.cluster.TryLock
		}
		var l *distlock.Lock
		if c.Ask != nil && c.Ask.Also != "" {
			l, err = p.cluster.LockAll(ctx, []string{c.Key, c.Ask.Also}, c.Ask.options()...)
		} else {
			l, err = take(ctx, c.Key, c.options()...)
		}
		if err == nil {
			a.Fence, a.Handle = uint64(l.Fence()), string(l.Handle())
			p.mu.Lock()
			p.held[c.Key] = l
			p.mu.Unlock()
		}
	case "unlock":
		err = p.lock(c.Key).Unlock(ctx)
	case "held":
		err = p.lock(c.Key).Err()
	case "status":
		st := p.cluster.Status()
		a.Status = &st
	case "locks":
		a.Locks, err = p.cluster.Locks(ctx, c.Key)
	case "stats":
		var st distlock.Stats
		st, err = p.cluster.Stats(ctx)
		a.Stats = &st
	case "downgrade":
		err = p.lock(c.Key).Downgrade(ctx)
	case "take", "keep":
		err = p.takeFor(ctx, c)
	case "adopt":
		a.Fence, err = p.adopt(ctx, c)
	case "release":
		err = p.release(ctx, c)
	case "load":
		p.begin(*c.Load)
	case "rest":
		p.rest()
		p.load.Wait()
	case "leave":
		close(p.leave)
		err = p.cluster.Leave(ctx)
		p.end()
	default:
		err = fmt.Errorf("no command: %q", c.Do)
	}
	a.At = now()
	if err != nil {
		a.Error = err.Error()
		for name, sentinel := range sentinels {
			if errors.Is(err, sentinel) {
				a.Is = append(a.Is, name)
			}
		}
	}
	return a
}

func (p *process) lock(key string) *distlock.Lock {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held[key]
}

func (p *process) join(ctx context.Context, cfg config) error {
	p.config = cfg
	if cfg.Names != "" {
		askForNames(cfg.Names)
	}
	c, err := distlock.JoinContext(ctx, distlock.Config{
		Name: cfg.Name, Bind: cfg.Bind, Peers: cfg.Peers, Expect: cfg.Expect, DataDir: cfg.Dir, SessionTTL: cfg.TTL, JoinTimeout: patience,
		NoVote: cfg.NoVote, Secret: cfg.Secret,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		return err
	}
	p.cluster = c
	p.tasks.Go(p.watchSession)
	if cfg.Web != "" {
		return p.serve()
	}
	return nil
}

// forTheSession begins the fault of a session's lock.
const forTheSession = "Lock for the session's sake"

// watchSession holds a lock of its own to notice when the session is lost, and tells.
func (p *process) watchSession() {
	for p.life.Err() == nil {
		since := now()
		l, err := p.cluster.Lock(p.life, "session of "+p.config.Process)
		if err != nil {
			if p.life.Err() == nil && !errors.Is(err, distlock.ErrClosed) && !errors.Is(err, distlock.ErrLeaving) {
				p.fault("%s: %v", forTheSession, err)
			}
			return
		}
		select {
		case <-l.Done():
			if p.life.Err() == nil && !errors.Is(l.Err(), distlock.ErrClosed) {
				p.say(answer{Loss: &loss{Process: p.config.Process, Since: since, At: now(), Cause: fmt.Sprint(l.Err())}})
			}
		case <-p.leave:
			if err := l.Unlock(p.life); err != nil && !errors.Is(err, distlock.ErrNotHeld) {
				p.fault("%s: %v", forTheSession, err)
			}
			return
		case <-p.life.Done():
		}
	}
}

// begin lets the workers take locks until rest.
func (p *process) begin(l load) {
	ctx, rest := context.WithCancel(p.life)
	p.rest = rest
	p.mu.Lock() // a signal may come at any time, and then the workers are waited for
	defer p.mu.Unlock()
	for i := range l.Workers {
		rnd := rand.New(rand.NewPCG(l.Seed, uint64(i)))
		p.load.Go(func() {
			for ctx.Err() == nil && !closed(p.last) {
				p.take(ctx, l.pick(rnd))
				nap(ctx.Done(), l.Rest)
			}
		})
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// nap waits for d or until done.
func nap(done <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-done:
	}
}
