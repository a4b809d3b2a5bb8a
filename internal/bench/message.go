package main

import (
	"encoding/json"
	"io"
	"sync"
	"time"
)

// What the parent asks of a member. Each is answered once.
const (
	doJoin    = "join"    // Join
	doFirst   = "first"   // Join and the first lock; Took is both
	doSwarm   = "swarm"   // simulate many members, in this one process
	doAwait   = "await"   // until all members of the process know what Await says; Took is the time until then
	doStatus  = "status"  // State
	doPair    = "pair"    // lock and unlock Key; Took is the lock, the slowest if there are many members
	doLoad    = "load"    // Load
	doSpin    = "spin"    // compute for as long as Load says
	doBehind  = "behind"  // take only what processor time the others leave
	doHold    = "hold"    // Load: lock Keys keys and keep them
	doFree    = "free"    // unlock them
	doLost    = "lost"    // Lost: how many of them are gone
	doIndex   = "index"   // Index: how many entries the log has
	doUsage   = "usage"   // Usage
	doProfile = "profile" // begin profiles, at File
	doWrite   = "write"   // end them
)

// command is one line of JSON to a member.
type command struct {
	ID      uint64        `json:"id"`
	Do      string        `json:"do"`
	Join    *join         `json:"join,omitempty"`
	Swarm   *swarm        `json:"swarm,omitempty"`
	Await   *await        `json:"await,omitempty"`
	Key     string        `json:"key,omitempty"`
	Load    *load         `json:"load,omitempty"`
	File    string        `json:"file,omitempty"`
	Collect bool          `json:"collect,omitempty"` // garbage, before usage
	Timeout time.Duration `json:"timeout"`
}

// join is what a member has to know.
type join struct {
	Name   string   `json:"name,omitempty"`
	Bind   string   `json:"bind"`
	Peers  []string `json:"peers,omitempty"`
	Expect int      `json:"expect,omitempty"`
	Dir    string   `json:"dir,omitempty"`
	Secret string   `json:"secret,omitempty"`
}

// swarm is members that one process joins with, so many at a time.
type swarm struct {
	Joins  []join `json:"joins"`
	AtOnce int    `json:"at_once"`
}

// await is what a member is to know: that so many members are alive, or at least so many, if not 0, and, by a leader of another name than Not, that
// it can take locks.
type await struct {
	Alive int    `json:"alive,omitempty"`
	Least int    `json:"least,omitempty"`
	Not   string `json:"not,omitempty"`

	Pause time.Duration `json:"pause"` // between two looks: nothing tells of what is awaited
}

// load is callers that take locks, each on keys of its own: for a time, or until they have made a number of pairs.
type load struct {
	Callers int           `json:"callers"`
	Warm    time.Duration `json:"warm,omitempty"`
	Measure time.Duration `json:"measure,omitempty"`
	Pairs   int           `json:"pairs,omitempty"`  // instead of a time
	Kind    int           `json:"kind,omitempty"`   // of kinds
	Prefix  string        `json:"prefix,omitempty"` // of the keys
}

// answer is one line of JSON from a member.
type answer struct {
	ID    uint64        `json:"id"`
	Error string        `json:"error,omitempty"`
	Took  time.Duration `json:"took,omitempty"`
	State *state        `json:"state,omitempty"`
	Lost  int           `json:"lost,omitempty"`
	Index uint64        `json:"index,omitempty"`
	Load  *rate         `json:"load,omitempty"`
	Usage *usage        `json:"usage,omitempty"`
}

// state is what a member knows of its cluster.
type state struct {
	Ready  bool   `json:"ready"`
	Leader string `json:"leader"`
	Voters int    `json:"voters"` // that are alive
	Alive  int    `json:"alive"`  // members
	Client bool   `json:"client"` // it runs no Raft
}

// rate is what came of a load.
type rate struct {
	PerSecond float64       `json:"per_second"` // pairs
	P50       time.Duration `json:"p50"`        // of Lock
	P99       time.Duration `json:"p99"`
}

// usage is what a process takes of the machine.
type usage struct {
	CPU        time.Duration `json:"cpu"`      // since it began; 0: this system is not asked
	Resident   int64         `json:"resident"` // bytes; 0 as well
	Heap       int64         `json:"heap"`     // bytes in use
	Goroutines int           `json:"goroutines"`
	Streamed   int64         `json:"streamed"` // bytes read and written, since it began: TCP, as this program writes nothing else; 0: not asked
}

// pipe sends and receives over a pair of pipes.
type pipe struct {
	mu  sync.Mutex // one line at a time; guards enc
	enc *json.Encoder
	dec *json.Decoder // the receiving goroutine's
}

func newPipe(in io.Reader, out io.Writer) *pipe {
	return &pipe{enc: json.NewEncoder(out), dec: json.NewDecoder(in)}
}

func (p *pipe) send(v any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enc.Encode(v)
}

func (p *pipe) receive(v any) error { return p.dec.Decode(v) }
