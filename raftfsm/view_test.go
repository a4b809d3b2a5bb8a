package raftfsm

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

func TestLocksInPages(t *testing.T) {
	f, index := opened(t, 2)
	var ops []wire.Op
	for i, key := range []string{"b/2", "a", "b/1", "b", "b/3", "c", "b\xff", "b/1/x"} {
		ops = append(ops, acquire(uint64(i+1), key))
	}
	submit(f, index+1, Ops{Session: 1, Ops: ops})
	for _, c := range []struct {
		prefix, after string
		limit         int
		want          []string
	}{
		{"", "", 100, []string{"a", "b", "b/1", "b/1/x", "b/2", "b/3", "b\xff", "c"}},
		{"b/", "", 100, []string{"b/1", "b/1/x", "b/2", "b/3"}},
		{"b/", "", 2, []string{"b/1", "b/1/x"}},
		{"b/", "b/1/x", 2, []string{"b/2", "b/3"}},
		{"b/", "b/3", 2, nil},
		{"b/", "a", 1, []string{"b/1"}},
		{"b/", "z", 9, nil},
		{"b\xff", "", 9, []string{"b\xff"}},
		{"", "b/2x", 1, []string{"b/3"}},
		{"a", "", 0, nil},
		{"nothing", "", 9, nil},
	} {
		var got []string
		for _, l := range f.View().Locks(c.prefix, c.after, c.limit) {
			got = append(got, l.Key)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("Locks(%q, %q, %d) = %q, want %q", c.prefix, c.after, c.limit, got, c.want)
		}
	}
}

func TestWhatAViewTells(t *testing.T) {
	f, index := opened(t, 2)
	submit(f, index+1,
		Ops{Session: 1, Ops: []wire.Op{acquire(1, "a"), acquire(2, "b")}},
		Ops{Session: 2, Ops: []wire.Op{acquire(1, "a"), {Kind: wire.OpForce, Seq: 2, Key: "a"}}})
	v := f.View()
	if v.Index() != index+1 || v.Term() != 1 || v.Cluster() != id("C") || v.Expect() != 1 || v.Voters() != 3 || !v.Open() || v.Silent() || v.Dissolved() {
		t.Errorf("%+v", v.s)
	}
	const fence = 1_700_000_000_000_001
	since := int64(index+1) * 1000
	grant := GrantInfo{Key: "a", Session: 1, Seq: 1, Fence: fence, Since: since, Member: "p1", Revoked: true}
	if got, ok := v.Grant("a", 0); !ok || !reflect.DeepEqual(got, grant) {
		t.Errorf("%+v %v", got, ok)
	}
	if got, ok := v.Grant("z", 0); ok {
		t.Errorf("%+v", got)
	}
	want := []LockInfo{
		{Key: "a", Holders: []GrantInfo{grant}, Waiters: []WaiterInfo{{Session: 2, Seq: 1, Since: since, Member: "p2"}}},
		{Key: "b", Holders: []GrantInfo{{Key: "b", Session: 1, Seq: 2, Fence: fence + 1, Since: since, Member: "p1"}}},
	}
	if got := v.Locks("", "", 10); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if got := v.Revoked(1); len(got) != 1 || got[0] != (wire.Outcome{Kind: wire.OutRevoked, Seq: 1, Fence: fence, Since: since, Code: wire.CodeForced}) {
		t.Errorf("%+v", got)
	}
	if got := append(v.Revoked(2), v.Revoked(9)...); got != nil {
		t.Errorf("%+v", got)
	}
	one := SessionInfo{ID: 1, Name: "p1", Server: id("p1"), Instance: id("p1"), TTL: 10 * time.Second, Renewed: index, Requests: 2, Revoked: 1}
	if got, ok := v.SessionNamed("p1"); !ok || got != one {
		t.Errorf("%+v %v", got, ok)
	}
	if got, ok := v.Session(1); !ok || got != one {
		t.Errorf("%+v %v", got, ok)
	}
	if got := v.Sessions(); len(got) != 2 || got[0] != one {
		t.Errorf("%+v", got)
	}
	if _, ok := v.SessionNamed("p3"); ok {
		t.Error("p3 has no session")
	}
	if got, want := v.Counters(), (Counters{Keys: 2, Holders: 2, Waiters: 1, Sessions: 2, Grants: 2, LastFence: fence + 1}); got != want {
		t.Errorf("%+v", got)
	}
	if f.View() != v {
		t.Error("another View of the same state")
	}
}

// Before it opens, a cluster tells who has confirmed; when it is dissolved it never opens.
func TestDissolve(t *testing.T) {
	f := New()
	confirm := func(server string) Command { return Confirm{Cluster: id("C"), Server: id(server), Clock: 1} }
	submit(f, 1, Dissolve{Cluster: id("C")}, Found{Cluster: id("C"), Expect: 2, Voters: 3}, confirm("s1"), Dissolve{Cluster: id("D")})
	v := f.View()
	if v.Dissolved() || v.Confirmed() != 1 || !v.HasConfirmed(id("s1")) || v.HasConfirmed(id("s2")) {
		t.Errorf("%+v", v.s)
	}
	res := submit(f, 2, Dissolve{Cluster: id("C")}, confirm("s2"), Create{wire.CreateSession{Nonce: id("n"), Name: "n", Instance: id("n"), TTL: 1}})
	codes := fmt.Sprint(res.Replies[0].Code, res.Replies[1].Code, res.Replies[2].Code)
	if codes != fmt.Sprint(wire.CodeOK, wire.CodeStale, wire.CodeNotOpen) || !f.View().Dissolved() || f.View().Open() {
		t.Errorf("%+v, open %v", res, f.View().Open())
	}
	if g, err := restoreOf(snapshotOf(t, f.View())); err != nil || !g.View().Dissolved() {
		t.Error(err)
	}
	g, index := opened(t, 0)
	if res := submit(g, index+1, Dissolve{Cluster: id("C")}); res.Replies[0].Code != wire.CodeStale || g.View().Dissolved() {
		t.Errorf("of an open cluster: %+v", res)
	}
}
