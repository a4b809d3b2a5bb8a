// A shop of three processes over one database, as a real service: an order is an HTTP request, which reads the stock, thinks, and writes
// what is left. It runs without locks, with locks, and with locks whose fences the database checks, pauses the holder of a lock in the
// middle of its order, and says in a table what came of it:
//
//	go run .
//	go run . -database postgres -dsn postgres://localhost/test
//
// How a service uses the library is in shop.go, and how it joins and leaves in child.go. The rest is the customers (load.go), the pause
// (pause.go) and the books (books.go). The shops are this program, started again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/godistlock/distlock"
)

type options struct {
	modes    []mode
	database distlock.Dialect
	dsn      string
	duration time.Duration
	pauses   int
	verbose  bool
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == childMode {
		os.Exit(runShop(os.Stdin, os.Stdout))
	}
	o, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	case err != nil:
		os.Exit(2)
	}
	ctx, release := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, release) // a second Ctrl-C ends this process at once, and with it the shops
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
	fmt.Println("OK")
	os.Exit(0)
}

func parse(args []string, usage io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("shop", flag.ContinueOnError)
	flags.SetOutput(usage)
	which := flags.String("mode", "all", "none, locks, fences or all")
	database := flags.String("database", string(distlock.SQLite), "sqlite, which needs nothing, or postgres")
	flags.StringVar(&o.dsn, "dsn", os.Getenv("SHOP_DSN"), "the PostgreSQL's; each run has a schema of its own there (or SHOP_DSN, which nobody sees who lists processes)")
	flags.DurationVar(&o.duration, "duration", 5*time.Second, "how long to take orders in each mode, beside the pauses, which take what they need")
	pauses := flags.String("fault", faultDefault, "how often to pause a holder in the modes that have one: on (once a follower, once the leader), off, or a number")
	flags.BoolVar(&o.verbose, "v", false, "show the shops' logs on standard error")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.pauses, err = parsePauses(*pauses); err == nil {
		switch o.database = distlock.Dialect(*database); {
		case flags.NArg() > 0:
			err = fmt.Errorf("unexpected %q", flags.Arg(0))
		case o.duration <= 0:
			err = fmt.Errorf("-duration %v: it must be above 0", o.duration)
		case o.database != distlock.SQLite && o.database != distlock.Postgres:
			err = fmt.Errorf("-database %s: it must be sqlite or postgres", o.database)
		case o.database == distlock.Postgres && o.dsn == "":
			err = errors.New("-database postgres: it needs a -dsn, such as postgres://localhost/test")
		}
	}
	for _, m := range []mode{none, locks, fences} {
		if *which == "all" || *which == string(m) {
			o.modes = append(o.modes, m)
		}
	}
	if err == nil && len(o.modes) == 0 {
		err = fmt.Errorf("-mode %s: it must be none, locks, fences or all", *which)
	}
	if err != nil {
		fmt.Fprintln(usage, err)
	}
	return o, err
}

func parsePauses(text string) (n int, err error) {
	switch text {
	case "off":
		return 0, nil
	case "on":
		n = 2
	default:
		if n, err = strconv.Atoi(text); err != nil || n < 0 {
			return 0, fmt.Errorf("-fault %s: it must be on, off or a number", text)
		}
	}
	if n > 0 && !canPause {
		return 0, fmt.Errorf("-fault %s: it isn't available here, as this system has no signal that pauses a process", text)
	}
	return n, nil
}

// run plays each mode and prints the table. Whatever is not as it should be is an error.
func run(ctx context.Context, o options, out io.Writer) (err error) {
	folder, err := os.MkdirTemp("", "distlock-shop-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	fmt.Fprintf(out, "3 shops sell %s over %s: %v and %d pauses a mode\n", product, o.database, o.duration, o.pauses)
	var results []result
	for _, m := range o.modes {
		r, rerr := play(ctx, o, newBooks(o, folder, m), m, out)
		if rerr != nil {
			return fmt.Errorf("mode %s: %w", m, rerr)
		}
		results = append(results, r)
	}
	fmt.Fprintf(out, "\n%-6s %7s %9s %23s %22s\n", "mode", "orders", "oversold", "stale writes attempted", "stale writes rejected")
	for i, r := range results {
		m, pauses := o.modes[i], o.pauses
		if m == none {
			pauses = 0 // nobody holds anything
		}
		fmt.Fprintf(out, "%-6s %7d %9d %23d %22d\n", m, r.orders, r.oversold, r.attempted(), r.rejected)
		err = errors.Join(err, r.judge(m, pauses))
	}
	return err
}

// judge says what is wrong with a run. One in which nothing could have gone wrong is wrong too.
func (r result) judge(m mode, pauses int) error {
	proves := func(what string) error { return fmt.Errorf("mode %s: %s: the run proves nothing", m, what) }
	switch {
	case r.orders == 0:
		return proves("no orders")
	case m == none && r.oversold <= 0:
		return proves("nothing was oversold")
	case m == none:
		return nil
	case r.attempted() < int64(pauses):
		return proves(fmt.Sprintf("%d stale writes after %d pauses", r.attempted(), pauses))
	case m == locks && pauses > 0 && r.oversold <= 0:
		return proves("stale writes, and nothing was oversold")
	case m == locks:
		return nil
	case r.stale != 0:
		return fmt.Errorf("mode %s: %d stale writes were let in", m, r.stale)
	case r.oversold != 0:
		return fmt.Errorf("mode %s: %d too many sold", m, r.oversold)
	case r.wronged != 0:
		return fmt.Errorf("mode %s: %d writes were refused that were not stale", m, r.wronged)
	}
	return nil
}
