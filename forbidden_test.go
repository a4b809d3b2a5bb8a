package distlock

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/godistlock/distlock/internal/clock"
)

// What dependencies offer and must not be used, or in one place only. docs/hazards.md says why, by the numbers here.
var forbidden = []struct {
	hazards string
	name    string   // as it is written: a selector's name, or "package.Name"
	only    []string // the files that may
}{
	{"1, 2", "VerifyLeader", nil},
	{"3", "RestoreCommittedLogs", nil},
	{"5", "BootstrapCluster", []string{"internal/node/group.go"}},
	{"5, 27", "RecoverCluster", nil},
	{"9", "raft.NewInmemStore", nil}, // the stores are ours, behind the guard
	{"11", "LeadershipTransfer", []string{"internal/node/resign.go"}},
	{"11", "LeadershipTransferToServer", nil},
	{"13", "NotifyCh", nil},
	{"15", "raft.NewInmemSnapshotStore", nil}, // shows a snapshot that is half written
	{"16", "AddPeer", nil},                    // these take no index
	{"16", "RemovePeer", nil},
	{"20", "raft.NewTCPTransport", nil}, // its streams name nobody
	{"20", "raft.NewTCPTransportWithConfig", nil},
	{"22", "msgpack.Unmarshal", nil},
	{"22", "DecodeInterface", nil},
	{"22", "DecodeInterfaceLoose", nil},
	{"22", "DecodeMap", nil},
	{"22", "DecodeSlice", nil},
	{"22", "DecodeTypedMap", nil},
	{"22", "DecodeUntypedMap", nil},
	{"25", "MockNetwork", nil},
	{"25", "memberlist.NewNetTransport", nil}, // opens sockets of its own
	{"27", "UserSnapshot", nil},
	{"one port", "net.Listen", nil},
	{"one port", "net.ListenPacket", []string{"internal/mux/network.go"}},
	{"one port", "net.ListenTCP", nil},
	{"one port", "net.ListenUDP", nil},
	{"one port", "net.ListenConfig", []string{"internal/mux/network.go"}},
	{"one port", "net.Dialer", []string{"internal/mux/network.go"}},
	{"one port", "net.Dial", []string{"internal/address/machine.go"}}, // asks the routing table and sends nothing
	{"one port", "net.DialTimeout", nil},
	{"somebody's process", "signal.Notify", nil},
	{"somebody's process", "signal.NotifyContext", []string{"cluster.go"}},
	{"somebody's process", "os.Stdout", nil},
	{"somebody's process", "os.Stderr", nil},
	{"somebody's process", "slog.Default", nil},
}

func TestForbidden(t *testing.T) {
	found := make(map[string][]string) // where each name is used
	for path, file := range librarySources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				found[n.Sel.Name] = append(found[n.Sel.Name], path)
				if x, ok := n.X.(*ast.Ident); ok {
					name := x.Name + "." + n.Sel.Name
					found[name] = append(found[name], path)
				}
			case *ast.KeyValueExpr:
				if k, ok := n.Key.(*ast.Ident); ok {
					found[k.Name] = append(found[k.Name], path)
				}
			}
			return true
		})
	}
	for _, rule := range forbidden {
		for _, path := range found[rule.name] {
			if !slices.Contains(rule.only, path) {
				t.Errorf("%s uses %s: see docs/hazards.md, %s", path, rule.name, rule.hazards)
			}
		}
		for _, path := range rule.only { // else the rule guards nothing
			if !slices.Contains(found[rule.name], path) {
				t.Errorf("%s does not use %s any more: the rule is out of date", path, rule.name)
			}
		}
	}
}

// Every change of Raft's configuration carries the index of the configuration that it was decided on: with 0 raft does not check it, and two
// changes that were decided on the same state could both be made.
func TestMembershipChangesAreChecked(t *testing.T) {
	prevIndex := map[string]int{"AddVoter": 2, "AddNonvoter": 2, "RemoveServer": 1, "DemoteVoter": 1} // the argument's place
	calls := 0
	for path, file := range librarySources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			at, ok := prevIndex[sel.Sel.Name]
			if !ok || len(call.Args) <= at {
				return true
			}
			calls++
			if arg, ok := call.Args[at].(*ast.SelectorExpr); !ok || arg.Sel.Name != "Index" {
				t.Errorf("%s: %s without the index of the configuration that was planned on", path, sel.Sel.Name)
			}
			return true
		})
	}
	if calls < 3 {
		t.Errorf("only %d changes found: this test looks in the wrong place", calls)
	}
}

// librarySources is the code that a program gets with the library, by path.
func librarySources(t *testing.T) map[string]*ast.File {
	t.Helper()
	files := make(map[string]*ast.File)
	set := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		path = filepath.ToSlash(path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (path == "examples" || path == "tools" || path == "internal/bench" || path == "internal/simnet" || path == ".git"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(set, path, nil, 0)
		files[path] = file
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("only %d files: this test looks in the wrong place", len(files))
	}
	return files
}

// The local deadlines of a Cluster count the time that the machine slept, where the system can tell.
func TestDeadlinesAreOnTheBootClock(t *testing.T) {
	if got, want := fmt.Sprintf("%T", machine().clock), fmt.Sprintf("%T", clock.Boot()); got != want {
		t.Errorf("the clock is a %s; want a %s", got, want)
	}
}

// What must not come in as a dependency, not even of a dependency: it does not build with the rest, or brings what nobody here wants.
func TestUnwantedModules(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile("go.sum")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hashicorp/raft-wal", "hashicorp/raft-boltdb", "coreos/etcd"} {
		if strings.Contains(string(mod), name) {
			t.Errorf("go.mod has %s: see docs/hazards.md, 21", name)
		}
	}
	if strings.Contains(string(sum), "coreos/etcd ") {
		t.Error("go.sum has coreos/etcd: see docs/hazards.md, 21")
	}
}

// docs/hazards.md has a row for each hazard, and every test that it names is there.
func TestHazardsNameTheirTests(t *testing.T) {
	page, err := os.ReadFile("docs/hazards.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]int) // number of tests in each
	named := regexp.MustCompile("`([^` ]+) ((?:Test|Fuzz)\\w+)`")
	tests := make(map[string]string) // the test files of each directory, in one text
	for _, line := range strings.Split(string(page), "\n") {
		row := regexp.MustCompile(`^\| (\d+) \|`).FindStringSubmatch(line)
		for _, m := range named.FindAllStringSubmatch(line, -1) {
			dir, name := m[1], m[2]
			if tests[dir] == "" {
				tests[dir] = testFiles(t, dir)
			}
			if !strings.Contains(tests[dir], "\nfunc "+name+"(") {
				t.Errorf("docs/hazards.md names %s in %s, and there is none", name, dir)
			}
			if row != nil {
				rows[row[1]]++
			}
		}
	}
	const last = 30
	for i := 1; i <= last; i++ {
		if number := strconv.Itoa(i); rows[number] == 0 {
			t.Errorf("row %s of docs/hazards.md names no test", number)
		}
	}
	if len(rows) != last {
		t.Errorf("docs/hazards.md has %d rows with tests; want %d", len(rows), last)
	}
}

func testFiles(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in %s: %v", dir, err)
	}
	var all strings.Builder
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString("\n")
		all.Write(src)
	}
	return strings.ReplaceAll(all.String(), "\r\n", "\n")
}
