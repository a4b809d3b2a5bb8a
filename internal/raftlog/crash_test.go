package raftlog

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"
)

// crashChild appends, compacts and truncates for ever; it says "last N" after an append was acknowledged, and "cut N" before it cuts down to N.
func crashChild(dir string) {
	b, err := openBolt(dir)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	g := Guard(b, GuardConfig{})
	g.SetUint64(keyCurrentTerm, 1)
	for round := 0; ; round++ {
		last, _ := g.LastIndex()
		if err := g.StoreLogs(entries(last+1, last+uint64(1+rand.IntN(400)), 1)); err != nil {
			fmt.Println("error", err)
			return
		}
		last, _ = g.LastIndex()
		fmt.Println("last", last)
		first, _ := g.FirstIndex()
		switch {
		case round%7 == 6:
			fmt.Println("cut", first+10)
			g.DeleteRange(first+11, last)
		case round%3 == 2:
			g.DeleteRange(first, last-50)
		}
	}
}

// A process killed at any moment leaves a contiguous log with all that was acknowledged.
func TestKilledProcessLeavesASoundLog(t *testing.T) {
	if dir := os.Getenv("RAFTLOG_CHILD"); dir != "" {
		crashChild(dir)
		return
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	for range 8 {
		child := exec.Command(os.Args[0], "-test.run=^TestKilledProcessLeavesASoundLog$")
		child.Env = append(os.Environ(), "RAFTLOG_CHILD="+dir)
		out, err := child.StdoutPipe()
		mustDo(t, err)
		mustDo(t, child.Start())
		var acked uint64
		lines := bufio.NewScanner(out)
		for stop := rnd.IntN(40); stop >= 0 && lines.Scan(); stop-- {
			acked = crashLine(t, lines.Text(), acked)
		}
		time.AfterFunc(time.Duration(rnd.IntN(3000))*time.Microsecond, func() { child.Process.Kill() }) // somewhere within the next write
		for lines.Scan() {
			acked = crashLine(t, lines.Text(), acked)
		}
		child.Wait()
		b := openTest(t, dir) // verifies that the log is contiguous
		if last, _ := b.LastIndex(); last < acked {
			t.Fatalf("the log ends at %d, %d was acknowledged", last, acked)
		}
		mustDo(t, b.Close())
	}
}

func crashLine(t *testing.T, line string, acked uint64) uint64 {
	t.Helper()
	var n uint64
	if _, err := fmt.Sscanf(line, "last %d", &n); err == nil {
		return n
	}
	if _, err := fmt.Sscanf(line, "cut %d", &n); err != nil {
		t.Fatal(line)
	}
	return min(acked, n)
}
