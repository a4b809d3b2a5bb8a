package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
)

// play runs the whole demo on goroutines instead of processes, in virtual time.
func play(t *testing.T, c *fakeCluster, launch func(folder, name string) (process, error)) (output string, code int, folder string) {
	t.Helper()
	folder, err := os.MkdirTemp(t.TempDir(), "demo")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	bubble.Test(t, func(t *testing.T) {
		s := newShow(options{n: 3, duration: 20 * time.Second, seed: 7}, &screen{w: &out}, folder, launch)
		code = s.finish(s.run(t.Context()))
	})
	return out.String(), code, folder
}

func lastLine(output string) string {
	lines := strings.Split(strings.TrimRight(output, "\n"), "\n")
	return lines[len(lines)-1]
}

func TestShowGoesWell(t *testing.T) {
	c := newFakeCluster()
	out, code, folder := play(t, c, c.launch)
	last := lastLine(out)
	if code != 0 || !strings.HasPrefix(last, "OK served=") || !strings.Contains(last, " oversold=0 ") ||
		!strings.Contains(last, " rejected=1 ") || !strings.HasSuffix(last, " seed=7") {
		t.Fatalf("code %d, output:\n%s", code, out)
	}
	for _, want := range []string{"OVERSOLD by", "leads", "SIGKILL to the leader, shop-1", "Next grant after", "SIGSTOP to a holder, shop-", "Rejected",
		"0 too many"} {
		if canPause && !strings.Contains(out, want) {
			t.Errorf("no %q in the output:\n%s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Errorf("escape codes without a terminal:\n%q", out)
	}
	for line := range strings.SplitSeq(out, "\n") {
		if len(line) > width {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("output:\n%s", out)
	}
}

func TestShowSaysBroken(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault func(c *fakeCluster)
		want  string
	}{
		{"a lock granted twice", func(c *fakeCluster) { c.twice = true }, "but it was"},
		{"a fence given twice", func(c *fakeCluster) { c.sameFence = true }, "was given to"},
		{"no grant after the leader's death", func(c *fakeCluster) { c.lostQuorum = true }, "a lock is granted after the leader's death: it did not happen"},
		{"a paused holder keeps its lock", func(c *fakeCluster) { c.neverExpire = true }, "another shop gets the paused one's lock: it did not happen"},
		{"nobody can join", func(c *fakeCluster) { c.mayNotJoin = true }, "join: no quorum: nobody was seen"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newFakeCluster()
			test.fault(c)
			out, code, _ := play(t, c, c.launch)
			if code == 0 || !strings.HasPrefix(lastLine(out), "BROKEN ") || !strings.Contains(out, test.want) {
				t.Errorf("code %d, want %q in the output:\n%s", code, test.want, out)
			}
		})
	}
}

// TestShowNoticesDeath: a shop that dies unasked breaks the demo, and its last words are shown.
func TestShowNoticesDeath(t *testing.T) {
	c := newFakeCluster()
	out, code, _ := play(t, c, func(folder, name string) (process, error) {
		p, err := c.launch(folder, name)
		if name == "shop-3" {
			time.AfterFunc(4*time.Second, func() { p.kill() })
		}
		return p, err
	})
	if code == 0 || !strings.HasPrefix(lastLine(out), "BROKEN ") || !strings.Contains(out, "shop-3 (pid 1): it died unasked") ||
		!strings.Contains(out, "its last words") {
		t.Errorf("code %d, output:\n%s", code, out)
	}
}

// TestShowNoticesOddWords: what is no message of a shop breaks the demo instead of being skipped.
func TestShowNoticesOddWords(t *testing.T) {
	c := newFakeCluster()
	out, code, _ := play(t, c, func(folder, name string) (process, error) {
		p, err := c.launch(folder, name)
		p.(*fakeProcess).Reader = io.MultiReader(strings.NewReader(`{"verb":"sing"}`+"\n"), p.(*fakeProcess).Reader)
		return p, err
	})
	if code == 0 || !strings.Contains(out, `it said "sing"`) {
		t.Errorf("code %d, output:\n%s", code, out)
	}
}

func TestShowInterrupted(t *testing.T) {
	c := newFakeCluster()
	folder, err := os.MkdirTemp(t.TempDir(), "demo")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		s := newShow(options{n: 3, duration: 20 * time.Second, seed: 7}, &screen{w: &out}, folder, c.launch)
		if code := s.finish(s.run(ctx)); code == 0 {
			t.Error("code 0")
		}
	})
	if !strings.Contains(out.String(), "interrupted") || !strings.HasPrefix(lastLine(out.String()), "BROKEN ") {
		t.Errorf("output:\n%s", out.String())
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
}
