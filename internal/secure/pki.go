package secure

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// pki is a tls.Config of the user's own, cloned. What it says about certificates counts, and only that.
type pki struct{ given *tls.Config }

// FromTLS makes credentials of a PKI of the user's own, and of shared secrets, if there are any, for gossip's packets. Its error says what is
// missing: whoever holds a certificate that it accepts is in.
func FromTLS(given *tls.Config, secrets []string) (*Credentials, error) {
	p := &pki{given: given.Clone()}
	switch g := p.given; {
	case g.RootCAs == nil && g.ClientCAs == nil:
		return nil, errors.New("RootCAs and ClientCAs are both missing: with those of the system anybody with a certificate of a public authority would be let in; " +
			"set one to the authority of this cluster (it then serves as both)")
	case len(g.Certificates) == 0 && g.GetCertificate == nil:
		return nil, errors.New("there is no certificate to show to those who dial: set Certificates or GetCertificate")
	case len(g.Certificates) == 0 && g.GetClientCertificate == nil:
		return nil, errors.New("there is no certificate to show to those who are dialed: set Certificates or GetClientCertificate")
	}
	c := &Credentials{proof: p}
	if len(secrets) > 0 {
		shared, err := FromSecrets(secrets)
		if err != nil {
			return nil, err
		}
		c.gossip = shared.gossip
	}
	return c, nil
}

// config takes over what is about this side's certificates.
func (p *pki) config(server bool) *tls.Config {
	g := p.given
	c := &tls.Config{Certificates: g.Certificates, Rand: g.Rand, CurvePreferences: g.CurvePreferences, KeyLogWriter: g.KeyLogWriter}
	if server {
		c.GetCertificate = g.GetCertificate
		return c
	}
	c.GetClientCertificate = g.GetClientCertificate
	return c
}

func (p *pki) certificate(Identity) (*tls.Certificate, error) { return nil, nil } // config has them

func (p *pki) roots(server bool) (*x509.CertPool, time.Time) {
	pool, other := p.given.RootCAs, p.given.ClientCAs
	if server {
		pool, other = other, pool
	}
	if pool == nil {
		pool = other
	}
	if p.given.Time != nil {
		return pool, p.given.Time()
	}
	return pool, time.Now()
}

// proves finds the name among the DNS names, letter by letter: with a wildcard one member could pass for any.
func (p *pki) proves(leaf *x509.Certificate, peer Identity) error {
	if !slices.ContainsFunc(leaf.DNSNames, func(name string) bool { return strings.EqualFold(name, peer.Name) }) {
		return fmt.Errorf("its certificate is of %s, and it says that its name is %q: the name must be one of the certificate's DNS names",
			listed(leaf.DNSNames), peer.Name)
	}
	return nil
}

const maxListed = 8 // names in a message

func listed(names []string) string {
	if len(names) == 0 {
		return "no DNS name"
	}
	text := fmt.Sprintf("%q", names[:min(len(names), maxListed)])
	if len(names) > maxListed {
		text += " and more"
	}
	return text
}

// CheckOwn looks at this process's own certificate as the others will: better an error now than a member that nobody lets in. There is
// nothing to find with a secret, nor where only GetCertificate knows the certificate.
func (c *Credentials) CheckOwn(self Identity) error {
	p, ok := c.proof.(*pki)
	if !ok {
		return nil
	}
	own, err := p.own()
	if own == nil || err != nil {
		return err
	}
	var chain []*x509.Certificate
	for _, der := range own.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("this process's certificate: %w", err)
		}
		chain = append(chain, cert)
	}
	if len(chain) == 0 {
		return errors.New("this process's certificate is empty")
	}
	for _, server := range []bool{true, false} {
		if err := c.verify(chain, server); err != nil {
			return fmt.Errorf("this process's own certificate would be refused by the others: %w", err)
		}
	}
	if !slices.ContainsFunc(chain[0].DNSNames, func(name string) bool { return strings.EqualFold(name, self.Name) }) {
		return fmt.Errorf("this process's certificate is of %s, and not of its Name %q: set Name to one of the certificate's DNS names",
			listed(chain[0].DNSNames), self.Name)
	}
	return nil
}

// own is the certificate that this process shows to those that it dials; nil when only a handshake tells.
func (p *pki) own() (*tls.Certificate, error) {
	if p.given.GetClientCertificate == nil {
		return &p.given.Certificates[0], nil
	}
	cert, err := p.given.GetClientCertificate(&tls.CertificateRequestInfo{
		Version: tls.VersionTLS13, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.ECDSAWithP384AndSHA384, tls.Ed25519,
			tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512},
	})
	if err != nil {
		return nil, fmt.Errorf("GetClientCertificate: %w", err)
	}
	return cert, nil
}
