package node

import (
	"bytes"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/alloctest"
	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/roster"
	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// What other processes say in calls: no decoder panics, and what one reads comes back the same when it is written and read again.
func FuzzCalls(f *testing.F) {
	f.Add(encodeLeadReply(leadReply{leads: true, leader: wire.UUID{1}, addr: "10.0.0.1:7950", term: 3, applied: 9, cluster: wire.UUID{2}, open: true}))
	f.Add(confirmCall{cluster: wire.UUID{1}, server: wire.UUID{2}, instance: wire.UUID{3}, name: "web-1", clock: 1795400835142333}.encode())
	f.Add(encodeUUID(wire.UUID{7}))
	f.Add(Query{Kind: QueryLocks, Prefix: "a", After: "ab", Page: 2}.encode())
	f.Add(Answer{Found: true, Fence: 5, Page: 1, Locks: []raftfsm.LockInfo{{
		Key: "k", Holders: []raftfsm.GrantInfo{{Key: "k", Member: "web-1", Fence: 5, Since: 1}}, Waiters: []raftfsm.WaiterInfo{{Member: "web-2", Since: 2}},
	}}}.encodePlain())
	f.Add(Answer{Stats: raftfsm.Counters{Keys: 1, Grants: 7, LastFence: 9}, Locks: []raftfsm.LockInfo{{
		Key: "k", Mode: wire.Units, Limit: 5, Holders: []raftfsm.GrantInfo{{Fence: 5, Since: 1, Weight: 2, Detached: true, Value: []byte{7}, Where: "a.go:1"}},
	}}}.encode())
	f.Add(encodeEvents([]Event{{Type: "granted", Index: 3, Key: "k", Member: "web-1", Fence: 7, Time: time.UnixMicro(1)}, {Type: EventMissed}}))
	f.Add(encodeStandingCall(wire.UUID{1}, wire.UUID{2}))
	f.Add(standing{suffrage: roster.Nonvoter, pending: "it is about to become a voter"}.encode())
	f.Add(turn{granted: true, first: "web-1", replace: true}.encode())
	f.Add([]byte{0x95, 0xc3, 0, 0, 0xdd, 0x00, 0x7f, 0xff, 0xff})            // so many locks
	f.Add(append([]byte{0xdc, 1, 0}, bytes.Repeat([]byte{0xdc, 1}, 300)...)) // arrays in arrays
	f.Fuzz(func(t *testing.T, body []byte) {
		const decoders = 8
		alloctest.PaidWith(t, decoders*len(body), decoders*alloctest.Constant, func() { // in one: measuring takes longer than they do
			_, _ = decodeLeadReply(body)
			_, _ = decodeConfirmCall(body)
			_, _ = decodeQuery(body)
			_, _ = decodeAnswer(body)
			_, _ = decodeEvents(body)
			_, _ = decodeStanding(body)
			_, _ = decodeTurn(body)
			_, _, _ = decodeStandingCall(body)
		})
		again(t, body, decodeLeadReply, encodeLeadReply)
		again(t, body, decodeConfirmCall, confirmCall.encode)
		again(t, body, decodeUUID, encodeUUID)
		again(t, body, decodeQuery, Query.encode)
		again(t, body, decodeAnswer, Answer.encode)
		again(t, body, decodeAnswer, Answer.encodePlain)
		again(t, body, decodeEvents, encodeEvents)
		again(t, body, decodeStanding, standing.encode)
		again(t, body, decodeTurn, turn.encode)
		again(t, body, func(p []byte) (serverRun, error) {
			server, instance, err := decodeStandingCall(p)
			return serverRun{server, instance}, err
		}, func(r serverRun) []byte { return encodeStandingCall(r.server, r.instance) })
		_, _, _ = decodeConfirmReply(body)
	})
}

// serverRun is what decodeStandingCall reads.
type serverRun struct{ server, instance wire.UUID }

func again[T any](t *testing.T, body []byte, decode func([]byte) (T, error), encode func(T) []byte) {
	t.Helper()
	v, err := decode(body)
	if err != nil {
		return
	}
	first := bytes.Clone(encode(v))
	w, err := decode(first)
	if err != nil {
		t.Fatalf("%+v is written as what can't be read: %v", v, err)
	}
	if second := encode(w); !bytes.Equal(first, second) {
		t.Fatalf("%+v is read back as %+v", v, w)
	}
}

// What another process may say in messages to a leader: whatever it is, it is done as its session's wish or ends its connection, and the lead
// goes on serving others.
func FuzzMessages(f *testing.F) {
	const session = 2 // the second in the state
	message := func(kind uint8, write func(w *wire.Writer)) {
		w := wire.NewWriter()
		w.Uint(session)
		write(w)
		f.Add(kind, w.Bytes())
		f.Add(kind, w.Bytes()[:w.Len()/2])
	}
	ops := func(all ...wire.Op) {
		message(msgOps, func(w *wire.Writer) { wire.EncodeOps(w, all) })
	}
	ops(wire.Op{Kind: wire.OpAcquire, Seq: 1, Key: "a"}, wire.Op{Kind: wire.OpAcquire, Seq: 2, Key: "a"}, wire.Op{Kind: wire.OpFinish, Seq: 1})
	ops(wire.Op{Kind: wire.OpRequest, Seq: 1, Ask: &wire.Ask{Keys: []string{"a", "b"}, Mode: wire.Shared, Owner: 1, TTL: 1, Value: []byte("v"), Where: "a.go:1"}})
	ops(wire.Op{Kind: wire.OpRequest, Seq: wire.MaxSeq, Ask: &wire.Ask{Keys: []string{"a"}, Mode: wire.Units, Limit: 2, Weight: 1, Detached: 5}})
	ops(wire.Op{Kind: wire.OpForce, Seq: 1, Key: "theirs"}, wire.Op{Kind: wire.OpConfirm, Seq: 1}, wire.Op{Kind: wire.OpForget, Seq: 2})
	message(msgRenew, func(w *wire.Writer) { w.Uint(1) })
	message(msgAttach, func(*wire.Writer) {})
	f.Add(msgTaken, []byte{})
	f.Add(uint8(255), []byte{0xdd, 0x00, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		bubble.Test(t, func(t *testing.T) {
			fake, l := newFakeCluster(t)
			var sink, other fakeSink
			theirs := newSession(t, l, "theirs", time.Minute, &sink)
			l.submit(theirs, []wire.Op{{Kind: wire.OpAcquire, Seq: 1, Key: "theirs"}}, &sink, l.batch.newLane(nil))
			p := &peerConn{node: &Node{peers: map[*peerConn]*rpc.Conn{}}}
			near, far := net.Pipe()
			conn := rpc.New(near, p, rpc.Options{})
			p.conn, p.lead, p.lane = conn, l, l.batch.newLane(conn.Done())
			if id := newSession(t, l, "fuzz", time.Minute, &other); id != session {
				t.Fatalf("the session is %d", id)
			}
			caller := rpc.New(far, nil, rpc.Options{})
			alloctest.PaidWith(t, len(body), 4<<20, func() { _ = caller.Send(kind, body); synctest.Wait() })
			others := []uint64{theirs}
			if wire.NewReader(body).Uint() == theirs { // it is theirs: members are not kept from speaking for each other, as they do when one relays
				others = nil
			}
			for _, id := range append(others, newSession(t, l, "later", time.Minute, &sink)) {
				l.submit(id, []wire.Op{{Kind: wire.OpAcquire, Seq: 2, Key: "theirs too"}}, &sink, l.batch.newLane(nil))
				synctest.Wait()
				_, outs := sink.got()
				if last := outs[len(outs)-1]; last.Kind != wire.OutGranted && last.Kind != wire.OutQueued {
					t.Errorf("after message %d %x another session's request came to %+v", kind, body, last)
				}
			}
			select {
			case <-l.done:
				t.Errorf("message %d %x ended the lead", kind, body)
			default:
			}
			caller.Close()
			conn.Close()
			fake.commitAll(true)
		})
	})
}
