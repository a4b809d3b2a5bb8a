package raftlog

import (
	"sync"

	"github.com/hashicorp/raft"
)

// Transport is what Vet needs of a Raft transport; *raft.NetworkTransport and *raft.InmemTransport have it.
type Transport interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
}

// Vet stands between a transport and Raft and answers requests itself that Raft would panic on, or that would tear its log: a configuration
// that can't be decoded, entries of an unknown type or out of order. Heartbeats carry none of these and keep their short way. Use the
// result in place of t; closing it closes t. edit, if not nil, may change what goes to Raft; it must not block.
func Vet(t Transport, edit func(command any)) Transport {
	v := &vetted{Transport: t, edit: edit, out: make(chan raft.RPC), stop: make(chan struct{})}
	v.wg.Go(v.pump) // ends with Close
	return v
}

type vetted struct {
	Transport
	edit func(command any)
	out  chan raft.RPC
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup
}

func (v *vetted) Consumer() <-chan raft.RPC { return v.out }

func (v *vetted) Close() error {
	err := v.Transport.Close()
	v.once.Do(func() { close(v.stop) })
	v.wg.Wait()
	return err
}

func (v *vetted) pump() {
	in := v.Transport.Consumer()
	for {
		var rpc raft.RPC
		select {
		case rpc = <-in:
		case <-v.stop:
			return
		}
		if err := acceptable(rpc.Command); err != nil {
			rpc.Respond(nil, err) // its channel has room for one
			continue
		}
		if v.edit != nil {
			v.edit(rpc.Command)
		}
		select {
		case v.out <- rpc:
		case <-v.stop:
			return
		}
	}
}

// acceptable says whether Raft can take in the request.
func acceptable(command any) error {
	switch c := command.(type) {
	case *raft.AppendEntriesRequest:
		for i, l := range c.Entries {
			if l == nil {
				return refuse("an entry is missing")
			}
			if err := decodable(l); err != nil {
				return err
			}
			if want := c.PrevLogEntry + 1 + uint64(i); l.Index != want {
				return refuse("entry %d stands where %d belongs", l.Index, want)
			}
		}
	case *raft.InstallSnapshotRequest:
		if c.SnapshotVersion != raft.SnapshotVersionMax {
			return refuse("a snapshot of version %d", c.SnapshotVersion)
		}
		return configuration(c.Configuration)
	}
	return nil
}
