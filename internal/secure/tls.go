package secure

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// protocol is what both sides of a handshake name (ALPN): a certificate that serves other things too opens nothing there, and theirs nothing here.
const protocol = "distlock/1"

// Bounds of what a peer shows.
const (
	maxChain     = 8        // certificates
	maxHandshake = 32 << 10 // bytes that are read before the peer has proven anything
)

// proof is where certificates come from.
type proof interface {
	// config is what is special about this side.
	config(server bool) *tls.Config
	// certificate is what this process shows; nil: config has it.
	certificate(self Identity) (*tls.Certificate, error)
	// roots are whom the other side's certificate must come from, and when it is judged.
	roots(server bool) (*x509.CertPool, time.Time)
	// proves says whether a certificate that comes from there is that of peer.
	proves(leaf *x509.Certificate, peer Identity) error
}

// Credentials are what a process proves itself with and judges others by. They are safe for concurrent use.
type Credentials struct {
	proof  proof
	gossip [][]byte
}

// GossipKeys are those of gossip's packets, the one to use first; none without a secret.
func (c *Credentials) GossipKeys() [][]byte { return c.gossip }

// Conn is a stream through its handshake: the peer has a certificate from where it must come.
type Conn struct {
	*tls.Conn
	raw   *metered
	leaf  *x509.Certificate
	proof proof
}

// Proves says whether the peer's certificate is of who it says it is.
func (c *Conn) Proves(group, name string, server wire.UUID) error {
	return c.proof.proves(c.leaf, Identity{Group: group, Name: name, Server: server})
}

// Read reads. That the peer does not accept our certificate comes after our side of the handshake has ended.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		err = refused(err)
	}
	return n, err
}

// Trust ends the bound on what is read.
func (c *Conn) Trust() { c.raw.left = unmetered }

// Handshake wraps raw, within the deadline that raw has. On an error, which may be a *StrangerError, raw must be closed.
func (c *Credentials) Handshake(raw net.Conn, server bool, self Identity) (*Conn, error) {
	conf, err := c.config(server, self)
	if err != nil {
		return nil, err
	}
	m := &metered{Conn: raw, left: maxHandshake}
	wrap := tls.Client
	if server {
		wrap = tls.Server
	}
	tc := wrap(m, conf)
	if err := tc.Handshake(); err != nil {
		return nil, explain(err)
	}
	state := tc.ConnectionState()
	if state.NegotiatedProtocol != protocol {
		return nil, &StrangerError{Text: "it is no distlock process, though it has a certificate that is accepted here"}
	}
	return &Conn{Conn: tc, raw: m, leaf: state.PeerCertificates[0], proof: c.proof}, nil
}

func (c *Credentials) config(server bool, self Identity) (*tls.Config, error) {
	own, err := c.proof.certificate(self)
	if err != nil {
		return nil, err
	}
	conf := c.proof.config(server)
	if own != nil {
		conf.Certificates = []tls.Certificate{*own}
	}
	conf.MinVersion = tls.VersionTLS13
	conf.NextProtos = []string{protocol}
	conf.SessionTicketsDisabled = true      // every stream proves itself anew
	conf.DynamicRecordSizingDisabled = true // for browsers: it cuts what is written once into many records
	// Whom certificates must come from is checked below, on either side alike: no host name is in them, which is what InsecureSkipVerify
	// would leave unchecked beside that.
	conf.ClientAuth, conf.InsecureSkipVerify = tls.RequireAnyClientCert, true
	conf.VerifyConnection = func(s tls.ConnectionState) error { return c.verify(s.PeerCertificates, server) }
	return conf, nil
}

// verify says whether a chain of certificates leads from where it must. server says which side we are.
func (c *Credentials) verify(chain []*x509.Certificate, server bool) error {
	switch n := len(chain); {
	case n == 0:
		return &certificateError{errors.New("there is none")}
	case n > maxChain:
		return &certificateError{fmt.Errorf("it has a chain of %d, at most %d", n, maxChain)}
	}
	roots, now := c.proof.roots(server)
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if server {
		opts.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	for _, cert := range chain[1:] {
		opts.Intermediates.AddCert(cert)
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return &certificateError{err}
	}
	return nil
}

// certificateError is our no to a peer's certificate.
type certificateError struct{ err error }

func (e *certificateError) Error() string {
	return fmt.Sprintf("its certificate is not accepted: %v", e.err)
}
func (e *certificateError) Unwrap() error { return e.err }

// StrangerError says that the other side does not belong, as far as a handshake can tell.
type StrangerError struct {
	Text string // goes on from its address: what is different there
	Err  error  // may be nil
}

func (e *StrangerError) Error() string {
	if e.Err == nil {
		return e.Text
	}
	return fmt.Sprintf("%s (%v)", e.Text, e.Err)
}

func (e *StrangerError) Unwrap() error { return e.Err }

// Stranger is true; package mux tells by it.
func (e *StrangerError) Stranger() bool { return true }

// explain makes a StrangerError of what tells that the other side belongs elsewhere.
func explain(err error) error {
	var ours *certificateError
	var alert tls.AlertError
	var unknown x509.UnknownAuthorityError
	var record tls.RecordHeaderError
	var remote *net.OpError
	switch {
	case errors.As(err, &unknown):
		return &StrangerError{Text: "it has another Secret, or certificates of another authority: give all members the same", Err: err}
	case errors.As(err, &ours):
		return &StrangerError{Text: "its certificate does not count here", Err: err}
	case errors.As(err, &record):
		return err // whoever knows what speaks without TLS looks at it
	case errors.As(err, &alert), errors.As(err, &remote) && remote.Op == "remote error":
		return refused(err)
	}
	return err
}

// refused makes a StrangerError of the other side's no to our certificate; of what is none it answers err.
func refused(err error) error {
	var remote *net.OpError
	if !errors.As(err, &remote) || remote.Op != "remote error" {
		return err
	}
	return &StrangerError{Text: "it does not accept this process's certificate: it has another Secret, or accepts other authorities; give all members the same", Err: err}
}

// metered bounds what is read from a peer that has proven nothing yet.
type metered struct {
	net.Conn
	left int // bytes; written before the stream is handed to another goroutine
}

const unmetered = -1

var errTooMuch = fmt.Errorf("more than %d bytes before the peer has said who it is", maxHandshake)

func (m *metered) Read(p []byte) (int, error) {
	if m.left == unmetered {
		return m.Conn.Read(p)
	}
	if m.left == 0 {
		return 0, errTooMuch
	}
	n, err := m.Conn.Read(p[:min(len(p), m.left)])
	m.left -= n
	return n, err
}
