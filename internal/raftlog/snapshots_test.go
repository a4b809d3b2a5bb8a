package raftlog

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/wire"
)

func newSink(t *testing.T, s raft.SnapshotStore, index, term uint64) raft.SnapshotSink {
	t.Helper()
	conf := raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}}
	_, trans := raft.NewInmemTransport("a")
	sink, err := s.Create(1, index, term, conf, 1, trans)
	mustDo(t, err)
	return sink
}

func write(t *testing.T, sink raft.SnapshotSink, text string) {
	t.Helper()
	if _, err := io.WriteString(sink, text); err != nil {
		t.Fatal(err)
	}
}

// latest is the index and content of the newest snapshot, "none" if there is none.
func latest(t *testing.T, s raft.SnapshotStore) string {
	t.Helper()
	metas, err := s.List()
	mustDo(t, err)
	if len(metas) == 0 {
		return "none"
	}
	meta, r, err := s.Open(metas[0].ID)
	mustDo(t, err)
	defer r.Close()
	p, err := io.ReadAll(r)
	mustDo(t, err)
	if meta.Size != int64(len(p)) || len(meta.Configuration.Servers) != 1 {
		t.Fatalf("%+v for %d bytes", meta, len(p))
	}
	return fmt.Sprintf("%d %s", meta.Index, p)
}

func snapshotStores(t *testing.T, test func(t *testing.T, s raft.SnapshotStore)) {
	t.Run("memory", func(t *testing.T) { test(t, MemorySnapshots()) })
	t.Run("files", func(t *testing.T) {
		s, err := FileSnapshots(t.TempDir(), nil)
		mustDo(t, err)
		test(t, s)
	})
	t.Run("guarded", func(t *testing.T) {
		g := Guard(Memory(), GuardConfig{})
		t.Cleanup(func() { g.Close() })
		test(t, g.Snapshots(MemorySnapshots()))
	})
}

func TestSnapshotsAreSeenWhenComplete(t *testing.T) {
	snapshotStores(t, func(t *testing.T, s raft.SnapshotStore) {
		want := func(text string) {
			t.Helper()
			if got := latest(t, s); got != text {
				t.Fatalf("%q, want %q", got, text)
			}
		}
		want("none")
		first := newSink(t, s, 10, 1)
		write(t, first, "one")
		want("none")
		mustDo(t, first.Close())
		mustDo(t, first.Close()) // the state machine and Raft both close it
		want("10 one")
		cancelled := newSink(t, s, 15, 1)
		write(t, cancelled, "half")
		mustDo(t, cancelled.Cancel())
		want("10 one")
		// One that is being read stays readable while the next is written.
		metas, err := s.List()
		mustDo(t, err)
		_, old, err := s.Open(metas[0].ID)
		mustDo(t, err)
		second := newSink(t, s, 20, 1)
		write(t, second, "tw")
		write(t, second, "o")
		want("10 one")
		mustDo(t, second.Close())
		want("20 two")
		if p, err := io.ReadAll(old); err != nil || string(p) != "one" {
			t.Fatalf("%q, %v", p, err)
		}
		old.Close()
		if _, _, err := s.Open("no such"); err == nil {
			t.Fatal("opened what is not there")
		}
	})
}

// A snapshot sent by the leader may be finished while an older one of this member's own is still being written.
func TestOlderSnapshotNeverReplacesANewer(t *testing.T) {
	snapshotStores(t, func(t *testing.T, s raft.SnapshotStore) {
		own, sent := newSink(t, s, 10, 1), newSink(t, s, 20, 2)
		write(t, sent, "sent")
		mustDo(t, sent.Close())
		write(t, own, "own")
		mustDo(t, own.Close())
		if got := latest(t, s); got != "20 sent" {
			t.Fatal(got)
		}
	})
}

func TestMemorySnapshotsAreBounded(t *testing.T) {
	s := MemorySnapshots().(*memorySnapshots)
	s.limit = 10
	sink := newSink(t, s, 1, 1)
	write(t, sink, "0123456789")
	if _, err := sink.Write([]byte("x")); err == nil || !strings.Contains(err.Error(), "DataDir") {
		t.Fatal(err)
	}
}

func TestMemorySnapshotsConcurrently(t *testing.T) {
	s := MemorySnapshots()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				index := uint64(i + 8*j + 1)
				sink := newSink(t, s, index, 1)
				write(t, sink, fmt.Sprint(index))
				sink.Close()
				metas, _ := s.List()
				if meta, r, err := s.Open(metas[0].ID); err == nil { // it may have been replaced since
					if p, _ := io.ReadAll(r); string(p) != fmt.Sprint(meta.Index) {
						t.Errorf("%q in snapshot %d", p, meta.Index)
					}
				}
			}
		})
	}
	wg.Wait()
	if got := latest(t, s); got != "400 400" {
		t.Fatal(got)
	}
}

// hangingSnapshots hang in every write.
type hangingSnapshots struct {
	raft.SnapshotStore
	thaw chan struct{}
}

type hangingSink struct {
	raft.SnapshotSink
	thaw chan struct{}
}

func (h hangingSnapshots) Create(v raft.SnapshotVersion, i, t uint64, c raft.Configuration, ci uint64, tr raft.Transport) (raft.SnapshotSink, error) {
	s, err := h.SnapshotStore.Create(v, i, t, c, ci, tr)
	return hangingSink{s, h.thaw}, err
}

func (h hangingSink) Write(p []byte) (int, error) { <-h.thaw; return h.SnapshotSink.Write(p) }

func TestHangingSnapshotDoesNotHoldUpAShutdown(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := Guard(Memory(), GuardConfig{OnPoison: func(err error) { t.Error(err) }})
		thaw := make(chan struct{})
		s := g.Snapshots(hangingSnapshots{MemorySnapshots(), thaw})
		done := make(chan error)
		go func() {
			sink := newSink(t, s, 1, 1)
			_, err := sink.Write([]byte("x"))
			sink.Cancel()
			done <- err
		}()
		time.Sleep(time.Minute) // a large snapshot may take its time
		g.Release()
		if err := <-done; err != ErrReleased {
			t.Fatal(err)
		}
		close(thaw)
		mustDo(t, g.Close())
	})
}

func TestFits(t *testing.T) {
	for name, c := range map[string]struct {
		first, last, snapshot uint64
		want                  string
	}{
		"new":                    {0, 0, 0, ""},
		"no snapshot yet":        {1, 10, 0, ""},
		"trailing entries":       {5, 20, 10, ""},
		"just so":                {11, 20, 10, ""},
		"snapshot only":          {0, 0, 10, ""},
		"all is in the snapshot": {1, 5, 10, ""},
		"the snapshot is gone":   {2, 10, 0, "no snapshot"},
		"an older one is left":   {12, 20, 10, "ends at 10"},
	} {
		t.Run(name, func(t *testing.T) {
			log, snaps := Memory(), MemorySnapshots()
			if c.first > 0 {
				mustDo(t, log.StoreLogs(entries(c.first, c.last, 1)))
			}
			if c.snapshot > 0 {
				mustDo(t, newSink(t, snaps, c.snapshot, 1).Close())
			}
			err := Fits("dir", log, snaps)
			if c.want == "" {
				mustDo(t, err)
			} else if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), moveAway) {
				t.Fatal(err)
			}
		})
	}
}

// A snapshot file with a flipped byte is not read as if it were whole.
func TestDamagedSnapshotFile(t *testing.T) {
	dir := t.TempDir()
	s, err := FileSnapshots(dir, nil)
	mustDo(t, err)
	sink := newSink(t, s, 10, 1)
	write(t, sink, "the state of the world")
	mustDo(t, sink.Close())
	path := filepath.Join(dir, snapshotsDir, sink.ID(), "state.bin")
	p, err := os.ReadFile(path)
	mustDo(t, err)
	mustDo(t, os.WriteFile(path, bytes.ToUpper(p), 0o600))
	if _, _, err := s.Open(sink.ID()); err == nil {
		t.Fatal("opened")
	}
	mustDo(t, SaveIdentity(dir, Identity{Server: wire.NewUUID()}))
	l, err := LockDir(dir) // its files are ours
	mustDo(t, err)
	mustDo(t, l.Release())
}
