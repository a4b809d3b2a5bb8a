package raftfsm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc64"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/godistlock/distlock/internal/wire"
)

// everything returns an FSM whose state has an item of each kind.
func everything(t testing.TB) *FSM {
	f, index := opened(t, 3)
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

func TestFormatsStay(t *testing.T) {
	entry := everyCommand().Encode()
	golden(t, "entry-v1.hex", entry)
	if e, err := DecodeEntry(entry); err != nil || !bytes.Equal(e.Encode(), entry) {
		t.Errorf("%+v, %v", e, err)
	}
	golden(t, "snapshot-v1.hex", snapshotOf(t, everything(t).View()))
}

func restoreOf(p []byte) (*FSM, error) {
	f := New()
	return f, f.Restore(io.NopCloser(bytes.NewReader(p)))
}

func TestRestoreGivesTheSameBytes(t *testing.T) {
	for name, f := range map[string]*FSM{"new": New(), "everything": everything(t)} {
		want := snapshotOf(t, f.View())
		g, err := restoreOf(want)
		if err != nil {
			t.Fatal(name, err)
		}
		if !bytes.Equal(want, snapshotOf(t, g.View())) {
			t.Errorf("%s:\n%safter a restore:\n%s", name, dump(f.View()), dump(g.View()))
		}
		if got, want := dump(g.View()), dump(f.View()); got != want {
			t.Errorf("%s:\n%safter a restore:\n%s", name, want, got)
		}
	}
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
	f.m.requests.Ascend(func(r *request) bool { r.encode(w); return true })
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
		{"a waiter of a free key", changeRequest(1, 1, func(r *request) { r.key = "z" }), "free but has waiters"},
		{"a force of a grant that is not revoked", changeRequest(1, 2, func(r *request) { r.revoked, r.code = false, 0 }), "no revoked grant"},
		{"a fence from the future", changeRequest(1, 1, func(r *request) { r.fence = fenceEnd - 1 }), "contradict"},
		{"a holder without a fence", changeRequest(1, 1, func(r *request) { r.fence = 0 }), "contradict"},
		{"a waiter without a ticket", changeRequest(2, 1, func(r *request) { r.ticket = 0 }), "contradict"},
		{"a ticket from the future", changeRequest(2, 1, func(r *request) { r.ticket = 1 << 40 }), "contradict"},
		{"one ticket twice", changeRequest(2, 1, func(r *request) { r.ticket = 3 }), "twice"},
		{"a revoked waiter", changeRequest(2, 1, func(r *request) { r.revoked, r.code = true, wire.CodeForced }), "contradict"},
		{"a failure without a code", changeRequest(2, 2, func(r *request) { r.code = 0 }), "contradict"},
		{"a request in no state", changeRequest(2, 2, func(r *request) { r.state = 0 }), ""},
		{"a state that is none", changeRequest(2, 2, func(r *request) { r.state = 6 }), "up to 5"},
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
		{"open and dissolved", func(s *state) { s.dissolved = true }, "dissolved"},
	} {
		_, err := restoreOf(snapshotWith(t, c.change))
		if !errors.Is(err, ErrSnapshot) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func TestSnapshotOfALaterVersion(t *testing.T) {
	p := snapshotOf(t, New().View())
	at := len(snapshotMagic) + 4 + 3 // the block's length, then the array's
	if p[at] != Version {
		t.Fatalf("byte %d of %x is not the version", at, p)
	}
	p[at] = Version + 1
	if _, err := restoreOf(repaired(p)); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "snapshot of version 2") {
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
