// Package deploytest decodes what lies in examples/kubernetes and examples/compose as strictly as can be into the real types, and judges
// whether it makes sense. It is a module of its own, so that nothing of that reaches a program that imports the library.
package deploytest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	root       = "../.." // of the repository
	dockerfile = root + "/examples/http/Dockerfile"

	leaving = 10 * time.Second // what Leave takes at most when the locks are released
	margin  = 5 * time.Second  // at least, round every sum of times
)

// image is what the Dockerfile makes.
type image struct {
	program string // the entrypoint, built here by the command that makes it there
	name    string // what it is called in the image
	user    string
	said    map[string]error // what knows found out, by arguments
}

var build = sync.OnceValues(func() (*image, error) {
	text, err := os.ReadFile(dockerfile)
	if err != nil {
		return nil, err
	}
	if built, err = os.MkdirTemp("", "deploytest"); err != nil {
		return nil, err
	}
	img := &image{program: filepath.Join(built, "program"), said: map[string]error{}}
	var copied []string
	for _, line := range strings.Split(string(text), "\n") {
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "COPY --from"):
			made := words[len(words)-2]
			if !strings.Contains(string(text), "-o "+made+" ") && !strings.Contains(string(text), "mkdir "+made+"\n") {
				return nil, fmt.Errorf("%s: the build does not make %s", line, made)
			}
		case strings.HasPrefix(line, "COPY "):
			copied = append(copied, words[1:len(words)-1]...)
		case strings.Contains(line, "go build"): // RUN NAME=value go build -o …
			at := slices.Index(words, "-o")
			img.name, words[at+1] = words[at+1], img.program
			cmd := exec.Command("go", words[3:]...)
			cmd.Dir, cmd.Env = root, append(os.Environ(), words[1])
			if out, err := cmd.CombinedOutput(); err != nil {
				return nil, fmt.Errorf("%s: %w\n%s", line, err, out)
			}
			if err := enough(copied, words[len(words)-1]); err != nil {
				return nil, fmt.Errorf("%s: %w", line, err)
			}
		case strings.HasPrefix(line, "USER "):
			img.user = words[1]
		case strings.HasPrefix(line, "ENTRYPOINT ") && line != fmt.Sprintf("ENTRYPOINT [%q]", img.name):
			return nil, fmt.Errorf("%s: the program is %s", line, img.name)
		}
	}
	return img, nil
})

var built string // the directory of the program

func TestMain(m *testing.M) {
	code := m.Run()
	os.RemoveAll(built)
	os.Exit(code)
}

// enough says which directory of the repository a program is made of and is not copied.
func enough(copied []string, program string) error {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if .Main}}{{$.Dir}}{{end}}{{end}}", program)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	top, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	dirs := strings.Fields(string(out))
	if len(dirs) < 10 {
		return fmt.Errorf("only made of %q: this looks in the wrong place", dirs)
	}
	for _, dir := range dirs {
		dir, err := filepath.Rel(top, dir)
		if err != nil {
			return err
		}
		dir = filepath.ToSlash(dir)
		if !slices.ContainsFunc(copied, func(c string) bool { return c == dir || strings.HasPrefix(dir, c+"/") || dir == "." && c == "*.go" }) {
			return fmt.Errorf("%s is not copied before", dir)
		}
	}
	return nil
}

func theImage(t *testing.T) *image {
	t.Helper()
	img, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestImage(t *testing.T) {
	img := theImage(t)
	if img.name == "" || img.user != "65532:65532" {
		t.Errorf("the image has the program %q and runs it as %q", img.name, img.user)
	}
	if err := img.knows([]string{"-bind=:7950", "-insecure"}); err != nil {
		t.Error(err)
	}
	for _, args := range [][]string{{"-bnid=:7950"}, {"-join=10"}, {"-insecure=perhaps"}} {
		if img.knows(args) == nil {
			t.Errorf("the program knows %q", args)
		}
	}
}

// knows asks the program itself, which parses all flags before it comes to -h.
func (img *image) knows(args []string) error {
	key := strings.Join(args, "\x00")
	err, asked := img.said[key]
	if !asked {
		err = img.ask(args)
		img.said[key] = err
	}
	return err
}

func (img *image) ask(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, img.program, append(slices.Clone(args), "-h")...).CombinedOutput()
	if err != nil {
		first, _, _ := strings.Cut(string(out), "\n")
		return fmt.Errorf("the program does not know %q: %s (%w)", args, first, err)
	}
	return nil
}

// command is how one shop is started: its flags, each written as one word.
type command map[string]string

// parse reads args; its faults are in the program's own words where they can be.
func (img *image) parse(args []string) (command, []string) {
	var faults []string
	if err := img.knows(args); err != nil {
		faults = append(faults, err.Error())
	}
	c := command{}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		if !strings.HasPrefix(name, "-") {
			faults = append(faults, fmt.Sprintf("%q is no flag, and hides those behind it", arg))
		}
		c[strings.TrimLeft(name, "-")] = value
	}
	return c, faults
}

func (c command) seconds(flag string) time.Duration {
	d, _ := time.ParseDuration(c[flag]) // 0 fails where it matters
	return d
}

func (c command) number(flag string) int {
	n, _ := strconv.Atoi(c[flag])
	return n
}

func (c command) port(flag string) int {
	_, port, _ := net.SplitHostPort(c[flag])
	n, _ := strconv.Atoi(port)
	return n
}

// secretName is where the program looks for the secret.
const secretName = "DISTLOCK_SECRET"

// judge says what is wrong with a shop of which together may start at once.
func (c command) judge(together int) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if expect := c.number("expect"); 2*expect <= together || expect > together {
		fault("-expect=%d of %d that start together: two clusters could form, or none", expect, together)
	}
	if _, insecure := c["insecure"]; insecure {
		fault("-insecure lets in whoever reaches -bind=%s", c["bind"])
	}
	for _, flag := range []string{"bind", "http"} {
		if host, _, err := net.SplitHostPort(c[flag]); err != nil || host != "" {
			fault("-%s=%s is not every address of the container", flag, c[flag])
		}
	}
	if c["peers"] == "" {
		fault("without -peers each shop is a cluster of its own")
	}
	for _, peer := range strings.Split(c["peers"], ",") {
		if !strings.HasSuffix(peer, ":"+strconv.Itoa(c.port("bind"))) {
			fault("peer %q is not on the port of -bind=%s", peer, c["bind"])
		}
	}
	if c.seconds("join") < 5*time.Minute {
		fault("-join=%s: shops that are restarted later and later may never meet", c["join"])
	}
	if c.seconds("grace") == 0 {
		fault("-grace=%s: no request may finish", c["grace"])
	}
	return faults
}

// stopping is how long a shop takes at most from SIGTERM on.
func (c command) stopping() time.Duration { return c.seconds("grace") + leaving }

// below says that dir is in mount and not mount itself, where a new volume may have a lost+found.
func below(dir, mount string) bool {
	return strings.HasPrefix(dir, strings.TrimSuffix(mount, "/")+"/")
}

// breakage is one change of a good file, and what must be said of it.
type breakage struct{ old, broken, fault string }

// seen breaks text in each way, and fails the test unless judge says so. A judge that finds nothing would prove nothing.
func seen(t *testing.T, text string, breakages []breakage, judge func(text string) []string) {
	t.Helper()
	for _, b := range breakages {
		broken := strings.Replace(text, b.old, b.broken, 1)
		if broken == text {
			t.Errorf("nothing to break: no %q", b.old)
			continue
		}
		faults := judge(broken)
		if !slices.ContainsFunc(faults, func(f string) bool { return strings.Contains(f, b.fault) }) {
			t.Errorf("%q instead of %q: judged %q; want a fault that says %q", b.broken, b.old, faults, b.fault)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\r\n", "\n")
}
