package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// answer serves the calls that concern the cluster rather than a session.
func (n *Node) answer(ctx context.Context, from wire.Hello, kind uint8, body []byte) ([]byte, error) {
	switch kind {
	case callWho:
		return encodeLeadReply(n.who(ctx)), nil
	case callFounding:
		return nil, n.life.founding(ctx, from, body)
	case callEnlist:
		cluster, err := decodeUUID(body)
		if err != nil {
			return nil, err
		}
		return nil, n.life.enlist(ctx, cluster)
	}
	l := n.leading(ctx)
	if l == nil {
		return nil, errNotLeading
	}
	switch kind {
	case callQuery:
		q, err := decodeQuery(body)
		if err != nil {
			return nil, err
		}
		a, err := l.answer(ctx, q)
		if err != nil {
			return nil, err
		}
		return a.encodeFor(q.Kind), nil
	case callConfirm:
		c, err := decodeConfirmCall(body)
		if err != nil {
			return nil, err
		}
		if err := n.misnamed(from, c.server, c.name); err != nil {
			return nil, err
		}
		return confirmOn(ctx, l, c)
	case callDepart:
		server, instance, err := decodeStandingCall(body)
		if err != nil {
			return nil, err
		}
		turn, err := n.departOn(ctx, l, server, instance)
		if err != nil {
			return nil, err
		}
		return turn.encode(), nil
	case callStanding:
		server, instance, err := decodeStandingCall(body)
		if err != nil {
			return nil, err
		}
		s, err := n.standingOf(ctx, l, server, instance)
		if err != nil {
			return nil, err
		}
		return s.encode(), nil
	case callResign:
		server, err := decodeUUID(body)
		if err != nil {
			return nil, err
		}
		return nil, n.letGo(ctx, l, server)
	}
	return nil, errors.New(unknownCall(kind))
}

// unknownCall is what the first version answers to a call that it doesn't know, as all do.
func unknownCall(kind uint8) string { return fmt.Sprintf("call %d is not known to this version", kind) }

func isUnknownCall(err error, kind uint8) bool {
	var remote *rpc.RemoteError
	return errors.As(err, &remote) && remote.Code == 0 && remote.Text == unknownCall(kind)
}

// who says who leads, and how far this process's own state machine is.
func (n *Node) who(ctx context.Context) leadReply {
	var a leadReply
	if g := n.group.Load(); g != nil {
		view := g.fsm.View()
		a.applied = g.raft.AppliedIndex()
		a.cluster, a.open, a.dissolved = view.Cluster(), view.Open(), view.Dissolved()
	}
	if l := n.lead.Load(); l != nil && l.isReady() {
		a.leads, a.leader, a.addr, a.term = true, n.serverID(), n.cfg.Addr, l.term
		return a
	}
	a.leader, a.addr = n.leaderHint()
	return a
}

// confirmOn commits that a process belongs to the cluster for good, and answers whether the cluster has opened.
func confirmOn(ctx context.Context, l *lead, c confirmCall) ([]byte, error) {
	reply, err := l.propose(ctx, raftfsm.Confirm{Cluster: c.cluster, Server: c.server, Instance: c.instance, Name: c.name, Clock: c.clock})
	if err != nil {
		return nil, err
	}
	w := wire.NewWriter()
	w.Bool(reply.Code == wire.CodeOK)
	w.Bool(l.group.fsm.View().Open())
	return w.Bytes(), nil
}

func decodeConfirmReply(body []byte) (ok, open bool, err error) {
	r := wire.NewReader(body)
	ok, open = r.Bool(), r.Bool()
	return ok, open, r.End()
}
