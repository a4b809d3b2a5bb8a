package distlock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// guarded are the ways in which a cluster is kept from strangers.
var guarded = []struct {
	name   string
	change func(i int, c *Config)
	sealed bool // what strangers say is never taken for a member's, so they may forge all that members say
}{
	{"plain", func(int, *Config) {}, false},
	{"secret", func(_ int, c *Config) { c.Secret = theSecret }, true},
}

const (
	fewPayloads  = 4000    // in go test
	manyPayloads = 100_000 // with DISTLOCK_MALICE
	throwerCount = 16
	mostWait     = 10 * time.Second // of a lock for which two others wait at most; far less, on a machine that has nothing else to do
	mostHeap     = 64 << 20
)

// Whatever strangers send to both sockets of all members of a cluster that works: none stops or stalls, no lock is given twice or lost, and when they
// are gone nothing of them is left.
func TestMalice(t *testing.T) {
	n := fewPayloads
	if s := os.Getenv("DISTLOCK_MALICE"); s == "1" {
		n = manyPayloads
	} else if s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range guarded {
		t.Run(g.name, func(t *testing.T) {
			leavesNothing(t, func(tr *traces) { malice(t, tr, n, g.change, g.sealed) })
		})
	}
}

func malice(t *testing.T, tr *traces, n int, change func(int, *Config), sealed bool) {
	heard := newRecorder()
	env := machine()
	env.network = heard
	lines := &lineCounter{}
	ms := newMembersIn(t, 3, func(int) surroundings { return env }, change, func(_ int, c *Config) { c.Logger = lines.logger(t) })
	for _, c := range ms.configs {
		tr.of(c)
	}
	defer ms.closeAll()
	ctx := testContext(t, 10*time.Minute)
	ms.settle(t, ctx, true)
	load := startLoad(t, ms)
	eventually(t, ctx, "streams and packets to repeat", func() bool {
		_, packets := heard.packet(0)
		return load.locks() > 200 && len(heard.kinds()) > 0 && packets
	})

	before := ms.measure(t)
	said := lines.n.Load()
	peak := watchPeak()
	seed, began := seedOf(t), time.Now()
	counts := throwAll(t, n, func(i uint64) *thrower {
		return &thrower{heard: heard, rnd: rand.New(rand.NewPCG(seed, i)), addrs: addresses(ms), group: defaultGroup, forges: sealed}
	})
	most, took := peak(), time.Since(began)

	load.stop()
	ms.settle(t, ctx, sealed)
	for _, c := range ms.all {
		lock := mustLock(t, ctx, c, "afterwards")
		load.raise(lock.Fence())
		mustUnlock(t, ctx, lock)
	}
	stats, err := ms.all[0].Stats(ctx)
	if err != nil || stats.Keys != 0 || stats.Sessions != len(ms.all) {
		t.Errorf("afterwards there are %d keys and %d sessions (%v)", stats.Keys, stats.Sessions, err)
	}
	for _, fault := range load.faults {
		t.Error(fault)
	}
	if load.worst > mostWait {
		t.Errorf("a lock took %s, limit %s", load.worst, mostWait)
	}
	after, left := ms.nothingLeft(t, before)
	t.Logf("%v\n%d locks, worst wait %s; heap %d KiB before, %d after; resident %d MiB before, %d at most; goroutines %d, %d; %d lines of log; %s for throwing",
		counts, load.locks(), load.worst.Round(time.Millisecond), before.heap>>10, after.heap>>10, before.resident>>20, most>>20,
		before.goroutines, after.goroutines, lines.n.Load()-said, took.Round(time.Millisecond))
	if left != "" {
		t.Errorf("of the strangers is left: %s", left)
	}
	if most > before.resident+mostHeap && !underRace { // the race detector keeps a shadow of everything
		t.Errorf("the process had %d MiB more than before", (most-before.resident)>>20)
	}
}

// settle waits until every member sees all others and is ready, and, if none is to believe strangers, nobody sees another cluster.
func (ms *members) settle(t *testing.T, ctx context.Context, sealed bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		missing := ""
		for _, c := range ms.all {
			s := c.Status()
			alive := 0
			for _, m := range s.Members {
				if m.State == Alive {
					alive++
				}
			}
			if !s.Ready || alive != len(ms.all) || sealed && len(s.Conflicts) > 0 {
				missing += fmt.Sprintf("%+v\n", s)
			}
		}
		if missing == "" {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("not all members see each other:\n%s", missing)
		}
		waitABit(ctx)
	}
}

func addresses(ms *members) (all []string) {
	for _, c := range ms.configs {
		all = append(all, c.Bind)
	}
	return all
}

func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("DISTLOCK_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("DISTLOCK_SEED=%d", seed)
	return seed
}

// throwAll throws n payloads from several addresses and answers how many of each kind.
func throwAll(t *testing.T, n int, makeThrower func(i uint64) *thrower) map[string]int {
	t.Helper()
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(n))
	var mu sync.Mutex // guards counts
	counts := map[string]int{}
	for i := range uint64(throwerCount) {
		wg.Go(func() { // ends when all are thrown
			th := makeThrower(i)
			udp, err := net.ListenPacket("udp", stranger(i)+":0")
			if err != nil {
				t.Error(err)
				return
			}
			defer udp.Close()
			for left.Add(-1) >= 0 {
				way := throws[th.rnd.IntN(len(throws))]
				p := way.make(th)
				mu.Lock()
				counts[way.name]++
				mu.Unlock()
				if p.udp {
					to, err := net.ResolveUDPAddr("udp", p.to)
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = udp.WriteTo(p.payload, to) // a full buffer loses it, as a network does
					continue
				}
				throwStream(t, stranger(i), p, th.rnd.IntN(3))
			}
		})
	}
	wg.Wait()
	return counts
}

// stranger is an address of this machine that no member has, where the system has more than one.
func stranger(i uint64) string {
	if runtime.GOOS == "linux" {
		return fmt.Sprintf("127.0.0.%d", 2+i%4)
	}
	return "127.0.0.1"
}

// throwStream opens a stream, says p, and goes: at once, by a reset, or when it was answered or closed.
func throwStream(t *testing.T, from string, p thrown, leave int) {
	d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", p.to)
	if err != nil {
		t.Errorf("a member does not listen: %v", err)
		return
	}
	defer c.Close()
	tcp := c.(*net.TCPConn)
	_ = tcp.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = tcp.Write(p.payload) // the other side may have closed by now
	switch leave {
	case 1:
		_ = tcp.SetLinger(0)
	case 2:
		_ = tcp.CloseWrite()
		_ = tcp.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, _ = io.Copy(io.Discard, tcp)
	}
}

// lockLoad is what the members of a cluster do meanwhile: they take locks of few keys and give them back.
type lockLoad struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // guards what follows
	holder map[string]string
	last   map[string]Fence
	great  Fence
	n      int
	worst  time.Duration
	faults []string
}

func startLoad(t *testing.T, ms *members) *lockLoad {
	ctx, cancel := context.WithCancel(context.Background())
	l := &lockLoad{cancel: cancel, holder: map[string]string{}, last: map[string]Fence{}}
	for i, c := range ms.all {
		for j := range 2 {
			l.wg.Go(func() { // ends with ctx
				for ctx.Err() == nil {
					l.once(ctx, c, fmt.Sprintf("m%d.%d", i, j), fmt.Sprint("key ", rand.N(4)))
					waitABit(ctx)
				}
			})
		}
	}
	t.Cleanup(l.stop)
	return l
}

// once takes a lock and gives it back.
func (l *lockLoad) once(ctx context.Context, c *Cluster, who, key string) {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, 2*mostWait)
	defer cancel()
	lock, err := c.Lock(limited, key)
	if err != nil {
		if ctx.Err() == nil {
			l.fault("%s waited for %q: %v", who, key, err)
		}
		return
	}
	took := time.Since(began)
	l.mu.Lock()
	l.worst = max(l.worst, took)
	l.n++
	if other := l.holder[key]; other != "" {
		l.faults = append(l.faults, fmt.Sprintf("%s has %q, and so has %s", who, key, other))
	}
	if lock.Fence() <= l.last[key] {
		l.faults = append(l.faults, fmt.Sprintf("%q has fence %d after %d", key, lock.Fence(), l.last[key]))
	}
	l.holder[key], l.last[key], l.great = who, lock.Fence(), max(l.great, lock.Fence())
	l.mu.Unlock()
	runtime.Gosched()
	select {
	case <-lock.Done():
		l.fault("%s lost %q: %v", who, key, lock.Err())
	default:
	}
	l.mu.Lock()
	l.holder[key] = ""
	l.mu.Unlock()
	if err := lock.Unlock(context.WithoutCancel(ctx)); err != nil && !errors.Is(err, ErrClosed) {
		l.fault("%s gave %q back: %v", who, key, err)
	}
}

func (l *lockLoad) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.faults) < 20 {
		l.faults = append(l.faults, fmt.Sprintf(format, args...))
	}
}

func (l *lockLoad) locks() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// raise notes a fence that must be greater than all before.
func (l *lockLoad) raise(f Fence) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f <= l.great {
		l.faults = append(l.faults, fmt.Sprintf("fence %d after %d", f, l.great))
	}
	l.great = f
}

func (l *lockLoad) stop() {
	l.cancel()
	l.wg.Wait()
}

// measured is what this process has.
type measured struct {
	heap, resident      uint64 // bytes
	goroutines, streams int    // streams only of strangers
}

func (ms *members) measure(t *testing.T) measured {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return measured{heap: m.HeapAlloc, resident: residentBytes(), goroutines: countLabelled(t), streams: ms.strangersStreams(t)}
}

// nothingLeft waits until this process has about what it had before, and says what it has more.
func (ms *members) nothingLeft(t *testing.T, before measured) (after measured, left string) {
	t.Helper()
	for ctx := testContext(t, time.Minute); ; waitABit(ctx) {
		after = ms.measure(t)
		switch {
		case after.streams > 0:
			left = fmt.Sprintf("%d streams", after.streams)
		case after.goroutines > before.goroutines+20:
			left = fmt.Sprintf("%d goroutines:\n%s", after.goroutines-before.goroutines, strings.Join(labelled(t), "\n\n"))
		case after.heap > before.heap+mostHeap:
			left = fmt.Sprintf("%d KiB", (after.heap-before.heap)>>10)
		default:
			return after, ""
		}
		if ctx.Err() != nil {
			return after, left
		}
	}
}

// strangersStreams are those of the members whose other end is not in this process (any more).
func (ms *members) strangersStreams(t *testing.T) (n int) {
	all := ownSockets(t)
	for _, s := range all {
		theirs := func(o ownSocket) bool { return o.Net == "tcp" && o.Local == s.Remote && o.Remote == s.Local }
		ours := func(c Config) bool { return portOf(t, c.Bind) == s.Local }
		if s.Net == "tcp" && !s.Listens && slices.ContainsFunc(ms.configs, ours) && !slices.ContainsFunc(all, theirs) {
			n++
		}
	}
	return n
}

// countLabelled is how many goroutines this test began.
func countLabelled(t *testing.T) (n int) {
	for _, stack := range labelled(t) {
		for _, line := range strings.Split(stack, "\n") {
			if count, _, ok := strings.Cut(line, " @ "); ok {
				one, _ := strconv.Atoi(count)
				n += one
			}
		}
	}
	return n
}

// residentBytes is the memory that this process has of the machine; 0 where the system doesn't tell.
func residentBytes() uint64 {
	p, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident uint64
	_, _ = fmt.Fscan(bytes.NewReader(p), &size, &resident)
	return resident * uint64(os.Getpagesize())
}

// lineCounter counts the lines of a log.
type lineCounter struct{ n atomic.Int64 }

func (l *lineCounter) logger(t *testing.T) *slog.Logger {
	w := testWriterOf(t)
	return slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		l.n.Add(1)
		return w.Write(p)
	}), nil))
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// watchPeak looks at residentBytes until the answer is called, which tells the most.
func watchPeak() func() uint64 {
	stop, done := make(chan struct{}), make(chan uint64)
	go func() { // ends with stop
		var most uint64
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			most = max(most, residentBytes())
			select {
			case <-tick.C:
			case <-stop:
				done <- most
				return
			}
		}
	}()
	return func() uint64 { close(stop); return <-done }
}
