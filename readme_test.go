package distlock_test

import (
	"encoding/json"
	"errors"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The lines round the README's block of Go: what it calls that the library does not have.
const (
	readmeBefore = `package readme

import (
	"context"
	"log"
	"net/http"

	"github.com/godistlock/distlock"
)

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}

func sell(ctx context.Context, w http.ResponseWriter, sku string, fence distlock.Fence) {}

func serve(bind string, peers []string) {
`
	readmeAfter = "}\n"
)

func TestReadmeCompiles(t *testing.T) {
	blocks := readmeBlocks(t, "go")
	if len(blocks) != 1 {
		t.Fatalf("%d blocks of Go in README.md; want 1", len(blocks))
	}
	block := blocks[0]
	if n := strings.Count(block, "\n"); n != 10 {
		t.Errorf("the ten lines are %d", n)
	}
	if formatted, err := format.Source([]byte(block)); err != nil || string(formatted) != block {
		t.Errorf("the block is not as gofmt writes it (%v):\n%s", err, formatted)
	}
	for _, call := range []string{"distlock.Join(", ".Lock(", ".Unlock(", ".Fence()"} {
		if !strings.Contains(block, call) {
			t.Errorf("the block has no %s", call)
		}
	}
	if out, err := buildBlock(t, block); err != nil {
		t.Errorf("the block does not compile: %v\n%s", err, out)
	}
	// A compiler that never complains would prove nothing.
	for what, broken := range map[string]string{
		"an unknown method": strings.Replace(block, ".Lock(", ".Lok(", 1),
		"a wrong type":      strings.Replace(block, "Peers: peers", "Peers: bind", 1),
		"an unused value":   "unused := 1\n" + block,
	} {
		out, err := buildBlock(t, broken)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || !strings.Contains(out, "readme.go:") {
			t.Errorf("%s compiles: %v\n%s", what, err, out)
		}
	}
}

// buildBlock compiles block as a package of this module that only the compiler's overlay has: nothing is written into the tree.
func buildBlock(t *testing.T, block string) (string, error) {
	t.Helper()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	source, overlay := filepath.Join(dir, "readme.go"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(source, []byte(readmeBefore+block+readmeAfter), 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, "readme_block", "readme.go"): source}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, files, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "./readme_block").CombinedOutput()
	return string(out), err
}

// A newcomer types two commands, no more.
func TestReadmeCommands(t *testing.T) {
	var commands []string
	for _, block := range readmeBlocks(t, "sh") {
		commands = append(commands, strings.Split(strings.TrimSpace(block), "\n")...)
	}
	if want := []string{"go run ./examples/demo", "go test ./..."}; !slices.Equal(commands, want) {
		t.Errorf("commands %q; want %q", commands, want)
	}
}

// What the code says is not built yet stands in the README's list, and what is built does not.
func TestReadmeListsWhatIsMissing(t *testing.T) {
	_, list, found := strings.Cut(readReadme(t), "## What is not built yet\n")
	list, _, ended := strings.Cut(list, "\nOf what works")
	if !found || !ended {
		t.Fatal("README.md has no list of what is not built yet")
	}
	missing := missingFeatures(t)
	if len(missing) < 3 {
		t.Fatalf("only %q is missing: this test looks in the wrong place", missing)
	}
	for _, name := range missing {
		if !strings.Contains(list, "`"+name+"`") {
			t.Errorf("%s is not built yet, and README.md does not say so", name)
		}
	}
	also := []string{"errors.ErrUnsupported", "Bind", "Insecure"}
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(list, -1) {
		if !slices.Contains(missing, m[1]) && !slices.Contains(also, m[1]) {
			t.Errorf("README.md says that %s is not built yet, and nothing in the code does", m[1])
		}
	}
}

// missingFeatures are the names that the code gives to unsupported.
func missingFeatures(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	said := regexp.MustCompile(`[uU]nsupported\("([^"]+)"\)`)
	var names []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range said.FindAllStringSubmatch(string(src), -1) {
			names = append(names, m[1])
		}
	}
	return names
}

func readmeBlocks(t *testing.T, language string) []string {
	t.Helper()
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(readReadme(t), -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

func readReadme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\r\n", "\n") // a checkout on Windows
}
