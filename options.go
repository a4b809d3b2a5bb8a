package distlock

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/godistlock/distlock/internal/address"
	"github.com/godistlock/distlock/internal/aside"
	"github.com/godistlock/distlock/internal/discover"
	"github.com/godistlock/distlock/internal/fault"
	"github.com/godistlock/distlock/internal/lockerr"
	"github.com/godistlock/distlock/internal/secure"
	"github.com/godistlock/distlock/internal/session"
	"github.com/godistlock/distlock/internal/wire"
)

// Errors to branch on, all matched by errors.Is. What a call returns wraps them and says what happened, to what, and what to do.
var (
	ErrHeld        = lockerr.ErrHeld        // TryLock: the key cannot be granted at once
	ErrUnlocked    = lockerr.ErrUnlocked    // Lock.Err: it was unlocked, here or by its handle
	ErrExpired     = lockerr.ErrExpired     // Lock.Err: its own time (TTL, Detached) is up
	ErrForced      = lockerr.ErrForced      // Lock.Err: somebody called ForceUnlock
	ErrMoved       = lockerr.ErrMoved       // Lock.Err: somebody adopted it
	ErrSessionLost = lockerr.ErrSessionLost // Lock.Err: no renewal was answered until 0.8 SessionTTL after the last answered one was sent
	ErrNotHeld     = lockerr.ErrNotHeld     // what should be ended or moved is not held
	ErrNoQuorum    = lockerr.ErrNoQuorum    // no leader with a majority was reached in time
	ErrDeadlock    = lockerr.ErrDeadlock    // the request would close a cycle of owners
	ErrStaleFence  = lockerr.ErrStaleFence  // a newer grant has been seen, or the grant is not held any more
	ErrLeaving     = lockerr.ErrLeaving     // this process is leaving and takes no new locks
	ErrClosed      = lockerr.ErrClosed      // the Cluster has stopped
	ErrInvalid     = lockerr.ErrInvalid     // nonsense; said before anything is sent
	ErrLimit       = lockerr.ErrLimit       // a bound of the library; the message names it
	ErrNameTaken   = lockerr.ErrNameTaken   // a living process has this Name, or the identity that is stored in this DataDir
)

// Config says how a process takes part in a cluster. "all": every member must be given the same. "own": members may differ. The
// zero Config is a cluster of one process that only processes of the same machine can join. Join reports all faults of a Config at
// once, each matching ErrInvalid.
type Config struct {
	// Name is what people see of this process. Own; unique in the cluster, and best the same after a restart: 1 to 128 bytes of
	// printable UTF-8. The default is the host's name and the port. A name that a living process has is refused with ErrNameTaken.
	Name string
	// Bind is the host:port of everything, TCP and UDP. Own; the default is 127.0.0.1:7950; port 0 picks a free one, which
	// Status tells. A Bind that other machines can reach needs Secret, TLS or Insecure.
	Bind string
	// Advertise is the host:port that the other processes dial. Own; the default is Bind, or, where that is every address of the
	// machine (0.0.0.0), the address that its packets leave by.
	Advertise string
	// Peers are processes to ask for the others. Each is host:port, where the host may be a DNS name that resolves to many, all on that
	// port; or, with no port, _service._proto.name, whose SRV records in the DNS name hosts and ports, such as
	// _distlock._tcp.shop.default.svc.cluster.local for the port named distlock of a headless service of Kubernetes. Names are looked
	// up again from time to time, and whenever others are missing. Own; they need not all be there, and this process may be among them.
	Peers []string
	// Discover answers more Peers, of any kind that Peers may have. Own; it is asked at Join and again from time to time, with a context
	// that bounds the call; what it answers beside an error is used. PeersFile makes one that reads a file.
	Discover func(context.Context) ([]string, error)
	// Group keeps clusters apart: those of different groups never mix. All; 1 to 64 bytes of printable UTF-8; the default is
	// "distlock".
	Group string
	// Expect is how many processes must find each other before the first cluster forms. All; it should be more than half of those
	// that start together; at most 1000. The default is 1 without Peers and Discover, else 3. It does not matter once a cluster is
	// known.
	Expect int
	// Voters is the size of the Raft group: 1, 3, 5 or 7. All: the first cluster's value stays, and a difference is logged. The
	// default is 3. Processes beyond it take locks without holding Raft state.
	Voters int
	// NoVote keeps this process from ever becoming a voter. Own.
	NoVote bool
	// DataDir is the directory of the Raft log and the snapshots; it is made if it is not there, for this user alone, and is one process's
	// at a time. One that is there must be this user's or root's, and not everybody's to write to; its group may have access, as a volume of
	// Kubernetes gives it. Own; empty keeps all in memory.
	DataDir string
	// Secret is a random text of at least 32 characters that all members share: with it every stream is mutual TLS 1.3 and every packet of
	// gossip is encrypted, with no PKI and no files. All. Make it with "openssl rand -base64 32", and not by thinking of one: whoever can
	// reach the port can try guesses at home, as fast as their machines are. Who knows it is trusted with everything; SECURITY.md says more.
	Secret string
	// Secrets are for rotation, beside or instead of Secret: the first is used (Secret, if there is one), all are accepted; at most 8. All.
	// Three roll-outs change a secret without a gap: [old, new], then [new, old], then [new].
	Secrets []string
	// TLS is for a PKI of your own, instead of a secret's certificates. All. Its Certificates, GetCertificate, GetClientCertificate, RootCAs and
	// ClientCAs are used, on a copy, and nothing else of it but Time, Rand, CurvePreferences and KeyLogWriter: TLS 1.3 on both sides, with
	// certificates on both sides, is the library's. RootCAs judge who is dialed and ClientCAs who dials; one of them serves as both where the other
	// is missing. Name must stand among the DNS names of this process's certificate, letter by letter. GetCertificate and
	// GetClientCertificate are asked at every stream, so certificates can be renewed while the process runs. Without a Secret beside it
	// gossip runs over TLS too, and UDP is not used.
	TLS *tls.Config
	// Insecure allows a Bind that other machines can reach with neither Secret nor TLS: whoever reaches the port can then take
	// every lock and stop the cluster. Own.
	Insecure bool
	// SessionTTL is how long the cluster keeps a silent process's locks for it; the process itself gives them up at 0.8 of it. Own;
	// from 2s to 60s; the default is 10s.
	SessionTTL time.Duration
	// JoinTimeout bounds Join. Own; the default is 30s.
	JoinTimeout time.Duration
	// MaxPending is how many calls of this process may wait for an answer at a time: locks that wait, and unlocks that are under way; locks that
	// are held don't count. More locks answer ErrLimit at once, unlocks never do. Own; from 1 to 262,144, which is the default. Each costs this process
	// about 500 bytes, and one that waits for its key about as much on every voter and standby.
	MaxPending int
	// Logger gets what there is to say. Own; the default is to say nothing. Nothing is printed elsewhere.
	// Its handler gets one record at a time, on a goroutine of its own, and may take its time and call the Cluster: nothing waits for it. While it
	// does not come back 1,024 records are kept, and of those that come then their number. Close and Leave wait up to a second for it to have
	// taken what is left. Only its Enabled is asked in the middle of everything, and has to answer at once.
	Logger *slog.Logger
}

// Defaults and bounds of a Config.
const (
	defaultBind        = "127.0.0.1:7950"
	defaultGroup       = "distlock"
	defaultExpect      = 3 // with Peers or Discover
	defaultVoters      = 3
	defaultSessionTTL  = 10 * time.Second
	defaultJoinTimeout = 30 * time.Second
	defaultMaxPending  = session.MaxOutstanding // and the most

	minSessionTTL = 2 * time.Second
	maxSessionTTL = 60 * time.Second
	maxExpect     = 1000
	minSecret     = 32 // characters
	maxSecrets    = 8  // of Secrets

	lookupTimeout = 5 * time.Second // of the host in Bind
)

// withDefaults is c with what it leaves out, but for Name and Advertise: they may need the port that gets bound.
func (c Config) withDefaults() Config {
	setDefault(&c.Bind, defaultBind)
	setDefault(&c.Group, defaultGroup)
	setDefault(&c.Voters, defaultVoters)
	setDefault(&c.SessionTTL, defaultSessionTTL)
	setDefault(&c.JoinTimeout, defaultJoinTimeout)
	setDefault(&c.MaxPending, defaultMaxPending)
	if len(c.Peers) == 0 && c.Discover == nil {
		setDefault(&c.Expect, 1)
	}
	setDefault(&c.Expect, defaultExpect)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// settings are a Config that was found to be good, with its defaults. Bind's host is an IP address, the very one that was judged.
// Name and Advertise are complete only after bound.
type settings struct {
	Config
	hostname  string     // for the default Name
	advertise netip.Addr // for the default Advertise

	credentials *secure.Credentials // nil: neither a secret nor TLS
	log         *aside.Log          // what Logger goes through, once logAside was called; nil: nothing is logged
}

// logAside puts a goroutine between all that logs and the handler, which may block and may call the Cluster. endLog must follow.
func (s *settings) logAside() {
	if h := s.Logger.Handler(); h != slog.DiscardHandler {
		s.log = aside.New(h)
		s.Logger = s.log.Logger()
	}
}

// endLog waits for the handler to take what is left, within reason.
func (s *settings) endLog() {
	if s.log != nil {
		s.log.Close(logPatience)
	}
}

// logPatience is how long the end of a Cluster waits for its logger.
const logPatience = time.Second

// settleOn checks all of c and answers all its faults at once: each matches ErrInvalid, or errors.ErrUnsupported when it is about
// what is not built yet. It resolves Bind's host, for at most five seconds.
func (c Config) settleOn(ctx context.Context, m address.Machine) (*settings, error) {
	s := &settings{Config: c.withDefaults()}
	var f fault.List
	s.settleName(&f)
	s.settleAddresses(ctx, &f, m)
	s.checkNumbers(&f)
	s.checkPending(&f)
	s.settleSecrets(&f)
	if err := f.Err(); err != nil {
		return nil, err
	}
	return s, nil
}

// bound fills in what had to wait for the port that was bound.
func (s *settings) bound(port int) {
	setDefault(&s.Name, net.JoinHostPort(s.hostname, strconv.Itoa(port)))
	setDefault(&s.Advertise, netip.AddrPortFrom(s.advertise, uint16(port)).String())
}

func (s *settings) settleName(f *fault.List) {
	f.Label("Config.Group", s.Group, wire.MaxGroup)
	if s.Name != "" {
		f.Label("Config.Name", s.Name, wire.MaxName)
		return
	}
	var err error
	if s.hostname, err = os.Hostname(); err != nil {
		f.Invalid("Config.Name", `""`, "the host has no name to use instead: %w; set Name", err)
		return
	}
	f.Label("Config.Name from the host's name:", s.hostname, wire.MaxName-len("[]:65535"))
}

func (s *settings) settleAddresses(ctx context.Context, f *fault.List, m address.Machine) {
	s.settleBind(ctx, f, m)
	if s.Advertise != "" {
		checkDialable(f, "Config.Advertise", s.Advertise)
	}
	for i, peer := range s.Peers {
		if err := discover.Check(peer); err != nil {
			f.Invalid(fmt.Sprintf("Config.Peers[%d]", i), strconv.Quote(peer), "%w; name what other processes dial, or what resolves to it", err)
		}
	}
}

func (s *settings) settleBind(ctx context.Context, f *fault.List, m address.Machine) {
	given := strconv.Quote(s.Bind)
	host, port, err := address.Split(s.Bind)
	if err != nil {
		f.Invalid("Config.Bind", given, "%w", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	ip, err := m.Resolve(ctx, host)
	if err != nil {
		f.Invalid("Config.Bind", given, "%w; use an IP address of this machine", err)
		return
	}
	if host != "" { // an empty one stays: it listens on IPv4 and IPv6, wherever there is only one of them too
		s.Bind = netip.AddrPortFrom(ip, uint16(port)).String()
	}
	if !address.Loopback(ip) && !s.Insecure && s.Secret == "" && len(s.Secrets) == 0 && s.TLS == nil {
		f.Invalid("Config.Bind", given, "other machines can reach it and nothing keeps strangers out; bind to 127.0.0.1, "+
			"set Secret or TLS, or, in a network where everybody may take every lock, set Insecure")
	}
	if s.Advertise != "" {
		return
	}
	if s.advertise, err = m.Advertised(ip); err != nil {
		f.Invalid("Config.Bind", given, "%w; set Advertise", err)
	}
}

func checkDialable(f *fault.List, field, hostport string) {
	err := address.Dialable(hostport)
	if err == nil && len(hostport) > wire.MaxAddr {
		err = fmt.Errorf("it has more than %d bytes", wire.MaxAddr)
	}
	if err != nil {
		f.Invalid(field, strconv.Quote(hostport), "%w; name the address and port that other processes dial", err)
	}
}

func (s *settings) checkNumbers(f *fault.List) {
	if s.Expect < 1 || s.Expect > maxExpect {
		f.Invalid("Config.Expect", s.Expect, "it must be from 1 to %d; leave it out for 1, or with Peers or Discover for %d", maxExpect, defaultExpect)
	}
	if s.Voters < 1 || s.Voters > 7 || s.Voters%2 == 0 {
		f.Invalid("Config.Voters", s.Voters, "it must be 1, 3, 5 or 7, as an even number more adds no safety; leave it out for %d", defaultVoters)
	}
	if s.SessionTTL < minSessionTTL || s.SessionTTL > maxSessionTTL {
		f.Invalid("Config.SessionTTL", s.SessionTTL, "it must be from %v to %v; leave it out for %v", minSessionTTL, maxSessionTTL, defaultSessionTTL)
	}
	if s.JoinTimeout < 0 {
		f.Invalid("Config.JoinTimeout", s.JoinTimeout, "a time cannot be negative; leave it out for %v", defaultJoinTimeout)
	}
}

func (s *settings) checkPending(f *fault.List) {
	if s.MaxPending < 1 || s.MaxPending > defaultMaxPending {
		f.Invalid("Config.MaxPending", s.MaxPending, "it must be from 1 to %d; leave it out for %d", defaultMaxPending, defaultMaxPending)
	}
}

// PeersFile makes a Config.Discover that reads the file at path, one peer a line, each as in Config.Peers. What follows a # is a comment, blank
// lines don't count, and lines may end in CRLF. The file is read each time that it is asked, so that it may be replaced while processes run:
// best by renaming another onto it, since one that is half written is read half. Its answer has an error that names the file where that is
// missing or cannot be read, has lines that are no peers (the error names them and the other peers are used), more than 4,096 peers or more
// than 1 MiB.
func PeersFile(path string) func(context.Context) ([]string, error) {
	return func(context.Context) ([]string, error) { return discover.ReadFile(path) }
}

// LockOption changes what one request asks for. A nil LockOption is ErrInvalid, as is what makes no sense, alone or together. While a process
// of the cluster is too old to know of an option, a request with it answers an error that matches errors.ErrUnsupported and names that process.
type LockOption func(*lockOptions)

// lockOptions are what LockOptions say; zero is "not given".
type lockOptions struct {
	shared   bool
	limit    int
	weight   int
	ttl      time.Duration
	detached time.Duration
	cooldown time.Duration
	value    []byte
	caller   bool
	faults   fault.List
}

// Bounds of what an option may ask for.
const (
	maxLimit    = 1<<31 - 1
	maxLockTime = 30 * 24 * time.Hour // of TTL, Detached and Cooldown
	maxValue    = 4 << 10             // bytes
	maxLockAll  = 64                  // keys of one LockAll
)

// Shared asks for a shared grant: a key has many shared holders, or one exclusive. It does not go with Limit.
func Shared() LockOption { return func(o *lockOptions) { o.shared = true } }

// Limit uses the key as a semaphore: up to n units are granted at once, n from 1 to 2^31-1. Whoever is first fixes n while the key
// is in use; another n, or another kind of request, is ErrInvalid meanwhile.
func Limit(n int) LockOption {
	return func(o *lockOptions) {
		o.limit = n
		checkUnits(&o.faults, "Limit", n)
	}
}

// Weight is how many units of the Limit this grant takes, at most all; default 1. It needs Limit.
func Weight(n int) LockOption {
	return func(o *lockOptions) {
		o.weight = n
		checkUnits(&o.faults, "Weight", n)
	}
}

// TTL makes the grant expire d after Lock returned even while the process lives, unless Lock.Extend sets the time anew. d is more
// than zero and at most 30 days.
func TTL(d time.Duration) LockOption {
	return func(o *lockOptions) {
		o.ttl = d
		checkTime(&o.faults, "TTL", d, 1)
	}
}

// Detached makes the grant belong to no process: it lives for d, whoever dies, and is ended or moved by its Handle. d is more than
// zero and at most 30 days.
func Detached(d time.Duration) LockOption {
	return func(o *lockOptions) {
		o.detached = d
		checkTime(&o.faults, "Detached", d, 1)
	}
}

// Cooldown keeps the key blocked for d after the grant was lost without Unlock: by expiry, loss of the session or ForceUnlock. d is
// at most 30 days; zero is none.
func Cooldown(d time.Duration) LockOption {
	return func(o *lockOptions) {
		o.cooldown = d
		checkTime(&o.faults, "Cooldown", d, 0)
	}
}

// Value is shown beside the holder in Locks; at most 4 KiB. It is copied.
func Value(b []byte) LockOption {
	n := len(b)
	b = bytes.Clone(b[:min(n, maxValue)])
	return func(o *lockOptions) {
		o.value = b
		if n > maxValue {
			o.faults.Limit("Value of %d bytes; at most %d", n, maxValue)
		}
	}
}

// Caller records where in the code the lock was taken (file and line of the call), which Locks and the errors of those who wait for the
// key show.
func Caller() LockOption { return func(o *lockOptions) { o.caller = true } }

func checkUnits(f *fault.List, option string, n int) {
	switch {
	case n < 1:
		f.Invalid(option, n, "it must be at least 1")
	case n > maxLimit:
		f.Limit("%s of %d; at most %d", option, n, maxLimit)
	}
}

func checkTime(f *fault.List, option string, d, least time.Duration) {
	switch {
	case d < least:
		f.Invalid(option, d, "it must be more than zero; leave the option out for none")
	case d > maxLockTime:
		f.Limit("%s of %v; at most 30 days", option, d)
	}
}

// buildLockOptions applies opts. Its error has all that is wrong, matching ErrInvalid or ErrLimit.
func buildLockOptions(opts []LockOption) (lockOptions, error) {
	var o lockOptions
	for i, opt := range opts {
		if opt == nil {
			o.faults.Invalid("LockOption", "nil", "it is number %d of %d; leave it out", i+1, len(opts))
			continue
		}
		opt(&o)
	}
	o.checkTogether()
	if err := o.faults.Err(); err != nil {
		return lockOptions{}, err
	}
	return o, nil
}

func (o *lockOptions) checkTogether() {
	if o.shared && o.limit != 0 {
		o.faults.Invalid("Shared", "with Limit", "a semaphore has no shared holders; use one of them")
	}
	if o.weight > 0 && o.limit == 0 {
		o.faults.Invalid("Weight", o.weight, "it counts units of a Limit, and there is none; add Limit")
	}
	if o.detached > 0 && o.ttl > 0 {
		o.faults.Invalid("TTL", o.ttl, "a Detached lock has a time already; use one of them")
	}
	if o.limit > 0 && o.weight > o.limit {
		o.faults.Invalid("Weight", o.weight, "it could never be granted under Limit %d; use at most that", o.limit)
	}
}

// request is what o asks for.
func (o *lockOptions) request() session.Request {
	r := session.Request{TTL: o.ttl, Cooldown: o.cooldown, Detached: o.detached, Value: o.value}
	switch {
	case o.shared:
		r.Mode = wire.Shared
	case o.limit > 0:
		r.Mode, r.Limit, r.Weight = wire.Units, uint32(o.limit), uint32(max(o.weight, 1))
	}
	if o.caller {
		r.Where = callerOfPackage()
	}
	return r
}

// callerOfPackage is the file, with its folder, and the line that called this package.
func callerOfPackage() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, packagePath+".") || strings.HasSuffix(f.File, "_test.go") {
			where := fmt.Sprintf("%s/%s:%d", filepath.Base(filepath.Dir(f.File)), filepath.Base(f.File), f.Line)
			return where[max(0, len(where)-wire.MaxWhere):]
		}
		if !more {
			return ""
		}
	}
}

const packagePath = "github.com/godistlock/distlock"

// checkKey judges a key: 1 to 1024 bytes, any bytes.
func checkKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w key: it is empty; name what is to be locked", ErrInvalid)
	case len(key) > wire.MaxKey:
		return fmt.Errorf("%w: a key of %d bytes; at most %d: use a hash of it", ErrLimit, len(key), wire.MaxKey)
	}
	return nil
}

// unsupported is the answer of what is declared but not built yet.
func unsupported(feature string) error { return fault.Unsupported(feature) }
