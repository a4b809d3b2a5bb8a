//go:build unix

package main

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// running is a demo of real processes.
type running struct {
	cmd   *exec.Cmd
	tmp   string
	lines chan string
	seen  []string
}

func startDemo(t *testing.T, args ...string) *running {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{cmd: exec.Command(exe, args...), tmp: t.TempDir(), lines: make(chan string)}
	r.cmd.Env = append(os.Environ(), playDemo+"=1", "TMPDIR="+r.tmp)
	r.cmd.Stderr = os.Stderr
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.cmd.Process.Kill() })
	go func() { // ended by the demo's end
		defer close(r.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			r.lines <- s.Text()
		}
	}()
	return r
}

// until reads lines until one has text in it; "" reads all.
func (r *running) until(t *testing.T, text string) {
	t.Helper()
	for line := range r.lines {
		r.seen = append(r.seen, line)
		if text != "" && strings.Contains(line, text) {
			return
		}
	}
	if text != "" {
		t.Fatalf("the demo ended without %q:\n%s", text, r.output())
	}
}

func (r *running) output() string { return strings.Join(r.seen, "\n") }

var shopLine = regexp.MustCompile(`(?:is process|started again \(pid) (\d+)(?:\)| on (\S+))`)

// leftNothing waits until no process, port or folder of the demo is there. They may still be on their way out when it was killed.
func (r *running) leftNothing(t *testing.T) {
	t.Helper()
	var pids []int
	var addrs []string
	for _, m := range shopLine.FindAllStringSubmatch(r.output(), -1) {
		pid, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
		if m[2] != "" {
			addrs = append(addrs, m[2])
		}
	}
	if len(addrs) != 3 {
		t.Fatalf("%d shops found in the output:\n%s", len(addrs), r.output())
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(10 * time.Second); ; {
		left := r.left(t, pids, addrs)
		if left == "" {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("left: %s\n%s", left, r.output())
		}
	}
}

// left names one thing that is still there.
func (r *running) left(t *testing.T, pids []int, addrs []string) string {
	t.Helper()
	for _, pid := range pids {
		if alive(pid) {
			return "process " + strconv.Itoa(pid)
		}
	}
	for _, addr := range addrs {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err.Error()
		}
		l.Close()
		p, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err.Error()
		}
		p.Close()
	}
	entries, err := os.ReadDir(r.tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		return "folder " + e.Name()
	}
	return ""
}

// alive tells whether pid runs; what is dead and only not yet buried by its new parent does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || !bytes.Contains(stat, []byte(") Z "))
}

func (r *running) exitCode(t *testing.T) int {
	t.Helper()
	err := r.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return r.cmd.ProcessState.ExitCode()
}

func TestDemo(t *testing.T) {
	t.Parallel()
	r := startDemo(t, "-duration", "5s", "-seed", "5")
	r.until(t, "")
	code := r.exitCode(t)
	last := r.seen[len(r.seen)-1]
	if ok := regexp.MustCompile(`^OK served=\d+ oversold=0 handoffs=\d+ rejected=[1-9]\d* failover=\d+ms seed=5$`); code != 0 || !ok.MatchString(last) {
		t.Errorf("code %d, output:\n%s", code, r.output())
	}
	if strings.Contains(r.output(), "\x1b") {
		t.Errorf("escape codes in a pipe: %q", r.output())
	}
	r.leftNothing(t)
}

func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	r := startDemo(t, "-memory")
	r.until(t, "newest fence")
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	r.until(t, "")
	if code, last := r.exitCode(t), r.seen[len(r.seen)-1]; code != 1 || !strings.HasPrefix(last, "BROKEN ") || !strings.Contains(r.output(), "interrupted") {
		t.Errorf("code %d, output:\n%s", code, r.output())
	}
	r.leftNothing(t)
}

// TestDemoParentKilled kills the parent while one of its shops is paused: even that one must notice.
func TestDemoParentKilled(t *testing.T) {
	t.Parallel()
	r := startDemo(t, "-duration", "1s")
	r.until(t, "It holds fence")
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	r.until(t, "")
	r.exitCode(t)
	r.leftNothing(t)
}
