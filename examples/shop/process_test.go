//go:build unix

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock"
)

// running is the program, as it is run for real.
type running struct {
	cmd    *exec.Cmd
	tmp    string // where it makes its folder
	out    *bufio.Reader
	said   strings.Builder
	logged chan string // what it and the shops logged, once the last of them has ended
}

func startShop(t *testing.T, d database, args ...string) *running {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"-v", "-duration", "1s", "-database", string(d.kind), "-dsn", d.dsn}, args...)
	r := &running{cmd: exec.Command(exe, args...), tmp: t.TempDir(), logged: make(chan string, 1)}
	r.cmd.Env = append(os.Environ(), playShop+"=1", "TMPDIR="+r.tmp)
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.out = bufio.NewReader(out)
	log, theirs, err := os.Pipe() // which the shops inherit: it ends with the last of them
	if err != nil {
		t.Fatal(err)
	}
	r.cmd.Stderr = theirs
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	t.Cleanup(func() { r.cmd.Process.Kill() })
	go func() { // ended by the end of the last shop
		all, _ := io.ReadAll(log)
		log.Close()
		r.logged <- string(all)
	}()
	return r
}

// until reads lines until one has text in it, which is answered; "" reads all.
func (r *running) until(t *testing.T, text string) {
	t.Helper()
	for {
		line, err := r.out.ReadString('\n')
		r.said.WriteString(line)
		switch {
		case text != "" && strings.Contains(line, text):
			return
		case err != nil && text == "":
			return
		case err != nil:
			r.end(t)
			t.Fatalf("it ended without %q:\n%s", text, &r.said)
		}
	}
}

// end waits for the end of all its processes, and answers the exit code of the first and the logs of all.
func (r *running) end(t *testing.T) (code int, logged string) {
	t.Helper()
	r.cmd.Wait()
	select {
	case logged = <-r.logged:
	case <-time.After(time.Minute):
		t.Fatalf("a minute after its end a shop is still there:\n%s", &r.said)
	}
	return r.cmd.ProcessState.ExitCode(), logged
}

// leftNothing looks for what the program should have removed at its end.
func (r *running) leftNothing(t *testing.T, d database) {
	t.Helper()
	entries, err := os.ReadDir(r.tmp)
	if err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if d.kind != distlock.Postgres {
		return
	}
	db, err := books{Database: d.kind, DSN: d.dsn, Schema: "public"}.open()
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var schemas int
	prefix := fmt.Sprintf("%s%d_", schemaPrefix, r.cmd.Process.Pid)
	err = db.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_namespace WHERE starts_with(nspname, $1)`, prefix).Scan(&schemas)
	if err != nil || schemas > 0 {
		t.Errorf("%d schemas left, %v", schemas, err)
	}
}

// line are the numbers of one line of the table.
type line struct{ orders, oversold, attempted, rejected int }

func table(said string) map[mode]line {
	lines := make(map[mode]line)
	for text := range strings.Lines(said) {
		var m mode
		var l line
		if n, _ := fmt.Sscan(text, &m, &l.orders, &l.oversold, &l.attempted, &l.rejected); n == 5 {
			lines[m] = l
		}
	}
	return lines
}

// TestShop runs all modes. In those with locks the holder is paused once where it follows and once where it leads the cluster.
func TestShop(t *testing.T) {
	t.Parallel()
	for _, d := range databases(t) {
		t.Run(string(d.kind), func(t *testing.T) {
			t.Parallel()
			r := startShop(t, d)
			r.until(t, "")
			code, logged := r.end(t)
			said := r.said.String()
			lines := table(said)
			n, l, f := lines[none], lines[locks], lines[fences]
			ok := code == 0 && strings.HasSuffix(said, "\nOK\n") &&
				n.oversold > 0 && n.attempted > 0 && n.rejected == 0 &&
				l.oversold > 0 && l.attempted >= 2 && l.rejected == 0 &&
				f.orders > 0 && f.oversold == 0 && f.attempted >= 2 && f.rejected == f.attempted
			for text, times := range map[string]int{"which follows": 2, "which leads": 2, "late write was applied": 2, "late write was rejected": 2} {
				ok = ok && strings.Count(said, text) == times
			}
			if !ok {
				t.Errorf("code %d, output:\n%s\nlogs:\n%s", code, said, logged)
			}
			r.leftNothing(t, d)
		})
	}
}

// TestShopInterrupted ends the program while a shop is paused: it tidies up all the same.
func TestShopInterrupted(t *testing.T) {
	t.Parallel()
	for _, d := range databases(t) {
		t.Run(string(d.kind), func(t *testing.T) {
			t.Parallel()
			r := startShop(t, d, "-mode", "fences")
			r.until(t, "is paused with fence")
			if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			r.until(t, "")
			if code, logged := r.end(t); code != 1 || !strings.Contains(r.said.String(), "FAILED: mode fences: ") ||
				strings.Contains(r.said.String(), "signal: killed") {
				t.Errorf("code %d, output:\n%s\nlogs:\n%s", code, &r.said, logged)
			}
			r.leftNothing(t, d)
		})
	}
}

// TestShopKilled kills the program while a shop is paused: even that one must notice.
func TestShopKilled(t *testing.T) {
	t.Parallel()
	r := startShop(t, database{kind: distlock.SQLite}, "-mode", "fences")
	r.until(t, "is paused with fence")
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	r.until(t, "")
	r.end(t)
}
