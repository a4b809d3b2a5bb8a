package raftfsm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/google/btree"
)

// everythingOld returns an FSM whose state has an item of each kind that version 1 had.
func everythingOld(t testing.TB) *FSM {
	f, index := openedAt(t, 1, 3)
	submit := func(f *FSM, index uint64, cmds ...Command) *Result {
		return f.Apply(logAt(1, index, cmds...)).(*Result)
	}
	res := submit(f, index+1,
		Ops{Session: 1, Ops: []wire.Op{acquire(1, "a"), acquire(2, "b"), finish(9), acquire(5, "c"), finish(5)}},
		Ops{Session: 2, Ops: []wire.Op{acquire(1, "a"), {Kind: wire.OpAcquire, Seq: 2, Key: "b", Try: true}, {Kind: wire.OpForce, Seq: 3, Key: "b"}}},
		Ops{Session: 3, Ops: []wire.Op{acquire(1, "a"), acquire(2, "d"), {Kind: wire.OpForce, Seq: 3, Key: "d"}, finish(2), acquire(4, "e")}},
	)
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	create := wire.CreateSession{Nonce: id("n4"), Name: "p4", Server: id("p4"), Instance: id("i4"), TTL: 5, Proof: wire.Proof{Boot: "b", Dir: "d", Started: 1}}
	next := create
	next.Nonce, next.Server, next.Instance, next.Proof.Started = id("n5"), id("p5"), id("i5"), 2
	if res := submit(f, index+2, Create{create}, Create{next}); len(f.View().Dead()) != 1 {
		t.Fatalf("%+v", res)
	}
	return f
}

// handleOf is the handle of a grant.
func handleOf(f *FSM, session, seq uint64) wire.Handle {
	r := f.m.request(session, seq)
	nonce := f.m.session(session).who.Nonce
	if r.more != nil && !r.more.origin.IsZero() {
		nonce = r.more.nonce
	}
	return wire.NewHandle(nonce, r.origin(), r.fence)
}

func asking(seq uint64, a wire.Ask) wire.Op { return wire.Op{Kind: wire.OpRequest, Seq: seq, Ask: &a} }

// everything returns an FSM whose state has an item of each kind.
func everything(t testing.TB) *FSM {
	f := everythingOld(t)
	index := f.View().Index()
	run := func(cmds ...Command) {
		index++
		if res := submit(f, index, cmds...); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	run(
		Ops{Session: 1, Ops: []wire.Op{
			asking(20, wire.Ask{Keys: []string{"r"}, Mode: wire.Shared, Value: []byte("v"), Where: "main.go:7", TTL: 5000}),
			asking(21, wire.Ask{Keys: []string{"u"}, Mode: wire.Units, Limit: 5, Weight: 2}),
			asking(22, wire.Ask{Keys: []string{"x", "y"}, Cooldown: 3000}),
			asking(23, wire.Ask{Keys: []string{"h"}, TTL: 7000}),
			asking(24, wire.Ask{Keys: []string{"o"}, Owner: 20}),
			asking(25, wire.Ask{Keys: []string{"l1", "l2"}, Mode: wire.Shared, Cooldown: 60_000}),
			asking(26, wire.Ask{Keys: []string{"g"}}),
		}},
		Ops{Session: 2, Ops: []wire.Op{
			asking(20, wire.Ask{Keys: []string{"r"}, Mode: wire.Shared}),
			asking(21, wire.Ask{Keys: []string{"u"}, Mode: wire.Units, Limit: 5, Weight: 3}),
			asking(22, wire.Ask{Keys: []string{"r", "x", "z"}, Value: []byte("waits"), Owner: 21, Where: "b.go:1"}),
			asking(23, wire.Ask{Keys: []string{"u"}, Mode: wire.Units, Limit: 5, Weight: 5, Detached: 9000}),
			asking(24, wire.Ask{Keys: []string{"m"}, Detached: 8000}),
			asking(25, wire.Ask{Keys: []string{"n"}, Detached: 8000, Cooldown: 10}),
			{Kind: wire.OpForce, Seq: 26, Key: "g"},
		}},
	)
	create := wire.CreateSession{Nonce: id("n6"), Name: "p6", Server: id("p6"), Instance: id("i6"), TTL: 5}
	run(Create{create})
	res := f.View().Sessions()
	last := res[len(res)-1].ID
	run(
		Ops{Session: last, Ops: []wire.Op{
			asking(1, wire.Ask{Keys: []string{"nobody's"}, Detached: 8000}),
			asking(2, wire.Ask{Keys: []string{"lost"}, Cooldown: 4000, Mode: wire.Units, Limit: 2, Weight: 1}),
			asking(3, wire.Ask{Keys: []string{"taken up"}, Detached: 8000}),
		}},
		Ops{Session: 1, Ops: []wire.Op{
			{Kind: wire.OpExpire, Seq: 25}, {Kind: wire.OpTime, Seq: 9, Ask: &wire.Ask{Time: 1, Nth: 1}},
		}},
		Ops{Session: 2, Ops: []wire.Op{{Kind: wire.OpTime, Seq: 24, Ask: &wire.Ask{Time: 1234, Nth: 3}}}},
		Ops{Session: 3, Ops: []wire.Op{
			{Kind: wire.OpAdopt, Seq: 20, Ask: &wire.Ask{Handle: handleOf(f, 1, 23)}}, {Kind: wire.OpRelease, Seq: 21, Ask: &wire.Ask{Handle: handleOf(f, 1, 22)}},
			{Kind: wire.OpAdopt, Seq: 22, Ask: &wire.Ask{Handle: handleOf(f, 2, 25)}},
		}},
		Ops{Session: 2, Ops: []wire.Op{{Kind: wire.OpConfirm, Seq: 25}}},
	)
	run(Expire{Session: last, Term: 1, Seen: index - 1}, Depart{Server: id("p2")}, Bind{Server: id("p2"), Name: "web-2"}, Bind{Server: id("p1"), Name: "web-1"})
	run(Ops{Session: 3, Ops: []wire.Op{asking(23, wire.Ask{Keys: []string{"taken up"}, Detached: 8000, Origin: wire.Origin{Session: last, Seq: 3}, Only: true})}})
	s := &f.m.state
	if min(s.gaps.Len(), s.queue.Len(), s.forces.Len(), s.holds.Len(), s.timers.Len(), s.tied.Len(), s.waits.Len(), s.owned.Len(), s.moves.Len()) == 0 || s.sessions.Has(&session{id: last}) {
		t.Fatalf("not everything:\n%s", dump(f.View()))
	}
	return f
}

// golden compares got with the hexadecimal bytes in testdata, which processes of this version have on their disks.
func golden(t *testing.T, name string, got []byte) {
	file := filepath.Join("testdata", name)
	if *update {
		var lines strings.Builder
		for p := got; len(p) > 0; p = p[min(len(p), 60):] {
			lines.WriteString(hex.EncodeToString(p[:min(len(p), 60)]) + "\n")
		}
		if err := os.WriteFile(file, []byte(lines.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the format of version %d has changed: %s has\n%x, this is\n%x", Version, file, want, got)
	}
}

// stays checks that a snapshot on somebody's disk is restored, and written again as it was until an entry of a later version comes.
func stays(t *testing.T, name string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	p, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	f, err := restoreOf(p)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if got := snapshotOf(t, f.View()); !bytes.Equal(got, p) {
		t.Errorf("%s is written again as\n%x", name, got)
	}
}

// everyCommand is an entry with one of each kind.
func everyCommand() Entry {
	return Entry{Version: 1, Term: 7, Wall: 1_767_323_045_000_000, Commands: []Command{
		Found{Cluster: id("C"), Expect: 3, Voters: 5, Silent: true},
		Confirm{Cluster: id("C"), Server: id("s"), Instance: id("i"), Name: "web-1", Clock: 1_767_323_045_000_000},
		Create{wire.CreateSession{
			Nonce: id("n"), Name: "web-1", Server: id("s"), Instance: id("i"), TTL: 10_000, Previous: 3,
			Proof: wire.Proof{Boot: "boot", NetNS: "net", Bound: "10.0.0.1:7950", Dir: "8:1", Started: 77},
		}},
		Ops{Session: 4, Ops: []wire.Op{
			acquire(1, "sku-42"), {Kind: wire.OpAcquire, Seq: 2, Key: "sku-43", Try: true}, finish(1),
			{Kind: wire.OpConfirm, Seq: 300}, {Kind: wire.OpForce, Seq: 3, Key: "sku-42"}, {Kind: wire.OpForget, Seq: 70_000},
		}},
		Close{Session: 4}, Expire{Session: 5, Term: 7, Seen: 1 << 40}, EndSilence{Term: 7}, Noop{}, Dissolve{Cluster: id("C")},
	}}
}

// everyOther is everyCommand with what came with version 2.
func everyOther() Entry {
	h := wire.NewHandle(id("n"), wire.Origin{Session: 4, Seq: 8}, 1<<52)
	return Entry{Version: 2, Term: 7, Wall: 1_767_323_045_000_000, Commands: []Command{
		Ops{Session: 4, Ops: []wire.Op{
			acquire(1, "sku-42"),
			asking(2, wire.Ask{Keys: []string{"sku-42", "sku-43"}, Mode: wire.Shared, Owner: 1, TTL: 1000, Cooldown: 2000, Value: []byte{0, 255}, Where: "main.go:7"}),
			{Kind: wire.OpRequest, Seq: 3, Try: true, Ask: &wire.Ask{Keys: []string{"pool"}, Mode: wire.Units, Limit: wire.MaxUnits, Weight: 300}},
			asking(4, wire.Ask{Keys: []string{"d"}, Detached: wire.MaxTime, Origin: wire.Origin{Session: 3, Seq: 8}, Only: true}),
			{Kind: wire.OpExpire, Seq: 2}, {Kind: wire.OpTime, Seq: 4, Ask: &wire.Ask{Time: 5000, Nth: 2}}, {Kind: wire.OpDowngrade, Seq: 1},
			{Kind: wire.OpRelease, Seq: 5, Ask: &wire.Ask{Handle: h}}, {Kind: wire.OpAdopt, Seq: 6, Ask: &wire.Ask{Handle: h}},
		}},
		Time{Term: 7, Timers: []Timer{{Key: "d", Fence: 1 << 52, Armed: 70_000, Left: 4000}, {Key: "e", Fence: 1, Armed: 1}}},
	}}
}

// everyDepart is everyCommand with what came with version 3.
func everyDepart() Entry {
	return Entry{Version: 3, Term: 7, Wall: 1_767_323_045_000_000, Commands: []Command{Depart{Server: id("s")}, EndDepart{Server: id("s"), At: 70_000, Term: 7}}}
}

// everyBind is everyCommand with what came with version 4.
func everyBind() Entry {
	return Entry{Version: 4, Term: 7, Wall: 1_767_323_045_000_000, Commands: []Command{Bind{Server: id("s"), Name: "web-1"}, Unbind{Server: id("s"), Term: 7}}}
}

func TestFormatsStay(t *testing.T) {
	entry2 := everyOther().Encode()
	golden(t, "entry-v2.hex", entry2)
	if e, err := DecodeEntry(entry2); err != nil || !bytes.Equal(e.Encode(), entry2) {
		t.Errorf("%+v, %v", e, err)
	}
	stays(t, "snapshot-v2.hex")

	entry3 := everyDepart().Encode()
	golden(t, "entry-v3.hex", entry3)
	if e, err := DecodeEntry(entry3); err != nil || !bytes.Equal(e.Encode(), entry3) {
		t.Errorf("%+v, %v", e, err)
	}
	stays(t, "snapshot-v3.hex")

	entry4 := everyBind().Encode()
	golden(t, "entry-v4.hex", entry4)
	if e, err := DecodeEntry(entry4); err != nil || !bytes.Equal(e.Encode(), entry4) {
		t.Errorf("%+v, %v", e, err)
	}
	golden(t, "snapshot-v4.hex", snapshotOf(t, everything(t).View()))
	stays(t, "snapshot-v4.hex")

	entry := everyCommand().Encode()
	golden(t, "entry-v1.hex", entry)
	if e, err := DecodeEntry(entry); err != nil || !bytes.Equal(e.Encode(), entry) {
		t.Errorf("%+v, %v", e, err)
	}
	golden(t, "snapshot-v1.hex", snapshotOf(t, everythingOld(t).View()))
}

func restoreOf(p []byte) (*FSM, error) {
	f := New()
	return f, f.Restore(io.NopCloser(bytes.NewReader(p)))
}

func TestRestoreGivesTheSameBytes(t *testing.T) {
	for name, f := range map[string]*FSM{"new": New(), "everything of version 1": everythingOld(t), "everything": everything(t)} {
		want := snapshotOf(t, f.View())
		g, err := restoreOf(want)
		if err != nil {
			t.Fatal(name, err)
		}
		if a, b := rest(f), rest(g); a != b {
			t.Errorf("%s, what is not written:\n%s\nafter a restore:\n%s", name, a, b)
		}
		if !bytes.Equal(want, snapshotOf(t, g.View())) {
			t.Errorf("%s:\n%safter a restore:\n%s", name, dump(f.View()), dump(g.View()))
		}
		if got, want := dump(g.View()), dump(f.View()); got != want {
			t.Errorf("%s:\n%safter a restore:\n%s", name, want, got)
		}
	}
}

// rest is what follows from a snapshot's items.
func rest(f *FSM) string {
	var out strings.Builder
	s := &f.m.state
	s.locks.Ascend(func(l *lock) bool {
		c := *l
		c.gen = 0
		if c.holders == 0 {
			c.mode = 0
		}
		fmt.Fprintf(&out, "%+v\n", c)
		return true
	})
	for _, tree := range []*btree.BTreeG[place]{s.queue, s.forces, s.holds, s.timers, s.tied} {
		tree.Ascend(func(p place) bool {
			fmt.Fprintf(&out, "%+v\n", p)
			return true
		})
	}
	for _, tree := range []*btree.BTreeG[wait]{s.waits, s.owned} {
		tree.Ascend(func(w wait) bool {
			fmt.Fprintf(&out, "%+v\n", w)
			return true
		})
	}
	s.moves.Ascend(func(m move) bool {
		fmt.Fprintf(&out, "%+v\n", m)
		return true
	})
	s.sessions.Ascend(func(ses *session) bool {
		fmt.Fprintf(&out, "%d %d %d %d\n", ses.id, ses.requests, ses.revoked, ses.gaps)
		return true
	})
	fmt.Fprintf(&out, "%d holders, format %d", s.holders, s.format)
	return out.String()
}

// TestDamagedSnapshots is HAZARDS 15: whatever is wrong with a snapshot, the state stays as it is, and the error says so.
func TestDamagedSnapshots(t *testing.T) {
	good := snapshotOf(t, everything(t).View())
	f, _ := opened(t, 1)
	before := snapshotOf(t, f.View())
	var told error
	f.Restored(func(err error) { told = err })
	refuse := func(what string, at int, p []byte) {
		err := f.Restore(io.NopCloser(bytes.NewReader(p)))
		if !errors.Is(err, ErrSnapshot) && !errors.Is(err, ErrVersion) || told != err {
			t.Fatalf("%s at %d of %d: %v", what, at, len(good), err)
		}
	}
	for i := range good {
		refuse("cut", i, good[:i])
		for _, bit := range []byte{1, 0x80} {
			p := bytes.Clone(good)
			p[i] ^= bit
			refuse("flipped", i, p)
		}
	}
	refuse("longer", len(good), append(bytes.Clone(good), 0))
	if !bytes.Equal(before, snapshotOf(t, f.View())) {
		t.Error("a damaged snapshot changed the state")
	}
}

func TestBlockLimit(t *testing.T) {
	block := func(n int) *blockReader {
		p := append(binary.BigEndian.AppendUint32(nil, uint32(n)), make([]byte, n)...)
		return &blockReader{in: bytes.NewReader(p), sum: crc64.New(crcTable()), r: wire.NewReader(nil)}
	}
	if err := block(blockMax).block(blockMax); err != nil {
		t.Error(err)
	}
	if err := block(blockMax + 1).block(blockMax); !errors.Is(err, ErrSnapshot) {
		t.Error(err)
	}
}

// The largest items that there can be fit a block.
func TestLargestItems(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	f, index := opened(t, 0)
	res := submit(f, index+1,
		Create{wire.CreateSession{
			Nonce: id("n"), Name: long(wire.MaxName), Server: id("s"), Instance: id("i"), TTL: wire.MaxTTL, Previous: 1<<64 - 1,
			Proof: wire.Proof{Boot: long(wire.MaxID), NetNS: long(wire.MaxID), Bound: long(wire.MaxAddr), Dir: long(wire.MaxID), Started: -1 << 63},
		}},
		Ops{Session: 1, Ops: []wire.Op{acquire(wire.MaxSeq, long(wire.MaxKey)), {Kind: wire.OpAcquire, Seq: 1, Key: long(wire.MaxKey), Try: true}}})
	if res.Err != nil || len(res.Outcomes) != 2 {
		t.Fatalf("%+v", res)
	}
	w := wire.NewWriter()
	f.m.sessions.Ascend(func(ses *session) bool { ses.encode(w); return true })
	f.m.requests.Ascend(func(r *request) bool { r.encode(w, Version); return true })
	if w.Len() > blockMax-blockFull {
		t.Errorf("%d bytes do not fit behind a full block", w.Len())
	}
	if _, err := restoreOf(snapshotOf(t, f.View())); err != nil {
		t.Error(err)
	}
}

// repaired gives p, the bytes of a snapshot, a right checksum.
func repaired(p []byte) []byte {
	if len(p) < 8 {
		return p
	}
	p = bytes.Clone(p[:len(p)-8])
	return binary.BigEndian.AppendUint64(p, crc64.Checksum(p, crcTable()))
}

// snapshotWith is a snapshot of a state that only a bug, or somebody who can compute a CRC, could have written.
func snapshotWith(t *testing.T, change func(s *state)) []byte {
	v := &View{everything(t).m.freeze()}
	change(&v.s)
	return snapshotOf(t, v)
}

func TestSnapshotsThatContradictThemselves(t *testing.T) {
	if _, err := restoreOf(snapshotWith(t, func(*state) {})); err != nil {
		t.Fatal(err)
	}
	changeRequest := func(session, seq uint64, change func(*request)) func(*state) {
		return func(s *state) {
			r, ok := s.requests.Get(&request{session: session, seq: seq})
			if !ok {
				t.Fatalf("no request %d of session %d", seq, session)
			}
			c := *r
			change(&c)
			s.requests.Delete(r)
			s.requests.ReplaceOrInsert(&c)
		}
	}
	changeMore := func(session, seq uint64, change func(*more)) func(*state) {
		return changeRequest(session, seq, func(r *request) {
			r.more = r.extra()
			change(r.more)
		})
	}
	nobodys := func(key string, change func(*request)) func(*state) {
		return func(s *state) {
			l, _ := s.locks.Get(&lock{key: key})
			s.eachHolder(l, func(r *request) bool {
				changeRequest(r.session, r.seq, func(r *request) {
					r.more = r.extra()
					change(r)
				})(s)
				return false
			})
		}
	}
	changeSession := func(id uint64, change func(*session)) func(*state) {
		return func(s *state) {
			ses, _ := s.sessions.Get(&session{id: id})
			c, who := *ses, *ses.who
			c.who = &who
			change(&c)
			s.sessions.Delete(ses)
			s.sessions.ReplaceOrInsert(&c)
		}
	}
	for _, c := range []struct {
		what   string
		change func(*state)
		text   string
	}{
		{"two holders", changeRequest(2, 1, func(r *request) { r.state, r.ticket, r.fence = granted, 0, 1 }), "two holders"},
		{"a waiter of a free key", changeRequest(1, 1, func(r *request) { r.key = "z" }), "has room but waiters"},
		{"a force of a grant that is not revoked", changeRequest(1, 2, func(r *request) { r.revoked, r.code = false, 0 }), "no revoked grant"},
		{"a fence from the future", changeRequest(1, 1, func(r *request) { r.fence = fenceEnd - 1 }), "contradict"},
		{"a holder without a fence", changeRequest(1, 1, func(r *request) { r.fence = 0 }), "contradict"},
		{"a waiter without a ticket", changeRequest(2, 1, func(r *request) { r.ticket = 0 }), "contradict"},
		{"a ticket from the future", changeRequest(2, 1, func(r *request) { r.ticket = 1 << 40 }), "contradict"},
		{"one ticket twice", changeRequest(2, 1, func(r *request) { r.ticket = 3 }), "twice"},
		{"a revoked waiter", changeRequest(2, 1, func(r *request) { r.revoked, r.code = true, wire.CodeForced }), "contradict"},
		{"a failure without a code", changeRequest(2, 2, func(r *request) { r.code = 0 }), "contradict"},
		{"a request in no state", changeRequest(2, 2, func(r *request) { r.state = 0 }), ""},
		{"a state that is none", changeRequest(2, 2, func(r *request) { r.state = 9 }), "up to 8"},
		{"a request of nobody", changeRequest(1, 1, func(r *request) { r.session = 77 }), "no such session"},
		{"a request that was not seen", changeRequest(1, 1, func(r *request) { r.seq = 50 }), "not seen"},
		{"a request in a gap", changeRequest(1, 1, func(r *request) { r.seq = 3 }), "not seen"},
		{"a request without a number", changeRequest(1, 1, func(r *request) { r.seq = 0 }), "not seen"},
		{"a holder of no key", changeRequest(1, 1, func(r *request) { r.key = "" }), "contradict"},
		{"a gap at the end", changeSession(1, func(s *session) { s.next = 7 }), "gap"},
		{"a session from the future", changeSession(3, func(s *session) { s.id = 99 }), "out of order"},
		{"numbers at their end", changeSession(3, func(s *session) { s.next = wire.MaxSeq + 2 }), "out of order"},
		{"two of a name", changeSession(3, func(s *session) { s.who.Name = "p1" }), "two sessions named"},
		{"no TTL", changeSession(3, func(s *session) { s.who.TTL = 0 }), "without"},
		{"a gap before a gap", func(s *state) { s.gaps.ReplaceOrInsert(gap{1, 1, 3}) }, "gap"},
		{"a gap of nobody", func(s *state) { s.gaps.ReplaceOrInsert(gap{77, 1, 3}) }, "gap"},
		{"an empty gap", func(s *state) { s.gaps.ReplaceOrInsert(gap{2, 3, 2}) }, "gap"},
		{"fences at their end", func(s *state) { s.fence = fenceEnd }, "fence"},
		{"a clock too far", func(s *state) { s.clock = maxClock + 1 }, "clock"},
		{"tickets at their end", func(s *state) { s.lastTicket = 1<<64 - 1 }, "ticket"},
		{"sessions before it opened", func(s *state) { s.open = false }, "open"},
		{"open without a name", func(s *state) { s.cluster = wire.UUID{} }, "open"},
		{"an exclusive beside a shared one", changeRequest(1, 20, func(r *request) { r.mode = wire.Exclusive }), "two holders"},
		{"more units than there are", changeRequest(1, 21, func(r *request) { r.weight = 5 }), "two holders"},
		{"units of nothing", changeMore(1, 21, func(x *more) { x.limit = 0 }), "contradict"},
		{"a semaphore of two limits", changeMore(1, 21, func(x *more) { x.limit = 6 }), "two kinds"},
		{"a mode that is none", changeRequest(1, 24, func(r *request) { r.mode = 3 }), "up to 2"},
		{"keys out of order", changeMore(2, 22, func(x *more) { x.keys = []string{"r", "z", "x"} }), "ascend"},
		{"another first key", changeMore(2, 22, func(x *more) { x.keys = []string{"q", "x", "z"} }), "ascend"},
		{"one key as several", changeMore(2, 22, func(x *more) { x.keys = []string{"r"} }), "ascend"},
		{"a time of a waiter", changeMore(2, 23, func(x *more) { x.timer = timer{left: 1, armed: 1} }), "contradict"},
		{"a time of what isn't detached", changeMore(1, 24, func(x *more) { x.timer = timer{left: 1, armed: 1} }), "contradict"},
		{"a time that runs and is up", changeMore(2, 24, func(x *more) { x.timer.left = 0 }), "contradict"},
		{"a negative time", changeMore(2, 24, func(x *more) { x.timer.left = -1 }), "number up to"},
		{"an order of what doesn't run", changeMore(1, 20, func(x *more) { x.timer.nth = 1 }), "contradict"},
		{"adopted from nobody", changeMore(1, 20, func(x *more) { x.adopted = true }), "contradict"},
		{"an origin without a nonce", changeMore(3, 22, func(x *more) { x.nonce = wire.UUID{} }), "contradict"},
		{"an origin without a number", changeMore(3, 22, func(x *more) { x.origin.Seq = 0 }), "contradict"},
		{"an origin of a waiter", changeMore(2, 22, func(x *more) { x.origin, x.nonce = wire.Origin{Session: 1, Seq: 1}, id("n") }), "contradict"},
		{"an origin twice", changeMore(1, 20, func(x *more) { x.origin, x.nonce = wire.Origin{Session: 2, Seq: 25}, id("n") }), "origin twice"},
		{"an owner beyond all numbers", changeMore(1, 24, func(x *more) { x.owner = 1 << 63 }), "contradict"},
		{"an adoption of what was not revoked", changeRequest(1, 23, func(r *request) { r.revoked, r.code = false, 0 }), "no revoked grant"},
		{"a cooldown that doesn't run", nobodys("lost", func(r *request) { r.more.timer = timer{} }), "contradict"},
		{"a cooldown without one", nobodys("lost", func(r *request) { r.more.cooldown = 0 }), "contradict"},
		{"a cooldown that is revoked", nobodys("lost", func(r *request) { r.revoked, r.code = true, wire.CodeForced }), "no such session"},
		{"nobody's that doesn't run", nobodys("nobody's", func(r *request) { r.more.timer = timer{} }), "contradict"},
		{"nobody's that isn't detached", nobodys("nobody's", func(r *request) { r.more.detached = 0 }), "no such session"},
		{"nobody's from nowhere", nobodys("nobody's", func(r *request) { r.more.origin, r.more.nonce = wire.Origin{}, wire.UUID{} }), "contradict"},
		{"a slot that nobody took", func(s *state) { s.slot.server = wire.UUID{} }, "leaving slot"},
		{"a slot taken later", func(s *state) { s.slot.at = s.index + 1 }, "leaving slot"},
		{"bindings out of order", func(s *state) { slices.Reverse(s.bindings.all) }, "out of order"},
		{"a server that is bound twice", func(s *state) { s.bindings.all[1].Server = s.bindings.all[0].Server }, "out of order"},
		{"nobody is bound", func(s *state) { s.bindings.all[0].Server = wire.UUID{} }, "out of order"},
		{"bound to nothing", func(s *state) { s.bindings.all[0].Name = "" }, "out of order"},
		{"more bindings than there may be", func(s *state) { s.bindings = manyBindings(MaxBindings + 1) }, "64"},
		{"open and dissolved", func(s *state) { s.dissolved = true }, "dissolved"},
	} {
		_, err := restoreOf(snapshotWith(t, c.change))
		if !errors.Is(err, ErrSnapshot) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func manyBindings(n int) *Bindings {
	b := &Bindings{}
	for i := range n {
		b.all = append(b.all, Binding{wire.UUID{1, byte(i)}, "web"})
	}
	return b
}

// Version 1 had fewer states.
func TestOldSnapshotsOfNewThings(t *testing.T) {
	v := &View{everythingOld(t).m.freeze()}
	r, _ := v.s.requests.Get(&request{session: 2, seq: 3})
	c := *r
	c.state = releasing
	v.s.requests.ReplaceOrInsert(&c)
	if _, err := restoreOf(snapshotOf(t, v)); !errors.Is(err, ErrSnapshot) || !strings.Contains(err.Error(), "up to 5") {
		t.Error(err)
	}
}

// A force of version 1 didn't say which grants it waits for: a restored state must know it as the others do, whatever comes after it.
func TestOldForces(t *testing.T) {
	f := everythingOld(t)
	g, err := restoreOf(snapshotOf(t, f.View()))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*FSM{f, g} {
		submit(f, 50, Ops{Session: 1, Ops: []wire.Op{{Kind: wire.OpDowngrade, Seq: 2}, acquire(60, "other")}})
		submit(f, 51, Ops{Session: 3, Ops: []wire.Op{asking(60, wire.Ask{Keys: []string{"b"}, Mode: wire.Shared})}})
	}
	if !bytes.Equal(snapshotOf(t, f.View()), snapshotOf(t, g.View())) {
		t.Error("a restored state goes another way")
	}
	if a, b := showResult(submit(f, 52, Ops{Session: 1, Ops: []wire.Op{{Kind: wire.OpConfirm, Seq: 2}}})), showResult(submit(g, 52, Ops{Session: 1, Ops: []wire.Op{{Kind: wire.OpConfirm, Seq: 2}}})); a != b || !strings.Contains(a, "3 settled") {
		t.Errorf("%safter a restore:\n%s", a, b)
	}
}

func TestSnapshotOfALaterVersion(t *testing.T) {
	p := snapshotOf(t, New().View())
	at := len(snapshotMagic) + 4 + 3 // the block's length, then the array's
	if p[at] != 1 {
		t.Fatalf("byte %d of %x is not the version", at, p)
	}
	p[at] = Version + 1
	if _, err := restoreOf(repaired(p)); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "snapshot of version 5") {
		t.Error(err)
	}
}

// sink is raft's side of a snapshot.
type sink struct {
	bytes.Buffer
	room            int // bytes until it fails
	closed, cancels int
}

var errFull = errors.New("disk full")

func (s *sink) ID() string    { return "sink" }
func (s *sink) Close() error  { s.closed++; return nil }
func (s *sink) Cancel() error { s.cancels++; return nil }
func (s *sink) Write(p []byte) (int, error) {
	if s.Len()+len(p) > s.room {
		return 0, errFull
	}
	return s.Buffer.Write(p)
}

func TestPersist(t *testing.T) {
	f := everything(t)
	want := snapshotOf(t, f.View())
	snap, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	submit(f, 100, Close{Session: 1}) // beside the writing
	ok := &sink{room: 1 << 20}
	if err := snap.Persist(ok); err != nil || ok.closed != 1 || ok.cancels != 0 || !bytes.Equal(ok.Bytes(), want) {
		t.Errorf("%v, closed %d, cancelled %d, %d of %d bytes", err, ok.closed, ok.cancels, ok.Len(), len(want))
	}
	for _, room := range []int{0, 8, 20, len(want) - 1} {
		full := &sink{room: room}
		if err := snap.Persist(full); !errors.Is(err, errFull) || full.closed != 0 || full.cancels != 1 {
			t.Errorf("room for %d: %v, closed %d, cancelled %d", room, err, full.closed, full.cancels)
		}
	}
	snap.Release()
}

// A snapshot of many blocks is written from one View while entries are applied, and read back.
func TestSnapshotBesideApplies(t *testing.T) {
	f, index := opened(t, 10)
	hold(t, f, &index, 10, 5000)
	v := f.View()
	want := snapshotOf(t, v)
	if len(want) < 5*blockFull {
		t.Fatalf("%d bytes are too few for this test", len(want))
	}
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() { // ends by itself
			for range 5 {
				if !bytes.Equal(want, snapshotOf(t, v)) {
					t.Error("a View has changed")
				}
				if len(f.View().Locks("", "", 10)) != 10 {
					t.Error("no locks")
				}
			}
		})
	}
	for i := range uint64(500) {
		index++
		submit(f, index, Ops{Session: i%10 + 1, Ops: []wire.Op{finish(i/10 + 1), acquire(1000+i, heldKey(int(i)))}})
	}
	readers.Wait()
	g, err := restoreOf(want)
	if err != nil || g.View().Counters().Holders != 5000 {
		t.Fatal(err, g.View().Counters())
	}
}
