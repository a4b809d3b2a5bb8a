package hclogx

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// capture returns a logger and what it has written, without times.
func capture(level slog.Level) (*slog.Logger, func() string) {
	var b bytes.Buffer
	h := slog.NewTextHandler(&b, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	return slog.New(h), func() string { s := b.String(); b.Reset(); return s }
}

func TestLevels(t *testing.T) {
	sl, out := capture(LevelTrace)
	l := New(sl)
	for _, c := range []struct {
		level hclog.Level
		log   func(string, ...any)
		want  string
	}{
		{hclog.Trace, l.Trace, "DEBUG-4"}, {hclog.Debug, l.Debug, "DEBUG"}, {hclog.Info, l.Info, "INFO"}, {hclog.Warn, l.Warn, "WARN"}, {hclog.Error, l.Error, "ERROR"},
	} {
		want := "level=" + c.want + " msg=m k=1\n"
		if c.log("m", "k", 1); out() != want {
			t.Errorf("%s", c.level)
		}
		if l.Log(c.level, "m", "k", 1); out() != want {
			t.Errorf("Log %s", c.level)
		}
	}
	l.Log(hclog.Off, "m")
	if got := out(); got != "" {
		t.Errorf("off: %q", got)
	}
}

func TestTheHandlerDecidesWhatIsLogged(t *testing.T) {
	sl, out := capture(slog.LevelWarn)
	l := New(sl)
	l.Info("no")
	l.Warn("yes")
	if got := out(); got != "level=WARN msg=yes\n" {
		t.Errorf("%q", got)
	}
	if l.IsTrace() || l.IsDebug() || l.IsInfo() || !l.IsWarn() || !l.IsError() || l.GetLevel() != hclog.Warn {
		t.Errorf("level %s", l.GetLevel())
	}
	named := l.Named("x")
	l.SetLevel(hclog.Error)
	named.Warn("no")
	named.Error("yes")
	if got := out(); got != "level=ERROR msg=\"x: yes\"\n" || l.GetLevel() != hclog.Error {
		t.Errorf("%q", got)
	}
	if l.SetLevel(hclog.Off); l.IsError() {
		t.Error("off, but logs")
	}
}

func TestNamesAndImpliedArgs(t *testing.T) {
	sl, out := capture(slog.LevelInfo)
	l := New(sl).Named("raft").With("a", 1).Named("snap").With("b", errors.New("e"))
	l.Info("m", "c", hclog.Fmt("%d-%s", 3, "x"), 5, hclog.Hex(255), "odd")
	want := "level=INFO msg=\"raft.snap: m\" a=1 b=e c=3-x 5=0xff EXTRA_VALUE_AT_END=odd\n"
	if got := out(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if l.Name() != "raft.snap" || l.ResetNamed("y").Name() != "y" || len(l.ImpliedArgs()) != 4 {
		t.Errorf("%q, %v", l.Name(), l.ImpliedArgs())
	}
}

func TestNilLogsNothing(t *testing.T) {
	l := New(nil)
	l.With("a", 1).Named("n").Error("m")
	l.StandardLogger(nil).Print("x")
	if l.IsError() {
		t.Error("a logger to nowhere is enabled")
	}
	if n, err := Writer(nil).Write([]byte("x")); n != 1 || err != nil {
		t.Error(n, err)
	}
}

func TestWriterFindsLevels(t *testing.T) {
	sl, out := capture(LevelTrace)
	w := Writer(sl)
	for line, want := range map[string]string{
		"[WARN] memberlist: refuting\n":             "level=WARN msg=\"memberlist: refuting\"\n",
		"2026/01/02 03:04:05 [ERR] memberlist: x\n": "level=ERROR msg=\"memberlist: x\"\n",
		"[DEBUG] memberlist: y":                     "level=DEBUG msg=\"memberlist: y\"\n",
		"[ERROR] e":                                 "level=ERROR msg=e\n",
		"[INFO] i":                                  "level=INFO msg=i\n",
		"[TRACE] t":                                 "level=DEBUG-4 msg=t\n",
		"plain":                                     "level=INFO msg=plain\n",
		"from [ERR] in the middle":                  "level=INFO msg=\"from [ERR] in the middle\"\n",
		"[odd] thing":                               "level=INFO msg=\"[odd] thing\"\n",
		"] [":                                       "level=INFO msg=\"] [\"\n",
		"\n":                                        "",
	} {
		if n, err := w.Write([]byte(line)); n != len(line) || err != nil {
			t.Errorf("%q: %d, %v", line, n, err)
		}
		if got := out(); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestStandardLogger(t *testing.T) {
	sl, out := capture(slog.LevelDebug)
	l := New(sl)
	l.StandardLogger(nil).Print("[WARN] as it is")
	l.StandardLogger(&hclog.StandardLoggerOptions{InferLevels: true}).Print("[WARN] inferred")
	l.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Error}).Print("[WARN] forced")
	want := "level=INFO msg=\"[WARN] as it is\"\nlevel=WARN msg=inferred\nlevel=ERROR msg=forced\n"
	if got := out(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestSource(t *testing.T) {
	var b bytes.Buffer
	New(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{AddSource: true}))).Info("m")
	if !strings.Contains(b.String(), "hclogx_test.go") {
		t.Error(b.String())
	}
}
