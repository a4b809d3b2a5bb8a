// Package rpc puts many calls in flight, and messages both ways, on one stream. Frames that wait while a write is under way go out
// together in the next one, so many small messages cost few system calls.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godistlock/distlock/internal/mux"
)

const (
	PingAfter    = 2 * time.Second // of hearing nothing
	BrokenAfter  = 6 * time.Second // of hearing nothing
	MaxQueued    = 64 << 20        // bytes that wait to be written; more breaks the connection
	MaxCalls     = 1024            // incoming calls that run at a time; more are answered with CodeBusy
	MaxCallBytes = 64 << 20        // bodies of incoming calls that run at a time; more are answered with CodeBusy

	keepQueue = 1 << 20 // a larger write buffer is given back after use
)

// Handler is what a connection's incoming side does. None of its methods may call Conn.Close, which waits for them; Conn.Fail is for them.
type Handler interface {
	// Call answers a call, on a goroutine of its own. body is the handler's to keep. ctx ends when the caller gives up or the
	// connection breaks; Call must return then. A panic is logged and answered with CodePanic.
	Call(ctx context.Context, c *Conn, kind uint8, body []byte) ([]byte, error)
	// Message takes a message, in the order of sending, on the reader's goroutine: nothing else is read meanwhile, so it must not
	// block. body is valid only during the call. A panic is logged and breaks the connection.
	Message(c *Conn, kind uint8, body []byte)
	// Closed comes once, after the last Message and after all Calls have returned. It may call nothing that waits for the connection.
	Closed(c *Conn)
}

// Options may be left zero.
type Options struct {
	PingAfter   time.Duration // default PingAfter
	BrokenAfter time.Duration // default BrokenAfter; the least is PingAfter
	Logger      *slog.Logger  // for panics of the Handler; nil: nothing is logged

	maxQueued, maxCalls, maxCallBytes int // the constants, except in tests
}

// Conn is one connection. Safe for concurrent use.
type Conn struct {
	nc      net.Conn
	handler Handler
	opts    Options

	ctx     context.Context // of incoming calls; ends with the connection
	cancel  context.CancelFunc
	done    chan struct{}        // closed when the connection breaks
	ended   chan struct{}        // closed when all its goroutines are through
	wake    chan struct{}        // capacity 1: queue is no longer empty
	wg      sync.WaitGroup       // writer and handlers; the reader waits for them
	writeBy time.Time            // the writer's deadline; of the writer only
	onward  atomic.Pointer[Conn] // set by Splice: where frames go instead of to the handler

	mu        sync.Mutex    // guards what follows
	err       error         // why it broke
	queue     []byte        // frames that wait for the writer
	writing   int           // bytes that the writer has taken and not yet written
	room      chan struct{} // closed by the writer when it has written; nil while nobody waits for that
	pong      bool          // a pong is in queue: pings cannot make it grow
	lastID    uint64
	calls     map[uint64]chan<- result      // outgoing; each channel takes one result without blocking
	running   map[uint64]context.CancelFunc // incoming
	callBytes int                           // bodies of running
}

type result struct {
	body []byte
	err  error
}

// New takes nc over and begins reading. h may be nil when nothing but replies is expected.
func New(nc net.Conn, h Handler, opts Options) *Conn {
	c := newConn(nc, h, opts)
	c.start()
	return c
}

func newConn(nc net.Conn, h Handler, opts Options) *Conn {
	if opts.PingAfter <= 0 {
		opts.PingAfter = PingAfter
	}
	if opts.BrokenAfter <= 0 {
		opts.BrokenAfter = BrokenAfter
	}
	opts.BrokenAfter = max(opts.BrokenAfter, opts.PingAfter)
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	for field, def := range map[*int]int{&opts.maxQueued: MaxQueued, &opts.maxCalls: MaxCalls, &opts.maxCallBytes: MaxCallBytes} {
		if *field == 0 {
			*field = def
		}
	}
	if h == nil {
		h = nobody{}
	}
	c := &Conn{
		nc: nc, handler: h, opts: opts,
		done: make(chan struct{}), ended: make(chan struct{}), wake: make(chan struct{}, 1),
		calls: map[uint64]chan<- result{}, running: map[uint64]context.CancelFunc{},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

func (c *Conn) start() {
	c.wg.Go(c.write) // ends when the connection breaks
	go c.run()       // the same; Close waits for it
}

// run is the reader's goroutine, and waits for all others.
func (c *Conn) run() {
	defer close(c.ended)
	c.Fail(c.read())
	if to := c.onward.Load(); to != nil {
		to.Fail(fmt.Errorf("the other side of the splice: %w", c.Err()))
	}
	c.wg.Wait()
	c.handler.Closed(c)
}

// Close breaks the connection without waiting for what is queued, and returns when nothing of it runs any more.
func (c *Conn) Close() error {
	c.Fail(net.ErrClosed)
	<-c.ended
	return nil
}

// Fail breaks the connection for a reason and does not wait. After the first reason it does nothing.
func (c *Conn) Fail(cause error) {
	if errors.Is(cause, io.EOF) {
		cause = errors.New("closed by the other side")
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = fmt.Errorf("%w: %w", ErrBroken, cause)
	c.queue = nil
	c.mu.Unlock()
	close(c.done)
	c.cancel()
	c.nc.Close() // unblocks reader and writer
}

// Done is closed when the connection has broken or was closed.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is why Done is closed, matching ErrBroken; nil before. After Close it matches net.ErrClosed too.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Peer is who the other side said it is, when the stream is a *mux.Conn; else zero.
func (c *Conn) Peer() mux.Peer {
	if p, ok := c.nc.(interface{ Peer() mux.Peer }); ok {
		return p.Peer()
	}
	return mux.Peer{}
}

// Stream is what New was given, for its Hello and its addresses; reading and writing it breaks the connection.
func (c *Conn) Stream() net.Conn { return c.nc }

// Send queues a message and returns; body is copied. Messages arrive in the order in which they were queued, or, when the connection breaks, not
// at all from some message on. An error other than ErrTooLarge means that the connection is broken.
func (c *Conn) Send(kind uint8, body []byte) error {
	if len(body) > MaxBody {
		return ErrTooLarge
	}
	c.mu.Lock()
	return c.enqueue(frame{typ: frameMessage, kind: kind, body: body})
}

// Call asks the other side and waits for its answer, for the end of ctx, or for the end of the connection. The answer no is a *RemoteError; an
// error that matches ErrBroken, or ctx's error, means that it is unknown whether and when the call is done. When ctx ends the other side's
// handler is told.
func (c *Conn) Call(ctx context.Context, kind uint8, body []byte) ([]byte, error) {
	if len(body) > MaxBody {
		return nil, ErrTooLarge
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ch := make(chan result, 1)
	c.mu.Lock()
	c.lastID++
	id := c.lastID
	c.calls[id] = ch
	if err := c.enqueue(frame{typ: frameCall, id: id, kind: kind, body: body}); err != nil {
		return nil, err
	}
	select {
	case r := <-ch:
		return r.body, r.err
	case <-ctx.Done():
		c.mu.Lock()
		if _, waiting := c.calls[id]; !waiting { // the answer has just come
			c.mu.Unlock()
			r := <-ch
			return r.body, r.err
		}
		delete(c.calls, id)
		_ = c.enqueue(frame{typ: frameCancel, id: id}) // a broken connection has cancelled it too
		return nil, ctx.Err()
	case <-c.done:
		select {
		case r := <-ch: // it came before the end
			return r.body, r.err
		default:
			return nil, c.Err()
		}
	}
}
