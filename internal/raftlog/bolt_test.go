package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/wire"
)

func entry(index, term uint64) *raft.Log {
	return &raft.Log{
		Index: index, Term: term, Type: raft.LogCommand, Data: fmt.Appendf(nil, "entry %d of term %d", index, term),
		Extensions: []byte{7}, AppendedAt: time.Unix(0, int64(index)*1e9+5),
	}
}

func entries(first, last, term uint64) []*raft.Log {
	var out []*raft.Log
	for i := first; i <= last; i++ {
		out = append(out, entry(i, term))
	}
	return out
}

// openTest opens the log in dir and closes it with the test.
func openTest(t *testing.T, dir string) *bolt {
	t.Helper()
	b, err := openBolt(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantLog fails unless s holds exactly first to last (0, 0 for none), each as entry makes it.
func wantLog(t *testing.T, s raft.LogStore, first, last, term uint64) {
	t.Helper()
	gotFirst, err1 := s.FirstIndex()
	gotLast, err2 := s.LastIndex()
	if err := errors.Join(err1, err2); err != nil || gotFirst != first || gotLast != last {
		t.Fatalf("log from %d to %d (%v), want %d to %d", gotFirst, gotLast, err, first, last)
	}
	for i := max(first, 1) - 1; i <= last+1; i++ {
		var l raft.Log
		err := s.GetLog(i, &l)
		if first == 0 || i < first || i > last {
			if err != raft.ErrLogNotFound {
				t.Fatalf("entry %d: %v, want not found", i, err)
			}
			continue
		}
		want := entry(i, term)
		if err != nil || l.Index != i || l.Term != term || l.Type != want.Type || !bytes.Equal(l.Data, want.Data) ||
			!bytes.Equal(l.Extensions, want.Extensions) || !l.AppendedAt.Equal(want.AppendedAt) {
			t.Fatalf("entry %d: %+v, %v", i, l, err)
		}
	}
}

// stores are the two kinds, each with a way to close and reopen it.
func stores(t *testing.T, test func(t *testing.T, s Store, reopen func() Store)) {
	t.Run("memory", func(t *testing.T) {
		s := Memory()
		test(t, s, func() Store { return s })
	})
	t.Run("bolt", func(t *testing.T) {
		dir := t.TempDir()
		var s Store = openTest(t, dir)
		test(t, s, func() Store {
			mustDo(t, s.Close())
			s = openTest(t, dir)
			return s
		})
	})
}

func TestStoreKeepsAContiguousLog(t *testing.T) {
	stores(t, func(t *testing.T, s Store, reopen func() Store) {
		step := func(what string, err error, first, last uint64) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			wantLog(t, s, first, last, 1)
			s = reopen()
			wantLog(t, s, first, last, 1)
		}
		refused := func(what string, err error, first, last uint64) {
			t.Helper()
			var r *RefusedError
			if !errors.As(err, &r) {
				t.Fatalf("%s: %v, want a refusal", what, err)
			}
			wantLog(t, s, first, last, 1)
		}
		mustDo(t, s.SetUint64(keyCurrentTerm, 1))
		step("new", nil, 0, 0)
		step("store nothing", s.StoreLogs(nil), 0, 0)
		step("first entries", s.StoreLogs(entries(1, 10, 1)), 1, 10)
		step("append", s.StoreLogs(entries(11, 300, 1)), 1, 300)
		step("one", s.StoreLog(entry(301, 1)), 1, 301)
		step("compact", s.DeleteRange(1, 100), 101, 301)
		step("compact what is partly gone", s.DeleteRange(50, 110), 111, 301)
		step("delete what is not there", s.DeleteRange(1, 5), 111, 301)
		step("delete nothing", s.DeleteRange(200, 199), 111, 301)
		step("truncate", s.DeleteRange(290, 301), 111, 289)
		step("truncate beyond the end", s.DeleteRange(280, 400), 111, 279)
		refused("a hole", s.DeleteRange(200, 210), 111, 279)
		refused("no order", s.StoreLogs([]*raft.Log{entry(280, 1), entry(282, 1)}), 111, 279)
		refused("before the beginning", s.StoreLogs(entries(90, 95, 1)), 111, 279)
		refused("index 0", s.StoreLogs(entries(0, 3, 1)), 111, 279)
		step("overwrite within", s.StoreLogs(entries(200, 210, 1)), 111, 279)
		step("overwrite the end", s.StoreLogs(entries(270, 285, 1)), 111, 285)
		step("overwrite the beginning", s.StoreLogs(entries(105, 115, 1)), 105, 285)
		step("after a snapshot", s.StoreLogs(entries(400, 402, 1)), 400, 402)
		step("delete all", s.DeleteRange(400, 402), 0, 0)
		step("begin anywhere", s.StoreLogs(entries(1000, 1001, 1)), 1000, 1001)
	})
}

func TestStableStore(t *testing.T) {
	stores(t, func(t *testing.T, s Store, reopen func() Store) {
		// Raft compares the text (hazard 17).
		if _, err := s.Get([]byte("nothing")); err == nil || err.Error() != "not found" {
			t.Fatalf("missing key: %v", err)
		}
		if _, err := s.GetUint64([]byte("nothing")); err == nil || err.Error() != "not found" {
			t.Fatalf("missing number: %v", err)
		}
		mustDo(t, s.Set([]byte("a"), []byte("x")))
		mustDo(t, s.Set([]byte("empty"), nil))
		mustDo(t, s.SetUint64([]byte("n"), 1<<63))
		mustDo(t, s.SetUint64([]byte("n"), 1<<63+7))
		s = reopen()
		if v, err := s.Get([]byte("a")); err != nil || string(v) != "x" {
			t.Fatalf("a: %q, %v", v, err)
		}
		if v, err := s.Get([]byte("empty")); err != nil || len(v) != 0 {
			t.Fatalf("empty: %q, %v", v, err)
		}
		if v, err := s.GetUint64([]byte("n")); err != nil || v != 1<<63+7 {
			t.Fatalf("n: %d, %v", v, err)
		}
		if has, err := raft.HasExistingState(s, s, MemorySnapshots()); err != nil || has {
			t.Fatalf("existing state: %v, %v", has, err)
		}
	})
}

func TestLargeEntries(t *testing.T) {
	stores(t, func(t *testing.T, s Store, reopen func() Store) {
		mustDo(t, s.SetUint64(keyCurrentTerm, 1))
		big := entry(1, 1)
		big.Data = bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		mustDo(t, s.StoreLog(big))
		mustDo(t, s.StoreLog(entry(2, 1)))
		s = reopen()
		var l raft.Log
		if err := s.GetLog(1, &l); err != nil || !bytes.Equal(l.Data, big.Data) {
			t.Fatalf("%d bytes, %v", len(l.Data), err)
		}
	})
}

func TestFileModes(t *testing.T) {
	dir := t.TempDir()
	openTest(t, dir)
	info, err := os.Stat(filepath.Join(dir, logFile))
	if err != nil || info.Mode().Perm() != 0o600 && runtime.GOOS != "windows" {
		t.Fatalf("%v, %v", info.Mode(), err)
	}
}

func TestOpenTwiceIsLocked(t *testing.T) {
	dir := t.TempDir()
	openTest(t, dir)
	_, err := OpenBolt(dir)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Fatal(err)
	}
}

func TestLogAndIdentityBelongTogether(t *testing.T) {
	id := Identity{Server: wire.NewUUID(), Group: "g"}
	setUp := func(t *testing.T) string {
		dir := t.TempDir()
		mustDo(t, SaveIdentity(dir, id))
		mustDo(t, openTest(t, dir).Close())
		return dir
	}
	fails := func(t *testing.T, dir, text string) {
		t.Helper()
		_, err := OpenBolt(dir)
		if err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), moveAway) || !strings.Contains(err.Error(), dir) {
			t.Fatal(err)
		}
	}
	t.Run("they do", func(t *testing.T) { openTest(t, setUp(t)) })
	t.Run("the log was there first", func(t *testing.T) {
		dir := t.TempDir()
		mustDo(t, openTest(t, dir).Close())
		mustDo(t, SaveIdentity(dir, id))
		mustDo(t, openTest(t, dir).Close())
		openTest(t, dir)
	})
	t.Run("the log is gone", func(t *testing.T) { // hazard 4
		dir := setUp(t)
		mustDo(t, os.Remove(filepath.Join(dir, logFile)))
		fails(t, dir, "is gone")
		// Not even a save by a process that doesn't know of the log makes it forgotten.
		mustDo(t, SaveIdentity(dir, id))
		fails(t, dir, "is gone")
	})
	t.Run("the identity is gone", func(t *testing.T) {
		dir := setUp(t)
		mustDo(t, os.Remove(filepath.Join(dir, identityFile)))
		fails(t, dir, "is missing")
	})
	t.Run("another server's log", func(t *testing.T) {
		dir, other := setUp(t), t.TempDir()
		mustDo(t, SaveIdentity(other, Identity{Server: wire.NewUUID()}))
		mustDo(t, openTest(t, other).Close())
		p, err := os.ReadFile(filepath.Join(other, logFile))
		mustDo(t, err)
		mustDo(t, os.WriteFile(filepath.Join(dir, logFile), p, 0o600))
		fails(t, dir, "is of server")
	})
	t.Run("snapshots without a log", func(t *testing.T) {
		dir := t.TempDir()
		mustDo(t, os.MkdirAll(filepath.Join(dir, snapshotsDir, "1-2-3"), 0o700))
		fails(t, dir, "no log")
	})
}

// A server that is given up leaves nothing to its successor, wherever a crash comes between the two.
func TestNewcomerInAnOldDirectory(t *testing.T) {
	old, young := Identity{Server: wire.NewUUID(), Group: "g"}, Identity{Server: wire.NewUUID(), Group: "g"}
	for name, wipe := range map[string]func(dir string){
		"wiped":       func(dir string) { mustDo(t, Wipe(dir)) },
		"not wiped":   func(dir string) {},
		"half wiped":  func(dir string) { mustDo(t, os.RemoveAll(filepath.Join(dir, snapshotsDir))) },
		"wiped twice": func(dir string) { mustDo(t, errors.Join(Wipe(dir), Wipe(dir))) },
		"saved between": func(dir string) {
			mustDo(t, errors.Join(SaveIdentity(dir, young), Wipe(dir), SaveIdentity(dir, young)))
		},
		"saved before": func(dir string) { mustDo(t, errors.Join(SaveIdentity(dir, young), SaveIdentity(dir, young))) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			mustDo(t, SaveIdentity(dir, old))
			b := openTest(t, dir)
			mustDo(t, errors.Join(b.SetUint64(keyCurrentTerm, 7), b.StoreLogs(entries(1, 9, 7)), b.Close()))
			snaps, err := FileSnapshots(dir, nil)
			mustDo(t, err)
			mustDo(t, newSink(t, snaps, 5, 7).Close())
			if !HasLog(dir) {
				t.Fatal("the old server has no log")
			}
			mustDo(t, SaveIdentity(dir, young))
			wipe(dir)
			if HasLog(dir) {
				t.Fatal("the newcomer has a log")
			}
			for range 2 {
				b = openTest(t, dir)
				snaps, err = FileSnapshots(dir, nil)
				mustDo(t, err)
				if has, err := raft.HasExistingState(b, b, snaps); has || err != nil {
					t.Fatalf("the newcomer inherits: %v, %v", has, err)
				}
				mustDo(t, b.Close())
				mustDo(t, SaveIdentity(dir, young))
				if !HasLog(dir) {
					t.Fatal("the newcomer's log is not seen")
				}
			}
			mustDo(t, os.Remove(filepath.Join(dir, logFile)))
			if _, err := OpenBolt(dir); err == nil {
				t.Fatal("a log that is gone was made anew")
			}
		})
	}
}
