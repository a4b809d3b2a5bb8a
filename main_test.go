package distlock

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// children are what this test binary does in a process of its own, by the value of childEnv.
var children = map[string]func() error{
	"quiet": quietChild,
}

const childEnv = "DISTLOCK_TEST_CHILD"

func TestMain(m *testing.M) {
	what := os.Getenv(childEnv)
	if what == "" {
		os.Exit(m.Run())
	}
	if err := children[what](); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child is this test binary as what, with more environment.
func child(t testing.TB, what string, env ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(append(os.Environ(), childEnv+"="+what), env...)
	return cmd
}
