package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// A small fleet and one that is mostly simulated, as short as can be: each brings a row in every table, and nothing stays behind.
func TestFleets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o, err := parse([]string{"-parts", "fleet", "-sizes", "3", "-swarm", "20", "-held", "60", "-idle", "100ms", "-dir", dir}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if err := run(ctx, o, &out, io.Discard); err != nil {
		t.Fatalf("%v; so far:\n%s", err, &out)
	}
	t.Logf("\n%s", &out)
	rows := map[string]int{} // by the size of the fleet
	for line := range strings.Lines(out.String()) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			rows[strings.TrimSpace(cells[1])]++
		}
		if strings.Contains(line, "NaN") || strings.Contains(line, "not measured") || strings.Contains(line, "|  |") {
			t.Errorf("a cell without a figure: %s", line)
		}
	}
	var small, simulated int
	for size, n := range rows {
		switch {
		case size == "3":
			small = n
		case strings.HasPrefix(size, "20 ("):
			simulated = n
		}
	}
	if small == 0 || small != simulated {
		t.Errorf("%d rows of the small fleet, %d of the simulated one", small, simulated)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
