package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/godistlock/distlock/internal/alloctest"
	"github.com/godistlock/distlock/internal/wire"
)

func TestDirLockKeepsOthersOut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "for us")
	l, err := LockDir(dir)
	mustDo(t, err)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 && runtime.GOOS != "windows" {
		t.Fatal(info.Mode(), err)
	}
	if (l.ID() == "") != (runtime.GOOS == "windows") {
		t.Fatalf("ID %q", l.ID())
	}
	_, err = LockDir(dir)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) || !strings.Contains(err.Error(), dir) {
		t.Fatal(err)
	}
	mustDo(t, l.Release())
	again, err := LockDir(dir)
	mustDo(t, err)
	if again.ID() != l.ID() {
		t.Fatalf("%s, then %s", l.ID(), again.ID())
	}
	mustDo(t, again.Release())
}

// The lock of a process that was killed is free at once.
func TestDirLockDiesWithItsProcess(t *testing.T) {
	if dir := os.Getenv("DIRLOCK_CHILD"); dir != "" {
		if _, err := LockDir(dir); err != nil {
			fmt.Println(err)
		}
		fmt.Println("locked")
		select {}
	}
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestDirLockDiesWithItsProcess$")
	child.Env = append(os.Environ(), "DIRLOCK_CHILD="+dir)
	out, err := child.StdoutPipe()
	mustDo(t, err)
	mustDo(t, child.Start())
	line := make([]byte, len("locked"))
	if _, err := out.Read(line); err != nil || string(line) != "locked" {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := LockDir(dir); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint("process ", child.Process.Pid)) {
		t.Error(err)
	}
	mustDo(t, child.Process.Kill())
	child.Wait()
	l, err := LockDir(dir)
	mustDo(t, err)
	mustDo(t, l.Release())
}

func TestForeignDirectories(t *testing.T) {
	for name, c := range map[string]struct {
		files []string
		ok    bool
	}{
		"empty":                {nil, true},
		"fresh ext4":           {[]string{"lost+found/"}, true},
		"ours":                 {[]string{identityFile, logFile, snapshotsDir + "/"}, true},
		"ours and a stranger":  {[]string{identityFile, "notes.txt"}, true},
		"ours, half made":      {[]string{lockFileName, logFile + newSuffix, identityFile + newSuffix}, true},
		"somebody's documents": {[]string{"thesis.tex"}, false},
		"consul's raft":        {[]string{"raft.db", "snapshots/", "peers.info"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, f := range c.files {
				var err error
				if p := filepath.Join(dir, f); strings.HasSuffix(f, "/") {
					err = os.Mkdir(p, 0o700)
				} else {
					err = os.WriteFile(p, nil, 0o600)
				}
				mustDo(t, err)
			}
			l, err := LockDir(dir)
			if c.ok {
				mustDo(t, err)
				mustDo(t, l.Release())
				return
			}
			if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "empty directory") {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(dir); len(left) != len(c.files) {
				t.Fatalf("%v were left in somebody's directory", left)
			}
		})
	}
}

func TestUnusableDirectories(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	mustDo(t, os.WriteFile(file, nil, 0o600))
	if _, err := LockDir(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Fatal(err)
	}
	if _, err := LockDir(filepath.Join(file, "below")); err == nil || !strings.Contains(err.Error(), file) {
		t.Fatal(err)
	}
}

func TestUnwritableDirectory(t *testing.T) {
	dir := t.TempDir()
	err := dirError(dir, &os.PathError{Op: "open", Path: dir, Err: os.ErrPermission})
	if os.Geteuid() > 0 { // who may write everywhere sees the text only
		mustDo(t, os.Chmod(dir, 0o500))
		defer os.Chmod(dir, 0o700)
		_, err = LockDir(dir)
	}
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "can't be written") ||
		!strings.Contains(err.Error(), "another directory") || !errors.Is(err, os.ErrPermission) {
		t.Fatal(err)
	}
}

func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	if _, ok, err := LoadIdentity(dir); ok || err != nil {
		t.Fatal(ok, err)
	}
	id := Identity{
		Server: wire.NewUUID(), Group: "shop", Name: "web-1", Cluster: wire.NewUUID(), Confirmed: true, Accepted: wire.NewUUID(),
		Refused: []wire.UUID{wire.NewUUID(), wire.NewUUID()}, Peers: map[string]string{"a": "10.0.0.1:7950", "b": "10.0.0.2:7950"},
	}
	mustDo(t, SaveIdentity(dir, id))
	got, ok, err := LoadIdentity(dir)
	if !ok || err != nil || fmt.Sprint(got) != fmt.Sprint(id) {
		t.Fatalf("%+v, %v, %v", got, ok, err)
	}
	if info, err := os.Stat(filepath.Join(dir, identityFile)); err != nil || info.Mode().Perm() != 0o600 && runtime.GOOS != "windows" {
		t.Fatal(info.Mode(), err)
	}
	mustDo(t, got.CheckGroup(dir, "shop"))
	if err := got.CheckGroup(dir, "bank"); err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "shop") {
		t.Fatal(err)
	}
	mustDo(t, got.CheckName(dir, "web-1"))
	mustDo(t, Identity{}.CheckName(dir, "web-1"))
	if err := got.CheckName(dir, "web-2"); err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), `"web-1"`) ||
		!strings.Contains(err.Error(), `"web-2"`) || !strings.Contains(err.Error(), "empty directory") {
		t.Fatal(err)
	}
	// Bounded: the newest refusals and no more peers than fit stay.
	for i := range 3000 {
		id.Refused = append(id.Refused, wire.NewUUID())
		id.Peers[fmt.Sprint("peer ", i)] = strings.Repeat("x", 255)
	}
	mustDo(t, SaveIdentity(dir, id))
	got, _, err = LoadIdentity(dir)
	if err != nil || len(got.Refused) != MaxRefused || got.Refused[MaxRefused-1] != id.Refused[len(id.Refused)-1] || len(got.Peers) != MaxPeers {
		t.Fatal(len(got.Refused), len(got.Peers), err)
	}
	for _, bad := range []Identity{{Group: "g"}, {Server: id.Server, Group: strings.Repeat("g", 65)}, {Server: id.Server, Name: strings.Repeat("n", 129)}} {
		if err := SaveIdentity(dir, bad); err == nil {
			t.Fatalf("%+v was saved", bad)
		}
	}
}

func TestDamagedIdentity(t *testing.T) {
	dir := t.TempDir()
	mustDo(t, SaveIdentity(dir, Identity{Server: wire.NewUUID(), Group: "g"}))
	path := filepath.Join(dir, identityFile)
	good, err := os.ReadFile(path)
	mustDo(t, err)
	try := func(p []byte, want string) {
		t.Helper()
		mustDo(t, os.WriteFile(path, p, 0o600))
		_, ok, err := LoadIdentity(dir)
		if ok || err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
			t.Fatal(ok, err)
		}
		if err := SaveIdentity(dir, Identity{Server: wire.NewUUID()}); err == nil {
			t.Fatal("a damaged identity was overwritten")
		}
		if _, err := OpenBolt(dir); err == nil {
			t.Fatal("a log was opened beside a damaged identity")
		}
	}
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 0x10
		try(bad, moveAway)
		try(good[:i], moveAway)
	}
	future := append([]byte(nil), good[:len(good)-sumSize]...)
	future[len(identityMagic)+3]++
	future = sealed(nil, nil, future)
	try(future, "upgrade this process")
}

func FuzzIdentity(f *testing.F) {
	f.Add(encodeIdentity(Identity{Server: wire.NewUUID(), Group: "g", Peers: map[string]string{"a": "b"}, Refused: []wire.UUID{wire.NewUUID()}}))
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > sumSize {
			p = sealed(nil, nil, p[:len(p)-sumSize])
		}
		alloctest.Paid(t, len(p), func() { _, _ = decodeIdentity(p) })
		id, err := decodeIdentity(p)
		if err != nil {
			return
		}
		first := encodeIdentity(id)
		again, err := decodeIdentity(first)
		if err != nil || !bytes.Equal(first, encodeIdentity(again)) {
			t.Fatalf("%+v came back as %+v, %v", id, again, err)
		}
	})
}

// What came to nothing leaves nothing, and what was kept stays.
func TestAbandon(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "a", "b")
	l, err := LockDir(dir)
	mustDo(t, err)
	mustDo(t, l.Abandon())
	if left, _ := os.ReadDir(top); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
	mustDo(t, os.Mkdir(filepath.Join(top, "a"), 0o700))
	l, err = LockDir(dir)
	mustDo(t, err)
	mustDo(t, SaveIdentity(dir, Identity{Server: wire.NewUUID(), Group: "g"}))
	mustDo(t, l.Abandon())
	if _, ok, err := LoadIdentity(dir); !ok || err != nil {
		t.Fatal(ok, err)
	}
	l, err = LockDir(dir) // it was released
	mustDo(t, err)
	mustDo(t, l.Release())
}

// Another process that opened the file before it went locks no file that is gone.
func TestAbandonBesideAnother(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	for range 50 {
		l, err := LockDir(dir)
		mustDo(t, err)
		got := make(chan *DirLock)
		go func() {
			for {
				if l, err := LockDir(dir); err == nil {
					got <- l
					return
				}
			}
		}()
		mustDo(t, l.Abandon())
		other := <-got
		if _, err := LockDir(dir); !errors.Is(err, ErrLocked) {
			t.Fatalf("two have it: %v", err)
		}
		mustDo(t, other.Abandon())
	}
}
