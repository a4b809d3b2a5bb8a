package distlock_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Each module that go.mod requires directly stands in docs/dependencies.md with its reason, and no other does.
func TestDependenciesAreExplained(t *testing.T) {
	required := direct(read(t, "go.mod"))
	if len(required) < 5 {
		t.Fatalf("go.mod requires only %q: this test looks in the wrong place", required)
	}
	if explained := explained(read(t, "docs/dependencies.md")); !slices.Equal(required, explained) {
		t.Errorf("go.mod requires\n%s\nand docs/dependencies.md explains\n%s", strings.Join(required, "\n"), strings.Join(explained, "\n"))
	}
	mod := "module m\n\nrequire example.com/a v1.0.0\nrequire (\n\texample.com/b v1.0.0\n\texample.com/c v1.0.0 // indirect\n)\n"
	if got := direct(mod); !slices.Equal(got, []string{"example.com/a", "example.com/b"}) {
		t.Errorf("directly required are said to be %q", got)
	}
}

// direct are the modules that a go.mod requires itself, sorted.
func direct(mod string) (all []string) {
	for _, m := range regexp.MustCompile(`(?m)^(?:require |\t)(\S+\.\S+) v\S+$`).FindAllStringSubmatch(mod, -1) {
		all = append(all, m[1])
	}
	slices.Sort(all)
	return all
}

// explained are the modules of the page's rows that say something for each column, sorted.
func explained(page string) (all []string) {
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` (?:\\| \\S[^|]*){5}\\|$").FindAllStringSubmatch(page, -1) {
		all = append(all, m[1])
	}
	slices.Sort(all)
	return all
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\r\n", "\n") // a checkout on Windows
}
