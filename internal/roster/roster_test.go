package roster

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/godistlock/distlock/internal/wire"
)

func id(s string) wire.UUID {
	var u wire.UUID
	copy(u[:], s)
	return u
}

func label(u wire.UUID) string { return strings.TrimRight(string(u[:]), "\x00") }

// view reads a group as a person writes it: one word for each server, a name and what is true of it.
//
//	L leader  V voter  N nonvoter  (neither: outside)
//	- silent  ! silent for long  + proven dead  c behind with the log  x may not vote  d durable  l leaving  o reads an older format than the log's
//
// Servers are as old as they stand: the first is the oldest.
func view(voters, standbys int, text string) View {
	v := View{Index: 7, Voters: voters, Standbys: standbys, Format: 2, Dead: map[wire.UUID]bool{}}
	for i, word := range strings.Fields(text) {
		name, flags, _ := strings.Cut(word, ":")
		has := func(f string) bool { return strings.Contains(flags, f) }
		c := Candidate{
			Server: id(name), Name: name, Since: uint64(i + 1),
			Alive: !has("-") && !has("+") && !has("!"), Lost: has("!"), MayVote: !has("x"), Durable: has("d"), Leaving: has("l"), CaughtUp: !has("c"), Format: 2,
		}
		if has("o") {
			c.Format = 1
		}
		v.Members = append(v.Members, c)
		switch {
		case has("L"):
			v.Leader = c.Server
			v.Config = append(v.Config, Server{c.Server, Voter})
		case has("V"):
			v.Config = append(v.Config, Server{c.Server, Voter})
		case has("N"):
			v.Config = append(v.Config, Server{c.Server, Nonvoter})
		}
		if has("+") {
			v.Dead[c.Server] = true
		}
	}
	return v
}

// Until the log has a later format, who reads the first gets seats as everybody.
func TestNextInTheFirstFormat(t *testing.T) {
	v := view(3, 0, "a:L b:o c")
	v.Format = 1
	if c, ok := Next(v); !ok || c.Kind != AddNonvoter || label(c.Server) != "b" {
		t.Errorf("next is %v %s; want add nonvoter b", c.Kind, label(c.Server))
	}
}

func TestNext(t *testing.T) {
	for _, c := range []struct {
		name     string
		voters   int
		standbys int
		group    string
		want     string // "" for nothing to do
	}{
		{"alone", 3, 0, "a:L", ""},
		{"full", 3, 0, "a:L b:V c:V d e", ""},
		{"voters below one means one", 0, 0, "a:L b", ""},

		{"a seat is free", 3, 0, "a:L b", "add nonvoter b"},
		{"the one that is here longest first", 3, 0, "a:L b c", "add nonvoter b"},
		{"not one that may not vote", 3, 0, "a:L b:x c", "add nonvoter c"},
		{"not one that is silent, leaving or dead", 3, 0, "a:L b:- c:l d:+ e", "add nonvoter e"},
		{"two are prepared side by side", 3, 0, "a:L b:Nc c", "add nonvoter c"},
		{"not more than there are seats", 3, 0, "a:L b:Nc c:Nc d", ""},
		{"the log first", 1, 0, "a:V- b:L", "remove a"},
		{"promoted when it has the log", 3, 0, "a:L b:N c:Nc", "promote b"},
		{"whoever has the log first", 3, 0, "a:L b:Nc c:N", "promote c"},
		{"a caught-up one before adding another", 3, 0, "a:L b:N c", "promote b"},

		{"not one that can't read the log", 3, 0, "a:L b:o c", "add nonvoter c"},
		{"nobody rather than that", 3, 1, "a:L b:o", ""},
		{"a nonvoter that can't read the log is not promoted", 3, 0, "a:L b:V c:No", "remove c"},
		{"a voter that can't keeps its seat: it may come back as one that can", 3, 0, "a:L b:V c:Vo d", ""},

		{"a silent voter keeps its seat", 3, 0, "a:L b:V c:V- d", ""},
		{"a silent durable voter keeps its seat", 3, 0, "a:L b:V c:V-d d", ""},
		{"a voter that gossip doesn't know keeps its seat", 3, 0, "a:L b:V c:V", ""},
		{"a proven dead voter goes at once", 3, 0, "a:L b:V c:V+", "remove c"},
		{"before its successor has caught up", 3, 0, "a:L b:V c:V+ d:Nc", "remove c"},
		{"a durable one too", 3, 0, "a:L b:V c:V+d", "remove c"},
		{"not when those left would be no majority", 5, 0, "a:L b:V- c:V- d:V+", ""},
		{"but when they would", 5, 0, "a:L b:V c:V- d:V+", "remove d"},
		{"a proven dead nonvoter", 5, 0, "a:L b:V c:V- d:V- e:N+", "remove e"},

		{"a lost voter keeps its seat while nobody can take it", 3, 2, "a:L b:V c:V!", ""},
		{"a lost durable voter too", 3, 2, "a:L b:V c:V!d", ""},
		{"somebody is prepared for it", 3, 0, "a:L b:V c:V! d", "add nonvoter d"},
		{"beside the standbys", 3, 1, "a:L b:V c:V! d:Nc e", "add nonvoter e"},
		{"no more than that", 3, 1, "a:L b:V c:V! d:Nc e:Nc f", ""},
		{"a standby takes its seat", 3, 2, "a:L b:V c:V! d:N e:N", "promote d"},
		{"who is here longest first", 3, 2, "d:N a:L b:V c:V! e:N", "promote d"},
		{"then it goes", 3, 2, "a:L b:V c:V! d:V e:N", "remove c"},
		{"a silent one is not lost yet", 3, 2, "a:L b:V c:V- d:N e:N", ""},
		{"one that came back in the last moment stays, the youngest goes", 3, 2, "a:L b:V c:V d:V e:N", "remove d"},
		{"of two lost ones one at a time", 5, 2, "a:L b:V c:V d:V! e:V! f:N g:N", "promote f"},
		{"each before the next goes", 5, 2, "a:L b:V c:V d:V! e:V! f:V g:N", "promote g"},
		{"lost ones go when their seats are taken", 5, 2, "a:L b:V c:V d:V! e:V! f:V g:V", "remove e"},
		{"not when those left would be no majority, whoever is lost", 3, 0, "a:L b:V- c:V! d:V-", ""},
		{"a standby that may not vote is none", 3, 2, "a:L b:V c:V! d:Nx", "remove d"},

		{"a nonvoter that is silent", 3, 0, "a:L b:V c:N-", "remove c"},
		{"a nonvoter that leaves", 3, 0, "a:L b:V c:Nl", "remove c"},
		{"a durable nonvoter that leaves", 3, 0, "a:L b:V c:Nld", "remove c"},
		{"a nonvoter that may not vote", 3, 0, "a:L b:V c:Nx", "remove c"},
		{"a nonvoter without a seat to come", 3, 0, "a:L b:V c:V d:N", "remove d"},
		{"of two, the one that is behind", 3, 0, "a:L b:V c:Nc d:N", "promote d"},
		{"then the other goes", 3, 0, "a:L b:V c:Nc d:V", "remove c"},

		{"standbys are prepared", 1, 2, "a:L b", "add nonvoter b"},
		{"standbys stay", 1, 2, "a:L b:N c:N d", ""},
		{"no more than wanted", 1, 1, "a:L b:N c:N", "remove c"},

		{"who leaves is replaced first", 3, 0, "a:L b:V c:Vl d", "add nonvoter d"},
		{"and waits until the replacement has the log", 3, 0, "a:L b:V c:Vl d:Nc", ""},
		{"which then sits beside it", 3, 0, "a:L b:V c:Vl d:N", "promote d"},
		{"and only then it goes", 3, 0, "a:L b:V c:Vl d:V", "remove c"},
		{"who leaves goes at once when nobody can replace it", 3, 0, "a:L b:V c:Vl d:x", "remove c"},
		{"also from two", 3, 0, "a:L b:Vl", "remove b"},
		{"not when those left would be no majority", 3, 0, "a:L b:V- c:Vl", ""},
		{"a leader never removes itself", 3, 0, "a:Ll b:V c:V", ""},
		{"but prepares its replacement", 3, 0, "a:Ll b:V c:V d", "add nonvoter d"},
		{"and nobody goes in its place", 3, 0, "a:Ll b:V c:V d:V", ""},
		{"a voter that may not vote is replaced", 3, 0, "a:L b:V c:Vx d", "add nonvoter d"},
		{"a voter that may not vote goes", 3, 0, "a:L b:V c:Vx", "remove c"},
		{"one that left and is gone goes", 3, 0, "a:L b:V c:Vl-", "remove c"},

		{"a durable voter that leaves keeps its seat", 3, 0, "a:L b:V c:Vdl d", ""},
		{"also when it is gone", 3, 0, "a:L b:V c:Vdl- d", ""},
		{"until a standby has the log", 3, 1, "a:L b:V c:Vdl- d:N", "promote d"},
		{"which then replaces it", 3, 1, "a:L b:V c:Vdl- d:V", "remove c"},
		{"a durable leader that leaves is not replaced by removing another", 3, 1, "a:Ldl b:V c:V d:V", ""},
		{"unless it has nobody to hand over to", 1, 0, "a:Ldl b:V-", "remove b"},

		{"too many: who leaves first", 1, 0, "a:L b:Vl c:V", "remove b"},
		{"too many: but not into a minority", 1, 0, "a:L b:Vl c:V-", "remove c"},
		{"too many: then who is away", 3, 0, "a:L b:V c:Vdl d:V- e:V", "remove c"},
		{"too many: then who is silent", 3, 0, "a:L b:V c:V- d:V e:V", "remove c"},
		{"too many: then who is behind", 3, 0, "a:L b:Vc c:V d:V", "remove b"},
		{"too many: then the youngest", 3, 0, "a:L b:V c:V d:V e:V", "remove e"},
		{"too many: never the leader", 1, 0, "a:V b:L", "remove a"},
		{"from five to three with two silent", 3, 0, "a:L b:V c:V d:V- e:V-", "remove e"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := Next(view(c.voters, c.standbys, c.group))
			text := ""
			if ok {
				text = fmt.Sprint(got.Kind, " ", label(got.Server))
				if got.Index != 7 || got.Why == "" {
					t.Errorf("%+v lacks the configuration's index or a reason", got)
				}
			}
			if text != c.want {
				t.Errorf("%s: got %q, want %q", c.group, text, c.want)
			}
		})
	}
}

func TestUnknownVotersKeepTheirSeats(t *testing.T) {
	v := view(3, 0, "a:L b:V c:V")
	v.Members = v.Members[:2] // a new leader has not heard of c yet
	if c, ok := Next(v); ok {
		t.Errorf("%v %s because gossip doesn't know it", c.Kind, label(c.Server))
	}
}

func TestOfTwoReportsTheLivingOneCounts(t *testing.T) {
	for _, order := range [][]bool{{true, false}, {false, true}} {
		v := view(3, 0, "a:L b:V")
		for _, alive := range order { // the same durable server before and after its restart
			v.Members = append(v.Members, Candidate{Server: id("c"), Name: "c", Alive: alive, MayVote: true, Format: 2, Durable: true})
		}
		if c, ok := Next(v); !ok || c.Kind != AddNonvoter || c.Server != id("c") {
			t.Errorf("reports %v: got %v %v", order, c, ok)
		}
	}
}

func TestProcessesWithoutAnIdentityAreNoCandidates(t *testing.T) {
	v := view(3, 0, "a:L")
	v.Members = append(v.Members, Candidate{Alive: true, MayVote: true})
	if c, ok := Next(v); ok {
		t.Errorf("got %+v", c)
	}
}

func TestSuccessor(t *testing.T) {
	for _, c := range []struct{ name, group, want string }{
		{"a leader that stays", "a:L b:V c:V", ""},
		{"a leader that leaves", "a:Ll b:V c:V", "b"},
		{"a durable one that leaves", "a:Ldl b:V c:V", "b"},
		{"one that may no longer vote", "a:Lx b:V c:V", "b"},
		{"to one that has the log and lives", "a:Ll b:Vc c:V- d:V", "d"},
		{"to one that stays", "a:Ll b:Vdl c:V d:V", "c"},
		{"not before its replacement sits", "a:Ll b:V c:V d:N", ""},
		{"nobody is there", "a:Ll", ""},
	} {
		got, ok := Successor(view(3, 0, c.group))
		if ok != (c.want != "") || ok && got != id(c.want) {
			t.Errorf("%s (%s): got %q, %v, want %q", c.name, c.group, label(got), ok, c.want)
		}
	}
}

func TestSettle(t *testing.T) {
	for _, c := range []struct {
		name     string
		voters   int
		standbys int
		group    string
		want     string
	}{
		{"nothing to do", 3, 2, "a:L b:V c:V d:N e:N f", "a:V b:V c:V d:N e:N"},
		{"a new cluster fills its seats and then its standbys", 3, 2, "a:L b c d e f", "a:V b:V c:V d:N e:N"},
		{"who may not vote gets none", 3, 2, "a:L b:x c d:x", "a:V c:V"},
		{"a lost voter's seat", 3, 2, "a:L b:V c:V! d:N e", "a:V b:V d:V e:N"},
		{"who leaves", 3, 2, "a:L b:V c:Vl d:N", "a:V b:V d:V"},
		{"what waits for its log ends too", 3, 0, "a:L b:Nc", "a:V b:V"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := view(c.voters, c.standbys, c.group)
			before := fmt.Sprint(v)
			var got []string
			for _, s := range Settle(v) {
				got = append(got, label(s.ID)+":"+map[Suffrage]string{Voter: "V", Nonvoter: "N"}[s.Suffrage])
			}
			slices.Sort(got)
			if text := strings.Join(got, " "); text != c.want {
				t.Errorf("%s settles as %s; want %s", c.group, text, c.want)
			}
			if after := fmt.Sprint(v); after != before {
				t.Errorf("the view was changed: %s, before %s", after, before)
			}
		})
	}
}
