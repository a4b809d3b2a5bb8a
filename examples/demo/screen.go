package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
)

// width is what the demo's lines fit in.
const width = 80

// screen prints lines that stay and, on a terminal, keeps a panel below them that is drawn anew in place. Without a terminal it
// writes no escape code.
type screen struct {
	live   bool // the panel is shown
	colour bool

	mu    sync.Mutex // guards w and panel
	w     io.Writer
	panel []string // as shown now
}

// newScreen looks at what f is, and at the environment.
func newScreen(f *os.File, getenv func(string) string) *screen {
	s := &screen{w: f}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 || getenv("TERM") == "dumb" {
		return s
	}
	s.live = columns(f) >= width
	s.colour = s.live && getenv("NO_COLOR") == ""
	return s
}

// say prints a line that stays.
func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draw(fmt.Sprintf(format, args...)+"\n", s.panel)
}

// show replaces the panel; without lines it is gone. Not on a terminal it does nothing.
func (s *screen) show(panel ...string) {
	if !s.live {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draw("", panel)
}

// draw needs mu. All goes out in one write, so that nothing flickers.
func (s *screen) draw(text string, panel []string) {
	var b strings.Builder
	if len(s.panel) > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", len(s.panel))
	}
	b.WriteString(text)
	for _, line := range panel {
		b.WriteString(line + "\n")
	}
	s.panel = panel
	_, _ = io.WriteString(s.w, b.String()) // a reader that is gone ends the demo by SIGPIPE
}

func (s *screen) style(code, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s *screen) bold(text string) string  { return s.style("1", text) }
func (s *screen) good(text string) string  { return s.style("1;32", text) }
func (s *screen) bad(text string) string   { return s.style("1;31", text) }
func (s *screen) faint(text string) string { return s.style("2", text) }

// commas writes 12345 as 12,345.
func commas(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// plural writes 1 order, 2 orders.
func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return commas(n) + " " + noun
}
