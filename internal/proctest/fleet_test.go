//go:build unix

package proctest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godistlock/distlock"
	"github.com/godistlock/distlock/internal/testport"
)

// patience bounds every wait of a test; what is waited for takes a fraction of it, and where gossip lost its way two of its exchanges of
// all that is known.
const patience = time.Minute

// fleet is a cluster of real processes.
type fleet struct {
	t         *testing.T
	dir       string
	durable   bool
	ttl       time.Duration
	expect    int
	ground    ground // nil: the processes run on loopback
	members   []*member
	names     int // given so far
	crossings int // begun so far
	keys      int // used by served

	hands  sync.WaitGroup // the goroutines of handOn
	mu     sync.Mutex     // guards all below
	joined []*life        // that live: who may be told to adopt and to release
	holds  map[holdID]hold
	pauses []pause
	cutOff []pause // from when on somebody could not be expected to keep its session, though it ran
	losses []loss
}

// ground is where processes run, if not on loopback.
type ground interface {
	start(m *member, cmd *exec.Cmd) error // starts m's next process there, and sets m's addresses
	config(m *member, cfg *config)        // says what is to be told to that process
}

// holdID tells holds apart; a fence that was given twice makes two of them.
type holdID struct {
	process, key string
	fence        uint64
	part         int
}

// member is one place in the fleet, with one process after the other.
type member struct {
	fleet *fleet
	name  string
	addr  string
	web   string // where it answers /readyz; "" for one that is no application
	quiet bool   // it never votes
	exe   string // the binary of its next process
	lives int
	*life // the present one
}

// life is one process of a member.
type life struct {
	id   string
	cmd  *exec.Cmd
	pipe *pipe
	log  string
	dead chan struct{} // closed when it is dead and all that it said is heard

	mu       sync.Mutex // guards all below
	calls    uint64
	waiting  map[uint64]chan answer // nil once it is dead
	expected bool                   // its death
	leaving  bool
	left     *left // what it said of that
	exit     error // once it is dead
	died     instant
}

func newFleet(t *testing.T, n int, durable bool, ttl time.Duration) *fleet {
	t.Helper()
	f := emptyFleet(t, n, durable, ttl)
	for _, addr := range freeAddrs(t, n) {
		f.add().addr = addr
	}
	return f
}

// emptyFleet has no members yet, and expects so many.
func emptyFleet(t *testing.T, expect int, durable bool, ttl time.Duration) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: dataDir(t), durable: durable, ttl: ttl, expect: expect, holds: make(map[holdID]hold)}
	t.Cleanup(f.end)
	return f
}

// add makes room for one more process, under a new name.
func (f *fleet) add() *member {
	f.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	f.names++
	m := &member{fleet: f, name: fmt.Sprintf("m%d", f.names), exe: exe}
	f.members = append(f.members, m)
	return m
}

// dataDir is for logs and data; DISTLOCK_CHAOS_DIR names a place where they stay.
func dataDir(t *testing.T) string {
	t.Helper()
	parent := os.Getenv("DISTLOCK_CHAOS_DIR")
	if parent == "" {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(parent, strings.ReplaceAll(t.Name(), "/", "-")+"-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// startFleet starts n processes and waits until all have joined and know a leader.
func startFleet(t *testing.T, n int, durable bool, ttl time.Duration) *fleet {
	t.Helper()
	f := newFleet(t, n, durable, ttl)
	f.start(f.members...)
	f.leader()
	return f
}

func freeAddrs(t *testing.T, n int) []string { t.Helper(); return testport.Proctest.Pick(t, n) }

// start gives each of members a process and waits until they have joined.
func (f *fleet) start(members ...*member) {
	f.t.Helper()
	if err := f.spawn(members...)(); err != nil {
		f.t.Fatal(err)
	}
}

// spawn gives each of members a process that joins. The answer waits until they have joined; it may be called on any goroutine.
func (f *fleet) spawn(members ...*member) (joined func() error) {
	f.t.Helper()
	var joins sync.WaitGroup
	errs := make([]error, len(members))
	for i, m := range members {
		m.spawn()
		cfg := &config{Process: m.id, Name: m.name, Bind: m.addr, Expect: f.expect, TTL: f.ttl, Web: m.web, NoVote: m.quiet}
		if f.ground != nil {
			f.ground.config(m, cfg)
		} else {
			for _, other := range f.others(m) {
				cfg.Peers = append(cfg.Peers, other.addr)
			}
		}
		if f.durable {
			cfg.Dir = filepath.Join(f.dir, m.name)
		}
		joins.Go(func() {
			if a := m.call(command{Do: "join", Config: cfg, Timeout: patience}); a.Error != "" {
				errs[i] = fmt.Errorf("%s joins: %s", m.id, a.Error)
				return
			}
			f.mu.Lock()
			f.joined = append(f.joined, m.life)
			f.mu.Unlock()
		})
	}
	return func() error {
		joins.Wait()
		return errors.Join(errs...)
	}
}

// spawn starts a process. It ends with its standard input.
func (m *member) spawn() {
	t := m.fleet.t
	t.Helper()
	m.lives++
	l := &life{id: fmt.Sprintf("%s/%d", m.name, m.lives), dead: make(chan struct{}), waiting: make(map[uint64]chan answer)}
	l.log = filepath.Join(m.fleet.dir, strings.ReplaceAll(l.id, "/", "-")+".log")
	log, err := os.Create(l.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the process has its own
	l.cmd = exec.Command(m.exe)
	l.cmd.Env = append(os.Environ(), memberEnv+"=1")
	l.cmd.Stderr = log
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the kernel wakes or ends a paused process of a group that lost its parent
	in, err := l.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	l.pipe = newPipe(out, in)
	m.life = l
	if m.fleet.ground != nil {
		err = m.fleet.ground.start(m, l.cmd)
	} else {
		err = l.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go m.fleet.listen(l) // ended by the process's death, which end awaits
}

// listen hears a process until it is dead.
func (f *fleet) listen(l *life) {
	defer close(l.dead)
	for {
		var a answer
		if err := l.pipe.receive(&a); err != nil {
			break
		}
		switch {
		case a.ID != 0:
			l.mu.Lock()
			to := l.waiting[a.ID]
			delete(l.waiting, a.ID)
			l.mu.Unlock()
			if to != nil {
				to <- a
			}
		case a.Hold != nil: // a process of an earlier commit
			f.record(*a.Hold)
		case a.Holds != nil:
			if f.record(a.Holds...); a.Handle != "" {
				f.hands.Go(func() { f.handOn(l, a) }) // ends with the answer
			}
		case a.Left != nil:
			l.mu.Lock()
			l.left = a.Left
			l.mu.Unlock()
		case a.Loss != nil:
			f.mu.Lock()
			f.losses = append(f.losses, *a.Loss)
			f.mu.Unlock()
		default:
			l.mu.Lock()
			leaving := l.leaving && strings.Contains(a.Fault, forTheSession) // processes of an earlier commit go on asking
			l.mu.Unlock()
			if !leaving {
				f.t.Error(a.Fault)
			}
		}
	}
	exit := l.cmd.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.exit, l.died = exit, now(); !l.expected {
		f.t.Errorf("%s died unasked: %v", l.id, exit)
	}
	for _, to := range l.waiting {
		to <- l.isDead()
	}
	l.waiting = nil
}

func (l *life) isDead() answer { return answer{Error: l.id + " is dead", Is: []string{dead}} }

// dead is among the names of sentinels in the answer of a process that has none.
const dead = "dead"

// record keeps what a process said last of its holds.
func (f *fleet) record(holds ...hold) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range holds {
		f.holds[holdID{h.Process, h.Key, h.Fence, h.Part}] = h
	}
}

// handOn lets another process release or adopt what l gave the handle of.
func (f *fleet) handOn(l *life, a answer) {
	f.mu.Lock()
	others := slices.DeleteFunc(slices.Clone(f.joined), func(o *life) bool { return o == l })
	f.mu.Unlock()
	if len(others) == 0 {
		return
	}
	fence := a.Holds[0].Fence
	c := command{Do: "adopt", Handle: a.Handle, Holds: a.Holds, Timeout: patience}
	if fence%3 == 0 {
		c.Do = "release"
	}
	to := others[fence/3%uint64(len(others))]
	got := to.call(c)
	switch {
	case got.Error == "" && c.Do == "adopt" && got.Fence != fence:
		f.t.Errorf("%s adopted a grant with fence %d from %s and has fence %d", to.id, fence, l.id, got.Fence)
	case got.Error == "":
	case slices.ContainsFunc(got.Is, func(name string) bool {
		return slices.Contains([]string{dead, "ErrNotHeld", "ErrSessionLost", "ErrClosed", "ErrLeaving"}, name)
	}):
	default:
		f.t.Errorf("%s by %s of what %s has: %s", c.Do, to.id, l.id, got.Error)
	}
}

// call tells the process to do something and waits for the answer. It may be called on any goroutine.
func (l *life) call(c command) answer {
	to := make(chan answer, 1)
	l.mu.Lock()
	if l.waiting == nil {
		l.mu.Unlock()
		return l.isDead()
	}
	l.calls++
	c.ID = l.calls
	l.waiting[c.ID] = to
	l.mu.Unlock()
	_ = l.pipe.send(c) // a dead process is noticed by listen
	select {
	case a := <-to:
		return a
	case <-time.After(patience + c.Timeout):
		return answer{Error: fmt.Sprintf("%s did not answer %q", l.id, c.Do)}
	}
}

// must is call for what has to succeed.
func (m *member) must(c command) answer {
	m.fleet.t.Helper()
	if c.Timeout == 0 {
		c.Timeout = patience
	}
	a := m.call(c)
	if a.Error != "" {
		m.fleet.t.Fatalf("%s of %q by %s: %s", c.Do, c.Key, m.id, a.Error)
	}
	return a
}

// kill ends the member's process by SIGKILL and answers when.
func (m *member) kill() instant {
	at := m.fleet.stopped(m)
	m.bury()
	return at
}

// mourn expects the death of the member's process.
func (m *member) mourn() {
	m.fleet.mu.Lock()
	m.fleet.joined = slices.DeleteFunc(m.fleet.joined, func(l *life) bool { return l == m.life })
	m.fleet.mu.Unlock()
	m.life.mu.Lock()
	m.expected = true
	m.life.mu.Unlock()
}

// bury kills the member's process as one that has nothing to lose.
func (m *member) bury() {
	m.mourn()
	if err := m.cmd.Process.Kill(); err != nil {
		m.fleet.t.Fatalf("kill %s: %v", m.id, err)
	}
	<-m.dead
}

// stop pauses the member's process until cont. It does nothing any more when stop returns.
func (m *member) stop() instant {
	m.fleet.t.Helper()
	at := m.fleet.stopped(m)
	m.signal(syscall.SIGSTOP)
	if err := awaitStopped(m.cmd.Process.Pid); err != nil {
		m.fleet.t.Fatalf("%s does not stop: %v", m.id, err)
	}
	return at
}

func (m *member) cont() { m.signal(syscall.SIGCONT) }

func (m *member) signal(s syscall.Signal) {
	m.fleet.t.Helper()
	if err := m.cmd.Process.Signal(s); err != nil {
		m.fleet.t.Fatalf("%v to %s: %v", s, m.id, err)
	}
}

func (f *fleet) stopped(m *member) instant {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := now()
	f.pauses = append(f.pauses, pause{m.id, at})
	return at
}

// others are all members but m.
func (f *fleet) others(m *member) []*member {
	return slices.DeleteFunc(slices.Clone(f.members), func(o *member) bool { return o == m })
}

// leader waits until all of members (default: all) can take locks and name the same one of all as leader.
func (f *fleet) leader(members ...*member) (leader *member) {
	f.t.Helper()
	if len(members) == 0 {
		members = f.members
	}
	var seen []string
	f.until("a leader that all know", func() bool {
		seen = seen[:0]
		for _, m := range members {
			st := m.must(command{Do: "status"}).Status
			seen = append(seen, fmt.Sprintf("%s ready=%v says %q", m.id, st.Ready, st.Leader))
			i := slices.IndexFunc(f.members, func(o *member) bool { return o.name == st.Leader })
			if !st.Ready || i < 0 || (m != members[0] && f.members[i] != leader) {
				return false
			}
			leader = f.members[i]
		}
		return slices.Contains(members, leader)
	}, &seen)
	return leader
}

// until waits for something that only asking again shows.
func (f *fleet) until(what string, cond func() bool, seen *[]string) {
	f.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(patience); !cond(); {
		select {
		case <-tick.C:
		case <-limit:
			f.t.Fatalf("%s: not within %v; %q", what, patience, *seen)
		}
	}
}

// voters waits until n members are voters, as they themselves see it.
func (f *fleet) voters(n int) {
	f.t.Helper()
	var seen []string
	f.until(fmt.Sprintf("%d voters", n), func() bool {
		seen = seen[:0]
		voters, agreed := 0, true
		for _, m := range f.members {
			st := m.must(command{Do: "status"}).Status
			alive := 0
			var roles []string
			for _, o := range st.Members {
				roles = append(roles, fmt.Sprintf("%s %s %s", o.Name, o.State, o.Role))
				if o.Role == distlock.Voter && o.State == distlock.Alive {
					alive++
				}
			}
			seen = append(seen, fmt.Sprintf("%s is %s and sees %s", m.id, st.Role, strings.Join(roles, ", ")))
			if st.Role == distlock.Voter {
				voters++
				agreed = agreed && alive == n
			}
		}
		return voters == n && agreed
	}, &seen)
}

// load lets all of members (default: all) take locks until rest.
func (f *fleet) load(l load, members ...*member) {
	f.t.Helper()
	if len(members) == 0 {
		members = f.members
	}
	for i, m := range members {
		l.Seed += uint64(i + m.lives*100)
		m.must(command{Do: "load", Load: &l})
	}
}

// rest ends the load of all members and waits until their locks are back.
func (f *fleet) rest() {
	f.t.Helper()
	for _, m := range f.members {
		m.must(command{Do: "rest", Timeout: 2 * patience})
	}
	f.hands.Wait()
}

// grants is how many holds have been reported.
func (f *fleet) grants() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.holds)
}

// progress waits until n more holds have been reported.
func (f *fleet) progress(n int) {
	f.t.Helper()
	from := f.grants()
	var seen []string
	f.until(fmt.Sprintf("%d more grants", n), func() bool { return f.grants() >= from+n }, &seen)
}

// verdict judges all that was recorded: the history, and that no session was lost but of processes that were themselves stopped.
func (f *fleet) verdict() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	holds := make([]hold, 0, len(f.holds))
	for _, h := range f.holds {
		holds = append(holds, h)
	}
	if fault := judge(holds, f.pauses); fault != "" {
		f.t.Error(fault)
	}
	for _, l := range unexcused(f.losses, slices.Concat(f.pauses, f.cutOff)) {
		f.t.Errorf("%s lost its session of %v at %s: %s", l.Process, time.Duration(l.At-l.Since), wall(l.At), l.Cause)
	}
	f.t.Logf("%d grants judged, %d stops, %d sessions lost by processes that were stopped or cut off", len(holds), len(f.pauses), len(f.losses))
}

// wall is the time that logs show.
func wall(at instant) string {
	return time.Now().Add(-time.Duration(now() - at)).UTC().Format("15:04:05.000")
}

// unexcused are the losses of processes that were not stopped while they had the session.
func unexcused(losses []loss, pauses []pause) (bad []loss) {
	for _, l := range losses {
		if !slices.ContainsFunc(pauses, func(p pause) bool { return p.process == l.Process && l.Since <= p.at && p.at <= l.At }) {
			bad = append(bad, l)
		}
	}
	return bad
}

// end kills what still lives, and shows the logs of a test that failed.
func (f *fleet) end() {
	for _, m := range f.members {
		if m.life == nil {
			continue
		}
		m.life.mu.Lock()
		m.expected = true
		m.life.mu.Unlock()
		_ = m.cmd.Process.Kill() // dead ones are as good
		<-m.dead
	}
	f.hands.Wait()
	if !f.t.Failed() {
		return
	}
	logs, err := filepath.Glob(filepath.Join(f.dir, "*.log"))
	if err != nil {
		f.t.Error(err)
	}
	const tail = 6000
	for _, path := range logs {
		if b, err := os.ReadFile(path); err == nil {
			f.t.Logf("%s:\n%s", filepath.Base(path), b[max(0, len(b)-tail):])
		}
	}
}

// client waits until one member is no voter.
func (f *fleet) client() (client *member) {
	f.t.Helper()
	var seen []string
	f.until("one member is no voter", func() bool {
		seen = seen[:0]
		for _, m := range f.members {
			st := m.must(command{Do: "status"}).Status
			seen = append(seen, fmt.Sprintf("%s is %s", m.id, st.Role))
			if st.Role != distlock.Voter {
				client = m
			}
		}
		return client != nil
	}, &seen)
	return client
}
