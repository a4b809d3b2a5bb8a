package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// fillDisk makes every write and sync of b's file fail from now on, by putting /dev/full in its place.
func fillDisk(t *testing.T, b *bolt) {
	t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	mustDo(t, err)
	defer full.Close()
	mustDo(t, unix.Dup3(int(full.Fd()), int(b.file.Fd()), unix.O_CLOEXEC))
}

func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	mustDo(t, err)
	return len(fds)
}

func mappings(t *testing.T, path string) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	mustDo(t, err)
	return strings.Count(string(maps), path)
}

// Hazard 12: after the first failed write nothing is written any more, what was there before can be read, and a new opening finds it all.
func TestFailedWriteIsTheLast(t *testing.T) {
	for name, write := range map[string]func(b *bolt) error{
		"append": func(b *bolt) error { return b.StoreLogs(entries(701, 900, 3)) },
		"set":    func(b *bolt) error { return b.SetUint64(keyCurrentTerm, 9) },
		"delete": func(b *bolt) error { return b.DeleteRange(251, 600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := sample(t)
			before := openFiles(t)
			b := openTest(t, dir)
			fillDisk(t, b)
			first := write(b)
			if first == nil || !strings.Contains(first.Error(), b.path) {
				t.Fatal(first)
			}
			for range 2 {
				if err := write(b); err == nil || !strings.Contains(err.Error(), "after an earlier failure") {
					t.Fatal(err)
				}
			}
			mustDo(t, sound(b)) // reads go on
			b.Close()           // its unlock fails: the file is /dev/full now
			if now := openFiles(t); now != before || mappings(t, b.path) != 0 {
				t.Fatalf("%d files open after Close, %d before; %d mappings", now, before, mappings(t, b.path))
			}
			mustDo(t, sound(openTest(t, dir)))
		})
	}
}

// bbolt rolls back a failed commit by reading the whole file on a goroutine of its own: a page that it can't read would end the process there.
func TestFailedCommitReadsNothing(t *testing.T) {
	dir, file := sample(t)
	b := openTest(t, dir)
	damaged := 0
	b.mu.Lock()
	err := b.update("append", *b.span.Load(), func(tx *bbolt.Tx) error {
		if err := tx.Bucket(bucketLogs).Put(logKey(701), []byte("x")); err != nil {
			return err
		}
		for page := 2 * 4096; page < len(file); page += 4096 { // leaves that this transaction doesn't touch
			p := file[page:]
			if native.Uint16(p[8:]) != flagLeaf || native.Uint16(p[10:]) == 0 {
				continue
			}
			at := pageHeader + native.Uint32(p[pageHeader+4:])
			if key := binary.BigEndian.Uint64(p[at:]); key > 251 && key < 500 {
				if _, err := b.file.WriteAt(make([]byte, 16), int64(page)); err != nil {
					return err
				}
				damaged++
			}
		}
		fillDisk(t, b)
		return nil
	})
	b.mu.Unlock()
	if !errors.Is(err, unix.ENOSPC) && !strings.Contains(fmt.Sprint(err), "file size") || damaged == 0 {
		t.Fatal(err, damaged)
	}
	b.Close()
	if n := mappings(t, b.path); n != 0 {
		t.Fatalf("%d mappings are left", n)
	}
}

// A page that the disk can't give is an error of the read, not the end of the process.
func TestUnreadablePages(t *testing.T) {
	for name, size := range map[string]int64{"all": 0, "all but the meta pages": 8192} {
		t.Run(name, func(t *testing.T) {
			dir, _ := sample(t)
			before := openFiles(t)
			b := openTest(t, dir)
			poisoned := make(chan error, 1)
			g := Guard(b, GuardConfig{Name: b.path, OnPoison: func(err error) { poisoned <- err }})
			mustDo(t, os.Truncate(b.path, size))
			err := g.Do(func() error { return g.GetLog(400, new(raft.Log)) })
			if !errors.Is(err, ErrPoisoned) {
				t.Fatal(err)
			}
			if err := <-poisoned; !strings.Contains(err.Error(), logFile) {
				t.Fatal(err)
			}
			if err := g.Set([]byte("k"), nil); !errors.Is(err, ErrPoisoned) {
				t.Fatal(err)
			}
			g.Close()
			if now := openFiles(t); now != before {
				t.Fatalf("%d files open, %d before", now, before)
			}
		})
	}
	t.Run("while writing", func(t *testing.T) {
		dir, _ := sample(t)
		before := openFiles(t)
		b := openTest(t, dir)
		mustDo(t, os.Truncate(b.path, 0))
		if err := b.StoreLogs(entries(701, 702, 3)); err == nil {
			t.Fatal("stored")
		}
		b.Close()
		if now := openFiles(t); now != before {
			t.Fatalf("%d files open, %d before", now, before)
		}
	})
}

// Opening and closing leave nothing behind, however they end.
func TestOpenLeavesNothing(t *testing.T) {
	dir, file := sample(t)
	before := openFiles(t)
	for range 10 {
		b, err := openBolt(dir)
		mustDo(t, err)
		mustDo(t, b.Close())
		mustDo(t, os.WriteFile(filepath.Join(dir, logFile), file[:5000], 0o600))
		if _, err := openBolt(dir); err == nil {
			t.Fatal("opened")
		}
		mustDo(t, os.WriteFile(filepath.Join(dir, logFile), file, 0o600))
	}
	if now := openFiles(t); now != before {
		t.Fatalf("%d files open, %d before", now, before)
	}
}
