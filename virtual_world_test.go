package distlock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/address"
	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/discover"
	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/node"
	"github.com/godistlock/distlock/internal/simnet"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// Clusters in virtual time: whole members in one bubble of testing/synctest, on a network in memory that fails as it is told to. What
// chance decides here comes from a seed, and a failing seed is named: DISTLOCK_SEED=7 go test -run 'TestVirtualChaos' reruns it alone. The
// order of goroutines within one instant is the scheduler's, so a rerun meets the same faults at the same times and yet not always the same
// bug. DISTLOCK_SEEDS=1000 runs so many seeds of each test (make chaos), DISTLOCK_LOG=1 shows what the members log.

// world is one bubble: a network and the members on it. Member i is called mi and lives on the host 10.0.0.i+1.
type world struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand // of the test's own goroutine only
	net     *simnet.Net
	began   time.Time
	logs    *logRing
	peers   []string
	names   discover.Resolver // nil: the machine's, which no test asks
	members []*member
	history *history
}

// member is a host and the process on it, if one runs.
type member struct {
	w     *world
	i     int
	ip    string
	cfg   Config
	proof wire.Proof // zero: a restart proves nothing
	clock *vclock    // of the host: it goes on over restarts
	hooks node.Hooks
	life  *life // of the present process, or the last

	mu      sync.Mutex // guards c
	c       *Cluster   // nil while no process has joined
	joining *joining   // of the test's own goroutine: a start that crash has not ended
}

// joining is a process that begins.
type joining struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when Join has returned
	err    error         // of Join; to be read after done
}

// life is one process's network: it ends with the process, so that what is still closing of a crashed one reaches nobody.
type life struct {
	mux.Network
	over  atomic.Bool
	dials atomic.Int64 // begun
}

func (l *life) Dial(ctx context.Context, addr string) (net.Conn, error) {
	if l.over.Load() {
		return nil, net.ErrClosed
	}
	l.dials.Add(1)
	return l.Network.Dial(ctx, addr)
}

// seedsOf is the seeds to run: n of them, unless the environment says otherwise.
func seedsOf(t *testing.T, n int) []uint64 {
	t.Helper()
	number := func(name string) (uint64, bool) {
		text := os.Getenv(name)
		if text == "" {
			return 0, false
		}
		v, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s=%q is not a number", name, text)
		}
		return v, true
	}
	if one, ok := number("DISTLOCK_SEED"); ok {
		return []uint64{one}
	}
	if many, ok := number("DISTLOCK_SEEDS"); ok {
		n = int(many)
	} else if underRace {
		n = (n + 3) / 4 // the others run without the race detector
	}
	seeds := make([]uint64, n)
	for i := range seeds {
		seeds[i] = uint64(i + 1)
	}
	return seeds
}

// virtual runs f once per seed, each in a bubble of its own, several side by side.
func virtual(t *testing.T, seeds int, f func(w *world)) {
	t.Helper()
	for _, seed := range seedsOf(t, seeds) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			inBubble(t, seed, f)
		})
	}
}

// stuckAfter is the real time after which a bubble must be stuck: virtual time stands still while anything in it waits for a mutex.
const stuckAfter = 4 * time.Minute

func inBubble(t *testing.T, seed uint64, f func(w *world)) {
	t.Helper()
	inBubbleFor(t, seed, stuckAfter, f)
}

// inBubbleFor is inBubble for a world that takes so much real time.
func inBubbleFor(t *testing.T, seed uint64, most time.Duration, f func(w *world)) {
	t.Helper()
	stuck := time.AfterFunc(most, func() {
		buf := make([]byte, 16<<20)
		panic(fmt.Sprintf("%s: seed %d is stuck\n%s", t.Name(), seed, buf[:runtime.Stack(buf, true)]))
	})
	defer stuck.Stop()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, seed)
		defer w.end()
		f(w)
	})
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), net: simnet.New(seed), began: time.Now(), logs: &logRing{began: time.Now()}}
	w.history = newHistory(w)
	return w
}

// add makes n more members, changed by opts, that do not run yet. All members made so far are everybody's peers.
func (w *world) add(n int, opts ...func(*member)) {
	for range n {
		i := len(w.members)
		m := &member{w: w, i: i, ip: fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), clock: newClock()}
		addr := m.ip + ":7950"
		w.peers = append(w.peers, addr)
		m.cfg = Config{
			Name: fmt.Sprintf("m%d", i), Bind: addr, Insecure: true, SessionTTL: 2 * time.Second, JoinTimeout: 2 * time.Minute,
			Logger: slog.New(&ringHandler{ring: w.logs, member: i}),
		}
		for _, o := range opts {
			o(m)
		}
		w.members = append(w.members, m)
		w.net.Host(m.ip)
	}
	for _, m := range w.members {
		m.cfg.Peers = w.peers
	}
}

// restarts makes a member's restart prove its predecessor's death, as that of a process on a machine that runs on does.
func restarts(m *member) { m.proof = wire.Proof{Boot: "boot of " + m.ip, NetNS: "net:[1]"} }

// start joins all members that don't run, at once, and waits for them.
func (w *world) start() {
	w.t.Helper()
	var wg sync.WaitGroup
	for _, m := range w.members {
		if m.cluster() == nil {
			wg.Go(func() {
				if err := m.join(context.Background()); err != nil {
					w.t.Errorf("%s: join: %v", m.cfg.Name, err)
				}
			})
		}
	}
	wg.Wait()
	if w.t.Failed() {
		w.t.FailNow()
	}
}

// startVoters is start for a fresh cluster, and waits until the first voters sit.
func (w *world) startVoters(voters int) {
	w.t.Helper()
	w.start()
	w.within(20*time.Second, "all seats are taken", func() bool { return w.seated() == voters })
}

// seated counts the running members that vote by their own log.
func (w *world) seated() int {
	n := 0
	for _, m := range w.running() {
		if m.cluster().Status().Role == Voter {
			n++
		}
	}
	return n
}

func (m *member) cluster() *Cluster {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.c
}

// begin starts the member's process and does not wait for it.
func (m *member) begin() *joining {
	ctx, cancel := context.WithCancel(context.Background())
	j := &joining{cancel: cancel, done: make(chan struct{})}
	m.joining = j
	l := m.newLife()
	go func() { // ends with Join
		defer close(j.done)
		j.err = m.joinAs(ctx, l)
	}()
	return j
}

func (m *member) join(ctx context.Context) error { return m.joinAs(ctx, m.newLife()) }

func (m *member) newLife() *life {
	m.life = &life{Network: m.w.net.Host(m.ip)}
	return m.life
}

func (m *member) joinAs(ctx context.Context, l *life) error {
	c, err := join(ctx, m.cfg, surroundings{network: l, clock: m.clock, proof: m.proof, machine: address.Machine{}, names: m.w.names, hooks: m.hooks})
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.c = c
	return nil
}

// crash ends the member's process: its sockets first, with no word to anybody.
func (m *member) crash() {
	if m.cluster() == nil && m.joining == nil {
		return
	}
	m.unplug()
	if m.joining != nil {
		m.joining.cancel()
		<-m.joining.done
		m.joining = nil
	}
	c := m.cluster()
	if c == nil {
		return
	}
	_ = c.Close()
	m.mu.Lock()
	m.c = nil
	m.mu.Unlock()
}

// unplug is the part of a crash that others notice; it does not block.
func (m *member) unplug() {
	m.w.history.crashed(m.i)
	m.life.over.Store(true)
	m.w.net.CloseHost(m.ip)
}

// pause freezes the member's sockets and its clock, which is what its process knows of a pause, and thaw ends that: the clock jumps. Its
// goroutines run on meanwhile, unlike those of a process that is stopped: timers of Go's own find that the time has passed.
func (m *member) pause() {
	m.w.history.paused(m.i, true)
	m.clock.stop()
	m.w.net.Freeze(m.ip)
}

func (m *member) thaw() {
	m.clock.jump()
	m.w.net.Thaw(m.ip)
	m.w.history.paused(m.i, false)
}

// moveTo gives a member that does not run another host, as an orchestrator does: its name and its DataDir go along. Nobody is told.
func (m *member) moveTo(ip string) {
	if open := m.w.net.Open(m.ip); open != 0 {
		m.w.t.Errorf("%s leaves %d sockets open at %s", m.cfg.Name, open, m.ip)
	}
	m.w.note("%s moves from %s to %s", m.cfg.Name, m.ip, ip)
	m.ip, m.cfg.Bind = ip, ip+":7950"
}

func (w *world) running() []*member {
	var out []*member
	for _, m := range w.members {
		if m.cluster() != nil {
			out = append(out, m)
		}
	}
	return out
}

// others are the running members but m.
func (w *world) others(m *member) []*member {
	var out []*member
	for _, o := range w.running() {
		if o != m {
			out = append(out, o)
		}
	}
	return out
}

// leader waits until one of those asked (all that run, if none are named) leads in its own eyes.
func (w *world) leader(among ...*member) *member {
	w.t.Helper()
	if len(among) == 0 {
		among = w.running()
	}
	var found *member
	w.within(20*time.Second, "somebody leads", func() bool {
		for _, m := range among {
			if c := m.cluster(); c != nil && c.Status().Leader == m.cfg.Name {
				found = m
				return true
			}
		}
		return false
	})
	return found
}

// within waits for cond in virtual time, looking every 5 ms; it fails the test when limit passes first, and answers how long it took.
func (w *world) within(limit time.Duration, what string, cond func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	for !cond() {
		if time.Since(began) >= limit {
			w.fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

// until is a context that ends after d of virtual time, or with the test.
func (w *world) until(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	w.t.Cleanup(cancel)
	return ctx
}

func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s: %s", time.Since(w.began), fmt.Sprintf(format, args...))
}

func (w *world) errorf(format string, args ...any) {
	w.t.Helper()
	w.t.Errorf("%s: %s", time.Since(w.began), fmt.Sprintf(format, args...))
}

// note puts a line of the test itself among those of the members.
func (w *world) note(format string, args ...any) { w.logs.add(-1, fmt.Sprintf(format, args...)) }

// lock and unlock are for tests that know that the cluster can serve.
func (m *member) lock(key string) *Lock {
	m.w.t.Helper()
	l, err := m.cluster().Lock(m.w.until(20*time.Second), key)
	if err != nil {
		m.w.fatalf("%s: lock %q: %v", m.cfg.Name, key, err)
	}
	return l
}

func (w *world) unlock(l *Lock) {
	w.t.Helper()
	if err := l.Unlock(w.until(20 * time.Second)); err != nil {
		w.fatalf("unlock %q: %v", l.Key(), err)
	}
}

// recovers is called when all faults are over: every running member can lock within limit, and then nothing is held or waited for.
func (w *world) recovers(limit time.Duration) time.Duration {
	w.t.Helper()
	began := time.Now()
	var wg sync.WaitGroup
	for _, m := range w.running() {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			for {
				l, err := m.cluster().Lock(ctx, "recovered")
				if err == nil {
					err = l.Unlock(ctx)
				}
				if err == nil {
					return
				}
				if ctx.Err() != nil || !errors.Is(err, ErrSessionLost) {
					w.errorf("%s can't lock and unlock within %s of the end of all faults: %v", m.cfg.Name, limit, err)
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	if w.t.Failed() {
		w.t.FailNow()
	}
	var left []LockInfo
	w.within(limit, "no key is held or waited for any more", func() bool {
		var err error
		left, err = w.running()[0].cluster().Locks(w.until(limit), "")
		if err != nil {
			w.fatalf("locks: %v", err)
		}
		if time.Since(began) > limit && len(left) > 0 {
			w.fatalf("left behind: %+v", left)
		}
		return len(left) == 0
	})
	return took
}

// end closes all members and checks that they leave nothing open. A goroutine that is left makes synctest fail.
func (w *world) end() {
	w.net.HealAll()
	for _, m := range w.members {
		w.net.Thaw(m.ip)
		if m.joining != nil {
			m.joining.cancel()
			<-m.joining.done
		}
		if c := m.cluster(); c != nil {
			_ = c.Close()
		}
		if open := w.net.Open(m.ip); open != 0 {
			w.t.Errorf("%s leaves %d sockets open", m.cfg.Name, open)
		}
	}
	if w.t.Failed() || os.Getenv("DISTLOCK_LOG") != "" {
		w.t.Logf("seed %d; rerun: DISTLOCK_SEED=%d go test -run '^%s$' .\n%s", w.seed, w.seed, topName(w.t), w.logs)
	}
}

func topName(t *testing.T) string {
	name := t.Name()
	for i, r := range name {
		if r == '/' {
			return name[:i]
		}
	}
	return name
}

// whenApplied calls f with each entry that a member applies. It must be set before the member joins.
func whenApplied(f func(m *member, r *raftfsm.Result)) func(*member) {
	return func(m *member) { m.hooks.Applied = func(r *raftfsm.Result) { f(m, r) } }
}
