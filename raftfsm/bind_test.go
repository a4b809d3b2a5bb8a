package raftfsm

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/godistlock/distlock/internal/wire"
)

// A server is bound to the first name until the leader of the term that saw it leave unbinds it. What was bound is never changed.
func TestBind(t *testing.T) {
	f, index := opened(t, 0)
	a, b, c := id("a"), id("b"), id("c")
	for _, step := range []struct {
		what string
		cmd  Command
		want wire.Code
		left string
	}{
		{"nobody", Bind{Name: "web-1"}, wire.CodeInvalid, ""},
		{"to nothing", Bind{Server: a}, wire.CodeInvalid, ""},
		{"unbound when nothing is bound", Unbind{Server: a, Term: 1}, wire.CodeStale, ""},
		{"the first", Bind{Server: b, Name: "web-2"}, wire.CodeOK, "b=web-2"},
		{"one before it", Bind{Server: a, Name: "web-1"}, wire.CodeOK, "a=web-1 b=web-2"},
		{"a copy", Bind{Server: a, Name: "web-1"}, wire.CodeOK, "a=web-1 b=web-2"},
		{"another name", Bind{Server: a, Name: "web-2"}, wire.CodeHeld, "a=web-1 b=web-2"},
		{"another server of a name: an earlier life of it", Bind{Server: c, Name: "web-1"}, wire.CodeOK, "a=web-1 b=web-2 c=web-1"},
		{"unbound in another term", Unbind{Server: a, Term: 2}, wire.CodeStale, "a=web-1 b=web-2 c=web-1"},
		{"unbound", Unbind{Server: b, Term: 1}, wire.CodeOK, "a=web-1 c=web-1"},
		{"unbound again", Unbind{Server: b, Term: 1}, wire.CodeStale, "a=web-1 c=web-1"},
		{"bound again, to another", Bind{Server: b, Name: "web-3"}, wire.CodeOK, "a=web-1 b=web-3 c=web-1"},
		{"the last go", Unbind{Server: b, Term: 1}, wire.CodeOK, "a=web-1 c=web-1"},
		{"the last go", Unbind{Server: c, Term: 1}, wire.CodeOK, "a=web-1"},
		{"the last go", Unbind{Server: a, Term: 1}, wire.CodeOK, ""},
		{"and one comes", Bind{Server: c, Name: "web-3"}, wire.CodeOK, "c=web-3"},
	} {
		before, was := f.View(), showBindings(f.View().Bindings())
		index++
		r := submit(f, index, step.cmd).Replies[0]
		if r.Code != step.want || (r.Text == "") != (r.Code == wire.CodeOK || r.Code == wire.CodeStale) {
			t.Errorf("%s: %s %q, want %s", step.what, codeNames[r.Code], r.Text, codeNames[step.want])
		}
		if got := showBindings(f.View().Bindings()); got != step.left {
			t.Errorf("%s: bound are %q, want %q", step.what, got, step.left)
		}
		if got := showBindings(before.Bindings()); got != was {
			t.Errorf("%s: the View from before has %q, had %q", step.what, got, was)
		}
		if f.Bindings() != f.View().Bindings() {
			t.Errorf("%s: told without a lock is something else", step.what)
		}
		g, err := restoreOf(snapshotOf(t, f.View()))
		if err != nil {
			t.Fatal(err)
		}
		if got := showBindings(g.Bindings()); got != step.left {
			t.Errorf("%s: after a restore %q, want %q", step.what, got, step.left)
		}
	}
	if name, ok := f.Bindings().NameOf(c); name != "web-3" || !ok {
		t.Errorf("c is bound to %q, %v", name, ok)
	}
	if name, ok := f.Bindings().NameOf(a); ok {
		t.Errorf("a is bound to %q", name)
	}
}

func TestBindingsAreBounded(t *testing.T) {
	f, index := opened(t, 0)
	for i := range MaxBindings {
		index++
		if r := submit(f, index, Bind{Server: wire.UUID{1, byte(i)}, Name: strings.Repeat("x", wire.MaxName)}).Replies[0]; r.Code != wire.CodeOK {
			t.Fatalf("binding %d: %+v", i, r)
		}
	}
	index++
	res := submit(f, index, Bind{Server: wire.UUID{2}, Name: "x"}, Bind{Server: wire.UUID{1}, Name: strings.Repeat("x", wire.MaxName)}, Unbind{Server: wire.UUID{1}, Term: 1}, Bind{Server: wire.UUID{2}, Name: "x"})
	got := []wire.Code{res.Replies[0].Code, res.Replies[1].Code, res.Replies[2].Code, res.Replies[3].Code}
	if want := []wire.Code{wire.CodeLimit, wire.CodeOK, wire.CodeOK, wire.CodeOK}; !slices.Equal(got, want) {
		t.Errorf("one more, one that is there, one less and one more: %v, want %v", got, want)
	}
	if !strings.Contains(res.Replies[0].Text, fmt.Sprint(MaxBindings)) {
		t.Errorf("the limit is not named: %q", res.Replies[0].Text)
	}
	if p := snapshotOf(t, f.View()); !bytes.Equal(p, snapshotOf(t, mustRestore(t, p).View())) {
		t.Error("a full state is written in other bytes after a restore")
	}
}

// A command of version 4 is in no entry of an earlier one.
func TestBindNeedsItsVersion(t *testing.T) {
	for _, c := range everyBind().Commands {
		e := Entry{Version: 3, Term: 1, Commands: []Command{c}}
		if _, err := DecodeEntry(e.Encode()); err == nil || !strings.Contains(err.Error(), "command of version 4 in an entry of version 3") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func mustRestore(t *testing.T, p []byte) *FSM {
	t.Helper()
	f, err := restoreOf(p)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func showBindings(b *Bindings) string {
	var out []string
	for _, x := range b.All() {
		out = append(out, showID(x.Server)+"="+x.Name)
	}
	return strings.Join(out, " ")
}
