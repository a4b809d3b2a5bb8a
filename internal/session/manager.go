package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/godistlock/distlock/internal/clock"
	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/wire"
)

// MaxOutstanding bounds Config.MaxPending, and is its default.
const MaxOutstanding = 1 << 18

// Config is what a Manager needs. All fields but MaxPending and Logger are required.
type Config struct {
	// Connect finds the leader; it blocks until there is one or ctx ends. The Link reports to sink.
	Connect func(ctx context.Context, sink Sink) (Link, error)
	Clock   clock.Clock
	TTL     time.Duration // the session's; whole milliseconds count
	Name    string        // of this process, for messages
	// Create makes the request for a session: previous is this process's session before, 0 for none.
	Create func(nonce wire.UUID, previous uint64) wire.CreateSession
	// MaxPending bounds the requests of this process that wait for an answer: waiting locks, and unlocks that are not yet answered. Locks that
	// are held don't count. 0: MaxOutstanding.
	MaxPending int
	Logger     *slog.Logger // called with locks held: it must neither wait nor call back, see package aside. nil: nothing is logged
}

// Manager keeps this process's session and its requests. It is safe for concurrent use.
type Manager struct {
	cfg   Config
	ttl   time.Duration
	lease time.Duration // how long after an answered attempt was sent the session may be relied on: 4/5 of ttl

	ctx    context.Context // ends with Stop
	cancel context.CancelFunc
	wg     sync.WaitGroup // loop, send, watch

	kick    chan struct{} // cap 1: there is something in queue
	lost    chan struct{} // cap 1: the session was lost, or the manager closed; for loop
	rearm   chan struct{} // cap 1: there is a new deadline; for watch
	changed chan struct{} // cap 1: Ready or Session may answer differently
	opened  chan struct{} // closed when the first session is attached
	failed  chan struct{} // closed when Open cannot succeed; fatal says why
	wakes   sync.Pool     // of chan struct{} with cap 1; see wakeLocked
	rival   rival         // of loop

	mu       sync.Mutex
	session  uint64        // guarded by mu, as is all below; 0 while there is none
	deadline time.Duration // on cfg.Clock; of session
	attempts []attempt     // renewals of session that were sent and may still be answered, oldest first
	attempt  uint64        // number of the last renewal
	epoch    *epoch        // of session, or of the last one
	previous uint64        // the session before, which the next creation ends
	nonce    wire.UUID     // of the session, or of the one to be created
	asked    wire.UUID     // the last nonce that was sent
	losses   uint64        // sessions lost so far
	creating bool          // a session may come to be

	link     Link          // attached to session; nil: nothing can be sent
	linkedAt time.Duration // when link was attached
	linkGone chan struct{} // closed and replaced when link or session changes

	numbering uint64            // rises when the requests get new numbers
	next      uint64            // the next request's number. Without a session numbers only keep the order; see establish
	reqs      map[uint64]*Grant // all requests that are not over, by number
	peak      int               // the most requests that reqs ever had; see forgetPeakLocked
	held      int               // grants whose Done is open
	detached  int               // those of them that are detached
	times     byDeadline        // those of them that have a time
	leaving   int               // releases that are not answered
	idle      chan struct{}     // closed when held, but for detached, and leaving become 0; nil while nobody drains
	queue     []wire.Op         // to be sent on link, in order

	forget []uint64     // requests without effect whose outcome came; their OpForget goes along with the next batch
	forgot []sentForget // OpForgets that were sent, until a later renewal shows that they were committed

	refused error // why new requests are refused; nil while they are taken
	gone    bool  // closed, and the session's end is committed
	closed  error // matches ErrClosed once the manager is closed
	fatal   error // why Open failed
	pending error // what Open waits for, for its error: matches ErrNoQuorum, or tells of the name that is taken
}

// attempt is one renewal that was sent.
type attempt struct {
	number uint64
	sent   time.Duration
}

// Open starts a Manager and returns once there is a session. It fails when ctx ends (matching its error, and ErrNoQuorum unless
// the wait was for another session of this name to run out) or with ErrNameTaken when another living process has the name.
// ctx bounds only the opening.
func Open(ctx context.Context, cfg Config) (*Manager, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxPending <= 0 || cfg.MaxPending > MaxOutstanding {
		cfg.MaxPending = MaxOutstanding
	}
	ttl := cfg.TTL.Truncate(time.Millisecond)
	if ttl <= 0 || cfg.Connect == nil || cfg.Clock == nil || cfg.Create == nil {
		return nil, fmt.Errorf("session: %w: TTL, Connect, Clock and Create are needed", lockerr.ErrInvalid)
	}
	m := &Manager{
		cfg: cfg, ttl: ttl, lease: ttl / 5 * 4,
		kick: make(chan struct{}, 1), lost: make(chan struct{}, 1), rearm: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		opened: make(chan struct{}), failed: make(chan struct{}),
		wakes:    sync.Pool{New: func() any { return make(chan struct{}, 1) }},
		nonce:    wire.NewUUID(),
		linkGone: make(chan struct{}),
		next:     1, reqs: map[uint64]*Grant{},
		pending: errNoLeader,
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.wg.Go(m.loop) // all three end with m.ctx, which Stop ends
	m.wg.Go(m.send)
	m.wg.Go(m.watch)

	select {
	case <-m.opened:
		return m, nil
	case <-m.failed:
		m.Stop(lockerr.ErrClosed)
		return nil, m.fatal
	case <-ctx.Done():
	}
	m.mu.Lock()
	err := m.openErrorLocked(ctx.Err())
	m.mu.Unlock()
	m.Stop(lockerr.ErrClosed)
	return nil, err
}

func (m *Manager) openErrorLocked(ended error) error {
	if m.fatal != nil {
		return m.fatal
	}
	return fmt.Errorf("open a session for %q: %w: %w", m.cfg.Name, m.pending, ended)
}

// Refuse makes new Acquires fail with ErrLeaving. Those that wait go on.
func (m *Manager) Refuse() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused = lockerr.ErrLeaving
}

// Drain waits until no lock is held but detached ones and every release is answered, or ctx ends; then it returns an error that wraps
// ctx's.
func (m *Manager) Drain(ctx context.Context) error {
	for {
		m.mu.Lock()
		held, leaving := m.held-m.detached, m.leaving
		if held+leaving == 0 {
			m.mu.Unlock()
			return nil
		}
		if m.idle == nil {
			m.idle = make(chan struct{})
		}
		idle := m.idle
		m.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
			return fmt.Errorf("%d locks are still held, %d unlocks unanswered: %w", held, leaving, ctx.Err())
		}
	}
}

// CloseSession closes Done of every grant with ErrClosed, fails all that waits, and then ends the session at the leader, so that its
// locks are free at once. It waits for a leader until ctx ends; after that the session runs out by itself. Stop must follow.
func (m *Manager) CloseSession(ctx context.Context) error {
	m.end(lockerr.ErrClosed)
	for first := m.Session(); ; {
		m.mu.Lock()
		link, session, turn, creating, gone := m.link, m.session, m.linkGone, m.creating, m.gone
		m.mu.Unlock()
		switch {
		case gone:
			return nil
		case session != first && first != 0:
			return fmt.Errorf("close the session of %q: %w before it was closed", m.cfg.Name, lockerr.ErrSessionLost)
		case session == 0 && !creating:
			return nil
		}
		if link != nil && link.CloseSession(ctx, session) == nil {
			m.mu.Lock()
			if m.session == session {
				m.goneLocked()
			}
			m.mu.Unlock()
			return nil
		}
		if link != nil && ctx.Err() == nil {
			link.Close() // it did not do what it is for; loop brings another
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return fmt.Errorf("close the session of %q: %w; it runs out within %s", m.cfg.Name, ctx.Err(), m.ttl)
		case <-m.ctx.Done():
			return fmt.Errorf("close the session of %q: %w; it runs out within %s", m.cfg.Name, lockerr.ErrClosed, m.ttl)
		}
	}
}

// Stop closes Done of every grant with reason, fails all that waits with ErrClosed (and reason), and returns when all goroutines
// have ended. The leader is not told: see CloseSession. Only the first call's reason counts.
func (m *Manager) Stop(reason error) {
	m.end(reason)
	m.cancel()
	m.wg.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.session = 0
}

// Close is Stop with ErrClosed: what a crash would do, but with Done closed.
func (m *Manager) Close() { m.Stop(lockerr.ErrClosed) }

// end closes the manager for its users; the session and the link stay.
func (m *Manager) end(reason error) {
	if reason == nil {
		reason = lockerr.ErrClosed
	}
	if !errors.Is(reason, lockerr.ErrClosed) {
		reason = fmt.Errorf("%w: %w", lockerr.ErrClosed, reason)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed != nil {
		return
	}
	m.closed = reason
	for _, g := range m.reqs {
		if g.isHeld() {
			m.overLocked(g, reason)
		}
	}
	for _, g := range m.reqs {
		m.failLocked(g, fmt.Errorf("%s: %w%s", g.what(), reason, g.waitedFor()))
	}
	m.clearLocked()
	signal(m.lost)
}

// Ready says that a lock could be taken now: there is a session, and a link to the leader.
func (m *Manager) Ready() bool {
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checkLocked(now)
	return m.session != 0 && m.link != nil && m.closed == nil
}

// Session is the living session's id, 0 while there is none.
func (m *Manager) Session() uint64 {
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checkLocked(now)
	return m.session
}

// Held is how many grants are held: Done is open.
func (m *Manager) Held() int {
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checkLocked(now)
	return m.held
}

// Losses is how many sessions were lost so far.
func (m *Manager) Losses() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.losses
}

// Changed hints that Ready or Session may answer differently.
func (m *Manager) Changed() <-chan struct{} { return m.changed }

// signal leaves a token in a channel of cap 1.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
