package gossip

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/godistlock/distlock/internal/bubble"
)

// key is one that tests tell apart by c.
func key(c byte) []byte { return bytes.Repeat([]byte{c}, KeySize) }

func sealed(t testing.TB, keys ...[]byte) seals {
	t.Helper()
	s, err := newSeals(keys)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newKeyed is a world whose process i has keys[i], and the log of each.
func newKeyed(t *testing.T, keys ...[][]byte) (*world, []*bytes.Buffer) {
	w := newWorld(t, len(keys))
	logs := make([]*bytes.Buffer, len(keys))
	for i, k := range keys {
		logs[i] = new(bytes.Buffer)
		w.change = func(c *Config) {
			c.Keys = k
			c.Logger = slog.New(slog.NewTextHandler(logs[i], nil)) // memberlist writes from one goroutine at a time, of a handler that locks
		}
		w.start(i, len(keys))
	}
	return w, logs
}

func TestVirtualKeysAreRolledOver(t *testing.T) {
	old, young := key('o'), key('n')
	for name, keys := range map[string][2][][]byte{
		"first both, the old one first": {{old}, {old, young}},
		"then the new one first":        {{old, young}, {young, old}},
		"then the new one only":         {{young, old}, {young}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w, _ := newKeyed(t, keys[0], keys[1], keys[0])
				defer w.end()
				w.after(2*time.Second, states(3, nil), count(3)...)
				time.Sleep(time.Minute)
				w.after(0, states(3, nil), count(3)...)
				w.crash(2)
				if took := w.after(10*time.Second, states(3, map[int]State{2: Failed}), 0, 1); took > 6*time.Second {
					t.Errorf("found dead after %s", took)
				}
			})
		})
	}
}

// Who has no key in common neither hears nor lists the other, and both say why: one line a minute, whatever comes.
func TestVirtualOtherSecretsAreStrangers(t *testing.T) {
	for name, c := range map[string]struct {
		keys [2][][]byte
		why  [2]reason
	}{
		"another secret": {[2][][]byte{{key('a')}, {key('b')}}, [2]reason{otherSecret, otherSecret}},
		"none":           {[2][][]byte{{key('a')}, nil}, [2]reason{otherSecret, theySeal}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w, logs := newKeyed(t, c.keys[0], c.keys[1])
				defer w.end()
				w.strangers = true
				for range 200 { // as if each had the other for a member: ten a second
					for i := range 2 {
						p := w.procs[i]
						if err := p.ml.SendBestEffort(&memberlist.Node{Name: "other", Addr: net.ParseIP(w.ip(1 - i)), Port: 7950}, []byte("x")); err != nil {
							t.Fatal(err)
						}
					}
					time.Sleep(100 * time.Millisecond)
				}
				for i := range 2 {
					w.after(0, fmt.Sprintf("p%d alive", i), i)
					all := w.procs[i].Strangers()
					if len(all) != 1 || !strings.HasPrefix(all[0].Addr, w.ip(1-i)) || all[0].Reason != c.why[i].String() || all[0].Last.Sub(all[0].Since) < 15*time.Second {
						t.Errorf("p%d has strangers %v; want one at %s that %s", i, all, w.ip(1-i), c.why[i])
					}
					if said := logs[i].String(); strings.Count(said, c.why[i].String()) != 1 || strings.Count(said, "\n") > 2 {
						t.Errorf("p%d says\n%s\nwant one line of that stranger", i, said)
					}
				}
				w.close(1)
				time.Sleep(strangerFor + time.Second)
				if all := w.procs[0].Strangers(); len(all) > 0 {
					t.Errorf("not forgotten: %v", all)
				}
			})
		})
	}
}

// A probe whose answer is outstanding is answered on the way out, so no goroutine of memberlist's lives on for another moment.
func TestVirtualProbesEndWithClose(t *testing.T) {
	for name, keys := range map[string][][]byte{"plain": nil, "sealed": {key('a')}, "sealed, and another key": {key('a'), key('b')}} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w, _ := newKeyed(t, keys, keys)
				defer w.end()
				w.after(2*time.Second, states(2, nil), 0, 1)
				w.net.Cut(w.ip(0), w.ip(1))
				for began := time.Now(); !strings.Contains(inBubble(), "probeNode"); time.Sleep(10 * time.Millisecond) {
					if time.Since(began) > time.Minute {
						t.Fatalf("no probe is outstanding; running:\n%s", inBubble())
					}
				}
				w.close(0)
				w.close(1)
				synctest.Wait()
				if left := inBubble(); strings.Contains(left, "memberlist") {
					t.Errorf("still running:\n%s", left)
				}
			})
		})
	}
}

// inBubble is the stacks of the goroutines of the caller's bubble but its own.
func inBubble() string {
	buf := make([]byte, 4<<20)
	stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	head, _, _ := strings.Cut(stacks[0], "\n") // the caller's comes first
	_, bubble, _ := strings.Cut(head, "synctest bubble ")
	return strings.Join(slices.DeleteFunc(stacks[1:], func(s string) bool {
		head, _, _ := strings.Cut(s, "\n")
		return !strings.HasSuffix(head, "synctest bubble "+bubble)
	}), "\n\n")
}

func TestStrangersAreBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := strangers{log: slog.New(slog.NewTextHandler(&log, nil))}
		for range 3 {
			for i := range 2 * maxStrangers {
				s.note(packetWord, &net.UDPAddr{IP: net.IPv4(10, 0, byte(i>>8), byte(i)), Port: i}, noise)
			}
		}
		if n := strings.Count(log.String(), "\n"); len(s.list()) != maxStrangers || n != maxStrangers {
			t.Errorf("%d noted and %d lines, want %d of both", len(s.list()), n, maxStrangers)
		}
		time.Sleep(strangerFor + time.Second)
		s.note(streamWord, &net.TCPAddr{IP: net.IPv4(10, 1, 0, 1), Port: 40000}, otherGroup)
		if all := s.list(); len(all) != 1 || all[0].Addr != "10.1.0.1" {
			t.Errorf("later: %v", all)
		}
		time.Sleep(strangerLine)
		log.Reset()
		s.note(streamWord, &net.TCPAddr{IP: net.IPv4(10, 1, 0, 1), Port: 40001}, otherGroup)
		if strings.Count(log.String(), "\n") != 1 {
			t.Error("a minute later nothing is said")
		}
	})
}

func TestPacketsAreJudgedWithTheirSeals(t *testing.T) {
	mine, theirs, both := sealed(t, key('a')), sealed(t, key('b')), sealed(t, key('b'), key('a'))
	tr := transport{label: "l", seals: both}
	ping, pack := []byte{msgPing, 0x80}, compressed([]byte{msgPing, 0x80})
	in := func(s seals, label string, p []byte) []byte { return s.seal(nil, p, []byte(label)) }
	cut := in(mine, "l", ping)
	var long [][]byte
	for range maxPacketIn / 200 {
		long = append(long, aliveMessage(t, 200))
	}
	old := in(mine, "l", bytes.Repeat([]byte{200}, 16)) // padding longer than its message: memberlist would panic
	old[0] = 0
	for name, c := range map[string]struct {
		p    []byte
		want reason
	}{
		"plain": {ping, otherSecret}, "another label inside": {in(mine, "m", ping), otherSecret}, "compressed": {in(mine, "l", pack), noise},
		"cut": {cut[:len(cut)-1], otherSecret}, "of nothing": {in(mine, "l", nil), noise}, "long": {in(mine, "l", compound(long...)), noise}, "version 0": {old, otherSecret},
		"another key": {in(sealed(t, key('c')), "l", ping), otherSecret},
	} {
		if why, ok := tr.judge(labelled(t, c.p), nil); ok || why != c.want {
			t.Errorf("%s: let through %v, reason %v; want %v", name, ok, why, c.want)
		}
	}
	for name, p := range map[string][]byte{"the first key": in(theirs, "l", ping), "the second": in(mine, "l", compound(ping, ping))} {
		if why, ok := tr.judge(labelled(t, p), nil); !ok {
			t.Errorf("sealed with %s: dropped, for it %s", name, why)
		}
	}
	tr = transport{label: "l"}
	if why, ok := tr.judge(labelled(t, in(mine, "l", ping)), nil); ok || why != theySeal {
		t.Errorf("sealed, and we have no key: %v, %v", why, ok)
	}
	if why, ok := tr.judge([]byte{labelMark, 1, 'm', msgPing, 0x80}, nil); ok || why != otherGroup {
		t.Errorf("another group's: %v, %v", why, ok)
	}
}

func TestKeysAreChecked(t *testing.T) {
	many := make([][]byte, maxKeys+1)
	for i := range many {
		many[i] = key(byte(i))
	}
	for _, keys := range [][][]byte{{key('a'), nil}, {key('a')[:16]}, many} {
		if _, err := newSeals(keys); err == nil {
			t.Errorf("%d keys are taken", len(keys))
		}
	}
}

// What looking into a packet costs: 1,400 bytes are the most that memberlist puts into one.
func BenchmarkJudge(b *testing.B) {
	msgs := [][]byte{{msgPing, 0x80}}
	for len(msgs) < 5 {
		msgs = append(msgs, aliveMessage(b, 200))
	}
	plain := compound(msgs...)
	for name, keys := range map[string]seals{"plain": nil, "sealed": sealed(b, key('a')), "sealed with the second": sealed(b, key('b'), key('a'))} {
		b.Run(name, func(b *testing.B) {
			tr, p := transport{label: "l", seals: keys}, plain
			if keys != nil {
				p = keys[len(keys)-1:].seal(nil, plain, []byte("l"))
			}
			p, buf := labelled(b, p), make([]byte, 0, 1<<16)
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := tr.judge(p, buf); !ok {
					b.Fatal("dropped")
				}
			}
			b.ReportMetric(float64(len(p)), "B/packet")
		})
	}
}

// aliveMessage is memberlist's, with so much metadata.
func aliveMessage(tb testing.TB, meta int) []byte {
	tb.Helper()
	p := []byte{msgAlive, 0x86}
	text := func(s string) { p = append(append(p, 0xda, byte(len(s)>>8), byte(len(s))), s...) }
	text("Incarnation")
	p = append(p, 0xce)
	p = binary.BigEndian.AppendUint32(p, 7)
	for _, f := range [][2]string{{"Node", strings.Repeat("n", 36)}, {"Addr", "\x0a\x00\x00\x01"}, {"Meta", strings.Repeat("m", meta)}, {"Vsn", "123456"}} {
		text(f[0])
		text(f[1])
	}
	text("Port")
	return append(p, 0xcd, 0x1f, 0x0e)
}
