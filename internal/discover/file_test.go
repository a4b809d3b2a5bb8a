package discover

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestReadFile(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
		errs       []string // parts of the error
	}{
		{name: "empty"},
		{name: "one a line", text: "10.0.0.1:7950\nshop:7950\n_lock._tcp.shop\n", want: []string{"10.0.0.1:7950", "shop:7950", "_lock._tcp.shop"}},
		{name: "no end of the last line", text: "a:1\nb:2", want: []string{"a:1", "b:2"}},
		{name: "as on Windows", text: "\ufeffa:1\r\n\r\n# c:3\r\nb:2\r\n", want: []string{"a:1", "b:2"}},
		{name: "comments, blank lines and spaces", text: "# the shop\n\n \t\n  a:1 # the first\n\tb:2#\n#c:3\n", want: []string{"a:1", "b:2"}},
		{name: "lines that are no peers", text: "a:1\nshop\n\nb:2\nc:0\na b:1\n", want: []string{"a:1", "b:2"},
			errs: []string{`line 2, "shop": it is neither`, `line 5, "c:0": port 0`, `line 6, "a b:1"`}},
		{name: "binary", text: "\x00\xff\n" + strings.Repeat("\xfe", 10000), errs: []string{`line 1, "\x00\xff"`, `line 2, "\xfe\xfe`}},
		{name: "many lines that are no peers", text: strings.Repeat("x\n", 1000) + "a:1\n", want: []string{"a:1"}, errs: []string{"line 16,", "and 984 more such lines"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := write(t, c.text)
			got, err := ReadFile(path)
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if (err != nil) != (len(c.errs) > 0) {
				t.Fatalf("error: %v", err)
			}
			for _, part := range c.errs {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error doesn't say %q: %v", part, err)
				}
			}
			if err != nil && (!strings.Contains(err.Error(), path) || len(err.Error()) > 8192) {
				t.Errorf("an error of %d bytes, which must name %s", len(err.Error()), path)
			}
		})
	}
}

func TestReadFileThatCannotBeRead(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "peers")
	if got, err := ReadFile(missing); got != nil || !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), missing) != 1 {
		t.Errorf("missing: %q, %v", got, err)
	}
	dir := t.TempDir()
	if got, err := ReadFile(dir); got != nil || err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "not a file") {
		t.Errorf("a directory: %q, %v", got, err)
	}
}

func TestReadFileIsBounded(t *testing.T) {
	var b strings.Builder
	for i := range MaxPeers + 2 {
		fmt.Fprintf(&b, "shop-%d:1\n", i)
	}
	got, err := ReadFile(write(t, b.String()))
	if len(got) != MaxPeers || got[MaxPeers-1] != "shop-4095:1" || err == nil || !strings.Contains(err.Error(), "line 4097: more than 4096 peers") {
		t.Errorf("%d peers, %v", len(got), err)
	}

	comment := "#" + strings.Repeat("x", 1022) + "\n"
	text := "a:1\n" + strings.Repeat(comment, 1023) + "b:2\nlast-"
	text += strings.Repeat("l", MaxFile-len(text)) + "\nc:3\n" // the bound lies within this line
	got, err = ReadFile(write(t, text))
	if !slices.Equal(got, []string{"a:1", "b:2"}) || err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("%q, %v", got, err)
	}
	text = strings.TrimSuffix(text[:MaxFile], "l") + "\n"
	text = strings.Replace(text, "last-", "#last", 1)
	if got, err = ReadFile(write(t, text)); !slices.Equal(got, []string{"a:1", "b:2"}) || err != nil {
		t.Errorf("a file of %d bytes: %q, %v", len(text), got, err)
	}
}

// Whatever is in a file, what is answered are peers, few enough, and an error that people can read.
func FuzzParse(f *testing.F) {
	f.Add([]byte("a:1\r\n# b\n_lock._tcp.shop\nx\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		peers, fault := parse(text)
		for _, p := range peers {
			if err := Check(p); err != nil {
				t.Errorf("%q: %v", p, err)
			}
		}
		if len(peers) > MaxPeers || fault != nil && len(fault.Error()) > 16<<10 {
			t.Errorf("%d peers, %v", len(peers), fault)
		}
	})
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "peers")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
