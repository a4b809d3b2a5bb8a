package raftlog

import (
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
)

func serversOf(names ...string) (c raft.Configuration) {
	for _, n := range names {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(n), Address: raft.ServerAddress(n), Suffrage: raft.Voter})
	}
	return c
}

// stored is a log, and its snapshots, that are watched anew by each who opens them.
type stored struct {
	t     *testing.T
	log   Store
	snaps raft.SnapshotStore
}

func newStored(t *testing.T) *stored { return &stored{t, Memory(), MemorySnapshots()} }

func (s *stored) open() *Configurations {
	s.t.Helper()
	c, err := WatchConfigurations(s.log, s.snaps)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// write puts entries from first to last into the log, with configurations among them.
func (s *stored) write(c *Configurations, first, last uint64, confs map[uint64]raft.Configuration) {
	s.t.Helper()
	for i := first; i <= last; i++ {
		l := &raft.Log{Index: i, Term: 1, Type: raft.LogCommand, Data: []byte("x")}
		if conf, ok := confs[i]; ok {
			l.Type, l.Data = raft.LogConfiguration, raft.EncodeConfiguration(conf)
		}
		if err := c.Log().StoreLog(l); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *stored) cut(c *Configurations, lo, hi uint64) {
	s.t.Helper()
	if err := c.Log().DeleteRange(lo, hi); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stored) snapshot(c *Configurations, index, confIndex uint64, conf raft.Configuration, keep bool) {
	s.t.Helper()
	sink, err := c.Snapshots().Create(1, index, 1, conf, confIndex, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	end := sink.Cancel
	if keep {
		end = sink.Close
	}
	if err := end(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stored) check(c *Configurations, when string, want map[string]uint64) {
	s.t.Helper()
	for names, index := range want {
		conf := serversOf()
		for _, n := range names {
			conf.Servers = append(conf.Servers, serversOf(string(n)).Servers...)
		}
		if got := c.Index(conf); got != index {
			s.t.Errorf("%s: the configuration of %q is at %d, want %d", when, names, got, index)
		}
	}
}

// The index of a configuration is known in all that happens to a log: it grows, its end is cut off, its beginning is compacted, a snapshot of
// another replaces it, and it is opened again.
func TestConfigurationsHaveAnIndex(t *testing.T) {
	s := newStored(t)
	c := s.open()
	s.check(c, "an empty log", map[string]uint64{"": 0, "a": 0})
	s.write(c, 1, 9, map[uint64]raft.Configuration{1: serversOf("a"), 5: serversOf("a", "b"), 8: serversOf("a", "b", "c")})
	s.check(c, "written", map[string]uint64{"a": 1, "ab": 5, "abc": 8, "b": 0})
	s.check(s.open(), "opened again", map[string]uint64{"a": 1, "ab": 5, "abc": 8})

	s.cut(c, 7, 9)
	s.check(c, "its end cut off", map[string]uint64{"a": 1, "ab": 5, "abc": 0})
	s.write(c, 7, 9, map[uint64]raft.Configuration{9: serversOf("a")})
	s.check(c, "as it was before", map[string]uint64{"a": 9, "ab": 5})

	s.snapshot(c, 6, 5, serversOf("a", "b"), true)
	s.cut(c, 1, 6)
	s.check(c, "compacted", map[string]uint64{"a": 9, "ab": 5})
	s.check(s.open(), "compacted and opened again", map[string]uint64{"a": 9, "ab": 5})

	s.snapshot(c, 300, 200, serversOf("x"), false)
	s.check(c, "a snapshot that was given up", map[string]uint64{"a": 9, "x": 0})
	s.snapshot(c, 300, 200, serversOf("x", "y"), true)
	s.cut(c, 7, 9)
	s.check(c, "a snapshot of another", map[string]uint64{"a": 0, "xy": 200})
	s.check(s.open(), "a snapshot of another, opened again", map[string]uint64{"a": 0, "xy": 200})
}

// However many changes there are, what is remembered is bounded, and the latest is among it.
func TestConfigurationsAreBounded(t *testing.T) {
	s := newStored(t)
	c := s.open()
	const changes = 10 * maxConfigured
	for i := uint64(1); i <= changes; i++ {
		s.write(c, i, i, map[uint64]raft.Configuration{i: serversOf(fmt.Sprint(i))})
	}
	if len(c.entries) > maxConfigured {
		t.Errorf("%d are remembered", len(c.entries))
	}
	if got := c.Index(serversOf(fmt.Sprint(changes))); got != changes {
		t.Errorf("the latest is at %d, want %d", got, changes)
	}
}
