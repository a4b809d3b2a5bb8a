package node

import (
	"context"
	"errors"
	"sync"

	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/session"
	"github.com/godistlock/distlock/internal/wire"
)

// localLink is the way of this process's session to the leader where that is this process itself: function calls. What comes back goes
// through a queue of its own, as it would through a connection, so that the lead never waits for its session nor calls into it.
type localLink struct {
	lead *lead
	lane *lane
	sink session.Sink
	done chan struct{} // closed by Close or by the end of the lead
	once sync.Once
	wg   sync.WaitGroup

	mu    sync.Mutex // guards queue and ids
	queue []func()
	ids   []uint64 // sessions attached
	wake  chan struct{}
}

var (
	_ session.Link = (*localLink)(nil)
	_ session.Sink = (*localLink)(nil)
)

func newLocalLink(l *lead, sink session.Sink) (*localLink, bool) {
	k := &localLink{lead: l, sink: sink, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	if !l.whenOver(k, k.finish) {
		return nil, false
	}
	k.lane = l.batch.newLane(k.done)
	k.wg.Add(1)
	go k.deliver() // ends with done
	return k, true
}

func (k *localLink) finish() { k.once.Do(func() { close(k.done) }) }

// superseded ends the link: its session is served by another.
func (k *localLink) superseded() { k.finish() }

func (k *localLink) deliver() {
	defer k.wg.Done()
	for {
		select {
		case <-k.done:
			return
		case <-k.wake:
		}
		k.mu.Lock()
		calls := k.queue
		k.queue = nil
		k.mu.Unlock()
		for _, call := range calls {
			call()
		}
	}
}

func (k *localLink) enqueue(call func()) {
	k.mu.Lock()
	k.queue = append(k.queue, call)
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Outcomes takes a push of the lead.
func (k *localLink) Outcomes(id uint64, outs []wire.Outcome) {
	k.enqueue(func() { k.sink.Outcomes(id, outs) })
}

// Renewed takes the lead's answer to a renewal.
func (k *localLink) Renewed(id, attempt uint64, ok bool) {
	k.enqueue(func() { k.sink.Renewed(id, attempt, ok) })
}

func (k *localLink) Create(ctx context.Context, c wire.CreateSession) (wire.SessionReply, error) {
	return k.lead.create(ctx, c)
}

func (k *localLink) Attach(id uint64) error {
	if err := k.over(); err != nil {
		return err
	}
	k.mu.Lock()
	k.ids = append(k.ids, id)
	k.mu.Unlock()
	k.lead.attach(id, k)
	return nil
}

func (k *localLink) Submit(id uint64, ops []wire.Op) error {
	if err := k.over(); err != nil {
		return err
	}
	k.lead.submit(id, ops, k, k.lane)
	return nil
}

func (k *localLink) Renew(id, attempt uint64) error {
	if err := k.over(); err != nil {
		return err
	}
	k.lead.renew(id, attempt, k)
	return nil
}

func (k *localLink) CloseSession(ctx context.Context, id uint64) error {
	return k.lead.closeSession(ctx, id)
}

func (k *localLink) over() error {
	select {
	case <-k.done:
		return errNotLeading
	default:
		return nil
	}
}

func (k *localLink) Done() <-chan struct{} { return k.done }

func (k *localLink) Close() {
	k.finish()
	k.lead.withdraw(k)
	k.mu.Lock()
	ids := k.ids
	k.mu.Unlock()
	for _, id := range ids {
		k.lead.detach(id, k)
	}
	k.wg.Wait()
}

// remoteLink is the way to a leader that is another process: one connection.
type remoteLink struct {
	server wire.UUID
	via    wire.UUID // through whom it goes; zero: through nobody
	name   string    // for people
	term   uint64    // in which it said that it leads
	format uint64    // of the log, which it reads; 0: it is too old to say
	conn   *rpc.Conn
	pacer  *pacer
	sink   session.Sink
	done   chan struct{}
	once   sync.Once
}

var _ session.Link = (*remoteLink)(nil)

func (k *remoteLink) finish() { k.once.Do(func() { close(k.done) }) }

// Call refuses: a leader calls nothing on this connection.
func (k *remoteLink) Call(context.Context, *rpc.Conn, uint8, []byte) ([]byte, error) {
	return nil, errors.New("this connection takes no calls")
}

// Message takes the leader's pushes.
func (k *remoteLink) Message(_ *rpc.Conn, kind uint8, body []byte) {
	r := wire.NewReader(body)
	switch kind {
	case msgOutcomes:
		id, outs := r.Uint(), wire.DecodeOutcomes(r)
		if r.End() == nil {
			k.sink.Outcomes(id, outs)
			return
		}
	case msgRenewed:
		id, attempt, ok := r.Uint(), r.Uint(), r.Bool()
		if r.End() == nil {
			k.sink.Renewed(id, attempt, ok)
			return
		}
	case msgOver:
	}
	k.finish() // it leads no more, or it says what we don't understand
}

func (k *remoteLink) Closed(*rpc.Conn) { k.finish() }

func (k *remoteLink) Create(ctx context.Context, c wire.CreateSession) (wire.SessionReply, error) {
	w := wire.NewWriter()
	c.Encode(w)
	body, err := k.conn.Call(ctx, callCreate, w.Bytes())
	if err != nil {
		return wire.SessionReply{}, err
	}
	r := wire.NewReader(body)
	reply := wire.DecodeSessionReply(r)
	return reply, r.End()
}

func (k *remoteLink) Attach(id uint64) error {
	w := wire.NewWriter()
	w.Uint(id)
	return k.conn.Send(msgAttach, w.Bytes())
}

func (k *remoteLink) Submit(id uint64, ops []wire.Op) error {
	if k.format < wire.OpFormat { // it would take a message with what it doesn't know for nonsense, and end the connection
		var outs []wire.Outcome
		if ops, outs, _ = downToFormat1(ops, func() (string, bool) { return tooOldText(k.name), false }); len(outs) > 0 {
			k.sink.Outcomes(id, outs)
		}
		if len(ops) == 0 {
			return nil
		}
	}
	k.pacer.admit(ops)
	w := wire.NewWriter()
	w.Uint(id)
	wire.EncodeOps(w, ops)
	return k.conn.Send(msgOps, w.Bytes())
}

func (k *remoteLink) Renew(id, attempt uint64) error {
	w := wire.NewWriter()
	w.Uint(id)
	w.Uint(attempt)
	return k.conn.Send(msgRenew, w.Bytes())
}

func (k *remoteLink) CloseSession(ctx context.Context, id uint64) error {
	w := wire.NewWriter()
	w.Uint(id)
	_, err := k.conn.Call(ctx, callCloseSession, w.Bytes())
	return err
}

func (k *remoteLink) Done() <-chan struct{} { return k.done }

func (k *remoteLink) Close() {
	k.finish()
	k.conn.Close()
	k.pacer.stop()
}
