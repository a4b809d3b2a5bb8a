package distlock

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"unicode/utf8"

	"github.com/godistlock/distlock/internal/fault"
	"github.com/godistlock/distlock/internal/secure"
)

// hidden stands where a secret would.
const hidden = "[hidden]"

// attrs are the fields that are set, each as it may be shown.
func (c Config) attrs() []slog.Attr {
	var all []slog.Attr
	add := func(set bool, name string, value any) {
		if set {
			all = append(all, slog.Any(name, value))
		}
	}
	add(c.Name != "", "Name", c.Name)
	add(c.Bind != "", "Bind", c.Bind)
	add(c.Advertise != "", "Advertise", c.Advertise)
	add(len(c.Peers) > 0, "Peers", c.Peers)
	add(c.Discover != nil, "Discover", "set")
	add(c.Group != "", "Group", c.Group)
	add(c.Expect != 0, "Expect", c.Expect)
	add(c.Voters != 0, "Voters", c.Voters)
	add(c.NoVote, "NoVote", c.NoVote)
	add(c.DataDir != "", "DataDir", c.DataDir)
	add(c.Secret != "", "Secret", hidden)
	add(len(c.Secrets) > 0, "Secrets", fmt.Sprintf("%d %s", len(c.Secrets), hidden))
	add(c.TLS != nil, "TLS", "set") // it has private keys
	add(c.Insecure, "Insecure", c.Insecure)
	add(c.SessionTTL != 0, "SessionTTL", c.SessionTTL)
	add(c.MaxPending != 0, "MaxPending", c.MaxPending)
	add(c.JoinTimeout != 0, "JoinTimeout", c.JoinTimeout)
	add(c.Logger != nil, "Logger", "set")
	return all
}

// LogValue is c without its secrets: the fields that are set. So are String, Format with every verb (but %p, of which go vet warns) and
// MarshalJSON. Package fmt shows a Config as it is, with its secrets, only where that lies in an unexported field of another struct, whose methods
// it must not call.
func (c Config) LogValue() slog.Value { return slog.GroupValue(c.attrs()...) }

// String is c without its secrets, on one line.
func (c Config) String() string {
	var b strings.Builder
	b.WriteString("distlock.Config{")
	for i, a := range c.attrs() {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s: %v", a.Key, a.Value)
	}
	b.WriteString("}")
	return b.String()
}

// GoString is String: c without its secrets.
func (c Config) GoString() string { return c.String() }

// Format writes String, whatever the verb: others than %v and %s would show each field.
func (c Config) Format(f fmt.State, _ rune) {
	_, _ = f.Write([]byte(c.String())) // as package fmt itself does
}

// MarshalJSON is c without its secrets, as an object of the fields that are set.
func (c Config) MarshalJSON() ([]byte, error) {
	fields := map[string]any{}
	for _, a := range c.attrs() {
		fields[a.Key] = a.Value.Any()
	}
	return json.Marshal(fields)
}

// settleSecrets makes credentials of what is given. It never puts a secret into a message.
func (s *settings) settleSecrets(f *fault.List) {
	check := func(field, secret string) {
		if n := utf8.RuneCountInString(secret); n < minSecret {
			f.Invalid(field, fmt.Sprintf("of %d characters", n), "it must be random and have at least %d; make one with: openssl rand -base64 32", minSecret)
		}
	}
	var secrets []string
	if s.Secret != "" {
		check("Config.Secret", s.Secret)
		secrets = append(secrets, s.Secret)
	}
	for i, secret := range s.Secrets {
		check(fmt.Sprintf("Config.Secrets[%d]", i), secret)
		secrets = append(secrets, secret)
	}
	if len(s.Secrets) > maxSecrets {
		f.Invalid("Config.Secrets", fmt.Sprintf("with %d", len(s.Secrets)), "there may be at most %d; leave out those that no process uses any more", maxSecrets)
	}
	if len(*f) > 0 {
		return
	}
	var err error
	switch {
	case s.TLS != nil:
		if s.credentials, err = secure.FromTLS(s.TLS, secrets); err != nil {
			f.Invalid("Config.TLS", "is incomplete", "%w", err)
		}
	case len(secrets) > 0:
		if s.credentials, err = secure.FromSecrets(secrets); err != nil {
			f.Invalid("Config.Secret", "gives no keys", "%w", err)
		}
	}
}
