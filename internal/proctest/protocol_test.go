//go:build unix

package proctest

import (
	"bufio"
	"encoding/json"
	"io"
	"sync"
	"time"

	"github.com/godistlock/distlock"
	"golang.org/x/sys/unix"
)

// now reads CLOCK_MONOTONIC.
func now() instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // the clock every unix has
	}
	return instant(ts.Nano())
}

// config says which member a process is.
type config struct {
	Process string        `json:"process"` // this life of it
	Name    string        `json:"name"`
	Bind    string        `json:"bind"`
	Peers   []string      `json:"peers"`
	Expect  int           `json:"expect"`
	Dir     string        `json:"dir"` // "" keeps the log in memory
	TTL     time.Duration `json:"ttl"`

	// What processes of an earlier commit are not told.
	NoVote bool   `json:"novote,omitempty"`
	Secret string `json:"secret,omitempty"`
	Web    string `json:"web,omitempty"`   // where it serves Cluster.Handler; then SIGTERM makes it leave
	Names  string `json:"names,omitempty"` // the DNS server that it asks, instead of the machine's
}

// load is what a process does by itself: workers take locks in turn and hold them for a while.
type load struct {
	Kinds   bool          `json:"kinds,omitempty"` // of every kind
	Workers int           `json:"workers"`
	Keys    int           `json:"keys"`
	Hold    time.Duration `json:"hold"`
	Rest    time.Duration `json:"rest"`
	Seed    uint64        `json:"seed"`
}

// ask is what a lock is asked for beyond its key; zero is a plain one.
type ask struct {
	Also     string        `json:"also,omitempty"` // another key
	Shared   bool          `json:"shared,omitempty"`
	Limit    int           `json:"limit,omitempty"`
	Weight   int           `json:"weight,omitempty"`
	TTL      time.Duration `json:"ttl,omitempty"`
	Detached time.Duration `json:"detached,omitempty"`
	Cooldown time.Duration `json:"cooldown,omitempty"`
}

func (a ask) options() (opts []distlock.LockOption) {
	if a.Shared {
		opts = append(opts, distlock.Shared())
	}
	if a.Limit > 0 {
		opts = append(opts, distlock.Limit(a.Limit), distlock.Weight(a.Weight))
	}
	if a.TTL > 0 {
		opts = append(opts, distlock.TTL(a.TTL))
	}
	if a.Detached > 0 {
		opts = append(opts, distlock.Detached(a.Detached))
	}
	if a.Cooldown > 0 {
		opts = append(opts, distlock.Cooldown(a.Cooldown))
	}
	return opts
}

func (a ask) mode() mode {
	switch {
	case a.Shared:
		return shared
	case a.Limit > 0:
		return units
	}
	return exclusive
}

// command is what the test tells a process to do. Processes of an earlier commit ignore fields that they don't know, and know the first
// line of Do only.
type command struct {
	ID uint64 `json:"id"`
	// join, lock, trylock, unlock, held, status, locks, load, rest, leave;
	// downgrade, stats, take (lock, rely on it for a moment and unlock, as load does), keep (the same for good: it never unlocks),
	// adopt (and then as take), release
	Do      string        `json:"do"`
	Key     string        `json:"key,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"`
	Config  *config       `json:"config,omitempty"`
	Load    *load         `json:"load,omitempty"`
	Ask     *ask          `json:"ask,omitempty"`    // lock, trylock, take, keep
	Handle  string        `json:"handle,omitempty"` // adopt, release
	Holds   []hold        `json:"holds,omitempty"`  // adopt, release: the part before
}

// options are those of what c asks for.
func (c command) options() []distlock.LockOption {
	if c.Ask == nil {
		return nil
	}
	return c.Ask.options()
}

// answer is a command's, or, with ID 0, what the process says by itself: a hold, a loss, that it has left, or a fault.
type answer struct {
	ID     uint64              `json:"id,omitempty"`
	Error  string              `json:"error,omitempty"`
	Is     []string            `json:"is,omitempty"` // names of the sentinel errors that it matches
	Fence  uint64              `json:"fence,omitempty"`
	At     instant             `json:"at,omitempty"`
	Status *distlock.Status    `json:"status,omitempty"`
	Locks  []distlock.LockInfo `json:"locks,omitempty"`
	Hold   *hold               `json:"hold,omitempty"`
	Holds  []hold              `json:"holds,omitempty"`  // of one grant, at each of its keys
	Handle string              `json:"handle,omitempty"` // of a lock; of Holds, for somebody else to adopt or to release
	Stats  *distlock.Stats     `json:"stats,omitempty"`
	Loss   *loss               `json:"loss,omitempty"`
	Left   *left               `json:"left,omitempty"`
	Fault  string              `json:"fault,omitempty"` // an answer of the library that nothing excuses
}

// left is what came of a process's Leave, which it began on SIGTERM.
type left struct {
	Error string        `json:"error,omitempty"`
	Took  time.Duration `json:"took"`
}

// loss is the end of a session: its process held one lock all the time, just to notice.
type loss struct {
	Process string  `json:"process"`
	Since   instant `json:"since"` // before the lock was granted
	At      instant `json:"at"`
	Cause   string  `json:"cause"`
}

// pipe sends and receives lines of JSON.
type pipe struct {
	mu  sync.Mutex // guards out
	out io.Writer
	in  *bufio.Scanner // the receiving goroutine's
}

const maxLine = 16 << 20

func newPipe(in io.Reader, out io.Writer) *pipe {
	s := bufio.NewScanner(in)
	s.Buffer(make([]byte, 0, 64<<10), maxLine)
	return &pipe{out: out, in: s}
}

func (p *pipe) send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err = p.out.Write(append(b, '\n'))
	return err
}

func (p *pipe) receive(v any) error {
	if !p.in.Scan() {
		if err := p.in.Err(); err != nil {
			return err
		}
		return io.EOF
	}
	return json.Unmarshal(p.in.Bytes(), v)
}
