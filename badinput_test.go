package distlock

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/node"
	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/raftfsm"
)

// tree is all that lies below dir, with its contents.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			fmt.Fprintln(&b, path)
			return err
		}
		data, err := os.ReadFile(path)
		if filepath.Base(path) == "distlock.lock" { // it names who has the directory, or had it last
			data = nil
		}
		fmt.Fprintf(&b, "%s %x\n", path, sha256.Sum256(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// usedDir makes a DataDir that a member of group has lived in.
func usedDir(t *testing.T, group string, env surroundings) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "used")
	c, err := join(t.Context(), Config{Bind: "127.0.0.1:0", DataDir: dir, Group: group, Name: "m"}, env)
	if err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, t.Context(), mustLock(t, t.Context(), c, "k"))
	c.Close()
	return dir
}

func newer(t *testing.T, identity string) {
	t.Helper()
	p, err := os.ReadFile(identity)
	if err != nil {
		t.Fatal(err)
	}
	body := p[:len(p)-4]
	binary.BigEndian.PutUint32(body[4:], binary.BigEndian.Uint32(body[4:])+1)
	p = binary.BigEndian.AppendUint32(body, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	if err := os.WriteFile(identity, p, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Each way in which a Join can fail says what happened, to what, and what to do; and leaves everything as it was.
func TestFailedJoin(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(t *testing.T, cfg *Config, env *surroundings)
		is    []error
		says  []string // $bind, $dir and $peer stand for the case's own
		grows bool     // its directory was in use, and goes on to be
		held  bool     // the test has the port
	}{
		{
			name: "TCP port in use",
			setup: func(t *testing.T, cfg *Config, _ *surroundings) {
				l, err := net.Listen("tcp", cfg.Bind)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.Close() })
			},
			says: []string{"Config.Bind", "$bind", "in use", "port 0", "Peers"},
			held: true,
		},
		{
			name: "UDP port in use",
			setup: func(t *testing.T, cfg *Config, _ *surroundings) {
				p, err := net.ListenPacket("udp", cfg.Bind)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { p.Close() })
			},
			says: []string{"Config.Bind", "$bind", "in use", "port 0", "Peers"},
			held: true,
		},
		{
			name: "another machine's address",
			setup: func(_ *testing.T, cfg *Config, _ *surroundings) {
				cfg.Bind, cfg.Insecure = "203.0.113.77:0", true
			},
			says: []string{"Config.Bind", "203.0.113.77:0", "no interface", "Advertise"},
		},
		{
			name: "Expect never met",
			setup: func(_ *testing.T, cfg *Config, _ *surroundings) {
				cfg.Expect, cfg.JoinTimeout = 3, time.Second
			},
			is:   []error{ErrNoQuorum, context.DeadlineExceeded},
			says: []string{`"m"`, "seen 1 of the 3", "(m)", "missing: $peer", "Peers", "TCP and UDP"},
		},
		{
			name: "a name that is taken",
			setup: func(t *testing.T, cfg *Config, _ *surroundings) {
				other, err := Join(Config{Name: cfg.Name, Bind: "127.0.0.1:0", SessionTTL: minSessionTTL})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { other.Close() })
				cfg.Peers, cfg.SessionTTL = []string{other.Status().Addr}, minSessionTTL
				cfg.Expect = 2 // one for whom one is enough founds a cluster of its own if the other is slow to answer
			},
			is:    []error{ErrNameTaken},
			says:  []string{`"m"`, "name of its own"},
			grows: true, // it knows its cluster by then
		},
		{
			name: "cancelled",
			setup: func(_ *testing.T, cfg *Config, _ *surroundings) {
				cfg.Expect, cfg.JoinTimeout = 3, time.Minute // the test's context is cancelled long before
			},
			is:   []error{ErrNoQuorum, context.Canceled},
			says: []string{"seen 1 of the 3"},
		},
		{
			name: "a peer's name that can't be resolved",
			setup: func(_ *testing.T, cfg *Config, _ *surroundings) {
				cfg.Expect, cfg.JoinTimeout, cfg.Peers = 2, time.Second, []string{"nowhere.invalid:7950"}
			},
			is:   []error{ErrNoQuorum, context.DeadlineExceeded},
			says: []string{"seen 1 of the 2", "nowhere.invalid", "Peers"},
		},
		{
			name: "Discover fails",
			setup: func(_ *testing.T, cfg *Config, _ *surroundings) {
				cfg.Expect, cfg.JoinTimeout, cfg.Peers = 2, time.Second, nil
				cfg.Discover = func(context.Context) ([]string, error) { return nil, errors.New("the registry is down") }
			},
			is:   []error{ErrNoQuorum, context.DeadlineExceeded},
			says: []string{"seen 1 of the 2", "Config.Discover", "the registry is down"},
		},
		{
			name: "DataDir is a file",
			setup: func(t *testing.T, cfg *Config, _ *surroundings) {
				cfg.DataDir = filepath.Join(t.TempDir(), "file")
				if err := os.WriteFile(cfg.DataDir, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			},
			says: []string{"Config.DataDir", "$dir", "make and write"},
		},
		{
			name: "DataDir below a file",
			setup: func(t *testing.T, cfg *Config, _ *surroundings) {
				file := filepath.Join(t.TempDir(), "file")
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				cfg.DataDir = filepath.Join(file, "below")
			},
			says: []string{"Config.DataDir", "$dir", "make and write"},
		},
		{
			name: "somebody's DataDir",
			setup: func(t *testing.T, cfg *Config, _ *surroundings) {
				cfg.DataDir = t.TempDir()
				if err := os.WriteFile(filepath.Join(cfg.DataDir, "thesis.tex"), []byte("\\begin"), 0o600); err != nil {
					t.Fatal(err)
				}
			},
			says: []string{"Config.DataDir", "$dir", "thesis.tex", "empty directory"},
		},
		{
			name: "DataDir of another group",
			setup: func(t *testing.T, cfg *Config, _ *surroundings) {
				cfg.DataDir = usedDir(t, "orders", machine())
			},
			is:   []error{ErrInvalid},
			says: []string{"Config.DataDir", "$dir", `"orders"`, `"distlock"`, "another directory"},
		},
		{
			name: "DataDir in use",
			setup: func(t *testing.T, cfg *Config, _ *surroundings) {
				cfg.DataDir = t.TempDir()
				other, err := Join(Config{Bind: "127.0.0.1:0", DataDir: cfg.DataDir})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					mustUnlock(t, context.Background(), mustLock(t, context.Background(), other, "k")) // it took no harm
					other.Close()
				})
			},
			is:    []error{raftlog.ErrLocked},
			says:  []string{"Config.DataDir", "$dir", fmt.Sprintf("process %d", os.Getpid()), "directory of its own"},
			grows: true,
		},
		{
			name: "an identity of a version from the future",
			setup: func(t *testing.T, cfg *Config, _ *surroundings) {
				cfg.DataDir = usedDir(t, defaultGroup, machine())
				newer(t, filepath.Join(cfg.DataDir, "identity"))
			},
			says: []string{"Config.DataDir", "$dir", "newer version", "upgrade"},
		},
		{
			name: "a corrupt identity",
			setup: func(t *testing.T, cfg *Config, _ *surroundings) {
				cfg.DataDir = usedDir(t, defaultGroup, machine())
				flip(t, filepath.Join(cfg.DataDir, "identity"), 20)
			},
			says: []string{"Config.DataDir", "$dir", "identity", "corrupt", "move the directory away"},
		},
		{
			name: "a corrupt log",
			setup: func(t *testing.T, cfg *Config, _ *surroundings) {
				cfg.DataDir = usedDir(t, defaultGroup, machine())
				flipData(t, filepath.Join(cfg.DataDir, "raft.db"))
			},
			says: []string{"$dir", "raft.db", "corrupt", "move the directory away"},
		},
		{
			name: "a log that is gone",
			setup: func(t *testing.T, cfg *Config, _ *surroundings) {
				cfg.DataDir = usedDir(t, defaultGroup, machine())
				if err := os.Remove(filepath.Join(cfg.DataDir, "raft.db")); err != nil {
					t.Fatal(err)
				}
			},
			says: []string{"$dir", "raft.db", "gone", "move the directory away"},
		},
		{
			name: "an entry of a version from the future",
			setup: func(t *testing.T, cfg *Config, _ *surroundings) {
				d := &disk{alter: func(logs []*raft.Log) []*raft.Log {
					for i, l := range logs {
						if l.Type == raft.LogCommand && l.Index > 4 {
							later := *l
							later.Data = raftfsm.Entry{Version: raftfsm.Version + 1}.Encode()
							logs[i] = &later
						}
					}
					return logs
				}}
				cfg.DataDir = usedDir(t, defaultGroup, d.under(machine()))
			},
			is:    []error{raftfsm.ErrVersion},
			says:  []string{`"m"`, "entry", "later version", "upgrade this process"},
			grows: true, // an election is saved before the entry is met
		},
		{
			name: "a store that fails",
			setup: func(_ *testing.T, _ *Config, env *surroundings) {
				*env = (&disk{failAt: 2}).under(*env)
			},
			is:    []error{errDisk},
			says:  []string{`"m"`, "$dir", "check the disk", "start this process again"},
			grows: true, // the first start's promise is saved by then
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ports := freePorts(t, 2)
			top := t.TempDir()
			cfg := Config{Name: "m", Bind: ports[0], DataDir: filepath.Join(top, "new", "data"), JoinTimeout: 20 * time.Second, Logger: testLogger(t)}
			env := machine()
			cfg.Expect = 1
			c.setup(t, &cfg, &env)
			if cfg.Expect > 1 && cfg.Peers == nil && cfg.Discover == nil {
				cfg.Peers = []string{cfg.Bind, ports[1]}
			}
			about := filepath.Dir(cfg.DataDir)
			if strings.HasPrefix(cfg.DataDir, top) {
				about = top
			} else if i := strings.LastIndex(about, "/file"); i > 0 {
				about = about[:i]
			}
			before := tree(t, about)
			bind := cfg.Bind
			leavesNothing(t, func(tr *traces) {
				tr.ports = []string{ports[1]}
				if !c.held {
					tr.ports = append(tr.ports, bind)
				}
				if c.name != "DataDir in use" {
					tr.dirs = []string{cfg.DataDir}
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if cfg.JoinTimeout == time.Minute {
					time.AfterFunc(300*time.Millisecond, cancel)
				}
				joined, err := join(ctx, cfg, env)
				if joined != nil {
					t.Error("a Cluster beside the error")
					joined.Close()
				}
				if err == nil {
					t.Fatal("Join succeeded")
				}
				t.Log(err)
				r := strings.NewReplacer("$bind", bind, "$dir", cfg.DataDir, "$peer", ports[1])
				for _, is := range c.is {
					wantFaults(t, "Join", err, is)
				}
				for _, s := range c.says {
					if s = r.Replace(s); !strings.Contains(err.Error(), s) {
						t.Errorf("%q does not say %q", err, s)
					}
				}
			})
			if after := tree(t, about); after != before && !c.grows {
				t.Errorf("before:\n%sleft behind:\n%s", before, after)
			}
		})
	}
}

// flip changes one byte of a file.
func flip(t *testing.T, path string, at int) {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p[at] ^= 0x10
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
}

// flipData changes a byte of the term in a log.
func flipData(t *testing.T, path string) {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key, flipped := []byte("CurrentTerm"), 0
	for at := bytes.Index(p, key); at >= 0; flipped++ { // older pages have it too
		at += len(key)
		flip(t, path, at)
		if next := bytes.Index(p[at:], key); next >= 0 {
			at += next
		} else {
			at = -1
		}
	}
	if flipped == 0 {
		t.Fatal("no term in the log")
	}
}

// Steps of the wall clock, back and forth, change nothing but what people read: sessions go on, and fences rise, also over a restart of
// all members with clocks that are years behind.
func TestWallClockThatSteps(t *testing.T) {
	t.Parallel()
	var offset atomic.Int64 // what is wrong with the wall clock
	stepped := func(int) surroundings {
		return hooked(node.Hooks{Wall: func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }})
	}
	const (
		year = 365 * 24 * time.Hour
		ttl  = 2 * minSessionTTL // more than a busy machine may stand still
	)
	ms := newMembersIn(t, 3, stepped, durable(t), func(_ int, c *Config) { c.SessionTTL = ttl })
	ctx := testContext(t, 60*time.Second)
	first := mustLock(t, ctx, ms.all[0], "first")
	if wall := Fence(time.Now().Add(-time.Minute).UnixMicro()); first.Fence() < wall {
		t.Errorf("the first fence is %d, less than the clock, %d", first.Fence(), wall)
	}
	last := first.Fence()
	rises := func(when string) {
		t.Helper()
		for i := range ms.all {
			l := mustLock(t, ctx, ms.all[i], fmt.Sprintf("k%d", i))
			if l.Fence() <= last {
				t.Errorf("%s: fence %d after %d", when, l.Fence(), last)
			}
			last = l.Fence()
			mustUnlock(t, ctx, l)
		}
	}
	for _, step := range []time.Duration{-10 * year, 3 * year, 0, -time.Hour} {
		offset.Store(int64(step))
		beyond := time.NewTimer(ttl * 3 / 10) // all steps together are longer than a session that is not renewed lives
		select {
		case <-first.Done():
			t.Fatalf("a lock was lost by a step of %s: %v", step, first.Err())
		case <-beyond.C:
		}
		rises(fmt.Sprintf("stepped by %s", step))
	}
	wantHeld(t, ctx, ms.all[1], first)
	offset.Store(-int64(20 * year))
	for i := range ms.all {
		ms.crash(i)
	}
	ms.joinAll()
	rises("restarted 20 years earlier")
}

// The error of a Join that waits for others names those who are there and those who are not.
func TestExpectNeverMet(t *testing.T) {
	t.Parallel()
	ports := freePorts(t, 3)
	config := func(i int, timeout time.Duration) Config {
		return Config{Name: fmt.Sprintf("m%d", i), Bind: ports[i], Peers: ports[:3], Expect: 3, JoinTimeout: timeout}
	}
	leavesNothing(t, func(tr *traces) {
		var joins sync.WaitGroup
		for i := range 2 {
			cfg := config(i, 4*time.Second)
			cfg.DataDir = filepath.Join(t.TempDir(), "d")
			tr.of(cfg)
			joins.Go(func() {
				_, err := Join(cfg)
				wantFaults(t, cfg.Name, err, ErrNoQuorum, "seen 2 of the 3", "(m0, m1)", "missing: "+ports[2])
				wantFaults(t, cfg.Name, err, context.DeadlineExceeded)
				if strings.Contains(err.Error(), ports[0]) || strings.Contains(err.Error(), ports[1]) {
					t.Errorf("somebody who was seen is missing: %v", err)
				}
				if _, err := os.Stat(cfg.DataDir); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("its directory: %v", err)
				}
			})
		}
		joins.Wait()
		for i := range 2 {
			wantFree(t, ports[i])
		}
	})
}
