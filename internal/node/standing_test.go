package node

import (
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/wire"
)

// A standby that stopped Raft, though it has its place in the group, is asked to run it again: else it would be passed over when a voter is lost,
// and never be ready.
func TestStandbyWithoutRaftIsRoused(t *testing.T) {
	const voters = 3
	f := startFleetWith(t, voters+1, func(_ int, c *Config) { c.Expect, c.Voters = voters, voters })
	leader, l := f.leader(t)
	var standby *Node
	await(t, leader, "a standby follows the log", func() bool {
		for _, n := range f.others(leader) {
			if seats, known := n.seats(); known && seats[n.serverID()] != 0 && !n.votes() && l.hasLog(n.serverID()) {
				standby = n
			}
		}
		return standby != nil
	})
	for enlisted := range uint64(4) { // how often it was asked is the life loop's to know
		standby.life.doubts <- doubt{group: standby.group.Load(), enlisted: enlisted}
	}
	await(t, standby, "it stops Raft", func() bool { return !standby.RunsRaft() })
	began := time.Now()
	await(t, standby, "it runs Raft again", standby.RunsRaft)
	if took := time.Since(began); took > seatDoubt+rouseAgain+10*time.Second {
		t.Errorf("it took %s", took)
	}
	await(t, leader, "it follows the log again", func() bool {
		return l.silentFor(standby.serverID(), time.Now()) < heardWithin && l.hasLog(standby.serverID())
	})
}

// Who is being taken into the Raft group is not told meanwhile that it has no place there: it would stop the Raft that it was asked to run. Nor is it
// after that, however soon.
func TestWhoIsGivenAPlaceIsNotToldItHasNone(t *testing.T) {
	f := startFleetWith(t, 2, func(i int, c *Config) { c.Expect, c.Voters, c.MayVote = 1, 1, i == 0 })
	leader, l := f.leader(t)
	client := f.others(leader)[0]
	told := func() standing {
		t.Helper()
		s, err := leader.standingOf(t.Context(), l, client.serverID(), client.cfg.Instance)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	await(t, leader, "it is a client for good", func() bool { return told() == standing{} })
	l.setMoving(client.serverID())
	if s := told(); s.pending == "" {
		t.Errorf("its place is being changed, and it is told %+v", s)
	}
	l.setMoving(wire.UUID{})
	if s := told(); s != (standing{}) {
		t.Errorf("its place is not being changed any more, and it is told %+v", s)
	}
}

// A run that has not yet said of which cluster it is, or says another, is not planned for: it can't be told where it will stand.
func TestRunsOfACluster(t *testing.T) {
	ours, other := wire.NewUUID(), wire.NewUUID()
	member := func(cluster wire.UUID, state gossip.State) gossip.Member {
		return gossip.Member{Meta: gossip.Meta{Instance: wire.NewUUID(), Cluster: cluster}, State: state}
	}
	all := []gossip.Member{
		member(ours, gossip.Alive), member(ours, gossip.Suspect), member(ours, gossip.Failed), member(ours, gossip.Left), member(wire.UUID{}, gossip.Alive), member(other, gossip.Alive),
	}
	runs := runsOf(ours, all)
	if len(runs) != 2 || !runs[all[0].Instance] || !runs[all[1].Instance] {
		t.Errorf("runs %v of %+v", runs, all)
	}
}
