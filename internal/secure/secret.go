package secure

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"net/url"
	"sync"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// What HKDF is given beside a secret. They are part of the protocol: another salt or label is another cluster.
const (
	salt           = "distlock secret 1"
	labelAuthority = "distlock authority ed25519"
	labelGossip    = "distlock gossip aes-256-gcm"
	labelIdentity  = "distlock identity hmac-sha-256"
)

const gossipKey = 32 // bytes: AES-256

// Certificates of a secret are good for all time: a clock that is wrong must not keep a process out. sometime is when they are judged.
var (
	always   = time.Date(1970, time.January, 1, 0, 0, 0, 0, time.UTC)
	forever  = time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC)
	sometime = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
)

// authority is what one secret gives.
type authority struct {
	cert     *x509.Certificate
	key      ed25519.PrivateKey
	gossip   []byte
	identity []byte
}

func newAuthority(secret string) (*authority, error) {
	root, err := hkdf.Extract(sha256.New, []byte(secret), []byte(salt))
	if err != nil {
		return nil, err
	}
	seed, err := hkdf.Expand(sha256.New, root, labelAuthority, ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	a := &authority{key: ed25519.NewKeyFromSeed(seed)}
	if a.gossip, err = hkdf.Expand(sha256.New, root, labelGossip, gossipKey); err != nil {
		return nil, err
	}
	if a.identity, err = hkdf.Expand(sha256.New, root, labelIdentity, sha256.Size); err != nil {
		return nil, err
	}
	public := a.key.Public().(ed25519.PublicKey)
	id := sha256.Sum256(public)
	template := &x509.Certificate{ // the same bytes on every member
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "distlock"}, SubjectKeyId: id[:20], NotBefore: always, NotAfter: forever,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(nil, template, template, public, a.key) // Ed25519 signs without randomness
	if err != nil {
		return nil, err
	}
	a.cert, err = x509.ParseCertificate(der)
	return a, err
}

// secrets are the authorities of a process, and its own certificate.
type secrets struct {
	all  []*authority // the first signs
	pool *x509.CertPool
	key  ed25519.PrivateKey // of this process, made at its start

	mu   sync.Mutex // guards what follows
	of   Identity   // whom leaf is of
	leaf *tls.Certificate
}

// FromSecrets makes credentials of shared secrets: the first is used, all are accepted.
func FromSecrets(texts []string) (*Credentials, error) {
	if len(texts) == 0 {
		return nil, fmt.Errorf("no secret")
	}
	s := &secrets{pool: x509.NewCertPool()}
	for _, text := range texts {
		a, err := newAuthority(text)
		if err != nil {
			return nil, err
		}
		s.all = append(s.all, a)
		s.pool.AddCert(a.cert)
	}
	var err error
	if _, s.key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, err
	}
	c := &Credentials{proof: s}
	for _, a := range s.all {
		c.gossip = append(c.gossip, a.gossip)
	}
	return c, nil
}

// certificate is the one of self, made anew when that is another than before.
func (s *secrets) certificate(self Identity) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaf != nil && s.of == self {
		return s.leaf, nil
	}
	a := s.all[0]
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "distlock"}, URIs: []*url.URL{a.mark(self)}, NotBefore: always, NotAfter: forever,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, s.key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	s.leaf, s.of = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: s.key}, self
	return s.leaf, nil
}

func (s *secrets) config(bool) *tls.Config { return &tls.Config{} }

func (s *secrets) roots(bool) (*x509.CertPool, time.Time) { return s.pool, sometime }

// proves says whether a certificate that was verified is of peer: of its group, its name and its server ID.
func (s *secrets) proves(leaf *x509.Certificate, peer Identity) error {
	if len(leaf.URIs) == 1 {
		for _, a := range s.all {
			if hmac.Equal([]byte(leaf.URIs[0].String()), []byte(a.mark(peer).String())) {
				return nil
			}
		}
	}
	return fmt.Errorf("its certificate is not of member %q of group %q with server ID %s, which it says that it is", peer.Name, peer.Group, peer.Server)
}

// mark is an Identity as it stands in a certificate: whoever dials is shown that, and only who has the secret is to know names by it.
func (a *authority) mark(id Identity) *url.URL {
	h := hmac.New(sha256.New, a.identity)
	for _, field := range []string{id.Group, id.Name, string(id.Server[:])} {
		_ = binary.Write(h, binary.BigEndian, uint32(len(field))) // a hash takes all that is written
		_, _ = h.Write([]byte(field))
	}
	return &url.URL{Scheme: "distlock", Opaque: hex.EncodeToString(h.Sum(nil))}
}

// Identity is who a process says it is.
type Identity struct {
	Group, Name string
	Server      wire.UUID
}
