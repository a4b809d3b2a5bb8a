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
	"DeadlineExceeded": context.DeadlineExceeded,
}

// process is the member's side.
type process struct {
	pipe    *pipe
	config  config
	cluster *distlock.Cluster // set by join, which the test awaits before all else

	mu    sync.Mutex // guards held
	held  map[string]*distlock.Lock
	life  context.Context
	end   context.CancelFunc
	tasks sync.WaitGroup // every goroutine of this process but load's
	rest  context.CancelFunc
	load  *sync.WaitGroup // the workers; ended by rest
}

// runMember serves the test until it is gone.
func runMember(in io.Reader, out io.Writer) {
	signal.Ignore(syscall.SIGPIPE, syscall.SIGINT, syscall.SIGHUP)
	life, end := context.WithCancel(context.Background())
	p := &process{pipe: newPipe(in, out), held: make(map[string]*distlock.Lock), life: life, end: end, rest: func() {}, load: new(sync.WaitGroup)}
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
		if l, err = take(ctx, c.Key); err == nil {
			a.Fence = uint64(l.Fence())
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
	case "load":
		p.begin(*c.Load)
	case "rest":
		p.rest()
		p.load.Wait()
	case "leave":
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
	c, err := distlock.JoinContext(ctx, distlock.Config{
		Name: cfg.Name, Bind: cfg.Bind, Peers: cfg.Peers, Expect: cfg.Expect, DataDir: cfg.Dir, SessionTTL: cfg.TTL,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		return err
	}
	p.cluster = c
	p.tasks.Go(p.watchSession)
	return nil
}

// watchSession holds a lock of its own to notice when the session is lost, and tells.
func (p *process) watchSession() {
	for p.life.Err() == nil {
		since := now()
		l, err := p.cluster.Lock(p.life, "session of "+p.config.Process)
		if err != nil {
			if p.life.Err() == nil {
				p.fault("Lock for the session's sake: %v", err)
			}
			return
		}
		select {
		case <-l.Done():
			if p.life.Err() == nil && !errors.Is(l.Err(), distlock.ErrClosed) {
				p.say(answer{Loss: &loss{Process: p.config.Process, Since: since, At: now(), Cause: fmt.Sprint(l.Err())}})
			}
		case <-p.life.Done():
		}
	}
}

// begin lets the workers take locks until rest.
func (p *process) begin(l load) {
	ctx, rest := context.WithCancel(p.life)
	p.rest = rest
	for i := range l.Workers {
		rnd := rand.New(rand.NewPCG(l.Seed, uint64(i)))
		p.load.Go(func() {
			for ctx.Err() == nil {
				p.take(ctx, l, rnd)
				nap(ctx.Done(), l.Rest)
			}
		})
	}
}

// unlockTime is how long the outcome of an Unlock is waited for.
const unlockTime = 20 * time.Second

// take locks a key, relies on it for a while, unlocks it, and reports: once when it is granted, should this process be killed, and once
// when it is over.
func (p *process) take(ctx context.Context, l load, rnd *rand.Rand) {
	h := hold{Process: p.config.Process, Key: fmt.Sprintf("key-%d", rnd.IntN(l.Keys)), Asked: now(), Ended: never}
	lock, err := p.cluster.Lock(ctx, h.Key)
	if err != nil {
		if ctx.Err() == nil {
			p.fault("Lock(%s): %v", h.Key, err)
		}
		return
	}
	h.Fence, h.Granted = uint64(lock.Fence()), now()
	h.Kept = h.Granted
	p.say(answer{Hold: &h})

	until := h.Granted + instant(l.Hold)
	for {
		at := now() // before the look: what is open now was held then
		if lock.Err() != nil {
			break
		}
		h.Kept = at
		if at >= until {
			break
		}
		nap(lock.Done(), min(time.Duration(until-at), time.Millisecond))
	}
	bounded, cancel := context.WithTimeout(p.life, unlockTime)
	defer cancel()
	if err := lock.Unlock(bounded); err == nil {
		h.Ended = now()
	} else if !errors.Is(err, distlock.ErrNotHeld) && p.life.Err() == nil {
		p.fault("Unlock(%s): %v", h.Key, err)
	}
	p.say(answer{Hold: &h})
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
