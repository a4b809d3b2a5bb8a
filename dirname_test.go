package distlock

import (
	"crypto/tls"
	"errors"
	"strings"
	"testing"

	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/internal/wire"
)

// With a PKI a directory belongs to the name under which its server was: nobody would speak with it under another. Without, names may change.
func TestDataDirOfAnotherName(t *testing.T) {
	dir := t.TempDir()
	if err := raftlog.SaveIdentity(dir, raftlog.Identity{Server: wire.NewUUID(), Group: "g", Name: "web-1"}); err != nil {
		t.Fatal(err)
	}
	open := func(name string, pki *tls.Config) error {
		tr := &transport{}
		defer tr.release()
		return tr.openDir(&settings{Config: Config{Name: name, Group: "g", DataDir: dir, TLS: pki}})
	}
	pki := &tls.Config{MinVersion: tls.VersionTLS13}
	for range 2 {
		if err := errors.Join(open("web-1", pki), open("web-2", nil)); err != nil {
			t.Fatal(err)
		}
		err := open("web-2", pki)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `bound to the name "web-1"`) || !strings.Contains(err.Error(), "empty directory") {
			t.Fatalf("another name: %v", err)
		}
	}
}
