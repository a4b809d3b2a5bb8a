//go:build unix

package distlock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"
	"time"
)

func init() { children["signal"] = signalChild }

const signalCase = "DISTLOCK_TEST_CASE"

// signalChild is a process that gets signals; TestLeaveOnSignal says which end each case must come to.
func signalChild() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := Join(Config{Bind: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	self := func(sig syscall.Signal) error { return syscall.Kill(os.Getpid(), sig) }
	what := os.Getenv(signalCase)
	if what == "nobody listens" { // Join has no handler
		return errors.Join(self(syscall.SIGTERM), wait(ctx))
	}
	l, err := c.Lock(ctx, "k")
	if err != nil {
		return err
	}
	timeout, holds := 20*time.Second, false
	var sigs []os.Signal
	send := syscall.SIGTERM
	switch what {
	case "SIGTERM":
	case "SIGINT":
		send = syscall.SIGINT
	case "SIGUSR1":
		send, sigs = syscall.SIGUSR1, []os.Signal{syscall.SIGUSR1, syscall.SIGUSR2}
	case "held too long":
		timeout, holds = 300*time.Millisecond, true
	case "twice":
		holds = true
	default:
		return fmt.Errorf("no case %q", what)
	}
	left := make(chan error, 1)
	go func() { left <- LeaveOnSignal(ctx, c, timeout, sigs...) }()
	if err := listening(ctx, true); err != nil {
		return err
	}
	if err := self(send); err != nil {
		return err
	}
	<-c.leaving
	switch {
	case what == "twice":
		if err := listening(ctx, false); err != nil {
			return err
		}
		return errors.Join(self(send), wait(ctx))
	case !holds:
		if err := l.Unlock(ctx); err != nil {
			return err
		}
	}
	if err := <-left; holds != (err != nil) || holds && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("LeaveOnSignal: %w", err)
	}
	if !errors.Is(c.Err(), ErrClosed) || l.Err() == nil {
		return fmt.Errorf("the Cluster says %w, its lock %w", c.Err(), l.Err())
	}
	if what == "SIGTERM" { // and now it is the program's own again
		return errors.Join(self(send), wait(ctx))
	}
	return nil
}

// wait waits for a signal that ends the process.
func wait(ctx context.Context) error {
	<-ctx.Done()
	return errors.New("the signal did not end the process")
}

// listening waits until signals are caught, or no more: there is no other way to see that from outside. The goroutine is started once
// they are.
func listening(ctx context.Context, want bool) error {
	for ctx.Err() == nil {
		var b bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
			return err
		}
		if strings.Contains(b.String(), "signal.NotifyContext.func1") == want {
			return nil
		}
		waitABit(ctx)
	}
	return ctx.Err()
}

func TestLeaveOnSignal(t *testing.T) {
	for what, dies := range map[string]syscall.Signal{
		"nobody listens": syscall.SIGTERM, "SIGTERM": syscall.SIGTERM, "twice": syscall.SIGTERM,
		"SIGINT": 0, "SIGUSR1": 0, "held too long": 0,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			cmd := child(t, "signal", signalCase+"="+what)
			out, err := cmd.CombinedOutput()
			status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if dies != 0 {
				if !status.Signaled() || status.Signal() != dies {
					t.Errorf("ended by %v, not %v\n%s", cmd.ProcessState, dies, out)
				}
			} else if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
