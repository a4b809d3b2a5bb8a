//go:build unix

package raftlog

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/wire"
)

// use makes everything that lies in a DataDir, and looks at it as soon as it may be looked at by others too.
func use(t *testing.T, dir string, look func()) {
	t.Helper()
	l, err := LockDir(dir)
	mustDo(t, err)
	look()
	mustDo(t, SaveIdentity(dir, Identity{Server: wire.NewUUID(), Group: "g"}))
	look()
	b, err := openBolt(dir)
	mustDo(t, err)
	look()
	snaps, err := FileSnapshots(dir, nil)
	mustDo(t, err)
	sink, err := snaps.Create(1, 7, 1, raft.Configuration{}, 1, nil)
	mustDo(t, err)
	look()
	_, err = sink.Write([]byte("state"))
	mustDo(t, err)
	mustDo(t, sink.Close())
	look()
	if all, err := snaps.List(); err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	mustDo(t, b.Close())
	mustDo(t, l.Release())
}

// modes are what lies in dir, with its mode.
func modes(t *testing.T, dir string) map[string]fs.FileMode {
	t.Helper()
	all := map[string]fs.FileMode{}
	mustDo(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(path)
		if err == nil {
			all[path] = info.Mode()
		}
		return err
	}))
	return all
}

// Whatever is made is made for its owner alone, though the process has no umask.
func TestFilesAreTheirOwners(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir := filepath.Join(t.TempDir(), "made", "here")
	most := 0
	use(t, dir, func() {
		all := modes(t, dir)
		most = max(most, len(all))
		for path, mode := range all {
			want := fs.FileMode(fileMode)
			if mode.IsDir() {
				want = dirMode
			}
			if mode.Perm() != want {
				t.Errorf("%s has mode %#o", path, mode.Perm())
			}
		}
	})
	if most < 7 {
		t.Errorf("only %d files and directories were made", most)
	}
}

func TestAccessToADataDir(t *testing.T) {
	for _, c := range []struct {
		name    string
		path    string // below the directory
		mode    fs.FileMode
		refused []string // what the error says; none: it is used
		remark  bool
		after   fs.FileMode
	}{
		{name: "as it was made", mode: 0o700, after: 0o700},
		{name: "others may look", mode: 0o755, after: 0o755},
		{name: "a volume of Kubernetes", mode: 0o770 | fs.ModeSetgid, remark: true, after: 0o770},
		{name: "everybody may write", mode: 0o777, refused: []string{"chmod 700", "below it"}},
		{name: "everybody may write, and not remove", mode: 0o777 | fs.ModeSticky, refused: []string{"chmod 700"}},
		{name: "the group has a file", path: logFile, mode: 0o660, after: 0o600},
		{name: "others read a file", path: identityFile, mode: 0o644, after: 0o600},
		{name: "others look at snapshots", path: snapshotsDir, mode: 0o755, after: 0o700},
		{name: "the group has a snapshot", path: snapshotsDir + "/*/state.bin", mode: 0o664, after: 0o600},
		{name: "everybody writes a file", path: logFile, mode: 0o666, refused: []string{logFile, "chmod -R go-rwx", moveAway}},
		{name: "everybody writes a snapshot", path: snapshotsDir + "/*/meta.json", mode: 0o602, refused: []string{"meta.json"}},
		{name: "everybody adds snapshots", path: snapshotsDir, mode: 0o703, refused: []string{snapshotsDir}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			use(t, dir, func() {})
			found, err := filepath.Glob(filepath.Join(dir, c.path))
			if err != nil || len(found) != 1 {
				t.Fatal(found, err)
			}
			path := found[0]
			mustDo(t, os.Chmod(path, c.mode))
			before := fmt.Sprint(modes(t, dir))
			l, err := LockDir(dir)
			if c.refused != nil {
				if err == nil {
					t.Fatal("it is used")
				}
				for _, want := range append(c.refused, dir) {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%q lacks %q", err, want)
					}
				}
				if after := fmt.Sprint(modes(t, dir)); after != before {
					t.Errorf("it is refused and changed: %s\n%s", before, after)
				}
				return
			}
			mustDo(t, err)
			defer l.Release()
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != c.after {
				t.Errorf("the mode is %#o now, %v", info.Mode().Perm(), err)
			}
			if (len(l.Remarks()) > 0) != c.remark {
				t.Errorf("remarks %q", l.Remarks())
			}
		})
	}
}

// What others have in the directory is their business.
func TestAccessToOtherFilesDoesNotMatter(t *testing.T) {
	dir := t.TempDir()
	use(t, dir, func() {})
	other := filepath.Join(dir, "notes", "all.txt")
	mustDo(t, os.Mkdir(filepath.Dir(other), 0o700))
	mustDo(t, os.WriteFile(other, nil, 0o600))
	for _, path := range []string{other, filepath.Dir(other)} {
		mustDo(t, os.Chmod(path, 0o777))
	}
	l, err := LockDir(dir)
	mustDo(t, err)
	mustDo(t, l.Release())
	if info, err := os.Stat(other); err != nil || info.Mode().Perm() != 0o777 {
		t.Error("a file of somebody else has another mode now")
	}
}

func TestOwners(t *testing.T) {
	root, err := os.Stat("/")
	mustDo(t, err)
	if err := judgeOwner("/", "/", root, true); err != nil {
		t.Errorf("a directory of root: %v", err)
	}
	if me := os.Geteuid(); me > 0 { // only root can give files away
		if err := judgeOwner("/", "/", root, false); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("chown -R %d", me)) {
			t.Errorf("a file of root: %v", err)
		}
		return
	}
	for _, path := range []string{"", identityFile, snapshotsDir} {
		dir := filepath.Join(t.TempDir(), "d")
		use(t, dir, func() {})
		mustDo(t, os.Chown(filepath.Join(dir, path), 12345, -1))
		_, err := LockDir(dir)
		if err == nil || !strings.Contains(err.Error(), "12345") || !strings.Contains(err.Error(), "chown -R 0 "+dir) {
			t.Errorf("%q of somebody else: %v", path, err)
		}
	}
}

// Who may write to the directory can't make this process write elsewhere, nor into a file of his.
func TestNothingIsWrittenThroughAPlantedFile(t *testing.T) {
	dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	mustDo(t, os.WriteFile(victim, []byte("precious"), 0o600))
	mustDo(t, os.Symlink(victim, filepath.Join(dir, identityFile+newSuffix)))
	mustDo(t, SaveIdentity(dir, Identity{Server: wire.NewUUID(), Group: "g"}))
	if p, err := os.ReadFile(victim); err != nil || string(p) != "precious" {
		t.Errorf("the victim is %q, %v", p, err)
	}
	if info, err := os.Lstat(filepath.Join(dir, identityFile)); err != nil || !info.Mode().IsRegular() {
		t.Errorf("the identity is %v, %v", info.Mode(), err)
	}
}
