package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain makes this binary a member when the test starts it as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == memberMode {
		runMember(os.Stdin, os.Stdout)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A whole run, as short as can be: every part brings its table, with a figure in every cell, and nothing stays behind.
func TestRun(t *testing.T) {
	dir, profiles := t.TempDir(), t.TempDir()
	o, err := parse([]string{
		"-callers", "16", "-measure", "200ms", "-warm", "50ms", "-kills", "1", "-starts", "2", "-idle", "100ms", "-keys", "2000",
		"-sizes", "3", "-swarm", "10", "-held", "30", "-settle", "10ms", "-flooders", "64", "-rounds", "1",
		"-dir", dir, "-profile", profiles,
	}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx, o, &out, io.Discard); err != nil {
		t.Fatalf("%v; so far:\n%s", err, &out)
	}
	t.Logf("\n%s", &out)
	tables := map[string]int{} // rows of the table under each title
	title := ""
	for line := range strings.Lines(out.String()) {
		line = strings.TrimSpace(line)
		if after, ok := strings.CutPrefix(line, "### "); ok {
			title = after
		}
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		tables[title]++
		if regexp.MustCompile(`\|\s*\||\| 0 \||NaN|not measured`).MatchString(line) {
			t.Errorf("a cell without a figure: %s", line)
		}
	}
	want := map[string]int{
		"Lock and Unlock": 1 + 2*2, "From SIGKILL of the leader to the next grant": 1 + 2, "One process alone": 1 + 1,
		"Heap of a cluster in memory before, with and after 2,000 keys": 1 + 3,
		"Lock and Unlock of each kind, in memory, taken by a follower":  1 + len(kinds),
		"A fleet comes together": 1 + 2, "A fleet idles for 100ms": 1 + 2*2, "The leader of a fleet is killed": 1 + 2,
		"Two members of 4 callers beside a third of 64": 1 + 2*3*2, "With a secret and without, medians of rounds by turns": 1 + 2*2,
	}
	for title, rows := range want {
		if tables[title] != rows {
			t.Errorf("%q has %d rows, want %d", title, tables[title], rows)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if left, err := os.ReadDir(profiles); err != nil || len(left) != 3*3*3*2*2+3*(3+7+7) { // of throughput, twice of secret, and of those of the fleet who live
		t.Errorf("%d profiles, %v", len(left), err)
	}
}

func TestSeveralCallers(t *testing.T) {
	o, err := parse([]string{"-callers", "4,256"}, t.Output())
	if err != nil || !slices.Equal(o.callers, []int{4, 256}) {
		t.Errorf("%v, %v", o.callers, err)
	}
}

func TestBadFlags(t *testing.T) {
	for _, flags := range []string{
		"-parts speed", "-stores disk", "-from anywhere", "-callers 0", "-callers 1,x", "-kills 0", "-measure 0s", "-warm -1s", "now", "-sizes 2", "-swarm 3", "-held 0", "-flooders 0", "-rounds 0",
	} {
		if _, err := parse(strings.Fields(flags), io.Discard); err == nil {
			t.Errorf("%q is taken", flags)
		}
	}
}

// A run that is broken off ends soon, and its members with it.
func TestInterrupted(t *testing.T) {
	dir := t.TempDir()
	o, err := parse([]string{"-parts", "throughput", "-stores", "memory", "-measure", "10m", "-dir", dir}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	progress := writerFunc(func(p []byte) (int, error) { // the first note comes with the first load
		cancel()
		return len(p), nil
	})
	if err := run(ctx, o, io.Discard, progress); err == nil {
		t.Error("no error")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestFigures(t *testing.T) {
	var all []time.Duration
	for i := range 100 {
		all = append(all, time.Duration(100-i)*time.Millisecond)
	}
	for _, c := range []struct{ got, want string }{
		{short(median(all)), "51 ms"},
		{short(quantile([]time.Duration{1, 2, 3}, 0.99)), "0.003 µs"},
		{short(1234 * time.Millisecond), "1.23 s"},
		{short(45678 * time.Millisecond), "45.7 s"},
		{short(123456 * time.Nanosecond), "123 µs"},
		{grouped(7), "7"},
		{grouped(1234567), "1,234,567"},
		{mebi(3 << 19), "1.5 MiB"},
		{judged(true, "%g %%", 1.0), " (1 %: reached)"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
