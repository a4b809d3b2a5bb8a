package roster

import (
	"fmt"
	"slices"
	"testing"

	"github.com/godistlock/distlock/internal/wire"
	"pgregory.net/rapid"
)

// world is a group that follows the planner while things happen to it.
type world struct {
	voters, standbys int
	config           []Server
	leader           wire.UUID
	procs            map[wire.UUID]*Candidate
	dead             map[wire.UUID]bool
	ids              []wire.UUID
}

func newWorld(t *rapid.T) *world {
	w := &world{
		voters:   rapid.SampledFrom([]int{1, 3, 5, 7}).Draw(t, "voters"),
		standbys: rapid.IntRange(0, 2).Draw(t, "standbys"),
		procs:    map[wire.UUID]*Candidate{}, dead: map[wire.UUID]bool{},
	}
	for range rapid.IntRange(1, 9).Draw(t, "seated") {
		u := w.arrive(t)
		suffrage := rapid.SampledFrom([]Suffrage{Voter, Voter, Voter, Nonvoter}).Draw(t, "suffrage")
		if w.leader.IsZero() {
			suffrage, w.leader = Voter, u
		}
		w.config = append(w.config, Server{u, suffrage})
		w.procs[u].CaughtUp = suffrage == Voter || rapid.Bool().Draw(t, "caught up")
	}
	for range rapid.IntRange(0, 5).Draw(t, "outside") {
		w.arrive(t)
	}
	for range rapid.IntRange(0, 12).Draw(t, "past") {
		w.happen(t)
	}
	return w
}

func (w *world) arrive(t *rapid.T) wire.UUID {
	n := len(w.ids) + 1
	u := id(fmt.Sprint("p", n))
	w.ids = append(w.ids, u)
	w.procs[u] = &Candidate{
		Server: u, Name: fmt.Sprint("p", n), Alive: true, Since: uint64(n),
		MayVote: rapid.IntRange(0, 4).Draw(t, "may vote") > 0, Durable: rapid.Bool().Draw(t, "durable"),
	}
	return u
}

// counts is how many voters there are and how many of them live.
func (w *world) counts() (all, living int) {
	for _, s := range w.config {
		if s.Suffrage == Voter {
			all++
			if w.procs[s.ID].Alive {
				living++
			}
		}
	}
	return all, living
}

func (w *world) majority() bool { return Majority(w.counts()) }

// happen makes one thing happen. Nothing that the promise excludes: a death that leaves no living majority is taken back.
func (w *world) happen(t *rapid.T) {
	u := rapid.SampledFrom(w.ids).Draw(t, "who")
	p := w.procs[u]
	switch rapid.SampledFrom([]string{"dies", "dies", "is lost", "is proven dead", "comes back", "leaves", "catches up", "falls behind", "arrives", "leads"}).Draw(t, "what") {
	case "dies":
		was := p.Alive
		if p.Alive = u == w.leader; !w.majority() {
			p.Alive = was
		}
	case "is lost":
		p.Lost = !p.Alive
	case "is proven dead":
		if !p.Alive && !p.Durable {
			w.dead[u] = true
		}
	case "comes back":
		if p.Durable && !w.dead[u] {
			p.Alive, p.Lost, p.Leaving, p.CaughtUp = true, false, false, false
		}
	case "leaves":
		p.Leaving = p.Alive
	case "catches up":
		p.CaughtUp = true
	case "falls behind":
		p.CaughtUp = false
	case "arrives":
		w.arrive(t)
	case "leads":
		if i := w.seat(u); i >= 0 && w.config[i].Suffrage == Voter && p.Alive {
			w.leader = u
		}
	}
}

func (w *world) seat(u wire.UUID) int {
	return slices.IndexFunc(w.config, func(s Server) bool { return s.ID == u })
}

func (w *world) view() View {
	v := View{Index: 1, Config: slices.Clone(w.config), Voters: w.voters, Standbys: w.standbys, Leader: w.leader, Dead: w.dead}
	for _, u := range w.ids {
		v.Members = append(v.Members, *w.procs[u])
	}
	return v
}

// follow makes c, and fails when it makes no sense or breaks the promise.
func (w *world) follow(t *rapid.T, c Change) {
	i := w.seat(c.Server)
	switch c.Kind {
	case AddNonvoter:
		if i >= 0 {
			t.Fatalf("%+v is in the configuration already", c)
		}
		w.config = append(w.config, Server{c.Server, Nonvoter})
		w.procs[c.Server].CaughtUp = false
	case Promote:
		if i < 0 || w.config[i].Suffrage != Nonvoter || !w.procs[c.Server].CaughtUp || !w.procs[c.Server].Alive {
			t.Fatalf("%+v is no living nonvoter with the log", c)
		}
		w.config[i].Suffrage = Voter
	case Remove:
		if i < 0 || c.Server == w.leader {
			t.Fatalf("%+v is not there, or leads", c)
		}
		w.config = slices.Delete(w.config, i, i+1)
	default:
		t.Fatalf("unknown change %+v", c)
	}
	if all, living := w.counts(); !Majority(all, living) {
		t.Fatalf("after %s %s only %d of %d voters live", c.Kind, c.Server, living, all)
	}
}

// settle follows the planner, with everybody catching up at once and leaders that go handing over, until there is nothing to do.
func (w *world) settle(t *rapid.T) {
	for range 200 {
		for _, s := range w.config {
			w.procs[s.ID].CaughtUp = true
		}
		if c, ok := Next(w.view()); ok {
			w.follow(t, c)
		} else if heir, ok := Successor(w.view()); ok {
			w.leader = heir
		} else {
			return
		}
	}
	t.Fatalf("no end of changes: %+v", w.view())
}

func TestFollowingThePlannerIsSafeAndEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		if !w.majority() {
			t.Fatal("the promise begins with a living majority")
		}
		for range rapid.IntRange(0, 40).Draw(t, "turns") {
			if rapid.Bool().Draw(t, "something happens") {
				w.happen(t)
			} else if c, ok := Next(w.view()); ok {
				w.follow(t, c)
			}
		}
		w.settle(t)
		w.checkSettled(t)
	})
}

// going says, in the test's own words, that a server should have no seat.
func (w *world) going(u wire.UUID) (*Candidate, bool) {
	p := w.procs[u]
	return p, p.Leaving && !p.Durable || p.Alive && !p.MayVote
}

func (w *world) checkSettled(t *rapid.T) {
	all, living := w.counts()
	var fit, kept, stuck, heirs, lost, unseated int
	for _, u := range w.ids {
		votes := w.seat(u) >= 0 && w.config[w.seat(u)].Suffrage == Voter
		switch p, goes := w.going(u); {
		case w.dead[u]:
			if votes {
				t.Errorf("%s is proven dead and has a seat", p.Name)
			}
		case p.Alive && p.MayVote && !p.Leaving:
			fit++
			if votes && u != w.leader {
				heirs++
			}
			if !votes {
				unseated++
			}
		case votes && !goes:
			kept++ // silent, or durable and away
			if p.Lost && u != w.leader {
				lost++
			}
		case votes:
			stuck++
		}
	}
	if want := min(w.voters, fit+kept); all-stuck != want {
		t.Errorf("%d voters stay, want %d: %d seats wanted, %d processes could have one, %d keep theirs\n%+v", all-stuck, want, w.voters, fit, kept, w.view())
	}
	if lost > 0 && unseated > 0 {
		t.Errorf("%d lost voters have seats that %d living processes could have\n%+v", lost, unseated, w.view())
	}
	// One that should go stays only where its going would cost the majority, or leads and has nobody to hand over to.
	_, leaderGoes := w.going(w.leader)
	if leaderGoes && heirs == 0 {
		stuck--
	}
	if stuck > 0 && Majority(all-1, living-1) {
		t.Errorf("%d voters that should go are still there, with %d of %d voters living\n%+v", stuck, living, all, w.view())
	}
}

// A group where nobody is silent ends with exactly as many voters as wanted, or as there are.
func TestHealthyGroupsFillTheirSeats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		fit := 0
		for _, p := range w.procs {
			p.Alive, p.Leaving = true, false
			p.MayVote = p.MayVote || p.Server == w.leader
			if p.MayVote {
				fit++
			}
		}
		clear(w.dead)
		w.settle(t)
		if all, _ := w.counts(); all != min(w.voters, fit) {
			t.Errorf("%d voters, want %d of %d\n%+v", all, min(w.voters, fit), fit, w.view())
		}
	})
}

func TestEqualViewsGiveEqualPlans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		v := w.view()
		c, ok := Next(v)
		v.Members = rapid.Permutation(v.Members).Draw(t, "members")
		v.Config = rapid.Permutation(v.Config).Draw(t, "config")
		if d, also := Next(v); d != c || also != ok {
			t.Errorf("%+v in one order, %+v in another", c, d)
		}
	})
}
