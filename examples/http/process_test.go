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
)

// playShop makes the test's binary the example, so that its tests run real processes without building anything.
const playShop = "DISTLOCK_TEST_PLAY_SHOP"

func TestMain(m *testing.M) {
	if os.Getenv(playShop) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// freeAddrs picks n loopback addresses.
func freeAddrs(t *testing.T, n int) (addrs []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

// shop is one process of the example.
type shop struct {
	cmd *exec.Cmd
	web string
	out *bufio.Reader
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
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	addrs := freeAddrs(t, 6)
	binds, webs := addrs[:3], addrs[3:]
	shops := make([]*shop, 3)
	for i := range shops {
		cmd := exec.Command(exe, "-bind", binds[i], "-http", webs[i], "-peers", binds[(i+1)%3]+","+binds[(i+2)%3])
		cmd.Env = append(os.Environ(), playShop+"=1")
		out, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		shops[i] = &shop{cmd: cmd, web: webs[i], out: bufio.NewReader(out)}
	}
	for _, s := range shops {
		line, err := s.out.ReadString('\n')
		if err != nil || !strings.Contains(line, "on http://"+s.web) {
			t.Fatalf("%s said %q, %v", s.web, line, err)
		}
	}
	var last uint64
	for range 2 {
		for _, s := range shops {
			waitUntilServing(t, s.web)
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
	words, _ := io.ReadAll(shops[0].out)
	if err := shops[0].cmd.Wait(); err != nil {
		t.Errorf("Ctrl-C: %v: %s", err, words)
	}
	for _, s := range shops[1:] {
		if fence := s.order(t); fence <= last {
			t.Errorf("fence %d after %d", fence, last)
		}
	}
}

// waitUntilServing: the shop says its address just before it listens.
func waitUntilServing(t *testing.T, addr string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(5 * time.Second); ; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal(err)
		}
	}
}
