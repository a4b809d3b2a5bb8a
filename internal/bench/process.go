package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// process is a member's process as the parent handles it.
type process struct {
	name string
	cmd  *exec.Cmd
	pipe *pipe
	log  string        // the file of its log
	dead chan struct{} // closed when it is dead

	mu      sync.Mutex // guards what follows
	calls   uint64
	waiting map[uint64]chan answer // nil once it is dead
}

// launch starts a process. It lives no longer than its standard input, and so no longer than this process.
func launch(name, log string) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close() // the process has its own
	cmd := exec.Command(exe, memberMode, name)
	cmd.Stderr = file
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
	p := &process{
		name: name, cmd: cmd, pipe: newPipe(out, in), log: log, dead: make(chan struct{}), waiting: make(map[uint64]chan answer),
	}
	go p.listen() // ends with the process, which kill awaits
	return p, nil
}

// listen takes answers until the process is dead.
func (p *process) listen() {
	defer close(p.dead)
	for {
		var a answer
		if err := p.pipe.receive(&a); err != nil {
			break
		}
		p.mu.Lock()
		to := p.waiting[a.ID]
		delete(p.waiting, a.ID)
		p.mu.Unlock()
		if to != nil {
			to <- a
		}
	}
	_ = p.cmd.Wait() // it was killed, or its log says why
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, to := range p.waiting {
		to <- answer{Error: "the process died"}
	}
	p.waiting = nil
}

// patience bounds what takes a fraction of it.
const patience = 60 * time.Second

// call asks the process for something and waits for the answer.
func (p *process) call(ctx context.Context, c command) (answer, error) {
	if c.Timeout == 0 {
		c.Timeout = patience
	}
	to := make(chan answer, 1)
	p.mu.Lock()
	if p.waiting == nil {
		p.mu.Unlock()
		return answer{}, p.fault(c, "the process is dead")
	}
	p.calls++
	c.ID = p.calls
	p.waiting[c.ID] = to
	p.mu.Unlock()
	_ = p.pipe.send(c) // a dead process is noticed by listen
	select {
	case a := <-to:
		if a.Error != "" {
			return a, p.fault(c, a.Error)
		}
		return a, nil
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

// fault is an error with the last words of the process.
func (p *process) fault(c command, what string) error {
	const words = 1500
	log, err := os.ReadFile(p.log)
	if err != nil {
		return errors.Join(fmt.Errorf("%s of %s: %s", c.Do, p.name, what), err)
	}
	last := strings.TrimSpace(string(log[max(0, len(log)-words):]))
	return fmt.Errorf("%s of %s: %s; its log ends with:\n%s", c.Do, p.name, what, last)
}

// kill ends the process by SIGKILL and waits for its end.
func (p *process) kill() error {
	err := p.cmd.Process.Kill()
	<-p.dead
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
