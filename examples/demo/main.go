// The demo of GoDistLock: three processes of an online shop sell one product. It oversells without locks, sells right with them, kills
// the leader, pauses a holder, and says what came of it in its last line:
//
//	go run ./examples/demo
//
// The shops are this program, started again. They talk to it by lines of JSON over their standard input and output (message.go); among
// themselves they talk through the library alone (locks.go).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == childMode {
		os.Exit(runShop(os.Stdin, os.Stdout))
	}
	opts, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(0)
		}
		os.Exit(2)
	}
	os.Exit(runParent(opts, newScreen(os.Stdout, os.Getenv)))
}

func parse(args []string, usage io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(usage)
	flags.IntVar(&o.n, "n", 3, "shops, 3 to 9; each is a process")
	flags.BoolVar(&o.memory, "memory", false, "keep the cluster's log in memory, not on disk")
	flags.DurationVar(&o.duration, "duration", 30*time.Second, "about how long to run; the kill and the pause take what they need")
	flags.Uint64Var(&o.seed, "seed", 0, "of the customers' doings; 0 picks one")
	flags.BoolVar(&o.keep, "keep", false, "leave the folder with logs and data")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var err error
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected %q", flags.Arg(0))
	case o.n < 3 || o.n > 9:
		err = fmt.Errorf("-n %d: with fewer than 3 shops nothing goes on when the leader is killed, and more than 9 are hard to watch", o.n)
	case o.duration <= 0:
		err = fmt.Errorf("-duration %v: it must be above 0", o.duration)
	}
	if err != nil {
		fmt.Fprintln(usage, err)
	}
	for o.seed == 0 {
		o.seed = rand.Uint64N(1_000_000)
	}
	return o, err
}

func runParent(opts options, screen *screen) (code int) {
	ctx, release := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer release()
	context.AfterFunc(ctx, release) // a second Ctrl-C ends the parent at once; the shops then clean up

	folder, err := os.MkdirTemp("", "distlock-demo-")
	if err != nil {
		screen.say("%s the demo needs a folder for its data: %v", screen.bad("BROKEN"), err)
		return 1
	}
	s := newShow(opts, screen, folder, launch)
	return s.finish(s.run(ctx))
}

// finish cleans up and prints the last line.
func (s *show) finish(failover time.Duration, err error) (code int) {
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	err = errors.Join(err, s.close())
	b := &s.stock
	counts := fmt.Sprintf("served=%d oversold=%d handoffs=%d rejected=%d failover=%dms seed=%d",
		b.sold, b.oversold(), b.handoffs, b.rejected, failover.Milliseconds(), s.opts.seed)
	s.screen.say("")
	if err != nil {
		if words := s.lastWords(); words != "" {
			s.screen.say("%s", words)
		}
		s.screen.say("   %v", err)
		s.screen.say("%s %s", s.screen.bad("BROKEN"), counts)
		return 1
	}
	s.screen.say("%s %s", s.screen.good("OK"), counts)
	return 0
}
