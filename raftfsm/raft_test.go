package raftfsm

import (
	"bytes"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// TestBatchWithOtherEntries is HAZARDS 14: a batch holds configurations too, and its answers must be as many as its entries.
func TestBatchWithOtherEntries(t *testing.T) {
	f, index := opened(t, 1)
	var seen []uint64
	f.Observe(func(r *Result) { seen = append(seen, r.Index) })
	configuration := raft.EncodeConfiguration(raft.Configuration{})
	logs := []*raft.Log{
		{Type: raft.LogConfiguration, Index: index + 1, Term: 1, Data: configuration},
		logOf(index+2, Ops{Session: 1, Ops: []wire.Op{acquire(1, "a")}}),
		{Type: raft.LogNoop, Index: index + 3, Term: 1},
		{Type: raft.LogBarrier, Index: index + 4, Term: 1},
		{Type: raft.LogCommand, Index: index + 5, Term: 1, Data: []byte("garbage")},
		logOf(index+6, Ops{Session: 1, Ops: []wire.Op{finish(1)}}),
		{Type: raft.LogConfiguration, Index: index + 7, Term: 1, Data: configuration},
	}
	answers := f.ApplyBatch(logs)
	if len(answers) != len(logs) {
		t.Fatalf("%d answers to %d entries", len(answers), len(logs))
	}
	for i, a := range answers {
		res, ok := a.(*Result)
		if ok != (logs[i].Type == raft.LogCommand) || ok && res.Index != logs[i].Index {
			t.Errorf("entry %d: %+v", i, a)
		}
	}
	if res := answers[4].(*Result); !errors.Is(res.Err, wire.ErrMalformed) {
		t.Errorf("garbage: %v", res.Err)
	}
	if want := []uint64{index + 2, index + 5, index + 6}; !slices.Equal(seen, want) {
		t.Errorf("observed %v, want %v", seen, want)
	}
	if len(f.ApplyBatch(nil)) != 0 {
		t.Error("answers to nothing")
	}
	if got := f.View().Index(); got != index+6 {
		t.Errorf("index %d: only entries of commands count, on every replica the same", got)
	}
}

// TestEntriesThatCannotBeRead: they change nothing, and say why.
func TestEntriesThatCannotBeRead(t *testing.T) {
	good := Entry{Version: 1, Term: 1, Commands: []Command{Close{Session: 1}}}
	future := Entry{Version: Version + 1, Term: 1}.Encode()
	long := wire.NewWriter()
	for range MaxEntry {
		long.Bool(false)
	}
	long.Bool(false)
	many := Entry{Version: 1, Term: 1, Commands: slices.Repeat([]Command{Noop{}}, MaxCommands+1)}
	unknown := wire.NewWriter()
	unknown.Array(4)
	unknown.Uint(1)
	unknown.Uint(1)
	unknown.Int(1)
	unknown.Array(1)
	unknown.Array(1)
	unknown.Uint(200)
	for _, c := range []struct {
		name string
		data []byte
		want error
		text string
	}{
		{"empty", nil, wire.ErrMalformed, ""},
		{"no array", []byte{1}, wire.ErrMalformed, ""},
		{"version 0", Entry{Term: 1}.Encode(), wire.ErrMalformed, "version 0"},
		{"a later version", future, ErrVersion, "log entry of version 5, this process knows up to 4"},
		{"a later version with other fields", append(append([]byte{0x9f}, future[1:]...), make([]byte, 20)...), ErrVersion, "upgrade this process"},
		{"cut short", good.Encode()[:len(good.Encode())-1], wire.ErrMalformed, ""},
		{"longer than it is", append(good.Encode(), 0), wire.ErrMalformed, "left over"},
		{"longer than MaxEntry", long.Bytes(), wire.ErrMalformed, "limit 8388608"},
		{"more commands than MaxCommands", many.Encode(), wire.ErrMalformed, "limit 16384"},
		{"an unknown command", unknown.Bytes(), wire.ErrMalformed, "unknown command 200"},
		{"a good command before a bad one", append(append(bytes.Clone(good.Encode()[:4]), 0x92), append(good.Encode()[5:], 0xc3)...), wire.ErrMalformed, ""},
	} {
		f, index := opened(t, 1)
		before := snapshotOf(t, f.View())
		res := f.Apply(&raft.Log{Type: raft.LogCommand, Index: index + 1, Term: 1, Data: c.data}).(*Result)
		if !errors.Is(res.Err, c.want) || !strings.Contains(fmt.Sprint(res.Err), c.text) {
			t.Errorf("%s: %v", c.name, res.Err)
		}
		if res.Index != index+1 || len(res.Replies)+len(res.Outcomes)+len(res.Ended) > 0 {
			t.Errorf("%s: %+v", c.name, res)
		}
		if !bytes.Equal(before, snapshotOf(t, f.View())) {
			t.Errorf("%s changed the state", c.name)
		}
	}
	if _, err := DecodeEntry(Entry{Version: 1, Commands: slices.Repeat([]Command{Noop{}}, MaxCommands)}.Encode()); err != nil {
		t.Errorf("as many commands as may be: %v", err)
	}
}

// TestBug: a panic in here is not the host's, and nothing is built on the ruins.
func TestBug(t *testing.T) {
	f, index := opened(t, 1)
	held := submit(f, index+1, Ops{Session: 1, Ops: []wire.Op{acquire(1, "a")}})
	f.m.locks.Clear(false) // what no entry can do
	res := submit(f, index+2, Ops{Session: 1, Ops: []wire.Op{finish(1)}})
	if held.Err != nil || !errors.Is(res.Err, ErrBroken) || res.Index != index+2 {
		t.Fatalf("%v, then %+v", held.Err, res)
	}
	if res := submit(f, index+3, Noop{}); !errors.Is(res.Err, ErrBroken) {
		t.Errorf("an entry after that: %+v", res)
	}
	if v := f.View(); v.Cluster() != id("C") || len(v.Locks("", "", 9))+len(v.Sessions()) > 0 {
		t.Errorf("ruins are seen:\n%s", dump(v))
	}
	if _, err := f.Snapshot(); !errors.Is(err, ErrBroken) {
		t.Errorf("a snapshot of it: %v", err)
	}
	good, _ := opened(t, 1)
	if err := f.Restore(io.NopCloser(bytes.NewReader(snapshotOf(t, good.View())))); err != nil {
		t.Fatal(err)
	}
	if res := submit(f, index+4, Noop{}); res.Err != nil {
		t.Errorf("after a restore: %v", res.Err)
	}
}

func TestSession(t *testing.T) {
	f, index := opened(t, 2)
	if ses, ok := f.Session(2); !ok || ses.Name != "p2" || ses.TTL != 10*time.Second || ses.Renewed != index {
		t.Errorf("%+v %v", ses, ok)
	}
	submit(f, index+1, Close{Session: 2})
	if ses, ok := f.Session(2); ok {
		t.Errorf("%+v", ses)
	}
}

// TestUnderRaft runs the machine under hashicorp/raft itself: log, configurations, snapshot, and a restart from it.
func TestUnderRaft(t *testing.T) {
	conf := raft.DefaultConfig()
	conf.LocalID = "one"
	conf.Logger = hclog.NewNullLogger()
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	conf.BatchApplyCh = true
	conf.TrailingLogs = 1
	store, snaps := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
	addr, trans := raft.NewInmemTransport("one")
	if err := raft.BootstrapCluster(conf, store, store, snaps, trans, raft.Configuration{Servers: []raft.Server{{ID: "one", Address: addr}}}); err != nil {
		t.Fatal(err)
	}
	start := func(f *FSM, trans raft.Transport) *raft.Raft {
		leads := make(chan bool, 10)
		conf.NotifyCh = leads
		r, err := raft.NewRaft(conf, f, store, store, snaps, trans)
		if err != nil {
			t.Fatal(err)
		}
		if !<-leads {
			t.Fatal("it lost before it led")
		}
		return r
	}
	apply := func(r *raft.Raft, cmds ...Command) *Result {
		future := r.Apply(Entry{Version: Version, Commands: cmds}.Encode(), 0)
		if err := future.Error(); err != nil {
			t.Fatal(err)
		}
		return future.Response().(*Result)
	}
	f := New()
	r := start(f, trans)
	apply(r, Found{Cluster: id("C"), Expect: 1, Voters: 1}, Confirm{Cluster: id("C"), Server: id("s"), Clock: 5})
	apply(r, Create{wire.CreateSession{Nonce: id("n"), Name: "one", Server: id("s"), Instance: id("i"), TTL: 1000}})
	if err := r.AddNonvoter("two", "two", 0, 0).Error(); err != nil {
		t.Fatal(err)
	}
	if res := apply(r, Ops{Session: 1, Ops: []wire.Op{acquire(1, "a")}}); len(res.Outcomes) != 1 || res.Outcomes[0].Fence != 6 {
		t.Fatalf("%+v", res)
	}
	if err := r.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	apply(r, Ops{Session: 1, Ops: []wire.Op{acquire(2, "b")}})
	want := snapshotOf(t, f.View())
	if err := r.Shutdown().Error(); err != nil {
		t.Fatal(err)
	}

	_, trans = raft.NewInmemTransport("one")
	f = New()
	restored := 0
	f.Restored(func(err error) {
		if restored++; err != nil {
			t.Error(err)
		}
	})
	r = start(f, trans)
	if err := r.Barrier(0).Error(); err != nil {
		t.Fatal(err)
	}
	if got := snapshotOf(t, f.View()); !bytes.Equal(got, want) || restored != 1 {
		t.Errorf("restored %d times:\n%s", restored, dump(f.View()))
	}
	if err := r.Shutdown().Error(); err != nil {
		t.Fatal(err)
	}
}

// TestOnlyOneFileKnowsRaft keeps the rest pure: no file but raft.go imports raft, and none a clock's or the world's packages.
func TestOnlyOneFileKnowsRaft(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{
		"bytes", "cmp", "encoding/binary", "errors", "fmt", "hash", "hash/crc64", "io", "math", "slices", "strconv", "strings", "time",
		"github.com/godistlock/distlock/internal/wire", "github.com/google/btree",
	}
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), ".go") || strings.HasSuffix(file.Name(), "_test.go") || file.Name() == "raft.go" {
			continue
		}
		source, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file.Name(), source, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			if !slices.Contains(allowed, strings.Trim(i.Path.Value, `"`)) {
				t.Errorf("%s imports %s", file.Name(), i.Path.Value)
			}
		}
		for _, word := range []string{"time.Now", "time.Since", "time.After", "time.Local", "\tgo ", "map["} {
			if bytes.Contains(source, []byte(word)) {
				t.Errorf("%s contains %q", file.Name(), word)
			}
		}
	}
}
