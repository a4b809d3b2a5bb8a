package node

import (
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/wire"
)

func TestLatestAddr(t *testing.T) {
	server, other := wire.UUID{1}, wire.UUID{2}
	at := func(s wire.UUID, addr string, since int64, state gossip.State) gossip.Member {
		return gossip.Member{Meta: gossip.Meta{Server: s, Addr: addr}, State: state, Since: time.Unix(since, 0)}
	}
	for _, test := range []struct {
		name    string
		members []gossip.Member
		want    string
	}{
		{"nobody", nil, ""},
		{"another", []gossip.Member{at(other, "a", 1, gossip.Alive)}, ""},
		{"one run", []gossip.Member{at(other, "a", 1, gossip.Alive), at(server, "b", 1, gossip.Alive)}, "b"},
		{"a failed one", []gossip.Member{at(server, "b", 1, gossip.Failed)}, "b"},
		{"one that left", []gossip.Member{at(server, "b", 1, gossip.Left)}, ""},
		{"a new run before the old one is missed", []gossip.Member{at(server, "old", 1, gossip.Alive), at(server, "new", 2, gossip.Alive)}, "new"},
		{"the same, listed the other way round", []gossip.Member{at(server, "new", 2, gossip.Alive), at(server, "old", 1, gossip.Alive)}, "new"},
		{"a new run after the old one failed", []gossip.Member{at(server, "old", 1, gossip.Failed), at(server, "new", 2, gossip.Alive)}, "new"},
		{"the old one is heard of later", []gossip.Member{at(server, "old", 2, gossip.Failed), at(server, "new", 1, gossip.Alive)}, "new"},
	} {
		if got, ok := latestAddr(test.members, server); got != test.want || ok != (test.want != "") {
			t.Errorf("%s: %q, %v; want %q", test.name, got, ok, test.want)
		}
	}
}
