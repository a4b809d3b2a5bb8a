package raftlog

import (
	"io"
	"net"
	"slices"
)

// Requests is a stream that Raft accepted, which ends where the other side claims what no Raft sends: its decoder makes room for some lengths before
// their bytes come, so that ten bytes cost 4 GiB.
func Requests(conn net.Conn) net.Conn { return &accepted{walked{Conn: conn}} }

// Answers is Requests for a stream that Raft dialed.
func Answers(conn net.Conn) net.Conn { return &walked{Conn: conn, walker: walker{answers: true}} }

// walked hands on what its walker has seen. It is used as Raft uses it: one reads at a time.
type walked struct {
	net.Conn
	walker walker
	held   []byte // what came of Conn behind a request's end; the walker has not seen it
	over   error  // why nothing more is read
}

func (c *walked) Read(p []byte) (int, error) {
	if c.over != nil {
		return 0, c.over
	}
	if len(c.held) > 0 {
		n, err := c.walker.take(c.held[:min(len(c.held), len(p))])
		copy(p, c.held[:n])
		if c.held = c.held[n:]; len(c.held) == 0 {
			c.held = nil
		}
		c.over = err
		return n, err
	}
	n, err := c.Conn.Read(p)
	ok, refused := c.walker.take(p[:n])
	switch {
	case refused != nil:
		c.over = refused
		return ok, refused
	case ok < n:
		c.held = slices.Clone(p[ok:n])
		return ok, nil // whatever err is, Conn says it again
	}
	return n, err
}

type accepted struct{ walked }

// Write is Raft's answer to the last request that it has been handed, and it reads the next one afterwards. A snapshot that is refused for its
// header is answered before its body is read, and Raft would take the body, which nobody looks at, for requests: the stream ends with that
// answer. Raft's own leaders end it there anyway.
func (c *accepted) Write(p []byte) (int, error) {
	if c.walker.pending > 0 {
		c.over = io.EOF
	}
	return c.Conn.Write(p)
}
