package raftfsm

import (
	"fmt"
	"testing"

	"github.com/godistlock/distlock/internal/wire"
)

// There is one leaving slot: who has it keeps it until the leader of the term that decided so ends it, and a decision about an earlier stay in it
// does nothing.
func TestDepart(t *testing.T) {
	f, index := opened(t, 0)
	codes := func(cmds ...Command) string {
		t.Helper()
		index++
		var out []wire.Code
		for _, r := range submit(f, index, cmds...).Replies {
			out = append(out, r.Code)
		}
		return fmt.Sprint(out)
	}
	wants := func(what, got string, want ...wire.Code) {
		t.Helper()
		if got != fmt.Sprint(want) {
			t.Errorf("%s: codes %s, want %v", what, got, want)
		}
	}
	has := func(what string, want wire.UUID) {
		t.Helper()
		if server, at := f.View().Leaving(); server != want || (at == 0) != want.IsZero() {
			t.Errorf("%s: %v has the slot since %d, want %v", what, server, at, want)
		}
	}
	a, b := id("a"), id("b")
	has("at first", wire.UUID{})
	wants("nobody", codes(Depart{}, EndDepart{Term: 1}), wire.CodeInvalid, wire.CodeStale)
	wants("the first of two", codes(Depart{Server: a}, Depart{Server: b}), wire.CodeOK, wire.CodeHeld)
	taken := index
	has("taken", a)
	wants("a copy", codes(Depart{Server: a}), wire.CodeOK)
	if _, at := f.View().Leaving(); at != taken {
		t.Errorf("a copy moved the slot to entry %d, it was taken with %d", at, taken)
	}
	wants("of another server, term or stay", codes(EndDepart{Server: b, At: taken, Term: 1}, EndDepart{Server: a, At: taken, Term: 2},
		EndDepart{Server: a, At: taken + 1, Term: 1}), wire.CodeStale, wire.CodeStale, wire.CodeStale)
	has("still", a)
	g, err := restoreOf(snapshotOf(t, f.View()))
	if err != nil {
		t.Fatal(err)
	}
	f = g
	has("restored", a)
	wants("ended, and ended again", codes(EndDepart{Server: a, At: taken, Term: 1}, Depart{Server: b}, EndDepart{Server: a, At: taken, Term: 1}),
		wire.CodeOK, wire.CodeOK, wire.CodeStale)
	has("the next", b)
}
