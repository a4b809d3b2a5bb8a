package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// verb says what a message is about.
type verb string

// What the parent says to a shop.
const (
	verbStart    verb = "start"    // who you are; join the cluster
	verbSell     verb = "sell"     // take orders until verbStop or, without locks, until sold out
	verbStop     verb = "stop"     // finish the orders under way, then say verbStopped
	verbStock    verb = "stock"    // the answer to verbRead
	verbWritten  verb = "written"  // the answer to verbWrite
	verbProbe    verb = "probe"    // take a free lock and say verbProbed
	verbHesitate verb = "hesitate" // the next order says verbHesitating between check and write, and waits for verbGoOn
	verbGoOn     verb = "go on"
	verbQuit     verb = "quit" // close the cluster and exit; the folder is the parent's to remove
)

// What a shop says to the parent.
const (
	verbJoined     verb = "joined"
	verbStatus     verb = "status"
	verbRead       verb = "read"
	verbWrite      verb = "write"
	verbProbed     verb = "probed"
	verbHesitating verb = "hesitating"
	verbStopped    verb = "stopped"
	verbFailed     verb = "failed" // something that must not happen: the demo is broken
)

// message is one line of JSON on the pipes between the parent and a shop. Each verb uses the fields that it needs.
type message struct {
	Verb   verb   `json:"verb"`
	Call   uint64 `json:"call,omitempty"`  // pairs a question with its answer
	Order  uint64 `json:"order,omitempty"` // the order that writes; one order is one grant
	Key    string `json:"key,omitempty"`
	Units  int    `json:"units,omitempty"`
	Change int    `json:"change,omitempty"` // -1: a sale; above 0: a delivery
	Fence  uint64 `json:"fence,omitempty"`
	Stale  bool   `json:"stale,omitempty"`
	Locked bool   `json:"locked,omitempty"` // sell with locks
	Leader string `json:"leader,omitempty"`
	Error  string `json:"error,omitempty"`
	Start  *start `json:"start,omitempty"`
}

// start is all that a shop has to know.
type start struct {
	Name   string   `json:"name"`
	Bind   string   `json:"bind"`
	Peers  []string `json:"peers"`
	Expect int      `json:"expect"`
	Dir    string   `json:"dir"`    // DataDir; "" keeps the log in memory
	Folder string   `json:"folder"` // removed by the shops when the parent died without a word; "" to leave it
	Seed   uint64   `json:"seed"`
}

const maxLine = 64 << 10

// line sends and receives messages over a pair of pipes.
type line struct {
	mu  sync.Mutex // one message at a time; guards out
	out io.Writer
	in  *bufio.Scanner // the receiving goroutine's
}

func newLine(in io.Reader, out io.Writer) *line {
	s := bufio.NewScanner(in)
	s.Buffer(make([]byte, 0, 4<<10), maxLine)
	return &line{out: out, in: s}
}

func (l *line) send(m message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %q: %w", m.Verb, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.out.Write(append(b, '\n'))
	return err
}

// receive waits for the next message; io.EOF when the other side is gone.
func (l *line) receive() (message, error) {
	if !l.in.Scan() {
		if err := l.in.Err(); err != nil {
			return message{}, err
		}
		return message{}, io.EOF
	}
	var m message
	if err := json.Unmarshal(l.in.Bytes(), &m); err != nil {
		return message{}, fmt.Errorf("not a message: %.80q: %w", l.in.Text(), err)
	}
	return m, nil
}
