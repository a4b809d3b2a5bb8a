package distlock

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// theSecret has what other encodings write differently.
const theSecret = "s3cr3t+/\"<never>&said\"=0123456789abcdef"

// heardLog is a log at the finest level, as text and as JSON.
type heardLog struct {
	mu  sync.Mutex // guards all
	all bytes.Buffer
}

func (h *heardLog) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all.Write(p)
}

func (h *heardLog) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all.String()
}

func (h *heardLog) logger() *slog.Logger {
	opts := &slog.HandlerOptions{Level: slog.LevelDebug - 8, AddSource: true}
	return slog.New(both{slog.NewTextHandler(h, opts), slog.NewJSONHandler(h, opts)})
}

// both hands records to two handlers.
type both [2]slog.Handler

func (b both) Enabled(context.Context, slog.Level) bool { return true }
func (b both) Handle(ctx context.Context, r slog.Record) error {
	return errors.Join(b[0].Handle(ctx, r), b[1].Handle(ctx, r))
}
func (b both) WithAttrs(as []slog.Attr) slog.Handler {
	return both{b[0].WithAttrs(as), b[1].WithAttrs(as)}
}
func (b both) WithGroup(name string) slog.Handler {
	return both{b[0].WithGroup(name), b[1].WithGroup(name)}
}

// says answers how text tells secret: as it is, or in one of the ways in which it may be written.
func says(text, secret string) string {
	js, _ := json.Marshal(secret)
	for how, form := range map[string]string{
		"as it is": secret, "quoted": strings.Trim(fmt.Sprintf("%q", secret), `"`), "as JSON": strings.Trim(string(js), `"`),
		"in hex": hex.EncodeToString([]byte(secret)), "as bytes": strings.Trim(fmt.Sprint([]byte(secret)), "[]"),
		"in base64": base64.RawStdEncoding.EncodeToString([]byte(secret)), "in base64 for URLs": base64.RawURLEncoding.EncodeToString([]byte(secret)),
		"its beginning": secret[:12], "its end": secret[len(secret)-12:],
	} {
		if strings.Contains(text, form) || how == "in hex" && strings.Contains(strings.ToLower(text), form) {
			return how
		}
	}
	return ""
}

// silent fails t if text, which what said, tells one of the secrets.
func silent(t *testing.T, what, text string, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		if how := says(text, s); how != "" {
			t.Errorf("%s says a secret %s:\n%s", what, how, text)
		}
	}
}

func TestASecretIsRecognized(t *testing.T) {
	js, _ := json.Marshal(map[string]string{"Secret": theSecret})
	for _, text := range []string{
		"the secret is " + theSecret, fmt.Sprintf("%q", theSecret), string(js), fmt.Sprintf("%x", theSecret), fmt.Sprintf("%X", theSecret),
		base64.StdEncoding.EncodeToString([]byte(theSecret)), fmt.Sprint([]byte(theSecret)), theSecret[:20],
	} {
		if says(text, theSecret) == "" {
			t.Errorf("not seen: %s", text)
		}
	}
	if how := says("Config.Secret of 38 characters", theSecret); how != "" {
		t.Errorf("seen %s where nothing is", how)
	}
}

// However a Config is printed, it shows what is set, and no secret.
func TestConfigHidesItsSecrets(t *testing.T) {
	second, third := "another "+theSecret[7:], "the third "+theSecret[9:]
	c := Config{
		Name: "web-1", Bind: "127.0.0.1:7950", Peers: []string{"a:1"}, Secret: theSecret, Secrets: []string{second, third}, SessionTTL: 3 * time.Second,
		TLS: &tls.Config{ServerName: "inside " + theSecret},
	}
	said := map[string]string{"String": c.String(), "GoString": c.GoString(), "Println": fmt.Sprintln(c, &c)}
	for _, verb := range strings.Fields("%v %+v %#v %s %q %x %X %d %o %b %c %e %t %T") {
		said[verb] = fmt.Sprintf(verb, c)
		said[verb+" of a pointer"] = fmt.Sprintf(verb, &c)
		said[verb+" of a slice"] = fmt.Sprintf(verb, []Config{c})
		said[verb+" of a struct"] = fmt.Sprintf(verb, struct{ Lock Config }{c})
		said[verb+" of settings"] = fmt.Sprintf(verb, &settings{Config: c})
	}
	js, err := json.Marshal(struct{ Lock *Config }{&c})
	if err != nil {
		t.Fatal(err)
	}
	said["json"] = string(js)
	var log heardLog
	log.logger().With("config", c).Info("joining", "config", &c, "all", []Config{c})
	said["a log"] = log.String()
	said["an error"] = fmt.Errorf("with %v", c).Error()
	said["a panic"] = func() (text string) {
		defer func() { text = fmt.Sprint(recover()) }()
		panic(c)
	}()
	for what, text := range said {
		silent(t, what, text, theSecret, second, third)
	}
	for _, what := range []string{"String", "%v", "%+v", "%#v", "json", "a log", "a panic"} {
		for _, want := range []string{"web-1", "127.0.0.1:7950", hidden, "2 " + hidden} {
			if !strings.Contains(said[what], want) {
				t.Errorf("%s lacks %q: %s", what, want, said[what])
			}
		}
	}
}

// Whoever adds a field to Config decides how it is shown.
func TestEachFieldOfConfigIsShown(t *testing.T) {
	c := reflect.New(reflect.TypeFor[Config]()).Elem()
	for i := range c.NumField() {
		f := c.Field(i)
		switch f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Int, reflect.Int64:
			f.SetInt(1)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
		case reflect.Func:
			f.Set(reflect.MakeFunc(f.Type(), func([]reflect.Value) []reflect.Value { return nil }))
		default:
			t.Fatalf("a field of kind %v", f.Kind())
		}
	}
	shown := c.Interface().(Config).attrs()
	for i := range c.NumField() {
		name := c.Type().Field(i).Name
		found := false
		for _, a := range shown {
			found = found || a.Key == name
		}
		if !found {
			t.Errorf("Config.%s is not shown", name)
		}
	}
	if len(shown) != c.NumField() || len(Config{}.attrs()) != 0 {
		t.Errorf("%d of %d fields are shown, and %d of none", len(shown), c.NumField(), len(Config{}.attrs()))
	}
}

// Every way in which a Join can fail leaves the secret out of its error and of the log.
func TestFailedJoinsHideTheSecret(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, c := range map[string]Config{
		"a secret":            {Secret: theSecret},
		"secrets":             {Secrets: []string{theSecret, theSecret + "2"}},
		"too short":           {Secret: theSecret[:31]},
		"too short, beside":   {Secret: theSecret, Secrets: []string{theSecret[:20]}},
		"a certificate":       {TLS: &tls.Config{ServerName: theSecret}},
		"all at once":         {Secret: theSecret, Secrets: []string{""}, Expect: -1, Voters: 2, SessionTTL: 1, Group: "\x00", Name: "\n", Peers: []string{":"}},
		"a taken port":        {Secret: theSecret, Bind: taken.Addr().String()},
		"no such address":     {Secret: theSecret, Bind: "203.0.113.77:0"},
		"nobody there":        {Secret: theSecret, Expect: 3, JoinTimeout: 300 * time.Millisecond, Peers: []string{"127.0.0.1:1"}},
		"a directory of none": {Secret: theSecret, DataDir: filepath.Join(t.TempDir(), "\x00")},
	} {
		var log heardLog
		c.Logger = log.logger()
		if c.Bind == "" {
			c.Bind = "127.0.0.1:0"
		}
		cluster, err := Join(c)
		if err == nil {
			cluster.Close()
			if name != "a secret" && name != "secrets" { // as they should
				t.Errorf("%s: no error", name)
			}
			silent(t, name, log.String(), theSecret)
			continue
		}
		for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err), log.String()} {
			silent(t, name, text, theSecret, theSecret[:31], theSecret[:20])
		}
	}
}

// What a cluster says while it works, fails and ends.
func TestNothingSaysTheSecret(t *testing.T) {
	for _, g := range guarded {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			var log heardLog
			ms := newMembers(t, 3, g.change, func(_ int, c *Config) { c.Logger = log.logger() })
			ctx := testContext(t, time.Minute)
			mustUnlock(t, ctx, mustLock(t, ctx, ms.all[0], "k"))
			// A stranger, and one who has the name of another: each is refused and said to be.
			throwStream(t, stranger(0), thrown{to: ms.configs[0].Bind, payload: []byte("GET / HTTP/1.1\r\n\r\n")}, 2)
			twin := ms.configs[1]
			twin.Bind, twin.JoinTimeout, twin.SessionTTL = "127.0.0.1:0", 30*time.Second, minSessionTTL
			_, twinErr := Join(twin)
			if !errors.Is(twinErr, ErrNameTaken) {
				t.Errorf("a second %s: %v", twin.Name, twinErr)
			}
			said := map[string]string{"an error": fmt.Sprint(twinErr)}
			for _, path := range []string{"/", "/status", "/livez", "/readyz", "/nowhere"} {
				r := httptest.NewRecorder()
				ms.all[0].Handler().ServeHTTP(r, httptest.NewRequest("GET", path, nil))
				said[path] = fmt.Sprint(r.Header(), r.Body)
			}
			js, err := json.Marshal(ms.all[0].Status())
			if err != nil {
				t.Fatal(err)
			}
			said["Status as JSON"] = string(js)
			said["Status"] = fmt.Sprintf("%+v %#v", ms.all[0].Status(), ms.all[0].Status())
			for _, c := range ms.all {
				c.Close()
				said["the end"] += fmt.Sprintf("%v %+v", c.Err(), c.Err())
			}
			said["the log"] = log.String()
			secrets := append([]string{ms.configs[0].Secret}, ms.configs[0].Secrets...)
			for what, text := range said {
				for _, s := range secrets {
					if s != "" {
						silent(t, what, text, s)
					}
				}
			}
			for _, what := range []string{"an error", "/status", "Status as JSON", "Status", "the log"} { // else this looks where nothing is said
				if !strings.Contains(said[what], "m1") {
					t.Errorf("%s does not even name a member: %s", what, said[what])
				}
			}
		})
	}
}
