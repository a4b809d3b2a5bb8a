package raftlog

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// Hazard 20. Requests that Raft would panic on are answered before they reach it.
func TestVet(t *testing.T) {
	good := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}})
	deep := append(append([]byte{0x81, 0xa1, 'x'}, bytes.Repeat([]byte{0x91}, 1<<20)...), 0)
	conf := func(data []byte) *raft.Log { return &raft.Log{Index: 6, Type: raft.LogConfiguration, Data: data} }
	for name, c := range map[string]struct {
		command any
		ok      bool
	}{
		"a vote":                       {&raft.RequestVoteRequest{}, true},
		"a heartbeat":                  {&raft.AppendEntriesRequest{}, true},
		"entries":                      {&raft.AppendEntriesRequest{PrevLogEntry: 4, Entries: []*raft.Log{{Index: 5}, conf(good)}}, true},
		"a gap":                        {&raft.AppendEntriesRequest{PrevLogEntry: 4, Entries: []*raft.Log{{Index: 6}}}, false},
		"no order":                     {&raft.AppendEntriesRequest{PrevLogEntry: 4, Entries: []*raft.Log{{Index: 5}, {Index: 5}}}, false},
		"no entry":                     {&raft.AppendEntriesRequest{Entries: []*raft.Log{nil}}, false},
		"an unknown type":              {&raft.AppendEntriesRequest{PrevLogEntry: 4, Entries: []*raft.Log{{Index: 5, Type: 99}}}, false},
		"a garbage configuration":      {&raft.AppendEntriesRequest{PrevLogEntry: 5, Entries: []*raft.Log{conf([]byte("garbage"))}}, false},
		"a deeply nested one":          {&raft.AppendEntriesRequest{PrevLogEntry: 5, Entries: []*raft.Log{conf(deep)}}, false},
		"an empty configuration":       {&raft.AppendEntriesRequest{PrevLogEntry: 5, Entries: []*raft.Log{conf(nil)}}, false},
		"a snapshot":                   {&raft.InstallSnapshotRequest{SnapshotVersion: 1, Configuration: good}, true},
		"a snapshot of an old version": {&raft.InstallSnapshotRequest{Configuration: good}, false},
		"a snapshot of garbage":        {&raft.InstallSnapshotRequest{SnapshotVersion: 1, Configuration: []byte{0xc1}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var refused *RefusedError
			if err := acceptable(c.command); c.ok && err != nil || !c.ok && !errors.As(err, &refused) {
				t.Fatal(err)
			}
		})
	}
}

func TestVettedTransport(t *testing.T) {
	addr, inner := raft.NewInmemTransport("server")
	v := Vet(inner, func(command any) {
		if a, ok := command.(*raft.AppendEntriesRequest); ok {
			a.Term += 10
		}
	})
	_, client := raft.NewInmemTransportWithTimeout("client", 5*time.Second)
	client.Connect(addr, inner)
	go func() {
		rpc := <-v.Consumer()
		rpc.Respond(&raft.AppendEntriesResponse{Term: rpc.Command.(*raft.AppendEntriesRequest).Term, Success: true}, nil)
	}()
	var resp raft.AppendEntriesResponse
	bad := &raft.AppendEntriesRequest{Term: 3, Entries: []*raft.Log{{Index: 9}}}
	if err := client.AppendEntries("server", addr, bad, &resp); err == nil {
		t.Fatal("a bad request was answered")
	}
	mustDo(t, client.AppendEntries("server", addr, &raft.AppendEntriesRequest{Term: 4, Entries: []*raft.Log{{Index: 1}}}, &resp))
	if resp.Term != 14 {
		t.Fatal(resp)
	}
	mustDo(t, v.Close())
	mustDo(t, v.Close())
}
