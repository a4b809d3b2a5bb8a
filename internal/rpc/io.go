package rpc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// enqueue gives a frame to the writer. It is called with c.mu held and unlocks it.
func (c *Conn) enqueue(f frame) error {
	if err := c.err; err != nil {
		c.mu.Unlock()
		return err
	}
	if c.writing+len(c.queue)+len(f.body) > c.opts.maxQueued && c.writing+len(c.queue) > 0 {
		c.mu.Unlock()
		c.Fail(fmt.Errorf("%w: %d MiB are waiting", ErrSlow, c.opts.maxQueued>>20))
		return c.Err()
	}
	wasEmpty := len(c.queue) == 0
	c.queue = appendFrame(c.queue, f)
	c.mu.Unlock()
	if wasEmpty { // else the writer has been told
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// write is the writer's goroutine: whatever has gathered while it wrote goes out in the next write.
func (c *Conn) write() {
	var spare []byte
	for {
		select {
		case <-c.wake:
		case <-c.done:
			return
		}
		c.mu.Lock()
		out := c.queue
		c.queue, c.writing, c.pong = spare[:0], len(out), false
		c.mu.Unlock()
		if err := c.put(out); err != nil {
			c.Fail(err)
			return
		}
		if spare = out; cap(spare) > keepQueue {
			spare = nil
		}
		c.mu.Lock()
		c.writing = 0
		if c.room != nil {
			close(c.room)
			c.room = nil
		}
		c.mu.Unlock()
	}
}

// put writes p. The other side must take some of it within twice BrokenAfter: who sends and never reads would else hold all that is queued for
// it. The deadline is set anew only now and then, so that a busy connection pays for no timer.
func (c *Conn) put(p []byte) error {
	for len(p) > 0 {
		now := time.Now()
		if c.writeBy.Sub(now) < c.opts.BrokenAfter {
			c.writeBy = now.Add(2 * c.opts.BrokenAfter)
			if err := c.nc.SetWriteDeadline(c.writeBy); err != nil {
				return err
			}
		}
		n, err := c.nc.Write(p[:min(len(p), writeStep)])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("%w: it has taken nothing for %v", ErrSlow, c.opts.BrokenAfter)
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// writeStep is how much of a large write must go out within the deadline.
const writeStep = 256 << 10

// heard reads the stream and keeps it alive. It is the only one to set the read deadline, and only when one has passed: a busy connection
// pays for no timer.
type heard struct {
	c    *Conn
	last time.Time // when something was read
}

func (h *heard) Read(p []byte) (int, error) {
	for {
		n, err := h.c.nc.Read(p)
		if n > 0 {
			h.last = time.Now()
			return n, nil // an error comes again
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		now := time.Now()
		idle := now.Sub(h.last)
		ping, broken := h.c.opts.PingAfter, h.c.opts.BrokenAfter
		next := h.last.Add(ping)
		if idle >= broken {
			return 0, fmt.Errorf("%w for %v", ErrSilent, idle.Round(time.Millisecond))
		}
		if idle >= ping {
			h.c.mu.Lock()
			_ = h.c.enqueue(frame{typ: framePing}) // a broken connection ends the next read
			next = now.Add(min(ping, broken-idle))
		}
		if err := h.c.nc.SetReadDeadline(next); err != nil {
			return 0, err
		}
	}
}

// read is the reader's loop; it answers why it ended.
func (c *Conn) read() error {
	h := &heard{c: c, last: time.Now()}
	if err := c.nc.SetReadDeadline(h.last.Add(c.opts.PingAfter)); err != nil {
		return err
	}
	r := newFrameReader(h)
	for {
		f, err := r.next()
		if to := c.onward.Load(); err == nil && to != nil && passes(f) {
			err = c.pass(f, to)
		} else if err == nil {
			err = c.dispatch(f)
		}
		if err != nil {
			return err
		}
	}
}

func (c *Conn) dispatch(f frame) error {
	switch f.typ {
	case frameMessage:
		return c.message(f)
	case frameCall:
		return c.serve(f)
	case frameReply:
		c.resolve(f.id, result{body: append([]byte(nil), f.body...)})
	case frameFailed:
		if len(f.body) > wire.MaxText {
			return fmt.Errorf("%w: reason of %d bytes, limit %d", wire.ErrMalformed, len(f.body), wire.MaxText)
		}
		c.resolve(f.id, result{err: &RemoteError{Text: string(f.body), Code: f.kind}})
	case frameCancel:
		c.mu.Lock()
		cancel := c.running[f.id]
		c.mu.Unlock()
		if cancel != nil {
			cancel()
		}
	case framePing:
		c.mu.Lock()
		if c.pong {
			c.mu.Unlock()
			return nil
		}
		c.pong = true
		_ = c.enqueue(frame{typ: framePong}) // a broken connection ends the next read
	}
	return nil
}

// resolve hands a result to whoever waits for it; one that nobody waits for (any more) is dropped.
func (c *Conn) resolve(id uint64, r result) {
	c.mu.Lock()
	ch := c.calls[id]
	delete(c.calls, id)
	c.mu.Unlock()
	if ch != nil {
		ch <- r
	}
}

func (c *Conn) message(f frame) (err error) {
	defer c.recovered(&err)
	c.handler.Message(c, f.kind, f.body)
	return nil
}

// serve starts an incoming call, if there is room for it.
func (c *Conn) serve(f frame) error {
	c.mu.Lock()
	if c.running[f.id] != nil {
		c.mu.Unlock()
		return fmt.Errorf("%w: call %d is under way already", wire.ErrMalformed, f.id)
	}
	if len(c.running) >= c.opts.maxCalls || c.callBytes+len(f.body) > c.opts.maxCallBytes && c.callBytes > 0 {
		// A broken connection ends the next read.
		_ = c.enqueue(frame{typ: frameFailed, id: f.id, kind: CodeBusy, body: []byte("too many calls on one connection")})
		return nil
	}
	ctx, cancel := context.WithCancel(c.ctx)
	c.running[f.id] = cancel
	c.callBytes += len(f.body)
	c.mu.Unlock()
	body := append([]byte(nil), f.body...)
	size := len(body)
	c.wg.Go(func() { // ends when the handler returns, which it must when ctx ends
		answer := c.answer(ctx, f.id, f.kind, body)
		cancel()
		c.mu.Lock()
		delete(c.running, f.id)
		c.callBytes -= size
		_ = c.enqueue(answer) // over a broken connection the caller knows that the outcome is unknown
	})
	return nil
}

// answer runs the handler and makes its result a frame.
func (c *Conn) answer(ctx context.Context, id uint64, kind uint8, body []byte) frame {
	reply, err := c.handle(ctx, kind, body)
	if err == nil && len(reply) > MaxBody {
		err = ErrTooLarge
	}
	if err == nil {
		return frame{typ: frameReply, id: id, body: reply}
	}
	remote := &RemoteError{}
	if !errors.As(err, &remote) {
		remote = &RemoteError{Text: err.Error()}
	}
	text := remote.Text
	if len(text) > wire.MaxText {
		text = strings.ToValidUTF8(text[:wire.MaxText], "")
	}
	return frame{typ: frameFailed, id: id, kind: remote.Code, body: []byte(text)}
}

func (c *Conn) handle(ctx context.Context, kind uint8, body []byte) (reply []byte, err error) {
	defer c.recovered(&err)
	return c.handler.Call(ctx, c, kind, body)
}

// recovered keeps a bug of a handler from taking the host process down.
func (c *Conn) recovered(err *error) {
	if p := recover(); p != nil {
		c.opts.Logger.Error("a handler panicked; this is a bug in distlock", "panic", p, "stack", string(debug.Stack()))
		*err = &RemoteError{Text: fmt.Sprintf("the handler panicked: %v", p), Code: CodePanic}
	}
}

// nobody handles the incoming side of a connection that expects replies only.
type nobody struct{}

func (nobody) Call(context.Context, *Conn, uint8, []byte) ([]byte, error) {
	return nil, errors.New("no calls are taken here")
}
func (nobody) Message(*Conn, uint8, []byte) {}
func (nobody) Closed(*Conn)                 {}
