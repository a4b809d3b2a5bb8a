package node

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/raftlog"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// Raft's times are constants, the same on all members whatever SessionTTL a process sets: an election must fit into the least of
// them (2 s) several times. docs/architecture.md has the measurements behind them.
const (
	heartbeatTimeout = 300 * time.Millisecond
	electionTimeout  = 300 * time.Millisecond
	leaderLease      = 250 * time.Millisecond
	commitTimeout    = 50 * time.Millisecond
	raftCallTimeout  = 2 * time.Second

	maxAppendEntries = 512
	logCacheEntries  = 4096 // held as pointers; a batch of 256 small operations takes about 8 KiB

	// A snapshot is due after that many bytes or entries of log. Raft itself counts entries only, and one of ours may carry 1,024
	// operations, so the bytes are counted here.
	snapshotBytes    = 16 << 20
	snapshotEntries  = 8192
	trailingLogs     = 1024
	shutdownPatience = 5 * time.Second
)

// groupConfig is what one process's part in the Raft group needs.
type groupConfig struct {
	server  wire.UUID
	dir     string       // "" keeps log and snapshots in memory
	memory  *memory      // with no dir: where they are
	fsm     *raftfsm.FSM // new
	streams *streamLayer
	logger  hclog.Logger
	observe func(*raftfsm.Result)
	poison  func(error) // a store failed, or the state can't be applied: called at most once, Raft's traffic must stop before it returns
	mute    func(bool)  // the disk hangs (true) or has come back
	hooks   Hooks
}

// group is this process's part in the Raft group: the log, the state machine and the Raft object.
type group struct {
	cfg       groupConfig
	fsm       *raftfsm.FSM
	raft      *raft.Raft
	store     *raftlog.Guarded
	confs     *raftlog.Configurations
	transport *gate
	news      chan raft.Observation // another leader; drops when nobody listens, as LeaderCh merges: hints only

	running atomic.Pointer[raft.Raft] // raft, for those who ask before it is started; nil until then

	snapMu      sync.Mutex // guards the fields below
	snapEntries int
	snapBytes   int
	snapBusy    bool
	snapshots   sync.WaitGroup // the snapshot under way

	stop sync.Once
}

// startGroup opens the stores and starts Raft. bootstrap, if not nil, is the first configuration, written only where the stores are empty.
// Raft panics in NewRaft on what it can't decode; that comes back as an error.
func startGroup(cfg groupConfig, bootstrap *raft.Configuration) (g *group, err error) {
	store, snaps, err := openStores(cfg)
	if err != nil {
		return nil, err
	}
	g = &group{cfg: cfg, fsm: cfg.fsm, news: make(chan raft.Observation, 8)}
	g.store = raftlog.Guard(cfg.hooks.store(store), raftlog.GuardConfig{Name: storeName(cfg.dir), OnPoison: cfg.poison, OnMute: cfg.mute})
	g.fsm.Observe(g.observe)
	cache, err := raft.NewLogCache(logCacheEntries, g.store)
	if err != nil {
		return nil, errors.Join(err, g.store.Close())
	}
	conf := raftConfig(cfg)
	g.transport = newGate(raftlog.Vet(raft.NewNetworkTransportWithConfig(transportConfig(cfg)), g.openVotes), g.leadsFor)
	if bootstrap != nil {
		err = g.store.Do(func() error { return raft.BootstrapCluster(conf, cache, g.store, snaps, g.transport, *bootstrap) })
		if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
			return nil, errors.Join(fmt.Errorf("first configuration of the Raft group: %w", err), g.transport.Close(), g.store.Close())
		}
	}
	err = g.store.Do(func() (err error) { // Raft panics here on what it can't decode
		guarded := g.store.Snapshots(snaps)
		if err := raftlog.Fits(storeName(cfg.dir), cache, guarded); err != nil {
			return err
		}
		if g.confs, err = raftlog.WatchConfigurations(cache, guarded); err != nil {
			return err
		}
		fsm := g.store.FSM(&countingFSM{FSM: g.fsm, applied: g.countForSnapshot})
		g.raft, err = raft.NewRaft(conf, fsm, g.confs.Log(), g.store, g.confs.Snapshots(), g.transport)
		g.running.Store(g.raft)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, g.transport.Close(), g.store.Close())
	}
	g.raft.RegisterObserver(raft.NewObserver(g.news, false, func(o *raft.Observation) bool {
		_, leader := o.Data.(raft.LeaderObservation)
		return leader
	}))
	return g, nil
}

// memory is what a process without DataDir keeps of its group. It outlives a group that is stopped and started again: a server that came back
// without its log could vote twice in a term, and forget entries that were committed with its help.
type memory struct {
	log       raftlog.Store
	snapshots raft.SnapshotStore
}

func newMemory() *memory {
	return &memory{log: raftlog.Memory(), snapshots: raftlog.MemorySnapshots()}
}

func openStores(cfg groupConfig) (raftlog.Store, raft.SnapshotStore, error) {
	if cfg.dir == "" {
		return cfg.memory.log, cfg.memory.snapshots, nil
	}
	store, err := raftlog.OpenBolt(cfg.dir)
	if err != nil {
		return nil, nil, err
	}
	snaps, err := raftlog.FileSnapshots(filepath.Clean(cfg.dir), cfg.logger)
	if err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	return store, snaps, nil
}

func raftConfig(cfg groupConfig) *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(cfg.server.String())
	conf.HeartbeatTimeout = heartbeatTimeout
	conf.ElectionTimeout = electionTimeout
	conf.LeaderLeaseTimeout = leaderLease
	conf.CommitTimeout = commitTimeout
	conf.MaxAppendEntries = maxAppendEntries
	conf.BatchApplyCh = true
	conf.ShutdownOnRemove = false
	conf.SnapshotThreshold = snapshotEntries
	conf.SnapshotInterval = 30 * time.Second
	conf.TrailingLogs = trailingLogs
	conf.NoLegacyTelemetry = true
	conf.Logger = cfg.logger
	return conf
}

func transportConfig(cfg groupConfig) *raft.NetworkTransportConfig {
	return &raft.NetworkTransportConfig{
		Stream: cfg.streams, MaxPool: 3, Timeout: raftCallTimeout, Logger: cfg.logger,
		MaxRPCsInFlight: 1, // no pipeline: it can leave a follower behind (raft #612)
	}
}

func storeName(dir string) string {
	if dir == "" {
		return "log in memory"
	}
	return dir
}

// countingFSM counts what is applied.
type countingFSM struct {
	*raftfsm.FSM
	applied func(entries, size int)
}

var _ raft.BatchingFSM = (*countingFSM)(nil)

func (f *countingFSM) ApplyBatch(logs []*raft.Log) []any {
	out := f.FSM.ApplyBatch(logs)
	size := 0
	for _, l := range logs {
		size += len(l.Data)
	}
	f.applied(len(logs), size)
	return out
}

// configuration is Raft's latest, with its index; 0 for the moment in which Raft takes another.
func (g *group) configuration() (raft.Configuration, uint64, error) {
	f := g.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return raft.Configuration{}, 0, err
	}
	conf := f.Configuration()
	return conf, g.confs.Index(conf), nil // f.Index() is 0, always
}

// leadsFor says that this server leads term, and that to is another one of the group.
func (g *group) leadsFor(to raft.ServerID, term uint64) bool {
	r := g.running.Load()
	if r == nil || to == raft.ServerID(g.cfg.server.String()) || r.State() != raft.Leader || r.CurrentTerm() != term {
		return false
	}
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.ID == to {
			return true
		}
	}
	return false
}

// leader is the server that leads as far as Raft knows here; zero for none.
func (g *group) leader() wire.UUID {
	_, id := g.raft.LeaderWithID()
	u, err := wire.ParseUUID(string(id))
	if err != nil {
		return wire.UUID{}
	}
	return u
}

// electNow makes this server stand for election at once instead of waiting for a heartbeat that can't come: at the very first start,
// and where it is the only voter. It is Raft's own message for a leadership transfer, sent to itself.
func (g *group) electNow() error {
	self := g.cfg.streams.self()
	req := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(self), Addr: []byte(self),
	}}
	return g.transport.TimeoutNow(raft.ServerID(self), self, req, &raft.TimeoutNowResponse{})
}

// observe runs on Raft's applying goroutine for each entry.
func (g *group) observe(r *raftfsm.Result) {
	if r.Err != nil {
		// Poisoned, the state machine applies nothing more, and no snapshot is taken of a state that lacks an entry.
		g.store.Poison(fmt.Errorf("%w: entry %d of the log can't be applied: %w", raftlog.ErrStateMachine, r.Index, r.Err))
	}
	if g.store.Err() != nil {
		return
	}
	if g.cfg.hooks.Applied != nil {
		g.cfg.hooks.Applied(r)
	}
	g.cfg.observe(r)
}

// countForSnapshot asks Raft for a snapshot once enough log has gathered. Raft takes it beside the running applies.
func (g *group) countForSnapshot(entries, size int) {
	g.snapMu.Lock()
	defer g.snapMu.Unlock()
	g.snapEntries += entries
	g.snapBytes += size
	if g.snapBusy || g.snapEntries < snapshotEntries && g.snapBytes < snapshotBytes {
		return
	}
	g.snapBusy, g.snapEntries, g.snapBytes = true, 0, 0
	g.snapshots.Add(1)
	go func() { // ends with the snapshot, or with Raft
		defer g.snapshots.Done()
		f := g.raft.Snapshot()
		if err := f.Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) && !errors.Is(err, raft.ErrRaftShutdown) {
			g.cfg.logger.Warn("snapshot not taken; the log grows until the next", "error", err)
		}
		g.snapMu.Lock()
		g.snapBusy = false
		g.snapMu.Unlock()
	}()
}

// shutdown stops Raft, closes its streams and its stores. It returns within shutdownPatience even when a disk hangs; then the goroutines that
// the kernel holds end when the disk does.
func (g *group) shutdown() (err error) {
	g.stop.Do(func() {
		done := make(chan error, 1)
		go func() { // ends with Raft's own goroutines
			stopped := g.raft.Shutdown()
			g.transport.release()
			g.store.Release() // Raft's traffic is cut by now: nobody may wait for a disk that hangs
			e := stopped.Error()
			g.snapshots.Wait()
			done <- errors.Join(e, g.transport.Close(), g.store.Close())
		}()
		t := time.NewTimer(shutdownPatience)
		defer t.Stop()
		select {
		case err = <-done:
		case <-t.C:
			err = fmt.Errorf("raft has not stopped within %s: the disk under %q hangs", shutdownPatience, g.cfg.dir)
		}
	})
	return err
}
