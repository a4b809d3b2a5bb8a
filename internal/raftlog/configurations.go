package raftlog

import (
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// Configurations knows at which index a configuration of the Raft group lies: in the log, or in the newest snapshot. Raft needs that index to
// check a change of membership against what it was decided on, and does not say it: of v1.8.0, GetConfiguration answers 0, with which nothing is
// checked. It is put between Raft and its stores, before Raft starts. Safe for concurrent use.
type Configurations struct {
	log   raft.LogStore
	snaps raft.SnapshotStore

	mu       sync.Mutex   // guards what follows
	entries  []configured // of the log, the earliest first
	snapshot configured   // of the newest snapshot; its index is 0 if there is none
}

type configured struct {
	index uint64
	conf  raft.Configuration
}

// maxConfigured bounds how many entries of the log are remembered: only the last can be cut off before it is committed, since Raft makes one change
// at a time.
const maxConfigured = 64

// WatchConfigurations reads what there is, and watches what is written by way of Log and Snapshots from then on.
func WatchConfigurations(log raft.LogStore, snaps raft.SnapshotStore) (*Configurations, error) {
	c := &Configurations{log: log, snaps: snaps}
	metas, err := snaps.List()
	if err != nil {
		return nil, err
	}
	if len(metas) > 0 {
		c.snapshot = configured{metas[0].ConfigurationIndex, metas[0].Configuration.Clone()}
	}
	first, err := log.FirstIndex()
	if err != nil {
		return nil, err
	}
	last, err := log.LastIndex()
	if err != nil {
		return nil, err
	}
	for i := max(first, 1); i <= last; i++ {
		var l raft.Log
		if err := log.GetLog(i, &l); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		c.note(&l)
	}
	return c, nil
}

// Index is that of the latest configuration with the same servers as conf; 0 for a moment after Raft has stored another.
func (c *Configurations) Index(conf raft.Configuration) (index uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, known := range append(slices.Clone(c.entries), c.snapshot) {
		if slices.Equal(known.conf.Servers, conf.Servers) {
			index = max(index, known.index)
		}
	}
	return index
}

// note remembers the configuration of an entry that comes after all others.
func (c *Configurations) note(l *raft.Log) {
	if l.Type != raft.LogConfiguration {
		return
	}
	conf := raft.DecodeConfiguration(l.Data) // panics on nonsense, as Raft itself does with it: log was verified, and is guarded
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries = append(c.entries, configured{l.Index, conf}); len(c.entries) > maxConfigured {
		c.entries = slices.Clone(c.entries[len(c.entries)-maxConfigured:])
	}
}

// Log is the log for Raft.
func (c *Configurations) Log() raft.LogStore { return &watchedLog{c.log, c} }

type watchedLog struct {
	raft.LogStore
	c *Configurations
}

var _ raft.MonotonicLogStore = (*watchedLog)(nil)

// IsMonotonic is what the log below says.
func (w *watchedLog) IsMonotonic() bool {
	m, ok := w.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

func (w *watchedLog) StoreLog(l *raft.Log) error { return w.StoreLogs([]*raft.Log{l}) }

func (w *watchedLog) StoreLogs(logs []*raft.Log) error {
	if err := w.LogStore.StoreLogs(logs); err != nil {
		return err
	}
	for _, l := range logs {
		w.c.note(l)
	}
	return nil
}

// DeleteRange cuts the end off, or takes away what a snapshot has: a configuration there still holds. If nothing is left the snapshot is all.
func (w *watchedLog) DeleteRange(lo, hi uint64) error {
	first, err := w.FirstIndex()
	if err != nil {
		return err
	}
	last, err := w.LastIndex()
	if err != nil {
		return err
	}
	if err := w.LogStore.DeleteRange(lo, hi); err != nil || hi < last {
		return err
	}
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.c.entries = slices.DeleteFunc(w.c.entries, func(e configured) bool { return lo <= first || e.index >= lo })
	return nil
}

// Snapshots is the snapshots for Raft.
func (c *Configurations) Snapshots() raft.SnapshotStore { return &watchedSnapshots{c.snaps, c} }

type watchedSnapshots struct {
	raft.SnapshotStore
	c *Configurations
}

func (w *watchedSnapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64,
	trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := w.SnapshotStore.Create(version, index, term, conf, confIndex, trans)
	if err != nil {
		return nil, err
	}
	return &watchedSink{sink, w.c, configured{confIndex, conf.Clone()}}, nil
}

type watchedSink struct {
	raft.SnapshotSink
	c    *Configurations
	conf configured
}

// Close makes the snapshot one that counts.
func (s *watchedSink) Close() error {
	if err := s.SnapshotSink.Close(); err != nil {
		return err
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.conf.index >= s.c.snapshot.index {
		s.c.snapshot = s.conf
	}
	return nil
}
