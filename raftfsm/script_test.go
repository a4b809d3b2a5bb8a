package raftfsm

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite the expected output of testdata/*.txt")

// TestScripts runs testdata/*.txt: paragraphs of commands, each followed by ---- and what they led to. A paragraph of commands is
// one log entry, unless it begins with one of the words that look on or turn a knob. See testdata/README.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			old, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(old))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(old) {
				t.Errorf("%s: run go test -update and look at the difference; got:\n%s", file, got)
			}
		})
	}
}

// runScript returns the script with the output that it has.
func runScript(t *testing.T, script string) string {
	s := newScript(t)
	var out strings.Builder
	for para := range strings.SplitSeq(strings.TrimRight(script, "\n"), "\n\n") {
		input, _, _ := strings.Cut(para, "\n----")
		var lines []string
		for line := range strings.SplitSeq(input, "\n") {
			if line != "" && !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
		if out.Len() > 0 {
			out.WriteString("\n")
		}
		out.WriteString(strings.TrimRight(input, "\n") + "\n")
		if len(lines) > 0 {
			out.WriteString("----\n" + s.run(lines))
		}
	}
	return out.String()
}

type script struct {
	t           *testing.T
	f           *FSM
	index, term uint64
	wall        int64
	views       map[string]*View
	watch       bool
	nonces      map[uint64]wire.UUID // of sessions, also of those that have ended
}

func newScript(t *testing.T) *script {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return &script{t: t, f: New(), term: 1, wall: start.UnixMicro(), views: map[string]*View{}, nonces: map[uint64]wire.UUID{}}
}

func (s *script) run(lines []string) string {
	word, args := parseLine(s.t, lines[0])
	switch word {
	case "term":
		s.term = args.uint("n")
		return "ok\n"
	case "wait":
		d, err := time.ParseDuration(args["for"])
		if err != nil {
			s.t.Fatal(err)
		}
		s.wall += d.Microseconds()
		return "ok\n"
	case "show":
		if name := args["view"]; name != "" {
			return dump(s.views[name])
		}
		return dump(s.f.View())
	case "keep":
		s.views[args["view"]] = s.f.View()
		return "ok\n"
	case "locks":
		var out strings.Builder
		for _, l := range s.f.View().Locks(args["prefix"], args["after"], int(args.uint("limit"))) {
			fmt.Fprintf(&out, "%q: %d holders, %d waiters\n", l.Key, len(l.Holders), len(l.Waiters))
		}
		return out.String()
	case "revoked":
		var out strings.Builder
		for _, o := range s.f.View().Revoked(args.uint("session")) {
			out.WriteString(showOutcome(o) + "\n")
		}
		return out.String()
	case "timers":
		var out strings.Builder
		for _, x := range s.f.View().Timers() {
			fmt.Fprintf(&out, "%s, set by entry %d\n", showTimer(x), x.Armed)
		}
		return out.String() + "ok\n"
	case "watch":
		s.watch = true
		s.f.Watch(true)
		return "ok\n"
	case "restart": // from a snapshot
		before := snapshotOf(s.t, s.f.View())
		s.f = New()
		s.f.Watch(s.watch)
		if err := s.f.Restore(io.NopCloser(bytes.NewReader(before))); err != nil {
			s.t.Fatal(err)
		}
		if after := snapshotOf(s.t, s.f.View()); !bytes.Equal(before, after) {
			s.t.Fatalf("a snapshot of the restored state has other bytes")
		}
		return "ok\n"
	}
	var cmds []Command
	for _, line := range lines {
		cmds = append(cmds, s.command(line))
	}
	s.index++
	res := s.f.Apply(&raft.Log{
		Type: raft.LogCommand, Index: s.index, Term: s.term,
		Data: Entry{Version: Version, Term: s.term, Wall: s.wall, Commands: cmds}.Encode(),
	}).(*Result)
	for _, id := range res.Created {
		if ses := s.f.m.session(id); ses != nil {
			s.nonces[id] = ses.who.Nonce
		}
	}
	return showResult(res)
}

type arguments map[string]string

func (a arguments) uint(name string) uint64 {
	n, err := strconv.ParseUint(a[name], 10, 64)
	if err != nil {
		panic(fmt.Sprintf("%s=%q", name, a[name]))
	}
	return n
}

// ms reads a time; 0 if there is none of that name.
func (a arguments) ms(name string) int64 {
	if a[name] == "" {
		return 0
	}
	d, err := time.ParseDuration(a[name])
	if err != nil {
		panic(err)
	}
	return d.Milliseconds()
}

// numbers reads a/b/c.
func (a arguments) numbers(name string) []uint64 {
	var all []uint64
	for word := range strings.SplitSeq(a[name], "/") {
		all = append(all, arguments{name: word}.uint(name))
	}
	return all
}

func parseLine(t *testing.T, line string) (string, arguments) {
	words := strings.Fields(line)
	args := arguments{}
	for _, w := range words[1:] {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			value = "true"
		}
		args[name] = value
	}
	return words[0], args
}

// id makes a UUID of a word that is readable in a dump.
func id(word string) (u wire.UUID) {
	copy(u[:], word)
	return u
}

func showID(u wire.UUID) string { return strings.TrimRight(string(u[:]), "\x00") }

var opKinds = map[string]wire.OpKind{
	"acquire": wire.OpAcquire, "finish": wire.OpFinish, "confirm": wire.OpConfirm, "force": wire.OpForce, "forget": wire.OpForget,
	"request": wire.OpRequest, "lapse": wire.OpExpire, "time": wire.OpTime, "downgrade": wire.OpDowngrade, "release": wire.OpRelease,
	"adopt": wire.OpAdopt,
}

func (s *script) command(line string) Command {
	t := s.t
	word, a := parseLine(t, line)
	switch word {
	case "found":
		return Found{Cluster: id(a["cluster"]), Expect: int(a.uint("expect")), Voters: int(a.uint("voters")), Silent: a["silent"] != ""}
	case "accept":
		return Confirm{
			Cluster: id(a["cluster"]), Server: id(a["server"]), Instance: id(a["server"]), Name: a["server"], Clock: int64(a.uint("clock")),
		}
	case "endsilence":
		return EndSilence{Term: a.uint("term")}
	case "create":
		c := wire.CreateSession{
			Nonce: id(a["nonce"]), Name: a["name"], Server: id(a["server"]), Instance: id(a["instance"]), TTL: 10_000,
			Proof: wire.Proof{Boot: a["boot"], NetNS: "net", Bound: a["bound"], Dir: a["dir"]},
		}
		if a["started"] != "" {
			c.Proof.Started = int64(a.uint("started"))
		}
		if a["previous"] != "" {
			c.Previous = a.uint("previous")
		}
		return Create{c}
	case "close":
		return Close{Session: a.uint("session")}
	case "expire":
		return Expire{Session: a.uint("session"), Term: a.uint("term"), Seen: a.uint("seen")}
	case "noop":
		return Noop{}
	case "bind":
		return Bind{Server: id(a["server"]), Name: a["name"]}
	case "unbind":
		return Unbind{Server: id(a["server"]), Term: a.uint("term")}
	case "time":
		return Time{Term: a.uint("term"), Timers: []Timer{{Key: a["key"], Fence: a.uint("fence"), Armed: a.uint("armed"), Left: a.ms("left")}}}
	}
	// 1 acquire key=a seq=1
	session, err := strconv.ParseUint(word, 10, 64)
	if err != nil {
		t.Fatalf("unknown line %q", line)
	}
	kind, a := parseLine(t, strings.TrimSpace(strings.TrimPrefix(line, word)))
	if opKinds[kind] == 0 {
		t.Fatalf("unknown line %q", line)
	}
	o := wire.Op{Kind: opKinds[kind], Seq: a.uint("seq"), Try: a["try"] != ""}
	switch o.Kind {
	case wire.OpAcquire, wire.OpForce:
		o.Key = a["key"]
	case wire.OpRequest:
		o.Ask = parseAsk(a)
	case wire.OpTime:
		o.Ask = &wire.Ask{Time: a.ms("left"), Nth: a.uint("nth")}
	case wire.OpRelease, wire.OpAdopt:
		h := a.numbers("handle")
		o.Ask = &wire.Ask{Handle: wire.NewHandle(s.nonces[h[0]], wire.Origin{Session: h[0], Seq: h[1]}, h[2])}
		if a["forged"] != "" {
			o.Ask.Handle.Proof[0]++
		}
	}
	return Ops{Session: session, Ops: []wire.Op{o}}
}

func parseAsk(a arguments) *wire.Ask {
	ask := &wire.Ask{
		Keys: strings.Split(a["key"], ","), TTL: a.ms("ttl"), Cooldown: a.ms("cooldown"), Detached: a.ms("detached"), Where: a["where"],
		Only: a["only"] != "",
	}
	if a["value"] != "" {
		ask.Value = []byte(a["value"])
	}
	if a["shared"] != "" {
		ask.Mode = wire.Shared
	}
	if a["limit"] != "" {
		ask.Mode, ask.Limit, ask.Weight = wire.Units, uint32(a.uint("limit")), 1
	}
	if a["weight"] != "" {
		ask.Weight = uint32(a.uint("weight"))
	}
	if a["owner"] != "" {
		ask.Owner = a.uint("owner")
	}
	if a["origin"] != "" {
		o := a.numbers("origin")
		ask.Origin = wire.Origin{Session: o[0], Seq: o[1]}
	}
	return ask
}

var codeNames = map[wire.Code]string{
	wire.CodeOK: "ok", wire.CodeHeld: "held", wire.CodeNotHeld: "not held", wire.CodeForced: "forced", wire.CodeLimit: "limit",
	wire.CodeInvalid: "invalid", wire.CodeNameTaken: "name taken", wire.CodeGone: "gone", wire.CodeNotOpen: "not open", wire.CodeStale: "stale",
	wire.CodeDeadlock: "deadlock", wire.CodeMoved: "moved", wire.CodeUnlocked: "unlocked",
}

func showResult(res *Result) string {
	var out strings.Builder
	if res.Err != nil {
		return fmt.Sprintf("error: %v\n", res.Err)
	}
	for i, r := range res.Replies {
		if r == (Reply{}) {
			continue
		}
		fmt.Fprintf(&out, "reply %d: %s", i+1, codeNames[r.Code])
		if r.Session != 0 {
			fmt.Fprintf(&out, ", session %d", r.Session)
		}
		if r.Text != "" {
			fmt.Fprintf(&out, " (%s)", r.Text)
		}
		out.WriteString("\n")
	}
	for _, o := range res.Outcomes {
		fmt.Fprintf(&out, "to %d: %s\n", o.Session, showOutcome(o.Outcome))
	}
	if len(res.Created) > 0 {
		fmt.Fprintf(&out, "created: %v\n", res.Created)
	}
	if len(res.Ended) > 0 {
		fmt.Fprintf(&out, "ended: %v\n", res.Ended)
	}
	for _, x := range res.Armed {
		fmt.Fprintf(&out, "runs: %s\n", showTimer(x))
	}
	for _, fence := range res.Disarmed {
		fmt.Fprintf(&out, "runs no more: fence %d\n", fence)
	}
	for _, e := range res.Events {
		fmt.Fprintf(&out, "event: %s %q by %q, fence %d\n", e.Type, e.Key, e.Member, e.Fence)
	}
	if res.Opened {
		out.WriteString("opened\n")
	}
	if out.Len() == 0 {
		return "nothing\n"
	}
	return out.String()
}

func showOutcome(o wire.Outcome) string {
	switch o.Kind {
	case wire.OutGranted:
		return fmt.Sprintf("%d granted, fence %d, since %s", o.Seq, o.Fence, showTime(o.Since))
	case wire.OutFailed:
		return fmt.Sprintf("%d failed, %s: %s", o.Seq, codeNames[o.Code], o.Text)
	case wire.OutEnded:
		return fmt.Sprintf("%d ended", o.Seq)
	case wire.OutRevoked:
		return fmt.Sprintf("%d revoked, %s, fence %d", o.Seq, codeNames[o.Code], o.Fence)
	case wire.OutSettled:
		return fmt.Sprintf("%d settled", o.Seq)
	case wire.OutNoted:
		return fmt.Sprintf("%d noted", o.Seq)
	case wire.OutQueued:
		text := fmt.Sprintf("%d waits: %s", o.Seq, o.Text)
		if o.Fence != 0 {
			text += fmt.Sprintf("; for fence %d since %s", o.Fence, showTime(o.Since))
		}
		return text
	case wire.OutAdopted:
		g := o.Grant
		text := fmt.Sprintf("%d adopted %q, fence %d, since %s", o.Seq, g.Keys, o.Fence, showTime(o.Since))
		return text + showMode(g.Mode, g.Weight, g.Limit) + showFor("ttl", g.TTL)
	}
	return fmt.Sprintf("%+v", o)
}

func showMode(mode wire.Mode, weight, limit uint32) string {
	switch mode {
	case wire.Shared:
		return ", shared"
	case wire.Units:
		return fmt.Sprintf(", %d of %d units", weight, limit)
	}
	return ""
}

func showFor(what string, ms int64) string {
	if ms == 0 {
		return ""
	}
	return fmt.Sprintf(", %s %s", what, time.Duration(ms)*time.Millisecond)
}

func showTimer(t Timer) string {
	return fmt.Sprintf("%q, fence %d, %s left", t.Key, t.Fence, time.Duration(t.Left)*time.Millisecond)
}

func showTime(µs int64) string { return time.UnixMicro(µs).UTC().Format(time.TimeOnly) }

// dump shows all that a View tells.
func dump(v *View) string {
	var out strings.Builder
	fmt.Fprintf(&out, "index %d, term %d, cluster %q, open %v", v.Index(), v.Term(), showID(v.Cluster()), v.Open())
	if v.Silent() {
		out.WriteString(", silent")
	}
	out.WriteString("\n")
	for _, s := range v.Sessions() {
		fmt.Fprintf(&out, "session %d %q, renewed %d, %d requests, %d revoked\n", s.ID, s.Name, s.Renewed, s.Requests, s.Revoked)
	}
	for _, l := range v.Locks("", "", 1000) {
		fmt.Fprintf(&out, "key %q", l.Key)
		for _, h := range l.Holders {
			if h.Session == 0 {
				fmt.Fprintf(&out, " held by nobody, fence %d", h.Fence)
			} else {
				fmt.Fprintf(&out, " held by %q %d/%d, fence %d", h.Member, h.Session, h.Seq, h.Fence)
			}
			out.WriteString(showMode(h.Mode, h.Weight, l.Limit))
			if h.Detached {
				out.WriteString(", detached")
			}
			if len(h.Value) > 0 {
				fmt.Fprintf(&out, ", value %q", h.Value)
			}
			if h.Revoked {
				out.WriteString(", revoked")
			}
		}
		for _, w := range l.Waiters {
			fmt.Fprintf(&out, "; %q %d/%d waits", w.Member, w.Session, w.Seq)
		}
		out.WriteString("\n")
	}
	for _, d := range v.Dead() {
		fmt.Fprintf(&out, "dead %s\n", showID(d))
	}
	for _, b := range v.Bindings().All() {
		fmt.Fprintf(&out, "server %s is %q\n", showID(b.Server), b.Name)
	}
	c := v.Counters()
	fmt.Fprintf(&out, "%d keys, %d holders, %d waiters, %d sessions; %d grants, %d releases, %d expirations, fence %d\n",
		c.Keys, c.Holders, c.Waiters, c.Sessions, c.Grants, c.Releases, c.Expirations, c.LastFence)
	return out.String()
}

func snapshotOf(t rapid.TB, v *View) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := v.WriteSnapshot(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
