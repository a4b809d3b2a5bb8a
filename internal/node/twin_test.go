package node

import (
	"fmt"
	"testing"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/wire"
)

// Everybody elsewhere who may act as this server is asked, each address once, so that an earlier run hides nobody; and not more than a few.
func TestTwins(t *testing.T) {
	server, self := wire.NewUUID(), wire.NewUUID()
	mine := run(server, "here", gossip.Alive, 3)
	mine.Instance = self
	members := []gossip.Member{
		mine, run(server, "here", gossip.Alive, 1), run(server, "moved from", gossip.Alive, 1), run(server, "twin", gossip.Suspect, 2),
		run(server, "twin", gossip.Alive, 1), run(server, "gone", gossip.Failed, 2), run(wire.NewUUID(), "another", gossip.Alive, 2),
	}
	var got []string
	for _, m := range twinsOf(server, self, "here", members) {
		got = append(got, m.Addr)
	}
	if fmt.Sprint(got) != "[moved from twin]" {
		t.Errorf("asked are %v", got)
	}
	for i := range 100 {
		members = append(members, run(server, fmt.Sprint("claims", i), gossip.Alive, 1))
	}
	if n := len(twinsOf(server, self, "here", members)); n != maxTwins {
		t.Errorf("%d are asked", n)
	}
}
