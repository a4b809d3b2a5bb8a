// Package roster decides who has a seat in the Raft group. It is a pure planner: from what the leader sees it answers the next single
// membership change, or none. It reads no clock and acts on nothing; the leader makes the change and asks again.
//
// What it never does: leave a configuration whose living voters are not its majority, if it was given one where they were; and
// take a vote away on gossip's word. A voter that is silent keeps its seat, since silence is no death: only a proof of death, the voter's own
// leaving or more voters than Voters end a seat. A voter that was lost for long is not proven dead either: it keeps its seat until another has
// caught up, and is then one voter too many.
package roster

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/godistlock/distlock/internal/wire"
)

// Suffrage is a server's standing in the Raft configuration.
type Suffrage uint8

const (
	Voter    Suffrage = 1
	Nonvoter Suffrage = 2 // follows the log: being prepared for a seat, or a standby
)

// Server is one entry of the Raft configuration.
type Server struct {
	ID       wire.UUID
	Suffrage Suffrage
}

// Candidate is one process as the leader sees it. Of two with the same Server the living one counts.
type Candidate struct {
	Server   wire.UUID
	Name     string
	Alive    bool   // gossip hears of it, suspect or not
	MayVote  bool   // false: the user has said that it never votes
	Durable  bool   // its log is on disk: when it comes back it is the same server
	Leaving  bool   // it has asked to go, or is gone after it had asked; a word of its own, not something guessed
	Lost     bool   // the leader itself has not been answered by it for long, and gossip has not heard of it either
	CaughtUp bool   // its log is close to the leader's
	Format   uint64 // the greatest version of the log's format that it reads
	Since    uint64 // when it joined, in any unit that only orders: the one that is here longest is taken first
}

// View is all that a decision rests on.
type View struct {
	Index    uint64 // of the committed configuration; a change is valid only on top of it
	Config   []Server
	Voters   int // seats wanted; below 1 counts as 1
	Standbys int // nonvoters kept ready beyond those being prepared
	Leader   wire.UUID
	Format   uint64 // of the log, from now on: who can't read it gets no seat
	Members  []Candidate
	Dead     map[wire.UUID]bool // servers that are proven dead: they never come back, on disk or not
}

// Kind is what a Change does.
type Kind uint8

const (
	AddNonvoter Kind = 1
	Promote     Kind = 2
	Remove      Kind = 3
)

func (k Kind) String() string {
	switch k {
	case AddNonvoter:
		return "add nonvoter"
	case Promote:
		return "promote"
	case Remove:
		return "remove"
	}
	return "none"
}

// Change is one membership change. It must be made with Index as Raft's prevIndex: 0 is not checked by Raft, and a change on top of
// a configuration that the planner did not see could undo what made it safe.
type Change struct {
	Kind   Kind
	Server wire.UUID
	Index  uint64
	Why    string // for the log
}

// Next is the change to make now; false when the group is as it should be, or nothing is safe, or something must happen first (a nonvoter
// catches up, a leader that leaves hands over).
//
// The order of the rules is the order of urgency: first what makes the majority safer, then what follows from people's wishes.
func Next(v View) (Change, bool) {
	p := newPlan(v)
	for _, rule := range []func(*plan) (Change, bool){
		(*plan).removeDead,
		(*plan).dropNonvoter,
		(*plan).promote,
		(*plan).removeGoing,
		(*plan).removeSurplus,
		(*plan).addNonvoter,
	} {
		if c, ok := rule(p); ok {
			c.Index = v.Index
			return c, true
		}
	}
	return Change{}, false
}

// Successor is the voter that a leader which goes should hand leadership to; false when the leader stays, or there is none. It answers as
// soon as nothing else is left to do, so that the new leader meets as few open changes as possible.
func Successor(v View) (wire.UUID, bool) {
	p := newPlan(v)
	if !p.going(v.Leader) && !p.who[v.Leader].Leaving {
		return wire.UUID{}, false
	}
	if _, ok := Next(v); ok {
		return wire.UUID{}, false
	}
	for _, s := range p.heirs() {
		if p.who[s].CaughtUp {
			return s, true
		}
	}
	return wire.UUID{}, false
}

// plan is a View made ready to be asked. All lists of servers are in the order of preference.
type plan struct {
	View
	who       map[wire.UUID]Candidate
	voters    []wire.UUID
	nonvoters []wire.UUID
	outside   []wire.UUID // could have a seat and has no place in the configuration
}

func newPlan(v View) *plan {
	v.Voters, v.Standbys = max(v.Voters, 1), max(v.Standbys, 0)
	p := &plan{View: v, who: make(map[wire.UUID]Candidate, len(v.Members))}
	for _, c := range v.Members {
		if old, ok := p.who[c.Server]; ok && !c.Server.IsZero() && !better(c, old) {
			continue
		}
		p.who[c.Server] = c
	}
	delete(p.who, wire.UUID{}) // has no Raft identity yet
	in := make(map[wire.UUID]bool, len(v.Config))
	for _, s := range v.Config {
		in[s.ID] = true
		if s.Suffrage == Voter {
			p.voters = append(p.voters, s.ID)
		} else {
			p.nonvoters = append(p.nonvoters, s.ID)
		}
	}
	for id := range p.who {
		if !in[id] && p.eligible(id) {
			p.outside = append(p.outside, id)
		}
	}
	for _, list := range [][]wire.UUID{p.voters, p.nonvoters, p.outside} {
		slices.SortFunc(list, p.order)
	}
	return p
}

// better says which of two reports about one server counts.
func better(c, old Candidate) bool {
	if c.Alive != old.Alive {
		return c.Alive
	}
	return c.Since > old.Since
}

// order is by age, then by what is the same everywhere, so that equal views give equal plans.
func (p *plan) order(a, b wire.UUID) int {
	x, y := p.who[a], p.who[b]
	return cmp.Or(cmp.Compare(x.Since, y.Since), cmp.Compare(x.Name, y.Name), bytes.Compare(a[:], b[:]))
}

func (p *plan) living(s wire.UUID) bool {
	return s == p.Leader || p.who[s].Alive && !p.Dead[s]
}

// eligible says that s could be given a seat now.
func (p *plan) eligible(s wire.UUID) bool {
	c := p.who[s]
	return c.Alive && c.MayVote && !c.Leaving && !p.Dead[s] && c.Format >= p.Format
}

// going says that a voter should be replaced and then removed. A durable server that leaves keeps its seat: it comes back with its log.
func (p *plan) going(s wire.UUID) bool {
	c, known := p.who[s]
	return known && (c.Leaving && !c.Durable || c.Alive && !c.MayVote)
}

// away says that a voter is durable and has left, or lost: it keeps its seat until a caught-up nonvoter is there for it. Nobody is
// prepared only to take the seat of one that has left: standbys are, and it will be back.
func (p *plan) away(s wire.UUID) bool {
	c := p.who[s]
	return c.Leaving && c.Durable || p.lost(s)
}

// lost says that a voter should be replaced: nobody has heard of it for long.
func (p *plan) lost(s wire.UUID) bool { return p.who[s].Lost && !p.living(s) }

// free counts the seats to prepare somebody for: those that nobody has, or one that is lost.
func (p *plan) free() int {
	taken := len(filter(p.voters, func(s wire.UUID) bool { return !p.going(s) && !p.lost(s) }))
	return max(p.Voters-taken, 0)
}

// staying counts the voters that keep their seats as things stand.
func (p *plan) staying() int {
	return len(filter(p.voters, func(s wire.UUID) bool { return !p.going(s) }))
}

// present is staying without those that are away.
func (p *plan) present() int {
	return len(filter(p.voters, func(s wire.UUID) bool { return !p.going(s) && !p.away(s) }))
}

// heirs are the voters that could lead in the leader's place.
func (p *plan) heirs() []wire.UUID {
	return filter(p.voters, func(s wire.UUID) bool { return s != p.Leader && p.eligible(s) })
}

// safe says that without voter s the living voters are still a majority of all voters, so that the change can commit and the next can
// too. The last voter never goes, nor does the leader by its own hand: it hands over first (see Successor).
func (p *plan) safe(s wire.UUID) bool {
	rest := filter(p.voters, func(o wire.UUID) bool { return o != s })
	return s != p.Leader && Majority(len(rest), len(filter(rest, p.living)))
}

// Majority says whether living voters are a majority of all. Nobody is none of nothing.
func Majority(voters, living int) bool { return voters > 0 && living > voters/2 }

// removeDead takes the proven dead out at once: each weighs on the majority and never answers again.
func (p *plan) removeDead() (Change, bool) {
	for _, s := range slices.Concat(p.nonvoters, p.voters) {
		if p.Dead[s] && s != p.Leader && (slices.Contains(p.nonvoters, s) || p.safe(s)) {
			return Change{Kind: Remove, Server: s, Why: "it is proven dead"}, true
		}
	}
	return Change{}, false
}

// dropNonvoter takes out nonvoters that can't get a seat or that no seat waits for. They have no vote, so gossip's word is enough.
func (p *plan) dropNonvoter() (Change, bool) {
	var fit []wire.UUID
	for _, s := range p.nonvoters {
		if !p.eligible(s) {
			return Change{Kind: Remove, Server: s, Why: "this nonvoter is gone, leaving, may not vote or can't read the log"}, true
		}
		fit = append(fit, s)
	}
	if p.canPromote(fit) {
		return Change{}, false // first let it take what seat it can
	}
	if spare := len(fit) - p.free() - p.Standbys; spare > 0 {
		slices.SortStableFunc(fit, func(a, b wire.UUID) int { return caughtUp(p.who[a]) - caughtUp(p.who[b]) })
		return Change{Kind: Remove, Server: fit[len(fit)-1], Why: "no seat is free for this nonvoter"}, true
	}
	return Change{}, false
}

func caughtUp(c Candidate) int {
	if c.CaughtUp {
		return 0
	}
	return 1
}

func (p *plan) canPromote(nonvoters []wire.UUID) bool {
	return p.present() < p.Voters && slices.ContainsFunc(nonvoters, func(s wire.UUID) bool { return p.who[s].CaughtUp })
}

// promote gives a free seat, or that of a voter which goes, to a nonvoter that has the log. It adds a living voter to a living majority,
// so it is always safe. For a moment there may be one voter more than Voters: the other goes next.
func (p *plan) promote() (Change, bool) {
	if !p.canPromote(p.nonvoters) {
		return Change{}, false
	}
	for _, s := range p.nonvoters {
		if p.eligible(s) && p.who[s].CaughtUp {
			return Change{Kind: Promote, Server: s, Why: "a seat is free and it has the log"}, true
		}
	}
	return Change{}, false
}

// removeGoing lets a voter go once its replacement sits, or when there is nobody who could replace it.
func (p *plan) removeGoing() (Change, bool) {
	if p.staying() < p.Voters && len(p.outside)+len(p.nonvoters) > 0 {
		return Change{}, false // a replacement first
	}
	for _, s := range p.voters {
		if p.going(s) && p.safe(s) {
			return Change{Kind: Remove, Server: s, Why: "it leaves, or may not vote"}, true
		}
	}
	return Change{}, false
}

// removeSurplus takes one of more voters than wanted: those that are away first, then the silent (here there is a choice, so silence
// counts), then the youngest. A leader that is away is none of them: it hands over first, if it can.
func (p *plan) removeSurplus() (Change, bool) {
	surplus := p.staying() - p.Voters
	if p.away(p.Leader) && len(p.heirs()) > 0 {
		surplus--
	}
	if surplus <= 0 {
		return Change{}, false
	}
	worst := filter(p.voters, func(s wire.UUID) bool { return !p.going(s) })
	slices.Reverse(worst)
	rank := func(s wire.UUID) int {
		switch {
		case p.away(s):
			return 0
		case !p.living(s):
			return 1
		case !p.who[s].CaughtUp:
			return 2
		}
		return 3
	}
	slices.SortStableFunc(worst, func(a, b wire.UUID) int { return rank(a) - rank(b) })
	for _, s := range worst {
		if p.safe(s) {
			return Change{Kind: Remove, Server: s, Why: "there are more voters than wanted"}, true
		}
	}
	return Change{}, false
}

// addNonvoter begins to prepare one more server while seats or places of standbys will be free.
func (p *plan) addNonvoter() (Change, bool) {
	if len(p.outside) == 0 || len(p.nonvoters) >= p.free()+p.Standbys {
		return Change{}, false
	}
	return Change{Kind: AddNonvoter, Server: p.outside[0], Why: "a seat is free and it may vote"}, true
}

func filter(all []wire.UUID, keep func(wire.UUID) bool) []wire.UUID {
	var kept []wire.UUID
	for _, s := range all {
		if keep(s) {
			kept = append(kept, s)
		}
	}
	return kept
}
