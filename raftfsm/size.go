package raftfsm

import (
	"io"

	"github.com/godistlock/distlock/internal/wire"
)

// Size is how much the state holds.
type Size struct {
	Waiting  int   // requests that wait
	Requests int   // all that live
	Bytes    int64 // that these take in a snapshot: about, by what those in the last one took
}

// noteSize is called with mu after each batch.
func (f *FSM) noteSize() {
	f.waiting.Store(int64(f.m.waits.Len()))
	f.requests.Store(int64(f.m.requests.Len()))
}

// noteSnapshot remembers what a snapshot of so many requests took.
func (f *FSM) noteSnapshot(requests int, bytes int64) {
	f.each.Store(bytes / int64(max(1, requests)))
}

// Size is that after the last batch, from any goroutine and without waiting for one that is being applied.
func (f *FSM) Size() Size {
	n := f.requests.Load()
	return Size{Waiting: int(f.waiting.Load()), Requests: int(n), Bytes: n * f.each.Load()}
}

// Adds says what o, if it were the next of its session, would add to the state: a request at all, and one that waits. It adds none if it is a
// copy of one that lives or is finished. Of an operation on what there is already it doesn't say anything: that may be done at any time.
func (f *FSM) Adds(session uint64, o *wire.Op) (request, waiter bool) {
	var keys []string
	switch {
	case o.Kind == wire.OpAcquire:
		keys = []string{o.Key}
	case o.Kind == wire.OpRequest && o.Ask.Origin.IsZero(): // else it takes up what its process has
		keys = o.Ask.Keys
	default:
		return false, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	ses := f.m.session(session)
	if ses == nil || o.Seq < ses.next && !f.m.inGap(ses, o.Seq) {
		return false, false
	}
	for _, key := range keys {
		waiter = waiter || !o.Try && (!f.m.granting() || f.m.lock(key) != nil)
	}
	return true, waiter
}

// counted counts what goes through a reader or a writer.
type counted struct {
	io.Reader
	io.Writer
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	return n, err
}
