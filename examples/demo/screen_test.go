package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestScreenWithoutTerminal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := newScreen(f, func(string) string { return "" })
	s.say("%s %s", s.bold("a"), s.bad("b"))
	s.show("panel")
	s.say("%s %s", s.good("c"), s.faint("d"))
	got, err := os.ReadFile(f.Name())
	if err != nil || string(got) != "a b\nc d\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestScreenNoColour(t *testing.T) {
	var out bytes.Buffer
	s := &screen{w: &out, live: true} // a terminal with NO_COLOR
	s.say("%s", s.good("a"))
	s.show("p", "q")
	s.show("r")
	s.say("b")
	s.show()
	if got, want := out.String(), "a\np\nq\n\x1b[2A\x1b[Jr\n\x1b[1A\x1b[Jb\nr\n\x1b[1A\x1b[J"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	s.colour = true
	if got := s.good("a"); got != "\x1b[1;32ma\x1b[0m" {
		t.Errorf("%q", got)
	}
}

func TestCommas(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -12: "-12", -123: "-123", -1234: "-1,234"} {
		if got := commas(n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}

func TestFlags(t *testing.T) {
	o, err := parse(nil, new(bytes.Buffer))
	if err != nil || o.n != 3 || o.memory || o.keep || o.duration.Seconds() != 30 || o.seed == 0 {
		t.Errorf("defaults: %+v, %v", o, err)
	}
	o, err = parse([]string{"-n", "5", "-memory", "-duration", "5s", "-seed", "9", "-keep"}, new(bytes.Buffer))
	if err != nil || o.n != 5 || !o.memory || !o.keep || o.duration.Seconds() != 5 || o.seed != 9 {
		t.Errorf("all given: %+v, %v", o, err)
	}
	for _, args := range []string{"-n 2", "-n 10", "-duration 0s", "more"} {
		var usage bytes.Buffer
		if _, err := parse(strings.Fields(args), &usage); err == nil || usage.Len() == 0 {
			t.Errorf("%s: %v, said %q", args, err, usage.String())
		}
	}
}
