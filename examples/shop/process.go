package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// process is a shop's, as it is seen by the one that started it.
type process struct {
	name  string
	addr  string // where it takes orders
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // what it says; closed when it has ended
}

// open starts three shops and waits until all of them serve. It answers those that were started also when it fails.
func open(ctx context.Context, o options, b books, m mode) (shops []*process, err error) {
	addrs, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	for i, addr := range addrs {
		p, err := launch(start{
			Name: fmt.Sprintf("shop-%d", i+1), Mode: m, Bind: addr, Books: b, Logged: o.verbose,
			Peers: slices.Concat(addrs[:i], addrs[i+1:]),
		})
		if p != nil {
			shops = append(shops, p)
		}
		if err != nil {
			return shops, err
		}
	}
	for _, p := range shops {
		if p.addr, err = p.hear(ctx, sayServing); err != nil {
			return shops, err
		}
	}
	return shops, nil
}

// launch answers the process if it was started, also when it could not be told what it is.
func launch(s start) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, childMode)
	cmd.Stderr = os.Stderr
	detach(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	first, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{name: s.Name, cmd: cmd, in: in, lines: make(chan string, 16)}
	go func() { // ended by the end of the shop's output, which is the shop's; wait reads what nobody else did
		defer close(p.lines)
		for words := bufio.NewScanner(out); words.Scan(); {
			p.lines <- words.Text()
		}
	}()
	return p, p.tell(string(first))
}

func (p *process) tell(line string) error {
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// hear waits for the next thing that the shop says, which must begin with prefix, and answers the rest of it.
func (p *process) hear(ctx context.Context, prefix string) (rest string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("%s did not say %q within %v", p.name, prefix, patience))
	defer cancel()
	select {
	case line, ok := <-p.lines:
		rest, found := strings.CutPrefix(line, prefix)
		switch {
		case !ok:
			return "", fmt.Errorf("%s has ended", p.name)
		case !found:
			return "", fmt.Errorf("%s: %s", p.name, line)
		}
		return rest, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// closeAll ends the shops, all at once, and waits for their end.
func closeAll(shops []*process) error {
	for _, p := range shops {
		_ = resume(p.cmd.Process) // should it be paused still
		p.in.Close()
	}
	var errs []error
	for _, p := range shops {
		errs = append(errs, p.wait())
	}
	return errors.Join(errs...)
}

// wait waits for the end of a shop whose input has ended. What it said, and nobody has heard, is an error.
func (p *process) wait() error {
	late := time.AfterFunc(lastBreath+10*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	var words []error
	for line := range p.lines {
		words = append(words, errors.New(line))
	}
	if err := errors.Join(append(words, p.cmd.Wait())...); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// freePorts picks n loopback addresses whose port is free for TCP and for UDP. They lie below the range from which systems give ports to
// outgoing connections: none of those takes one before its shop does.
func freePorts(n int) (addrs []string, err error) {
	const low, high, tries = 10_000, 32_000, 100
	for range n * tries {
		if len(addrs) == n {
			return addrs, nil
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", low+rand.N(high-low)))
		if err != nil {
			continue // taken for TCP
		}
		defer l.Close() // only then: or the next port might be the same
		p, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			continue // taken for UDP
		}
		defer p.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return nil, errors.New("no loopback ports are free for both TCP and UDP")
}
