package node

import (
	"bytes"
	"testing"
	"time"

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
	f.Fuzz(func(t *testing.T, body []byte) {
		again(t, body, decodeLeadReply, encodeLeadReply)
		again(t, body, decodeConfirmCall, confirmCall.encode)
		again(t, body, decodeUUID, encodeUUID)
		again(t, body, decodeQuery, Query.encode)
		again(t, body, decodeAnswer, Answer.encode)
		again(t, body, decodeAnswer, Answer.encodePlain)
		again(t, body, decodeEvents, encodeEvents)
		_, _, _ = decodeConfirmReply(body)
	})
}

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
