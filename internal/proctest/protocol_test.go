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
}

// load is what a process does by itself: workers take locks in turn and hold them for a while.
type load struct {
	Workers int           `json:"workers"`
	Keys    int           `json:"keys"`
	Hold    time.Duration `json:"hold"`
	Rest    time.Duration `json:"rest"`
	Seed    uint64        `json:"seed"`
}

// command is what the test tells a process to do.
type command struct {
	ID      uint64        `json:"id"`
	Do      string        `json:"do"` // join, lock, trylock, unlock, held, status, locks, load, rest, leave
	Key     string        `json:"key,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"`
	Config  *config       `json:"config,omitempty"`
	Load    *load         `json:"load,omitempty"`
}

// answer is a command's, or, with ID 0, what the process says by itself: a hold, a loss or a fault.
type answer struct {
	ID     uint64              `json:"id,omitempty"`
	Error  string              `json:"error,omitempty"`
	Is     []string            `json:"is,omitempty"` // names of the sentinel errors that it matches
	Fence  uint64              `json:"fence,omitempty"`
	At     instant             `json:"at,omitempty"`
	Status *distlock.Status    `json:"status,omitempty"`
	Locks  []distlock.LockInfo `json:"locks,omitempty"`
	Hold   *hold               `json:"hold,omitempty"`
	Loss   *loss               `json:"loss,omitempty"`
	Fault  string              `json:"fault,omitempty"` // an answer of the library that nothing excuses
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
