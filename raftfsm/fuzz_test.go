package raftfsm

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/godistlock/distlock/internal/alloctest"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/hashicorp/raft"
)

// allocConstant is what decoding may allocate beside what its input pays for: a snapshot's reader has blocks.
const allocConstant = 512 << 10

// FuzzEntry decodes any bytes as an entry, writes what it read, and applies it to a state that has an item of each kind. Whatever it
// does to that must survive a snapshot.
func FuzzEntry(f *testing.F) {
	f.Add(everyCommand().Encode())
	for _, c := range slices.Concat(everyCommand().Commands, everyOther().Commands, everyDepart().Commands, everyBind().Commands) {
		f.Add(Entry{Version: versionOf(c), Term: 1, Wall: -1, Commands: []Command{c}}.Encode())
	}
	for _, e := range everyOps(f) {
		f.Add(e.Encode())
	}
	f.Add(Entry{Version: 1, Term: 1, Commands: []Command{
		Ops{Session: 1, Ops: []wire.Op{finish(1), {Kind: wire.OpConfirm, Seq: 2}, {Kind: wire.OpForget, Seq: 3}, acquire(wire.MaxSeq, "a")}},
		Ops{Session: 2, Ops: []wire.Op{finish(3), {Kind: wire.OpForce, Seq: 4, Key: "a"}, finish(wire.MaxSeq)}},
		Close{Session: 3}, Expire{Session: 2, Term: 1, Seen: 1}, Expire{Session: 1, Term: 1, Seen: 1},
	}}.Encode())
	f.Add(Entry{Version: Version, Term: 1, Commands: []Command{ // of those that are bound in the state
		Bind{Server: id("p1"), Name: "web-2"}, Unbind{Server: id("p1"), Term: 1}, Bind{Server: id("p1"), Name: "web-2"}, Unbind{Server: id("p2"), Term: 1},
	}}.Encode())
	f.Add(Entry{Version: Version + 1}.Encode())
	f.Add([]byte{0x94, 1, 1, 1, 0xdd, 0x00, 0xff, 0xff, 0xff})
	f.Add(append([]byte{0x94, 1, 1, 1, 0xdc, 0x3f, 0xff}, make([]byte, 0x3fff)...)) // as many commands as may be, none of them one
	f.Add(append([]byte{0x94, 1, 1, 1}, bytes.Repeat([]byte{0x91}, 10_000)...))
	saved := snapshotOf(f, everything(f).View())
	f.Fuzz(func(t *testing.T, p []byte) {
		alloctest.PaidWith(t, len(p), allocConstant, func() { _, _ = DecodeEntry(p) })
		e, err := DecodeEntry(p)
		if err != nil && !errors.Is(err, wire.ErrMalformed) && !errors.Is(err, ErrVersion) {
			t.Fatalf("%x: an error of another kind: %v", p, err)
		}
		if err == nil {
			again, err := DecodeEntry(e.Encode())
			if err != nil || !bytes.Equal(again.Encode(), e.Encode()) {
				t.Fatalf("%x is written as %x: %v", p, e.Encode(), err)
			}
		}
		m, err2 := restoreOf(saved)
		if err2 != nil {
			t.Fatal(err2)
		}
		res := m.Apply(&raft.Log{Type: raft.LogCommand, Index: 10, Term: 1, Data: p}).(*Result)
		if (res.Err == nil) != (err == nil) || errors.Is(res.Err, ErrBroken) {
			t.Fatalf("%x: %v, decoding alone %v", p, res.Err, err)
		}
		after := snapshotOf(t, m.View())
		if err != nil && !bytes.Equal(saved, after) {
			t.Fatalf("%x changed the state, though %v", p, err)
		}
		if _, err := restoreOf(after); err != nil {
			t.Fatalf("what %x leads to is no state: %v\n%s", p, err, dump(m.View()))
		}
	})
}

// everyOps are entries that do something of each kind to everything.
func everyOps(t testing.TB) []Entry {
	f := everything(t)
	var all []Entry
	one := func(session uint64, ops ...wire.Op) {
		all = append(all, Entry{Version: 2, Term: 1, Commands: []Command{Ops{Session: session, Ops: ops}}})
	}
	for _, kind := range []wire.OpKind{wire.OpFinish, wire.OpExpire, wire.OpConfirm, wire.OpDowngrade, wire.OpForget} {
		for _, session := range []uint64{1, 2, 3} {
			for seq := range uint64(8) {
				one(session, wire.Op{Kind: kind, Seq: 19 + seq})
			}
		}
	}
	for seq := uint64(20); seq < 27; seq++ {
		for session := uint64(1); session < 4; session++ {
			if r := f.m.request(session, seq); r != nil && r.state == granted {
				h := handleOf(f, session, seq)
				one(2, wire.Op{Kind: wire.OpAdopt, Seq: 40, Ask: &wire.Ask{Handle: h}}, wire.Op{Kind: wire.OpRelease, Seq: 41, Ask: &wire.Ask{Handle: h}})
				one(session, wire.Op{Kind: wire.OpTime, Seq: seq, Ask: &wire.Ask{Time: 7, Nth: 9}})
			}
		}
	}
	for _, l := range f.View().Locks("", "", 100) {
		a := wire.Ask{Keys: []string{l.Key}, Limit: l.Limit}
		if l.Limit > 0 {
			a.Mode, a.Weight = wire.Units, 1
		}
		one(3, asking(40, a), wire.Op{Kind: wire.OpForce, Seq: 41, Key: l.Key})
		one(3, acquire(40, l.Key), asking(42, wire.Ask{Keys: []string{l.Key}, Mode: wire.Shared, Owner: 4}))
	}
	c := Time{Term: 1, Timers: f.View().Timers()}
	all = append(all, Entry{Version: 2, Term: 1, Commands: []Command{c, Close{Session: 1}, Close{Session: 2}, Close{Session: 3}}})
	c.Timers = f.View().Timers()
	for i := range c.Timers {
		c.Timers[i].Left = 0
	}
	return append(all, Entry{Version: 2, Term: 1, Commands: []Command{c}})
}

// FuzzSnapshot restores any bytes, once as they are and once with a right checksum. What is let through must be a state that can be
// written, read back, and ended.
func FuzzSnapshot(f *testing.F) {
	f.Add(snapshotOf(f, New().View()))
	f.Add(snapshotOf(f, everything(f).View()))
	f.Add(snapshotOf(f, everythingOld(f).View()))
	f.Add([]byte(snapshotMagic))
	f.Add([]byte(snapshotMagic + "\x00\x40\x00\x00")) // a block of 4 MiB that is not there
	f.Add([]byte(snapshotMagic + "\xff\xff\xff\xff"))
	f.Add([]byte(snapshotMagic + "\x00\x00\x00\x05\xdd\x00\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, p := range [][]byte{p, repaired(p)} {
			alloctest.PaidWith(t, len(p), allocConstant, func() { _, _ = readSnapshot(bytes.NewReader(p)) })
			m, err := restoreOf(p)
			if err != nil {
				if !errors.Is(err, ErrSnapshot) && !errors.Is(err, ErrVersion) {
					t.Fatalf("an error of another kind: %v", err)
				}
				continue
			}
			first := snapshotOf(t, m.View())
			again, err := restoreOf(first)
			if err != nil || !bytes.Equal(first, snapshotOf(t, again.View())) {
				t.Fatalf("restored, written and not the same: %v\n%s", err, dump(m.View()))
			}
			dump(m.View())
			e := Entry{Version: Version, Term: m.View().Term(), Commands: []Command{EndSilence{Term: m.View().Term()}}}
			for _, s := range m.View().Sessions() {
				e.Commands = append(e.Commands, Ops{Session: s.ID, Ops: []wire.Op{acquire(1, "a"), finish(2), {Kind: wire.OpForce, Seq: 3, Key: "a"}}})
			}
			for _, s := range m.View().Sessions() {
				e.Commands = append(e.Commands, Close{Session: s.ID})
			}
			index := m.View().Index()
			if index > 1<<62 { // indexes are raft's; this one would come to its end
				continue
			}
			res := m.Apply(&raft.Log{Type: raft.LogCommand, Index: index + 1, Term: m.View().Term(), Data: e.Encode()}).(*Result)
			runDown(m, index+2, m.View().Term())
			runDown(m, index+3, m.View().Term())
			if c := m.View().Counters(); res.Err != nil || c.Keys+c.Holders+c.Waiters+c.Sessions != 0 {
				t.Fatalf("%v; left is\n%s", res.Err, dump(m.View()))
			}
		}
	})
}
