package secure

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/testpki"
	"github.com/godistlock/distlock/internal/wire"
)

var one, two, three = strings.Repeat("1", 44), strings.Repeat("2", 44), strings.Repeat("3", 44)

func fromSecrets(t testing.TB, texts ...string) *Credentials {
	t.Helper()
	c, err := FromSecrets(texts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func member(name string) Identity { return Identity{Group: "g", Name: name, Server: wire.NewUUID()} }

// meet lets two sides shake hands and exchange a word in each direction; what either side found wrong is its error.
func meet(t testing.TB, dialer, acceptor *Credentials, d, a Identity) (client, server *Conn, dialed, accepted error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := l.Accept()
		if err != nil {
			accepted = err
			return
		}
		t.Cleanup(func() { raw.Close() })
		_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
		if server, accepted = acceptor.Handshake(raw, true, a); accepted == nil {
			accepted = word(server)
		}
		if accepted != nil {
			raw.Close()
		}
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	if client, dialed = dialer.Handshake(raw, false, d); dialed == nil {
		dialed = word(client)
	}
	if dialed != nil {
		raw.Close()
	}
	<-done
	return client, server, dialed, accepted
}

func word(c *Conn) error {
	if _, err := c.Write([]byte("word")); err != nil {
		return err
	}
	p := make([]byte, 4)
	_, err := io.ReadFull(c, p)
	return err
}

// Each rotation meets its neighbours: at no moment of the three roll-outs are there two processes that do not know each other.
func TestSecretsMeet(t *testing.T) {
	for _, c := range []struct {
		name     string
		dialer   []string
		acceptor []string
		meet     bool
	}{
		{"the same", []string{one}, []string{one}, true},
		{"before the rotation", []string{one}, []string{one, two}, true},
		{"in its midst", []string{one, two}, []string{two, one}, true},
		{"at its end", []string{two, one}, []string{two}, true},
		{"a step too far", []string{one}, []string{two, one}, false},
		{"others", []string{one}, []string{two}, false},
		{"both have others", []string{one, three}, []string{two, three}, false},
	} {
		for range 2 {
			_, _, dialed, accepted := meet(t, fromSecrets(t, c.dialer...), fromSecrets(t, c.acceptor...), member("d"), member("a"))
			if met := dialed == nil && accepted == nil; met != c.meet {
				t.Errorf("%s: %v, %v", c.name, dialed, accepted)
			}
			if !c.meet {
				var stranger *StrangerError
				if !errors.As(dialed, &stranger) && !errors.As(accepted, &stranger) || !strings.Contains(stranger.Error(), "another Secret") {
					t.Errorf("%s: nobody says why: %v, %v", c.name, dialed, accepted)
				}
				if strings.Contains(stranger.Error(), one) || strings.Contains(stranger.Error(), two) {
					t.Errorf("%s: a secret in %v", c.name, stranger)
				}
			}
			c.dialer, c.acceptor = c.acceptor, c.dialer
		}
	}
}

// What the certificate says is what the peer may say.
func TestCertificatesProveIdentity(t *testing.T) {
	d, a := Identity{Group: "shop & co?", Name: "m1/ü %", Server: wire.NewUUID()}, member("a")
	client, server, dialed, accepted := meet(t, fromSecrets(t, one), fromSecrets(t, one), d, a)
	if dialed != nil || accepted != nil {
		t.Fatal(dialed, accepted)
	}
	if err := server.Proves(d.Group, d.Name, d.Server); err != nil {
		t.Error(err)
	}
	if err := client.Proves(a.Group, a.Name, a.Server); err != nil {
		t.Error(err)
	}
	for what, wrong := range map[string]Identity{
		"group": {"shop", d.Name, d.Server}, "name": {d.Group, "m2", d.Server}, "server": {d.Group, d.Name, wire.NewUUID()},
	} {
		if err := server.Proves(wrong.Group, wrong.Name, wrong.Server); err == nil {
			t.Errorf("another %s is proven", what)
		}
	}
	leaf := server.leaf.Raw
	for _, plain := range []string{d.Name, "shop", d.Server.String(), string(d.Server[:])} {
		if bytes.Contains(leaf, []byte(plain)) {
			t.Errorf("whoever dials reads %q", plain)
		}
	}
	if v := server.ConnectionState(); v.Version != tls.VersionTLS13 || v.DidResume {
		t.Errorf("version %x, resumed %v", v.Version, v.DidResume)
	}
}

// The keys are part of the protocol: releases with others would not meet. Made with another program (HKDF-SHA-256 of RFC 5869).
func TestKeysStay(t *testing.T) {
	a, err := newAuthority("correct horse battery staple 0123456789")
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(a.key.Seed()); got != wantSeed {
		t.Errorf("the authority's key: %s", got)
	}
	if got := hex.EncodeToString(a.gossip); got != wantGossip {
		t.Errorf("gossip's key: %s", got)
	}
	mark := a.mark(Identity{Group: "g", Name: "n", Server: wire.UUID{1, 2, 3}}).String()
	if mark != "distlock:"+wantMark {
		t.Errorf("an identity's mark: %s", mark)
	}
	b, err := newAuthority("correct horse battery staple 0123456789")
	if err != nil || !b.cert.Equal(a.cert) {
		t.Errorf("the authority is another each time: %v", err)
	}
}

// A certificate is the same until the identity changes.
func TestCertificateFollowsTheServer(t *testing.T) {
	s := fromSecrets(t, one).proof.(*secrets)
	id := member("m")
	first, err := s.certificate(id)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.certificate(id); err != nil || again != first {
		t.Errorf("made anew: %v", err)
	}
	id.Server = wire.NewUUID()
	if next, err := s.certificate(id); err != nil || next == first {
		t.Errorf("the same for another server: %v", err)
	}
}

// Whoever is no member, but speaks TLS, comes no further than the handshake; what it sends is bounded.
func TestOutsidersOfTheHandshake(t *testing.T) {
	creds := fromSecrets(t, one)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: always, NotAfter: forever, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, Subject: pkix.Name{CommonName: "distlock"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	own := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	member, err := creds.proof.certificate(member("m"))
	if err != nil {
		t.Fatal(err)
	}
	for name, conf := range map[string]*tls.Config{
		"no certificate":               {InsecureSkipVerify: true, NextProtos: []string{protocol}},
		"its own":                      {InsecureSkipVerify: true, NextProtos: []string{protocol}, Certificates: []tls.Certificate{own}},
		"TLS 1.2":                      {InsecureSkipVerify: true, NextProtos: []string{protocol}, Certificates: []tls.Certificate{*member}, MaxVersion: tls.VersionTLS12},
		"another protocol":             {InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{*member}},
		"no protocol":                  {InsecureSkipVerify: true, Certificates: []tls.Certificate{*member}},
		"a chain that has no end":      {InsecureSkipVerify: true, NextProtos: []string{protocol}, Certificates: []tls.Certificate{chain(*member, maxChain)}},
		"a chain larger than is read":  {InsecureSkipVerify: true, NextProtos: []string{protocol}, Certificates: []tls.Certificate{chain(*member, 300)}},
		"a member's, without its key ": {InsecureSkipVerify: true, NextProtos: []string{protocol}, Certificates: []tls.Certificate{{Certificate: member.Certificate, PrivateKey: key}}},
	} {
		ours, theirs := net.Pipe()
		go func() { // ends with the pipe
			c := tls.Client(theirs, conf)
			_ = c.Handshake()
			_, _ = c.Read(make([]byte, 1))
			theirs.Close()
		}()
		_ = ours.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := creds.Handshake(ours, true, Identity{}); err == nil {
			t.Errorf("%s: let in", name)
		}
		ours.Close()
	}
}

func chain(c tls.Certificate, n int) tls.Certificate {
	for range n {
		c.Certificate = append(c.Certificate[:len(c.Certificate):len(c.Certificate)], c.Certificate[0])
	}
	return c
}

func TestHandshakeReadsSoMuch(t *testing.T) {
	m := &metered{left: 10, Conn: endless{}}
	p := make([]byte, 8)
	for _, want := range []int{8, 2} {
		if n, err := m.Read(p); n != want || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if _, err := m.Read(p); !errors.Is(err, errTooMuch) {
		t.Errorf("beyond the bound: %v", err)
	}
	m.left = unmetered
	if n, err := m.Read(p); n != 8 || err != nil {
		t.Errorf("trusted: %d, %v", n, err)
	}
}

type endless struct{ net.Conn }

func (endless) Read(p []byte) (int, error) { return len(p), nil }

var both = testpki.Both

func fromTLS(t testing.TB, c *tls.Config) *Credentials {
	t.Helper()
	creds, err := FromTLS(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

func TestOwnPKI(t *testing.T) {
	ca, other := testpki.New(t), testpki.New(t)
	soon := time.Now().Add(time.Hour)
	config := func(cert tls.Certificate, roots *x509.CertPool) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots}
	}
	m1, m2 := config(ca.Issue(t, soon, both, "m1", "alias"), ca.Pool), config(ca.Issue(t, soon, both, "m2"), ca.Pool)
	client, server, dialed, accepted := meet(t, fromTLS(t, m1), fromTLS(t, m2), Identity{}, Identity{})
	if dialed != nil || accepted != nil {
		t.Fatal(dialed, accepted)
	}
	for _, c := range []struct {
		conn *Conn
		name string
		is   bool
	}{{server, "m1", true}, {server, "ALIAS", true}, {server, "m2", false}, {client, "m2", true}, {client, "m1", false}, {client, "", false}} {
		if err := c.conn.Proves("any", c.name, wire.NewUUID()); (err == nil) != c.is {
			t.Errorf("%q: %v", c.name, err)
		}
	}
	for what, bad := range map[string]*tls.Config{
		"another authority":             config(other.Issue(t, soon, both, "m1"), ca.Pool),
		"expired":                       config(ca.Issue(t, time.Now().Add(-time.Minute), both, "m1"), ca.Pool),
		"for servers only":              config(ca.Issue(t, soon, both[:1], "m1"), ca.Pool),
		"who accepts another authority": config(ca.Issue(t, soon, both, "m1"), other.Pool),
	} {
		if _, _, dialed, accepted := meet(t, fromTLS(t, bad), fromTLS(t, m2), Identity{}, Identity{}); dialed == nil && accepted == nil {
			t.Errorf("%s is let in", what)
		}
		if what == "for servers only" {
			continue
		}
		if _, _, dialed, accepted := meet(t, fromTLS(t, m2), fromTLS(t, bad), Identity{}, Identity{}); dialed == nil && accepted == nil {
			t.Errorf("%s is spoken to", what)
		}
	}
	if _, _, dialed, accepted := meet(t, fromTLS(t, m1), fromSecrets(t, one), Identity{}, member("a")); dialed == nil && accepted == nil {
		t.Error("a PKI meets a secret")
	}
	wild := config(ca.Issue(t, soon, both, "*.shop"), ca.Pool)
	_, server, dialed, accepted = meet(t, fromTLS(t, wild), fromTLS(t, m2), Identity{}, Identity{})
	if dialed != nil || accepted != nil || server.Proves("g", "a.shop", wire.UUID{}) == nil {
		t.Errorf("a wildcard passes for any: %v, %v", dialed, accepted)
	}
}

// Certificates are asked for at each stream, so that they can be renewed; what the user says of versions and of checks does not count.
func TestOwnPKIIsAskedEachTime(t *testing.T) {
	ca := testpki.New(t)
	soon := time.Now().Add(time.Hour)
	shown, dials := ca.Issue(t, soon, both, "first"), ca.Issue(t, soon, both, "client")
	given := &tls.Config{
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &shown, nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &dials, nil },
		RootCAs:              ca.Pool, ClientCAs: ca.Pool, MaxVersion: tls.VersionTLS12, ClientAuth: tls.NoClientCert, InsecureSkipVerify: true,
	}
	creds := fromTLS(t, given)
	given.RootCAs, given.ClientCAs = testpki.New(t).Pool, testpki.New(t).Pool // a copy was made
	for _, name := range []string{"first", "renewed"} {
		shown = ca.Issue(t, soon, both, name)
		client, _, dialed, accepted := meet(t, creds, creds, Identity{}, Identity{})
		if dialed != nil || accepted != nil {
			t.Fatal(dialed, accepted)
		}
		if err := client.Proves("", name, wire.UUID{}); err != nil {
			t.Error(err)
		}
	}
	stranger := fromTLS(t, &tls.Config{Certificates: []tls.Certificate{testpki.New(t).Issue(t, soon, both, "x")}, RootCAs: ca.Pool})
	if _, _, dialed, accepted := meet(t, stranger, creds, Identity{}, Identity{}); dialed == nil && accepted == nil {
		t.Error("NoClientCert lets a stranger in")
	}
	if _, _, dialed, accepted := meet(t, creds, stranger, Identity{}, Identity{}); dialed == nil && accepted == nil {
		t.Error("InsecureSkipVerify speaks to a stranger")
	}
}

func TestCheckOwn(t *testing.T) {
	ca := testpki.New(t)
	soon := time.Now().Add(time.Hour)
	config := func(cert tls.Certificate) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: ca.Pool}
	}
	broken := config(tls.Certificate{})
	broken.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return nil, errors.New("no file") }
	for _, c := range []struct {
		conf *tls.Config
		says string
	}{
		{config(ca.Issue(t, soon, both, "a", "m1")), ""},
		{config(ca.Issue(t, soon, both, "a")), `["a"], and not of its Name "m1"`},
		{config(ca.Issue(t, soon, both)), "no DNS name"},
		{config(ca.Issue(t, time.Now().Add(-time.Minute), both, "m1")), "expired"},
		{config(ca.Issue(t, soon, both[1:], "m1")), "refused by the others"},
		{config(testpki.New(t).Issue(t, soon, both, "m1")), "refused by the others"},
		{broken, "no file"},
	} {
		err := fromTLS(t, c.conf).CheckOwn(Identity{Name: "m1"})
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("want %q, got %v", c.says, err)
		}
	}
	if err := fromSecrets(t, one).CheckOwn(Identity{}); err != nil {
		t.Error(err)
	}
}

// Whatever a stranger sends, the handshake ends with an error, and soon.
func FuzzHandshake(f *testing.F) {
	creds := fromSecrets(f, one)
	var hello recorder
	_, _ = fromSecrets(f, one).Handshake(&hello, false, member("m"))
	f.Add(hello.sent, true)
	f.Add([]byte("DLK1C\x00\x10garbage"), true)
	f.Add([]byte{22, 3, 1, 255, 255}, true)
	f.Add([]byte{21, 3, 3, 0, 2, 2, 42}, false)
	id := member("m")
	f.Fuzz(func(t *testing.T, p []byte, server bool) {
		if _, err := creds.Handshake(&recorder{in: p}, server, id); err == nil {
			t.Fatal("let in")
		}
	})
}

// recorder is a stream that says what is in it, then ends.
type recorder struct {
	net.Conn
	in, sent []byte
}

func (r *recorder) Read(p []byte) (int, error) {
	if len(r.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.in)
	r.in = r.in[n:]
	return n, nil
}

func (r *recorder) Write(p []byte) (int, error)      { r.sent = append(r.sent, p...); return len(p), nil }
func (r *recorder) Close() error                     { return nil }
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }
func (r *recorder) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (r *recorder) LocalAddr() net.Addr              { return &net.TCPAddr{} }

func BenchmarkHandshake(b *testing.B) {
	x, y := fromSecrets(b, one), fromSecrets(b, one)
	d, a := member("d"), member("a")
	for b.Loop() {
		ours, theirs := net.Pipe()
		done := make(chan error, 1)
		go func() {
			_, err := y.Handshake(theirs, true, a)
			done <- err
		}()
		if _, err := x.Handshake(ours, false, d); err != nil {
			b.Fatal(err)
		}
		ours.Close()
		<-done
	}
}

const (
	wantSeed   = "df6fc6e56b9fe0c45d005e92a06c509e29801264ffbc9611cffecffd24a8e830"
	wantMark   = "b5132d045903d0937291e0ad51197982705a30ec3c88fc20cfa8b64f839b14c7"
	wantGossip = "96802f73a0af93580042f3542a59fd2cce67d86f456a53c17bdea7d4048fa9e9"
)
