package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// process is a shop's process as the parent handles it.
type process interface {
	io.Writer // to its standard input
	io.Reader // from its standard output; ends when it is dead
	pid() int
	kill() error
	pause() error
	resume() error
	wait() error // until it is dead, after the Reader has ended: how it exited
	log() string // its last words
}

// childMode as the first argument makes the demo's binary a shop.
const childMode = "shop"

// osProcess is this binary, started again.
type osProcess struct {
	io.Writer
	io.Reader
	cmd     *exec.Cmd
	logPath string
}

// launch starts a shop. It lives no longer than its standard input, and so no longer than this process.
func launch(folder, name string) (process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(folder, name+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	cmd := exec.Command(exe, childMode, name)
	cmd.Stderr = log
	detach(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &osProcess{Writer: in, Reader: out, cmd: cmd, logPath: path}, nil
}

func (p *osProcess) pid() int      { return p.cmd.Process.Pid }
func (p *osProcess) kill() error   { return p.cmd.Process.Kill() }
func (p *osProcess) pause() error  { return pause(p.cmd.Process) }
func (p *osProcess) resume() error { return resume(p.cmd.Process) }
func (p *osProcess) wait() error   { return p.cmd.Wait() }

func (p *osProcess) log() string {
	const lines, bytes = 5, 2000
	b, err := os.ReadFile(p.logPath)
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimSpace(string(b[max(0, len(b)-bytes):])), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// freePorts picks n loopback addresses whose port is free for TCP and for UDP. They lie below the range from which systems give ports to
// outgoing connections, so that a shop which starts again finds its port free.
func freePorts(n int) (addrs []string, err error) {
	const low, high, tries = 11_000, 13_000, 100
	for range n * tries {
		if len(addrs) == n {
			break
		}
		addr := fmt.Sprintf("127.0.0.1:%d", low+rand.N(high-low))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		defer l.Close() // only then: or the next port might be the same
		p, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue // taken for UDP
		}
		defer p.Close()
		addrs = append(addrs, addr)
	}
	if len(addrs) < n {
		return nil, errors.New("no loopback ports are free for both TCP and UDP")
	}
	return addrs, nil
}

// exitText says how a process ended.
func exitText(err error) string {
	if err == nil {
		return "exit code 0"
	}
	return fmt.Sprint(err)
}
