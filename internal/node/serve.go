package node

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/session"
	"github.com/godistlock/distlock/internal/wire"
)

// Kinds of calls and messages on a connection. Values are part of the protocol: they are never renumbered.
const (
	callLead         uint8 = 1  // are you the leader? binds the connection to this lead; else notLeader with a hint
	callCreate       uint8 = 2  // wire.CreateSession -> wire.SessionReply
	callCloseSession uint8 = 3  // session
	callQuery        uint8 = 4  // a linearizable read
	callFounding     uint8 = 5  // a message of the first start
	callConfirm      uint8 = 6  // this process belongs to the cluster for good
	callEnlist       uint8 = 7  // the leader asks this process to run Raft
	callResign       uint8 = 8  // a voter that leaves asks the leader to take it out of the configuration
	callWho          uint8 = 9  // who leads?
	callDepart       uint8 = 27 // a voter that wants to leave asks for the leaving slot
	callStanding     uint8 = 26 // a server and its run -> its place in the Raft group, and what of that is about to change
	callWatch        uint8 = 22 // a prefix -> the term of the lead; binds the connection to this watch
	callPace         uint8 = 28 // operations sent so far -> how many may be on their way, once those have gone into entries
	callVia          uint8 = 25 // a server; from then on the connection is one to that server
	msgAttach        uint8 = 16 // session
	msgOps           uint8 = 17 // session, ops
	msgRenew         uint8 = 18 // session, attempt
	msgOutcomes      uint8 = 19 // session, outcomes
	msgRenewed       uint8 = 20 // session, attempt, ok
	msgOver          uint8 = 21 // this process leads no more
	msgEvents        uint8 = 23 // events
	msgTaken         uint8 = 24 // one message of events was taken: the next may be sent
)

// peerConn serves one connection that another process opened.
type peerConn struct {
	node  *Node
	hello wire.Hello

	mu       sync.Mutex // guards the fields below; the lead pushes with its own held, so nothing is asked of it under this one
	conn     *rpc.Conn
	lead     *lead // what callLead bound this connection to
	lane     *lane // of lead; its operations
	sessions []uint64
	watching *peerWatch // what callWatch made of this connection
	relayed  bool       // callVia was called
}

var (
	_ rpc.Handler  = (*peerConn)(nil)
	_ session.Sink = (*peerConn)(nil)
)

func (p *peerConn) bound() *lead {
	l, _ := p.boundLane()
	return l
}

func (p *peerConn) boundLane() (*lead, *lane) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lead, p.lane
}

// Call answers one call.
func (p *peerConn) Call(ctx context.Context, c *rpc.Conn, kind uint8, body []byte) ([]byte, error) {
	if err := p.node.stranger(p.hello.Server, p.hello.Name); err != nil { // it was let in before that was known here
		return nil, err
	}
	r := wire.NewReader(body)
	switch kind {
	case callLead:
		call := decodeLeadCall(body)
		reply, err := p.bind(ctx, c, call)
		if err != nil {
			return nil, err
		}
		if call.format > 0 { // who says which format it reads wants to know ours; an old process says nothing, and reads no more than it knows
			reply.format = p.node.ownFormat()
		}
		return encodeLeadReply(reply), nil
	case callCreate:
		cs := wire.DecodeCreateSession(r)
		if err := r.End(); err != nil {
			return nil, err
		}
		l := p.bound()
		if l == nil {
			return nil, errNotLeading
		}
		if err := p.node.misnamed(p.hello, cs.Server, cs.Name); err != nil {
			return nil, err
		}
		reply, err := l.create(ctx, cs)
		if err != nil {
			return nil, err
		}
		w := wire.NewWriter()
		reply.Encode(w)
		return w.Bytes(), nil
	case callCloseSession:
		id := r.Uint()
		if err := r.End(); err != nil {
			return nil, err
		}
		l := p.bound()
		if l == nil {
			return nil, errNotLeading
		}
		return nil, l.closeSession(ctx, id)
	case callWatch:
		return p.watch(ctx, c, body)
	case callPace:
		return p.pace(ctx, body)
	case callVia:
		return p.relay(ctx, c, body)
	default:
		return p.node.answer(ctx, p.hello, kind, body)
	}
}

// bind makes the connection one to the leader, if this process is that; else the answer names the leader as far as it is known here.
func (p *peerConn) bind(ctx context.Context, c *rpc.Conn, call leadCall) (leadReply, error) {
	l := p.node.leading(ctx)
	if l == nil && call.holds {
		l = p.node.awaitNews(ctx, call.over, call.term)
	}
	if l == nil {
		server, addr := p.node.leaderHint()
		return leadReply{leader: server, addr: addr}, nil
	}
	if !p.belong(c, l) {
		return leadReply{}, fmt.Errorf("%w: this connection was to a lead that is over", errNotLeading)
	}
	// Not with p.mu held: who pushes to the connection holds the lead's and waits for that one. Closed comes only after this call.
	if !l.whenOver(p, func() { _ = c.Send(msgOver, nil) }) { // an error means that the connection is gone, which says the same
		return leadReply{}, errNotLeading
	}
	return leadReply{leads: true, leader: p.node.serverID(), term: l.term}, nil
}

// belong makes the connection one to l, for good: it may be asked for again, but another lead takes another connection.
func (p *peerConn) belong(c *rpc.Conn, l *lead) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lead == nil {
		p.conn, p.lead, p.lane = c, l, l.batch.newLane(c.Done())
	}
	return p.lead == l
}

// Message takes what the other side's session sends.
func (p *peerConn) Message(c *rpc.Conn, kind uint8, body []byte) {
	if kind == msgTaken && p.taken() {
		return
	}
	l, ln := p.boundLane()
	if err := p.node.stranger(p.hello.Server, p.hello.Name); err != nil {
		c.Fail(err)
		return
	}
	if l == nil {
		c.Fail(errUnknownMessage)
		return
	}
	r := wire.NewReader(body)
	switch kind {
	case msgOps:
		id, ops := r.Uint(), wire.DecodeOps(r)
		if r.End() == nil {
			l.submit(id, ops, p, ln) // while that waits nothing is read: who asks for too much is held back by TCP
			return
		}
	case msgRenew:
		id, attempt := r.Uint(), r.Uint()
		if r.End() == nil {
			l.renew(id, attempt, p)
			return
		}
	case msgAttach:
		id := r.Uint()
		if r.End() == nil && p.remember(id) {
			l.attach(id, p)
			return
		}
	}
	c.Fail(errUnknownMessage) // it says what we don't understand
}

// maxSessionsPerConn bounds what one connection may attach: a process has one session at a time and few in its life.
const maxSessionsPerConn = 1024

func (p *peerConn) remember(id uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.sessions) == maxSessionsPerConn {
		return false
	}
	p.sessions = append(p.sessions, id)
	return true
}

// taken notes that the other side has taken a message of events; false: it watches nothing.
func (p *peerConn) taken() bool {
	p.mu.Lock()
	w := p.watching
	p.mu.Unlock()
	if w != nil {
		hint(w.taken)
	}
	return w != nil
}

// Outcomes pushes to the session's owner.
func (p *peerConn) Outcomes(id uint64, outs []wire.Outcome) {
	for part := range pushes(outs) {
		w := wire.NewWriter()
		w.Uint(id)
		wire.EncodeOutcomes(w, part)
		p.send(msgOutcomes, w.Bytes())
	}
}

// Renewed pushes the answer to a renewal.
func (p *peerConn) Renewed(id, attempt uint64, ok bool) {
	w := wire.NewWriter()
	w.Uint(id)
	w.Uint(attempt)
	w.Bool(ok)
	p.send(msgRenewed, w.Bytes())
}

func (p *peerConn) send(kind uint8, body []byte) {
	p.mu.Lock()
	c := p.conn
	p.mu.Unlock()
	if c == nil {
		return
	}
	if err := c.Send(kind, body); err != nil {
		c.Fail(err) // if it is not broken already: the other side asks again on the next, and would wait on this one
	}
}

// superseded ends the connection: its session is served by another. It doesn't wait.
func (p *peerConn) superseded() {
	p.mu.Lock()
	c := p.conn
	p.mu.Unlock()
	if c != nil {
		c.Fail(errSuperseded)
	}
}

// Closed forgets the connection.
func (p *peerConn) Closed(*rpc.Conn) {
	p.mu.Lock()
	l, ids, w := p.lead, p.sessions, p.watching
	p.mu.Unlock()
	if w != nil {
		close(w.over)
		w.lead.unsubscribe(w)
	}
	if l != nil {
		l.withdraw(p)
		for _, id := range ids {
			l.detach(id, p)
		}
	}
	p.node.forgetPeer(p)
}

var errSuperseded = errors.New("its session is served by another connection now")

var errUnknownMessage = errors.New("a message that this process doesn't understand, or to a lead that it has not")
