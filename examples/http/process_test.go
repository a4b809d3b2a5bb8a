//go:build unix

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/testport"
)

// playShop makes the test's binary the example, so that its tests run real processes without building anything: with "main" the example as
// it is, with "slow" one whose orders take as long as their clients want.
const playShop = "DISTLOCK_TEST_PLAY_SHOP"

func TestMain(m *testing.M) {
	switch os.Getenv(playShop) {
	case "main":
		main()
	case "slow":
		run(slowOrder)
	default:
		os.Exit(m.Run())
	}
}

func freeAddrs(t *testing.T, n int) []string { t.Helper(); return testport.HTTPExample.Pick(t, n) }

// shop is one process of the example.
type shop struct {
	cmd *exec.Cmd
	web string
	out *bufio.Reader // what it says
}

// start starts a shop and goes on at once.
func start(t *testing.T, play, web string, args ...string) *shop {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, append([]string{"-http", web}, args...)...)
	cmd.Env = append(os.Environ(), playShop+"="+play)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return &shop{cmd: cmd, web: web, out: bufio.NewReader(out)}
}

// waitUntilServing: the shop says its address just before it listens.
func (s *shop) waitUntilServing(t *testing.T) {
	t.Helper()
	for said := ""; ; {
		line, err := s.out.ReadString('\n')
		if said += line; err != nil {
			t.Fatalf("%s ended and had said:\n%s", s.web, said)
		}
		if strings.Contains(line, "on http://"+s.web) {
			break
		}
	}
	within(t, 5*time.Second, "listens on "+s.web, func() bool { return listens(s.web) })
}

func listens(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// exit waits for the end of the process, with all that it said until then. After half a minute it is killed, which is an error.
func (s *shop) exit() (words string, err error) {
	late := time.AfterFunc(30*time.Second, func() { s.cmd.Process.Kill() })
	defer late.Stop()
	all, _ := io.ReadAll(s.out)
	return string(all), s.cmd.Wait()
}

// within fails the test unless done says so in time.
func within(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(limit); !done(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not after %s: %s", limit, what)
		}
	}
}

func (s *shop) order(t *testing.T) (fence uint64) {
	t.Helper()
	client := http.Client{Timeout: 20 * time.Second}
	resp, err := client.Post("http://"+s.web+"/order", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(body), "sold under fence %d", &fence); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", s.web, resp.Status, body)
	}
	return fence
}

// TestThreeTerminals does what the comment at the top of the example says.
func TestThreeTerminals(t *testing.T) {
	t.Parallel()
	addrs := freeAddrs(t, 6)
	binds, webs := addrs[:3], addrs[3:]
	shops := make([]*shop, 3)
	for i := range shops {
		shops[i] = start(t, "main", webs[i], "-bind", binds[i], "-peers", binds[(i+1)%3]+","+binds[(i+2)%3])
	}
	for _, s := range shops {
		s.waitUntilServing(t)
	}
	var last uint64
	for range 2 {
		for _, s := range shops {
			fence := s.order(t)
			if fence <= last {
				t.Errorf("fence %d after %d", fence, last)
			}
			last = fence
		}
	}
	if err := shops[0].cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if words, err := shops[0].exit(); err != nil {
		t.Errorf("Ctrl-C: %v: %s", err, words)
	}
	for _, s := range shops[1:] {
		if fence := s.order(t); fence <= last {
			t.Errorf("fence %d after %d", fence, last)
		}
	}
}
