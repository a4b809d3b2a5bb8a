package node

import (
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// Ten thousand sessions that are created at once: every entry that carries them can be read.
func TestEntriesOfManyCreationsAreBounded(t *testing.T) {
	b := newBatcher(1, nil, time.Now, nil)
	const sessions = 10_000
	long := strings.Repeat("x", wire.MaxID)
	for range sessions {
		b.add(item{cmd: raftfsm.Create{CreateSession: wire.CreateSession{
			Nonce: wire.NewUUID(), Name: long[:wire.MaxName], Server: wire.NewUUID(), Instance: wire.NewUUID(), TTL: 10_000,
			Proof: wire.Proof{Boot: long, NetNS: long, Bound: long, Dir: long},
		}}})
	}
	for total := 0; total < sessions; {
		items := b.take()
		if len(items) == 0 || len(items) > maxBatchOps {
			t.Fatalf("an entry of %d creations", len(items))
		}
		if _, err := raftfsm.DecodeEntry(b.encode(items)); err != nil {
			t.Fatalf("%d creations: %v", len(items), err)
		}
		total += len(items)
	}
}
