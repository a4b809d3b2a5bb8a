package node

import "github.com/hashicorp/raft"

// openVotes makes Raft judge a candidate by its log and not by whether the voter's own configuration has it. Raft v1.8.0 refuses a
// candidate that is no voter in the latest configuration of the one it asks, and that may lag by the very entry that made it one: when
// the leader dies after it has promoted a server together with that server alone, the promoted one is refused and all others lack an
// entry, so nobody can ever win although a majority lives. Raft's own rule is that votes are given without a look at the
// configuration (Ongaro's thesis, 4.1); a server that was removed and does not know it disturbs nobody, since no pre-vote is given while
// there is a leader.
func (g *group) openVotes(command any) {
	switch c := command.(type) {
	case *raft.RequestVoteRequest:
		c.ID = nil // as from versions that did not send it, which Raft does not look up
	case *raft.RequestPreVoteRequest:
		if r := g.running.Load(); r != nil {
			c.ID = standIn(r.GetConfiguration().Configuration(), c.ID)
		}
	}
}

// standIn is candidate where conf has it as a voter, else any voter of conf: of a pre-vote the ID is only looked up.
func standIn(conf raft.Configuration, candidate []byte) []byte {
	any := candidate
	for _, s := range conf.Servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		if s.ID == raft.ServerID(candidate) {
			return candidate
		}
		any = []byte(s.ID)
	}
	return any
}
