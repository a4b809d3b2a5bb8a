// Bench measures what a cluster of three real processes on this machine's loopback does, and larger fleets, beside what the machine itself does in
// the same run, and prints it as Markdown for docs/benchmarks.md:
//
//	go run ./internal/bench
//
// The members are this program, started again. They talk to it by lines of JSON over their standard input and output (message.go); among
// themselves they talk through the library alone (member.go). All they keep lies in a temporary folder, which is removed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == memberMode {
		runMember(os.Stdin, os.Stdout)
		return
	}
	o, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(0)
		}
		os.Exit(2)
	}
	ctx, release := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer release()
	if err := run(ctx, o, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options say what is measured, and for how long.
type options struct {
	parts    []string
	stores   []string
	from     []string
	callers  []int
	measure  time.Duration
	warm     time.Duration
	rounds   int
	kills    int
	starts   int
	idle     time.Duration
	keys     int
	sizes    []int
	swarm    int
	flooders int
	held     int
	settle   time.Duration
	dir      string
	profile  string
	args     []string // as they were given
}

// Names of what can be chosen.
const (
	partThroughput = "throughput"
	partFailover   = "failover"
	partAlone      = "alone"
	partMemory     = "memory"
	partKinds      = "kinds"
	partFleet      = "fleet"
	partFlood      = "flood"
	partSecret     = "secret"

	storeDurable = "durable"
	storeMemory  = "memory"

	fromLeader   = "leader"
	fromFollower = "follower"
)

func parse(args []string, usage io.Writer) (options, error) {
	o := options{args: args}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(usage)
	parts := flags.String("parts", "throughput,failover,alone,memory,kinds,fleet,flood,secret", "what to measure")
	stores := flags.String("stores", "durable,memory", "where clusters keep their log in throughput and failover")
	from := flags.String("from", "leader,follower", "which member takes the locks of throughput, or floods")
	callers := flags.String("callers", "1,64,256", "concurrent callers of throughput and kinds")
	flags.DurationVar(&o.measure, "measure", 4*time.Second, "measured time of each row of throughput, kinds and flood")
	flags.DurationVar(&o.warm, "warm", time.Second, "time under load before each of them")
	flags.IntVar(&o.rounds, "rounds", 5, "of each row of secret, and of each of its two clusters")
	flags.IntVar(&o.kills, "kills", 20, "of the leader, for each store of failover")
	flags.IntVar(&o.starts, "starts", 50, "of a process alone")
	flags.DurationVar(&o.idle, "idle", 10*time.Second, "time for which a process alone, or a fleet, does nothing")
	flags.IntVar(&o.keys, "keys", 1_000_000, "held at once, then freed, in memory")
	sizes := flags.String("sizes", "3,4,7,50", "processes of the fleets of fleet")
	flags.IntVar(&o.swarm, "swarm", 1000, "members of the last of them, the most in one process; 0: none")
	flags.IntVar(&o.flooders, "flooders", 4096, "concurrent callers of the member that floods")
	flags.IntVar(&o.held, "held", 10_000, "locks that an idle fleet holds")
	flags.DurationVar(&o.settle, "settle", 6*time.Second, "time that a fleet has to say what there is to say, before it is measured")
	flags.StringVar(&o.dir, "dir", "", "folder in which a temporary one is made for all data; the default is the system's")
	flags.StringVar(&o.profile, "profile", "", "folder for profiles of all members, one set for each row of throughput and phase of fleet")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var errs [5]error
	o.parts, errs[0] = choice("parts", *parts, partThroughput, partFailover, partAlone, partMemory, partKinds, partFleet, partFlood, partSecret)
	o.stores, errs[1] = choice("stores", *stores, storeDurable, storeMemory)
	o.from, errs[2] = choice("from", *from, fromLeader, fromFollower)
	o.callers, errs[3] = numbers("callers", *callers)
	o.sizes, errs[4] = numbers("sizes", *sizes)
	err := errors.Join(errs[:]...)
	switch {
	case err != nil:
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected %q", flags.Arg(0))
	case o.measure <= 0 || o.warm < 0 || o.idle <= 0 || o.settle < 0:
		err = errors.New("-measure and -idle must be above 0, -warm and -settle must not be below")
	case o.rounds < 1 || o.kills < 1 || o.starts < 1 || o.keys < 1 || o.held < 1 || o.flooders < 1:
		err = errors.New("-rounds, -kills, -starts, -keys, -held and -flooders must be at least 1; -parts leaves a part out")
	case slices.Min(o.sizes) < members || o.swarm != 0 && o.swarm < leastSwarm:
		err = fmt.Errorf("-sizes must be at least %d, -swarm 0 or at least %d", members, leastSwarm)
	}
	if err != nil {
		fmt.Fprintln(usage, err)
	}
	return o, err
}

// choice reads a list of names, each one of all.
func choice(flag, list string, all ...string) ([]string, error) {
	names := strings.Split(list, ",")
	for _, name := range names {
		if !slices.Contains(all, name) {
			return nil, fmt.Errorf("-%s: no %q; there are %s", flag, name, strings.Join(all, ","))
		}
	}
	return names, nil
}

// numbers reads a list of numbers from 1.
func numbers(flag, list string) (all []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-%s: %q is no number from 1", flag, text)
		}
		all = append(all, n)
	}
	return all, nil
}

// run measures all that is asked for and writes the report to out, each part when it is done.
func run(ctx context.Context, o options, out, progress io.Writer) (err error) {
	folder, err := os.MkdirTemp(o.dir, "distlock-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return err
		}
	}
	b := &bench{options: o, folder: folder, out: out, progress: progress}
	writeMachine(out, folder, o.args)
	measure := map[string]func(context.Context) error{
		partThroughput: b.throughput, partFailover: b.failover, partAlone: b.alone, partMemory: b.memory, partKinds: b.kinds, partFleet: b.fleets,
		partFlood: b.flood, partSecret: b.secrets,
	}
	for _, part := range o.parts {
		if err := measure[part](ctx); err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
	}
	return nil
}

// bench is one run.
type bench struct {
	options
	folder   string
	out      io.Writer
	progress io.Writer
}

// note says on the terminal what goes on.
func (b *bench) note(format string, args ...any) {
	fmt.Fprintf(b.progress, format+"\n", args...)
}
