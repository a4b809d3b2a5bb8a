//go:build unix

package proctest

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// quietEnv is for how long TestQuiet watches: make quiet sets an hour, CI two minutes.
const quietEnv = "DISTLOCK_QUIET"

// TestQuiet: processors that are busy with other things bring no election. Three durable members with default settings serve a light load
// while as many processes as there are processors do nothing but compute, each as entitled to one as a member is. Where no time is given it
// looks only at how elections are counted.
func TestQuiet(t *testing.T) {
	countsElections(t)
	text := os.Getenv(quietEnv)
	if text == "" {
		return
	}
	duration, err := time.ParseDuration(text)
	if err != nil || duration <= 0 {
		t.Fatalf("%s=%q is no time", quietEnv, text)
	}
	f := startFleet(t, 3, true, 0)
	f.voters(3)
	f.load(load{Workers: 1, Keys: 5, Hold: 5 * time.Millisecond, Rest: 100 * time.Millisecond})
	f.progress(50)
	leader := f.leader()
	before, nearBefore := f.lines(election), f.lines(nearMiss)
	if len(before) == 0 {
		t.Fatal("no election is seen, but there is a leader")
	}

	began, cores := now(), runtime.NumCPU()
	var burners []*burner
	for range cores {
		burners = append(burners, burn(t))
	}
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for end := time.After(duration); end != nil; {
		select {
		case <-end:
			end = nil
		case <-tick.C:
			for _, line := range f.lines(election, before...) {
				t.Errorf("after %v: %s", time.Duration(now()-began).Round(time.Second), line)
				before = append(before, line)
			}
		}
	}
	took := time.Duration(now() - began)
	var burnt time.Duration
	for _, b := range burners {
		burnt += b.end(t)
	}
	if busy := burnt.Seconds() / took.Seconds(); busy < float64(cores)/4 {
		t.Errorf("the processes that compute had %.2f of %d processors: these were not busy with them", busy, cores)
	}
	if last := f.leader(); last != leader {
		t.Errorf("%s leads, and %s did before", last.id, leader.id)
	}
	f.rest()

	waits, missed := f.waits(began), f.lines(nearMiss, nearBefore...)
	t.Logf("%v with %d processes that computed for %v on %d processors: %d grants, median %v, 99 of 100 within %v, worst %v after they were asked for; "+
		"%d times it came near an election", took.Round(time.Second), cores, burnt.Round(time.Second), cores,
		len(waits), waits[len(waits)/2], waits[len(waits)*99/100], waits[len(waits)-1], len(missed))
	for _, line := range missed[:min(len(missed), 40)] {
		t.Log(line)
	}

	leader.kill() // and this is what an election looks like
	f.leader(f.others(leader)...)
	if len(f.lines(election, before...)) == 0 {
		t.Error("the leader was killed, and no election is seen")
	}
	f.verdict()
}

// What raft logs when a server stands for election, for which it begins a new term, and when it wins; and what comes before that and need not
// end so: a server asks whether it would be elected, a leader has not heard of a follower for longer than its lease is, a disk does not answer.
var (
	election = regexp.MustCompile(`msg="?(pre-vote successful|election won|entering leader state)`)
	nearMiss = regexp.MustCompile(`msg="?(entering candidate state|failed to contact|the disk does not answer|the disk answers)`)
)

// lines are those of all processes' logs that match, but for those that are known.
func (f *fleet) lines(what *regexp.Regexp, known ...string) (found []string) {
	f.t.Helper()
	logs, err := filepath.Glob(filepath.Join(f.dir, "*.log"))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, path := range logs {
		text, err := os.ReadFile(path)
		if err != nil {
			f.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if line = filepath.Base(path) + ": " + strings.TrimSpace(line); what.MatchString(line) && !slices.Contains(known, line) {
				found = append(found, line)
			}
		}
	}
	return found
}

// waits are how long grants took that were asked for since then, the shortest first.
func (f *fleet) waits(since instant) []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	waits := []time.Duration{}
	for _, h := range f.holds {
		if h.Asked >= since {
			waits = append(waits, time.Duration(h.Granted-h.Asked))
		}
	}
	slices.Sort(waits)
	if len(waits) == 0 {
		f.t.Fatal("no grants")
	}
	return waits
}

// countsElections looks at lines as members log them.
func countsElections(t *testing.T) {
	for line, want := range map[string]bool{
		`time=2026-01-01T00:00:00Z level=INFO msg="pre-vote successful, starting election" term=2 tally=2 refused=0`:           true,
		`time=2026-01-01T00:00:00Z level=INFO msg="entering candidate state" node="Node at a [Candidate]" term=2`:              false,
		`time=2026-01-01T00:00:00Z level=INFO msg="entering leader state" leader="Node at a [Leader]"`:                         true,
		`time=2026-01-01T00:00:00Z level=INFO msg="entering follower state" follower="Node at a [Follower]" leader-address=""`: false,
		`time=2026-01-01T00:00:00Z level=WARN msg="failed to contact" server-id=a time=260ms`:                                  false,
	} {
		if election.MatchString(line) != want {
			t.Errorf("an election: %v: %s", !want, line)
		}
	}
}

// burnEnv makes the test's binary a process that computes until its standard input ends.
const burnEnv = "DISTLOCK_TEST_BURN"

func burnUntil(in io.Reader) {
	done := make(chan struct{})
	go func() { // ends with the test that started this process
		defer close(done)
		_, _ = io.Copy(io.Discard, in)
	}()
	for n := uint64(1); ; n++ {
		if n%(1<<20) == 0 {
			select {
			case <-done:
				return
			default:
			}
		}
	}
}

type burner struct {
	cmd *exec.Cmd
	in  io.Closer
}

func burn(t *testing.T) *burner {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := &burner{cmd: exec.Command(exe)}
	b.cmd.Env = append(os.Environ(), burnEnv+"=1")
	if b.in, err = b.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.cmd.Process.Kill() }) // one that has ended is as good
	return b
}

// end answers how long it has computed.
func (b *burner) end(t *testing.T) time.Duration {
	t.Helper()
	if err := b.in.Close(); err != nil {
		t.Error(err)
	}
	if err := b.cmd.Wait(); err != nil {
		t.Errorf("a process that computes: %v", err)
	}
	return b.cmd.ProcessState.UserTime()
}
