package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// writeMachine says where and how the figures came about.
func writeMachine(out io.Writer, folder string, args []string) {
	m := thisMachine(folder)
	fmt.Fprintf(out, "Measured on %s: %s, %d cores; %s; %s; data on %s.\n\n",
		time.Now().Format(time.DateOnly), m.cpu, runtime.NumCPU(), m.system, runtime.Version(), m.files)
	fmt.Fprintf(out, "    %s\n\n", strings.TrimSpace("go run ./internal/bench "+strings.Join(args, " ")))
	if m.files == "tmpfs" || m.files == "ramfs" {
		fmt.Fprintf(out, "**These files are in memory: figures called durable are not. Name a folder on a disk with -dir.**\n\n")
	}
}

// machine is what figures depend on.
type machine struct {
	cpu    string // model
	system string // kernel
	files  string // type of the file system
}

// writeTable writes rows as Markdown; the first is the head.
func writeTable(out io.Writer, title string, rows [][]string) {
	fmt.Fprintf(out, "### %s\n\n", title)
	for i, row := range rows {
		fmt.Fprintf(out, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(out, "|%s\n", strings.Repeat("---|", len(row)))
		}
	}
	fmt.Fprintln(out)
}

// judged is what a figure that has a target is followed by.
func judged(good bool, format string, target any) string {
	word := "missed"
	if good {
		word = "reached"
	}
	return fmt.Sprintf(" ("+format+": %s)", target, word)
}

// short is a duration for people: three figures.
func short(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.3g ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.3g µs", float64(d)/1e3)
}

// grouped writes a number in groups of three.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func mebi(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

func mkdir(path string) error { return os.MkdirAll(path, 0o700) }
