//go:build unix

package distlock

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A DataDir that everybody may write to is refused, with what to do; one of a group is used, and the log says so.
func TestAccessToTheDataDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var log heardLog
	join := func(mode os.FileMode) error {
		t.Helper()
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		c, err := Join(Config{Bind: "127.0.0.1:0", DataDir: dir, Logger: log.logger()})
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	err := join(0o777)
	if err == nil || !strings.Contains(err.Error(), "Config.DataDir") || !strings.Contains(err.Error(), "chmod 700 "+dir) {
		t.Errorf("everybody may write to it: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in it: %v, %v", left, err)
	}
	if strings.Contains(log.String(), "more open") {
		t.Errorf("said though it was refused: %s", log.String())
	}
	if err := join(0o770); err != nil || !strings.Contains(log.String(), "more open") {
		t.Errorf("its group may: %v\n%s", err, log.String())
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %#o, %v", f, info.Mode().Perm(), err)
		}
	}
}
