package distlock_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/godistlock/distlock"

// floors are the rooms of the house, the ground floor first. A room imports rooms of lower floors only.
var floors = [][]string{
	{"internal/wire", "internal/clock", "internal/lockerr", "internal/hclogx", "internal/aside", "internal/address", "internal/dashboard"},
	{"internal/mux", "internal/fault", "internal/discover", "internal/secure", "internal/guard"},
	{"internal/rpc", "internal/gossip", "internal/streampackets", "internal/raftlog", "internal/founding", "internal/roster", "raftfsm"},
	{"internal/session"},
	{"internal/node"},
	{"."},
	{"examples/demo", "examples/http"},
}

// scaffold are rooms that only tests may import, or nobody, and what they may import themselves.
var scaffold = map[string][]string{
	"internal/alloctest": {},
	"internal/bubble":    {},
	"internal/simnet":    {"internal/mux"},
	"internal/testpki":   {},
	"internal/testport":  {"internal/mux"},
	"internal/proctest":  {"."},
	"internal/bench":     {".", "internal/mux", "internal/gossip", "internal/session", "internal/node"}, // the lower ones to simulate a large fleet
}

// pure are rooms in which the same input always gives the same output: no clock, no I/O, no goroutine, no randomness. Of ours they
// import wire only.
var pure = []string{"raftfsm", "internal/founding", "internal/roster"}

var impure = []string{
	"context", "crypto/rand", "log", "log/slog", "math/rand", "math/rand/v2", "net", "net/http", "os", "os/exec", "os/signal", "runtime", "syscall",
	"time.After", "time.AfterFunc", "time.NewTicker", "time.NewTimer", "time.Now", "time.Since", "time.Sleep", "time.Tick", "time.Until",
	module + "/internal/wire.NewUUID",
}

// knows says which rooms know a dependency. Nobody else does, so that it can be replaced there.
var knows = map[string][]string{
	"github.com/hashicorp/raft":                  {"raftfsm", "internal/raftlog", "internal/node"},
	"github.com/hashicorp/memberlist":            {"internal/gossip"},
	"github.com/hashicorp/go-hclog":              {"internal/hclogx", "internal/raftlog", "internal/node"},
	"go.etcd.io/bbolt":                           {"internal/raftlog"},
	"github.com/vmihailenco/msgpack/v5":          {"internal/wire", "internal/gossip"}, // gossip reads memberlist's own packets
	"github.com/vmihailenco/msgpack/v5/msgpcode": {"internal/raftlog"},                 // which looks at what Raft is to decode
	"github.com/google/btree":                    {"raftfsm"},
	"golang.org/x/sys/unix":                      {"internal/clock", "internal/raftlog", "examples/demo"},
	"golang.org/x/sys/windows":                   {"internal/raftlog", "examples/demo"},
	"github.com/anishathalye/porcupine":          {},
	"pgregory.net/rapid":                         {},
}

func TestArrows(t *testing.T) {
	rooms := readRooms(t, os.DirFS("."))
	if len(rooms) < 5 {
		t.Fatalf("only %d rooms found: this test looks in the wrong place", len(rooms))
	}
	for _, fault := range judge(rooms) {
		t.Error(fault)
	}
}

// The judge sees each kind of fault; else the test above would prove nothing.
func TestArrowsAreSeenToBeWrong(t *testing.T) {
	for _, c := range []struct {
		room  string
		uses  string
		fault string
	}{
		{"internal/wire", module + "/internal/mux", "upward"},
		{"internal/mux", module + "/internal/fault", "upward"},
		{"internal/node", module, "upward"},
		{"internal/node", module + "/internal/simnet", "only tests"},
		{"raftfsm", module + "/internal/mux", "pure"},
		{"raftfsm", module + "/internal/clock", "pure"},
		{"internal/roster", "time.Now", "pure"},
		{"internal/founding", "go statement", "pure"},
		{"internal/founding", "net", "pure"},
		{"examples/http", module + "/internal/address", "public"},
		{"internal/node", "github.com/hashicorp/memberlist", "knows"},
		{"internal/node", "pgregory.net/rapid", "knows"},
		{"internal/attic", "fmt", "no floor"},
		{"internal/node", module + "/internal/attic", "no floor"},
	} {
		faults := judge(map[string]map[string]string{c.room: {c.uses: "x.go:1"}})
		if len(faults) != 1 || !strings.Contains(faults[0], c.fault) {
			t.Errorf("%s uses %s: judged %q; want one fault that says %q", c.room, c.uses, faults, c.fault)
		}
	}
	for room, use := range map[string]string{
		"internal/mux": module + "/internal/wire", ".": module + "/internal/node", "raftfsm": module + "/internal/wire", "internal/gossip": "time.Now",
		"examples/demo": module, "internal/simnet": module + "/internal/mux", "internal/roster": "time",
	} {
		if faults := judge(map[string]map[string]string{room: {use: "x.go:1"}}); len(faults) > 0 {
			t.Errorf("%s uses %s: judged %q; want no fault", room, use, faults)
		}
	}
}

// judge answers what is wrong with rooms: for each, what it uses (an import path, in pure rooms also "path.Name" and "go statement")
// and where.
func judge(rooms map[string]map[string]string) []string {
	var faults []string
	for _, room := range slices.Sorted(maps.Keys(rooms)) {
		for _, use := range slices.Sorted(maps.Keys(rooms[room])) {
			if why := judgeUse(room, use); why != "" {
				faults = append(faults, fmt.Sprintf("%s: %s uses %s: %s", rooms[room][use], room, use, why))
			}
		}
	}
	return faults
}

func judgeUse(room, use string) string {
	from, known := floorOf(room)
	allowed, isScaffold := scaffold[room]
	if !known && !isScaffold {
		return "the room has no floor: add it to arrows_test.go and docs/architecture.md"
	}
	isPure := slices.Contains(pure, room)
	if isPure && (slices.Contains(impure, use) || use == "go statement") {
		return "the room is pure"
	}
	if users, ours := knows[use]; ours && !slices.Contains(users, room) && !isScaffold {
		return fmt.Sprintf("only %v knows it", users)
	}
	target, inside := strings.CutPrefix(use, module)
	if !inside || target != "" && strings.Contains(path.Base(target), ".") { // a name of the package, not the package
		return ""
	}
	if target = strings.TrimPrefix(target, "/"); target == "" {
		target = "."
	}
	to, known := floorOf(target)
	switch {
	case isScaffold && (slices.Contains(allowed, target) || known && to == 0):
		return ""
	case scaffold[target] != nil:
		return "only tests may"
	case !known:
		return "the room used has no floor: add it to arrows_test.go and docs/architecture.md"
	case isPure && target != "internal/wire":
		return "the room is pure and imports wire only"
	case strings.HasPrefix(room, "examples/") && target != ".":
		return "an example shows the public surface only"
	case isScaffold || to >= from:
		return "the arrow points upward or sideways"
	}
	return ""
}

func floorOf(room string) (int, bool) {
	for i, rooms := range floors {
		if slices.Contains(rooms, room) {
			return i, true
		}
	}
	return 0, false
}

// readRooms reads what every room's code uses, for all systems; tests and other modules are left out.
func readRooms(t *testing.T, tree fs.FS) map[string]map[string]string {
	t.Helper()
	rooms := map[string]map[string]string{}
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); p != "." && (strings.HasPrefix(name, ".") || name == "testdata" || isModule(tree, p)) {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(p) != ".go" || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		room := path.Dir(p)
		if rooms[room] == nil {
			rooms[room] = map[string]string{}
		}
		return readUses(tree, p, rooms[room])
	})
	if err != nil {
		t.Fatal(err)
	}
	return rooms
}

func isModule(tree fs.FS, dir string) bool {
	_, err := fs.Stat(tree, path.Join(dir, "go.mod"))
	return err == nil
}

// readUses adds to uses what the file imports, which names of imported packages it says, and its go statements.
func readUses(tree fs.FS, file string, uses map[string]string) error {
	src, err := fs.ReadFile(tree, file)
	if err != nil {
		return err
	}
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, filepath.FromSlash(file), src, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	at := func(n ast.Node) string { return set.Position(n.Pos()).String() }
	imported := map[string]string{} // by the name used in the file
	for _, s := range f.Imports {
		p, err := strconv.Unquote(s.Path.Value)
		if err != nil {
			return err
		}
		name := path.Base(p)
		if s.Name != nil {
			name = s.Name.Name
		}
		imported[name] = p
		uses[p] = at(s)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			uses["go statement"] = at(n)
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && imported[x.Name] != "" {
				uses[imported[x.Name]+"."+n.Sel.Name] = at(n)
			}
		}
		return true
	})
	return nil
}
