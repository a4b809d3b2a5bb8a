package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// options are the demo's flags.
type options struct {
	n        int
	memory   bool
	duration time.Duration
	seed     uint64
	keep     bool
}

// member is one shop as the parent sees it, over all its processes. Guarded by show.mu, but for what never changes.
type member struct {
	name, addr string // never change
	number     uint64 // never changes

	*life
	alive   bool
	doomed  bool // its end is our doing
	exit    error
	paused  bool
	joined  bool
	selling bool
	leader  string // who leads, as it says

	orders     int
	probed     uint64   // fence of its last probe, 0 before
	hesitating *message // what it said when it stopped between check and write
}

// life is one process of a member; it never changes.
type life struct {
	proc process
	line *line
	dead chan struct{} // closed when proc is dead and all that it said is heard
}

// show is the demo's parent: it keeps the stock, starts, kills and pauses the shops, and tells what happens.
type show struct {
	opts   options
	screen *screen
	folder string
	launch func(folder, name string) (process, error)

	mu      sync.Mutex // guards all below, and the members
	members []*member
	stock   stock
	changed chan struct{} // closed and replaced when anything below mu changed
	failure error         // what must not happen has happened
	talk    string        // the last words of the process that failed
	closing bool

	lastSale time.Time     // with locks
	longest  time.Duration // pause between two sales since it was set to 0
	stale    []staleWrite

	listeners sync.WaitGroup // one for each process ever started; ended by its death
}

// staleWrite is a write that the fence check turned away.
type staleWrite struct {
	shop            string
	fence, greatest uint64
}

func newShow(opts options, s *screen, folder string, launch func(folder, name string) (process, error)) *show {
	return &show{opts: opts, screen: s, folder: folder, launch: launch, changed: make(chan struct{})}
}

// open picks the addresses and starts a process for each shop.
func (s *show) open() error {
	addrs, err := freePorts(s.opts.n)
	if err != nil {
		return err
	}
	for i, addr := range addrs {
		s.members = append(s.members, &member{name: fmt.Sprintf("shop-%d", i+1), addr: addr, number: uint64(i + 1)})
	}
	for _, m := range s.members {
		if err := s.start(m); err != nil {
			return err
		}
	}
	return nil
}

// start starts a process for m and tells it to join the others.
func (s *show) start(m *member) error {
	proc, err := s.launch(s.folder, m.name)
	if err != nil {
		return fmt.Errorf("start %s: %w", m.name, err)
	}
	l := &life{proc: proc, line: newLine(proc, proc), dead: make(chan struct{})}
	s.mu.Lock()
	m.life = l
	m.alive, m.doomed, m.paused, m.joined, m.selling = true, false, false, false, false
	m.leader, m.probed, m.hesitating = "", 0, nil
	s.mu.Unlock()
	s.listeners.Go(func() { s.listen(m, l) })

	order := &start{Name: m.name, Bind: m.addr, Peers: s.peers(m), Expect: s.opts.n, Seed: s.opts.seed + m.number}
	if !s.opts.memory {
		order.Dir = filepath.Join(s.folder, m.name)
	}
	if !s.opts.keep {
		order.Folder = s.folder
	}
	s.tell(m, message{Verb: verbStart, Start: order})
	return nil
}

func (s *show) peers(m *member) (addrs []string) {
	for _, other := range s.members {
		if other != m {
			addrs = append(addrs, other.addr)
		}
	}
	return addrs
}

// tell sends to m's present process. A dead one is noticed by listen, which knows why it died.
func (s *show) tell(m *member, msg message) {
	s.mu.Lock()
	l := m.life
	s.mu.Unlock()
	_ = l.line.send(msg)
}

// listen hears one process (life) of m until it is dead.
func (s *show) listen(m *member, l *life) {
	var fault error
	for fault == nil {
		msg, err := l.line.receive()
		if err != nil {
			break
		}
		fault = s.hear(m, l, msg)
	}
	if fault != nil { // it is of no use any more, and would block on its output
		_ = l.proc.kill()
	}
	exit := l.proc.wait()

	s.mu.Lock()
	defer s.mu.Unlock()
	m.alive, m.joined, m.selling, m.exit, m.leader = false, false, false, exit, ""
	if fault == nil && !m.doomed && !s.closing {
		fault = fmt.Errorf("it died unasked: %s", exitText(exit))
	}
	if fault != nil {
		s.fail(l.proc, fmt.Errorf("%s (pid %d): %w", m.name, l.proc.pid(), fault))
	}
	close(l.dead)
	s.touch()
}

// hear takes in one message. Reads and writes of the stock are answered here; an error means that the process is broken.
func (s *show) hear(m *member, l *life, msg message) error {
	s.mu.Lock()
	answer := message{Call: msg.Call}
	switch msg.Verb {
	case verbJoined:
		m.joined, m.leader = true, msg.Leader
	case verbStatus:
		m.leader = msg.Leader
	case verbRead:
		answer.Verb, answer.Units = verbStock, s.stock.units
	case verbWrite:
		answer.Verb, answer.Stale = verbWritten, !s.write(m, l, msg)
	case verbProbed:
		m.probed = msg.Fence
	case verbHesitating:
		m.hesitating = &msg
	case verbStopped:
		m.selling = false
	case verbFailed:
		s.mu.Unlock()
		return errors.New(msg.Error)
	default:
		s.mu.Unlock()
		return fmt.Errorf("it said %q, which is no verb of a shop", msg.Verb)
	}
	s.touch()
	s.mu.Unlock()
	if answer.Verb != "" {
		_ = l.line.send(answer) // a dead process is noticed by its silence
	}
	return nil
}

// write needs mu.
func (s *show) write(m *member, l *life, msg message) (accepted bool) {
	greatest := s.stock.greatest
	if !s.stock.write(writer{m.name, l.proc.pid(), msg.Order}, msg.Units, msg.Change, msg.Fence) {
		s.stale = append(s.stale, staleWrite{m.name, msg.Fence, greatest})
		return false
	}
	if msg.Change < 0 {
		m.orders++
		now := time.Now()
		if !s.lastSale.IsZero() {
			s.longest = max(s.longest, now.Sub(s.lastSale))
		}
		s.lastSale = now
	}
	if len(s.stock.faults) > 0 && s.failure == nil {
		s.failure = errors.New(s.stock.faults[0])
	}
	return true
}

// fail needs mu. The first failure counts.
func (s *show) fail(p process, err error) {
	if s.failure == nil {
		s.failure, s.talk = err, p.log()
	}
}

// touch needs mu: it wakes those who wait in until.
func (s *show) touch() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// errLimit: what was waited for did not come in time.
var errLimit = errors.New("it did not happen")

// until waits until cond, which is called with mu held, or for a failure, or at most limit.
func (s *show) until(ctx context.Context, limit time.Duration, what string, cond func() bool) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		s.mu.Lock()
		err, met, changed := s.failure, cond(), s.changed
		s.mu.Unlock()
		if err != nil || met {
			return err
		}
		select {
		case <-changed:
		case <-timer.C:
			return fmt.Errorf("%s: %w within %v", what, errLimit, limit)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// all needs mu.
func (s *show) all(cond func(*member) bool) bool {
	for _, m := range s.members {
		if !cond(m) {
			return false
		}
	}
	return true
}

// leader needs mu: the living member that most of the living ones name, nil while there is none.
func (s *show) leader() *member {
	votes := make(map[string]int)
	for _, m := range s.members {
		if m.alive && !m.paused {
			votes[m.leader]++
		}
	}
	var best *member
	for _, m := range s.members {
		if m.alive && votes[m.name] > 0 && (best == nil || votes[m.name] > votes[best.name]) {
			best = m
		}
	}
	return best
}

// quitTime is how long shops may take to close their cluster and exit.
const quitTime = 5 * time.Second

// quit lets all living shops close their cluster and waits for their end.
func (s *show) quit(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	for _, m := range s.members {
		s.tell(m, message{Verb: verbQuit})
	}
	if err := s.until(ctx, quitTime, "all shops exit", func() bool {
		return s.all(func(m *member) bool { return !m.alive })
	}); err != nil {
		return err
	}
	for _, m := range s.members {
		if m.exit != nil {
			return fmt.Errorf("%s did not close its cluster well: %s", m.name, exitText(m.exit))
		}
	}
	return nil
}

// close leaves nothing behind: no process, and no folder unless it is to be kept.
func (s *show) close() error {
	s.screen.show()
	s.mu.Lock()
	s.closing = true
	for _, m := range s.members {
		if m.alive {
			_ = m.proc.kill() // a process that just died is as good
		}
	}
	s.mu.Unlock()
	s.listeners.Wait()
	if s.opts.keep {
		return nil
	}
	return os.RemoveAll(s.folder)
}

// lastWords are what a failed process wrote last, indented.
func (s *show) lastWords() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.talk == "" {
		return ""
	}
	return "   " + strings.ReplaceAll(s.talk, "\n", "\n   ")
}
