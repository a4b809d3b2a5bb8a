package raftlog

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/bubble"
)

// told records what a Guard says, with the virtual time.
type told struct {
	start time.Time
	mu    sync.Mutex // guards lines
	lines []string
}

func (d *told) say(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...)+" at "+time.Since(d.start).String())
}

func (d *told) want(t *testing.T, lines ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if got, want := strings.Join(d.lines, "\n"), strings.Join(lines, "\n"); got != want {
		t.Fatalf("told:\n%s\nwant:\n%s", got, want)
	}
}

func guardFaulty() (*Guarded, *faulty, *told) {
	f, d := &faulty{Store: Memory()}, &told{start: time.Now()}
	g := Guard(f, GuardConfig{
		Name:     "dir/raft.db",
		OnMute:   func(on bool) { d.say("mute %v", on) },
		OnPoison: func(err error) { d.say("poison") },
	})
	return g, f, d
}

// writes are the operations that Raft goes on after, and that only ever return an error.
func writes(g *Guarded) map[string]func() error {
	return map[string]func() error{
		"StoreLogs":   func() error { return g.StoreLogs(entries(1, 1, 1)) },
		"Set":         func() error { return g.Set([]byte("k"), []byte("v")) },
		"DeleteRange": func() error { return g.DeleteRange(1, 1) },
		"Get":         func() error { _, err := g.Get([]byte("k")); return err },
		"GetUint64":   func() error { _, err := g.GetUint64([]byte("k")); return err },
	}
}

func TestGuardPassesThrough(t *testing.T) {
	g, _, d := guardFaulty()
	if _, err := g.Get([]byte("x")); err == nil || err.Error() != "not found" { // hazard 17, through the guard
		t.Fatal(err)
	}
	if _, err := g.GetUint64([]byte("x")); err == nil || err.Error() != "not found" {
		t.Fatal(err)
	}
	cache, err := raft.NewLogCache(64, g)
	mustDo(t, err)
	if !cache.IsMonotonic() {
		t.Fatal("the log is not monotonic through the guard and the cache")
	}
	mustDo(t, g.SetUint64([]byte("n"), 7))
	if n, err := g.GetUint64([]byte("n")); n != 7 || err != nil {
		t.Fatal(n, err)
	}
	mustDo(t, cache.StoreLogs(entries(1, 5000, 1)))
	wantLog(t, cache, 1, 5000, 1)
	mustDo(t, cache.DeleteRange(1, 3000)) // several chunks
	wantLog(t, cache, 3001, 5000, 1)
	mustDo(t, cache.DeleteRange(3500, 5000))
	wantLog(t, cache, 3001, 3499, 1)
	mustDo(t, g.Close())
	mustDo(t, g.Close())
	d.want(t)
	if err := g.StoreLogs(entries(3500, 3501, 1)); !errors.Is(err, ErrReleased) {
		t.Fatal(err)
	}
}

// A long deletion is cut from the end that is deleted: whatever a crash leaves of it is contiguous.
func TestLongDeletionsAreCutInOrder(t *testing.T) {
	for name, c := range map[string]struct {
		lo, hi uint64
		want   []string
	}{
		"compaction": {1, 3000, []string{"1-1024", "1025-2048", "2049-3000"}},
		"truncation": {2001, 5000, []string{"3977-5000", "2953-3976", "2001-2952"}},
		"everything": {1, 2048, []string{"1-1024", "1025-2048"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := Memory()
			mustDo(t, m.StoreLogs(entries(1, 5000, 1)))
			r := &recorder{Store: m}
			g := Guard(r, GuardConfig{})
			defer g.Close()
			mustDo(t, g.DeleteRange(c.lo, c.hi))
			if fmt.Sprint(r.got) != fmt.Sprint(c.want) {
				t.Fatalf("%v, want %v", r.got, c.want)
			}
		})
	}
}

type recorder struct {
	Store
	got []string
}

func (r *recorder) DeleteRange(lo, hi uint64) error {
	r.got = append(r.got, fmt.Sprintf("%d-%d", lo, hi))
	return r.Store.DeleteRange(lo, hi)
}

func TestFirstErrorPoisons(t *testing.T) {
	for _, how := range []string{"error", "panic"} {
		g0, _, _ := guardFaulty()
		for op := range writes(g0) {
			t.Run(op+" "+how, func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					g, f, d := guardFaulty()
					mustDo(t, f.Store.StoreLogs(entries(1, 1, 1)))
					calls := 0
					f.fail(func(o string) error {
						if o != op {
							return nil
						}
						if calls++; how == "panic" {
							panic(errDisk)
						}
						return errDisk
					})
					for range 3 {
						err := writes(g)[op]()
						if !errors.Is(err, ErrPoisoned) || !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "dir/raft.db") {
							t.Fatal(err)
						}
					}
					if calls != 1 {
						t.Fatalf("%d calls after the failure", calls-1)
					}
					for name, w := range writes(g) {
						if err := w(); !errors.Is(err, ErrPoisoned) {
							t.Fatalf("%s: %v", name, err)
						}
					}
					if !errors.Is(g.Err(), errDisk) {
						t.Fatal(g.Err())
					}
					d.want(t, "poison at 0s")
					mustDo(t, g.Close())
				})
			})
		}
	}
}

// OnPoison has returned before anybody sees the failure: traffic is cut first.
func TestPoisonIsToldBeforeItIsSeen(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f := &faulty{Store: Memory()}
		f.fail(func(op string) error { return errDisk })
		told := make(chan struct{})
		g := Guard(f, GuardConfig{OnPoison: func(error) { time.Sleep(time.Second); close(told) }})
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if err := g.StoreLogs(entries(1, 1, 1)); !errors.Is(err, ErrPoisoned) {
					t.Error(err)
				}
				select {
				case <-told:
				default:
					t.Error("seen before told")
				}
			})
		}
		wg.Wait()
		g.Close()
	})
}

func TestSlowOperationMutes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g, f, d := guardFaulty()
		f.fail(func(op string) error { time.Sleep(3 * time.Second); return nil })
		mustDo(t, g.StoreLogs(entries(1, 1, 1)))
		d.want(t, "mute true at 500ms", "mute false at 3s")
		f.fail(func(op string) error { time.Sleep(400 * time.Millisecond); return nil })
		mustDo(t, g.StoreLogs(entries(2, 2, 1)))
		d.want(t, "mute true at 500ms", "mute false at 3s")
		g.Close()
	})
}

func TestTwoSlowOperationsMuteOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g, f, d := guardFaulty()
		f.fail(func(op string) error {
			if op == "StoreLogs" {
				time.Sleep(2 * time.Second)
			} else {
				time.Sleep(4 * time.Second)
			}
			return nil
		})
		var wg sync.WaitGroup
		wg.Go(func() { g.StoreLogs(entries(1, 1, 1)) })
		wg.Go(func() { g.Set([]byte("k"), nil) })
		wg.Wait()
		d.want(t, "mute true at 500ms", "mute false at 4s")
		g.Close()
	})
}

func TestHangingDiskPoisons(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g, f, d := guardFaulty()
		thaw := make(chan struct{})
		f.fail(func(op string) error { <-thaw; return nil })
		err := g.StoreLogs(entries(1, 1, 1))
		if !errors.Is(err, ErrPoisoned) || !strings.Contains(err.Error(), "dir/raft.db") || !strings.Contains(err.Error(), "10 seconds") {
			t.Fatal(err)
		}
		d.want(t, "mute true at 500ms", "poison at 10s") // and never mute false
		if err := g.Close(); err == nil || time.Since(d.start) != 12*time.Second {
			t.Fatalf("closed after %s: %v", time.Since(d.start), err)
		}
		close(thaw)
		synctest.Wait() // the goroutines that waited for the disk are gone, or the bubble would complain
		d.want(t, "mute true at 500ms", "poison at 10s")
	})
}

// An operation that fails after it was slow goes from muted to poisoned with no traffic in between.
func TestSlowFailureIsNeverUnmuted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g, f, d := guardFaulty()
		f.fail(func(op string) error { time.Sleep(time.Second); return errDisk })
		g.StoreLogs(entries(1, 1, 1))
		d.want(t, "mute true at 500ms", "poison at 1s")
		g.Close()
	})
}

func TestReleaseLetsGo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g, f, d := guardFaulty()
		thaw := make(chan struct{})
		f.fail(func(op string) error { <-thaw; return nil })
		done := make(chan error)
		go func() { done <- g.StoreLogs(entries(1, 1, 1)) }()
		ended := make(chan struct{})
		go func() { // what must not return ends its goroutine
			defer close(ended)
			g.SetUint64([]byte("CurrentTerm"), 2)
			t.Error("SetUint64 has returned")
		}()
		time.Sleep(100 * time.Millisecond)
		g.Release()
		if err := <-done; !errors.Is(err, ErrReleased) {
			t.Fatal(err)
		}
		<-ended
		close(thaw)
		mustDo(t, g.Close())
		d.want(t)
	})
}

// What Raft panics on ends the goroutine that asked, with its deferred functions.
func TestFatalOperationsEndTheirGoroutine(t *testing.T) {
	for name, call := range map[string]func(g *Guarded) error{
		"SetUint64": func(g *Guarded) error { return g.SetUint64(keyCurrentTerm, 1) },
		"GetLog":    func(g *Guarded) error { return g.GetLog(1, new(raft.Log)) },
	} {
		t.Run(name, func(t *testing.T) {
			g, f, d := guardFaulty()
			d.start = time.Now()
			mustDo(t, f.Store.StoreLogs(entries(1, 1, 1)))
			f.fail(func(string) error { return errDisk })
			err := g.Do(func() error {
				call(g)
				t.Error("it has returned")
				return nil
			})
			if !errors.Is(err, ErrPoisoned) || !errors.Is(err, errDisk) {
				t.Fatal(err)
			}
			g.Close()
		})
	}
}

func TestDo(t *testing.T) {
	g := Guard(Memory(), GuardConfig{})
	defer g.Close()
	mustDo(t, g.Do(func() error { return nil }))
	if err := g.Do(func() error { return errDisk }); err != errDisk {
		t.Fatal(err)
	}
	if err := g.Do(func() error { panic(errDisk) }); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	if g.Err() != nil {
		t.Fatal(g.Err())
	}
}

// What would make Raft panic later is not stored, and harms nobody but its sender (hazard 20).
func TestGuardRefusesWhatRaftCannotDecode(t *testing.T) {
	g, _, d := guardFaulty()
	defer g.Close()
	for _, l := range []*raft.Log{
		{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: []byte("garbage")},
		{Index: 1, Term: 1, Type: raft.LogConfiguration},
		{Index: 1, Term: 1, Type: 77},
	} {
		var r *RefusedError
		if err := g.StoreLogs([]*raft.Log{l}); !errors.As(err, &r) {
			t.Fatalf("%+v: %v", l, err)
		}
	}
	good := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}})
	mustDo(t, g.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: good}}))
	d.want(t)
}
