package wire

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func drawUUID(t *rapid.T, label string) UUID {
	return UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label))
}

func drawText(t *rapid.T, label string, from, to int) string {
	return string(rapid.SliceOfN(rapid.Byte(), from, to).Draw(t, label))
}

func drawKeys(t *rapid.T) []string {
	keys := rapid.SliceOfNDistinct(rapid.StringN(1, 20, 40), 1, 5, rapid.ID).Draw(t, "keys")
	slices.Sort(keys)
	return keys
}

func drawOrigin(t *rapid.T) Origin {
	return Origin{rapid.Uint64Range(1, maxCounter).Draw(t, "session"), rapid.Uint64Range(1, MaxSeq).Draw(t, "origin")}
}

func drawHandle(t *rapid.T) Handle {
	return Handle{Origin: drawOrigin(t), Fence: rapid.Uint64Min(1).Draw(t, "fence"), Proof: drawUUID(t, "proof")}
}

func drawAsk(t *rapid.T) *Ask {
	a := &Ask{
		Keys: drawKeys(t), Mode: Mode(rapid.IntRange(0, 2).Draw(t, "mode")), Owner: rapid.Uint64Max(MaxSeq).Draw(t, "owner"),
		TTL: rapid.Int64Range(0, MaxTime).Draw(t, "ttl"), Cooldown: rapid.Int64Range(0, MaxTime).Draw(t, "cooldown"),
		Where: drawText(t, "where", 0, MaxWhere),
	}
	if v := rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "value"); len(v) > 0 {
		a.Value = v
	}
	if a.Mode == Units {
		a.Limit = rapid.Uint32Range(1, MaxUnits).Draw(t, "limit")
		a.Weight = rapid.Uint32Range(1, a.Limit).Draw(t, "weight")
	}
	if rapid.Bool().Draw(t, "detached") {
		a.Detached = rapid.Int64Range(1, MaxTime).Draw(t, "detached")
		if rapid.Bool().Draw(t, "again") {
			a.Origin, a.Only = drawOrigin(t), rapid.Bool().Draw(t, "only")
		}
	}
	return a
}

func drawOp(t *rapid.T) Op {
	o := Op{Kind: OpKind(rapid.IntRange(1, 11).Draw(t, "kind")), Seq: rapid.Uint64Range(1, MaxSeq).Draw(t, "seq")}
	switch o.Kind {
	case OpRequest:
		o.Ask, o.Try = drawAsk(t), rapid.Bool().Draw(t, "try")
	case OpTime:
		o.Ask = &Ask{Time: rapid.Int64Range(1, MaxTime).Draw(t, "time"), Nth: rapid.Uint64Range(1, maxCounter).Draw(t, "nth")}
	case OpRelease, OpAdopt:
		o.Ask = &Ask{Handle: drawHandle(t)}
	}
	if o.Kind == OpAcquire || o.Kind == OpForce {
		o.Key = drawText(t, "key", 1, MaxKey)
	}
	if o.Kind == OpAcquire {
		o.Try = rapid.Bool().Draw(t, "try")
	}
	return o
}

func drawOutcome(t *rapid.T) Outcome {
	o := Outcome{
		Kind: OutcomeKind(rapid.IntRange(1, 8).Draw(t, "kind")), Seq: rapid.Uint64().Draw(t, "seq"), Fence: rapid.Uint64().Draw(t, "fence"),
		Since: rapid.Int64().Draw(t, "since"), Code: Code(rapid.Byte().Draw(t, "code")), Text: drawText(t, "text", 0, MaxText),
	}
	if o.Kind == OutAdopted {
		a := drawAsk(t)
		o.Grant = &Grant{Keys: a.Keys, Mode: a.Mode, Limit: a.Limit, Weight: a.Weight, TTL: a.TTL}
	}
	return o
}

func drawCreate(t *rapid.T) CreateSession {
	c := CreateSession{
		Nonce: drawUUID(t, "nonce"), Name: drawText(t, "name", 1, MaxName), Server: drawUUID(t, "server"), Instance: drawUUID(t, "instance"),
		TTL: rapid.Int64Range(1, MaxTTL).Draw(t, "ttl"), Previous: rapid.Uint64().Draw(t, "previous"),
		Proof: Proof{
			Boot: drawText(t, "boot", 0, MaxID), NetNS: drawText(t, "netns", 0, MaxID), Bound: drawText(t, "bound", 0, MaxAddr),
			Dir: drawText(t, "dir", 0, MaxID), Started: rapid.Int64().Draw(t, "started"),
		},
	}
	c.Nonce[0], c.Instance[0] = c.Nonce[0]|1, c.Instance[0]|1
	return c
}

func drawHello(t *rapid.T) Hello {
	return Hello{
		Version: ProtocolVersion, Kind: Kind(rapid.Byte().Draw(t, "kind")), Group: drawText(t, "group", 0, MaxGroup),
		Cluster: drawUUID(t, "cluster"), Server: drawUUID(t, "server"), Instance: drawUUID(t, "instance"),
		Name: drawText(t, "name", 0, MaxName), Target: drawUUID(t, "target"),
	}
}

func drawWelcome(t *rapid.T) Welcome {
	return Welcome{
		Version: ProtocolVersion, Refusal: Refusal(rapid.Byte().Draw(t, "refusal")), Text: drawText(t, "text", 0, MaxText),
		Cluster: drawUUID(t, "cluster"), Server: drawUUID(t, "server"), Instance: drawUUID(t, "instance"), Name: drawText(t, "name", 0, MaxName),
	}
}

func drawReply(t *rapid.T) SessionReply {
	return SessionReply{
		Code: Code(rapid.Byte().Draw(t, "code")), Session: rapid.Uint64().Draw(t, "session"), Term: rapid.Uint64().Draw(t, "term"),
		Renewals: rapid.Uint64().Draw(t, "renewals"), Text: drawText(t, "text", 0, MaxText),
	}
}

// comesBack checks that a value is read as it was written, and that of none of its beginnings a whole value is read.
func comesBack[T any](t *rapid.T, v T, encode func(*Writer), decode func(*Reader) T) {
	w := NewWriter()
	encode(w)
	r := NewReader(w.Bytes())
	if got := decode(r); r.End() != nil || !reflect.DeepEqual(got, v) {
		t.Fatalf("%+v came back as %+v, %v", v, got, r.Err())
	}
	cut := rapid.IntRange(0, w.Len()-1).Draw(t, "cut")
	r = NewReader(w.Bytes()[:cut])
	if decode(r); !errors.Is(r.Err(), ErrMalformed) {
		t.Fatalf("cut after %d of %d bytes: %v", cut, w.Len(), r.Err())
	}
}

func TestMessagesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ops := rapid.SliceOfN(rapid.Custom(drawOp), 0, 20).Draw(t, "ops")
		comesBack(t, ops, func(w *Writer) { EncodeOps(w, ops) }, DecodeOps)
	})
	rapid.Check(t, func(t *rapid.T) {
		outs := rapid.SliceOfN(rapid.Custom(drawOutcome), 0, 20).Draw(t, "outcomes")
		comesBack(t, outs, func(w *Writer) { EncodeOutcomes(w, outs) }, DecodeOutcomes)
	})
	rapid.Check(t, func(t *rapid.T) {
		v := drawCreate(t)
		comesBack(t, v, v.Encode, DecodeCreateSession)
	})
	rapid.Check(t, func(t *rapid.T) {
		v := drawHello(t)
		comesBack(t, v, v.Encode, DecodeHello)
	})
	rapid.Check(t, func(t *rapid.T) {
		v := drawWelcome(t)
		comesBack(t, v, v.Encode, DecodeWelcome)
	})
	rapid.Check(t, func(t *rapid.T) {
		v := drawReply(t)
		comesBack(t, v, v.Encode, DecodeSessionReply)
	})
}

func TestOpsThatMakeNoSense(t *testing.T) {
	values := func(vs ...any) *Writer {
		w := NewWriter()
		w.Array(len(vs))
		for _, v := range vs {
			switch v := v.(type) {
			case int:
				w.Int(int64(v))
			case uint64:
				w.Uint(v)
			case string:
				w.String(v)
			case bool:
				w.Bool(v)
			}
		}
		return w
	}
	for name, w := range map[string]*Writer{
		"empty":               values(),
		"no kind":             values(0, 1),
		"unknown kind":        values(12, 1),
		"expire with a key":   values(7, 1, "k"),
		"time without one":    values(8, 1, 0, 1),
		"time without an nth": values(8, 1, 1, 0),
		"too long a time":     values(8, 1, MaxTime+1, 1),
		"time of two fields":  values(8, 1),
		"adopt, no handle":    values(11, 1, "k"),
		"request, no array":   values(6, 1, "k", 0, 0, 0, 0, 0, 0, 0, 0, "", "", 0, 0),
		"kind beyond a byte":  values(257, 1, "k", true),
		"negative kind":       values(-1, 1),
		"no seq":              values(2, 0),
		"negative seq":        values(2, -1),
		"seq beyond MaxSeq":   values(2, uint64(MaxSeq)+1),
		"acquire, no key":     values(1, 1, "", true),
		"acquire, no try":     values(1, 1, "k"),
		"acquire, long key":   values(1, 1, strings.Repeat("k", MaxKey+1), true),
		"force with a try":    values(4, 1, "k", true),
		"force, no key":       values(4, 1),
		"finish with a key":   values(2, 1, "k"),
		"a string for a kind": values("x", 1),
	} {
		r := NewReader(w.Bytes())
		if o := DecodeOp(r); !errors.Is(r.Err(), ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, o, r.Err())
		}
	}
	if r := NewReader(values(1, 1, strings.Repeat("k", MaxKey), true).Bytes()); DecodeOp(r).Key == "" || r.End() != nil {
		t.Errorf("the longest key: %v", r.Err())
	}
}

func TestRequestsThatMakeNoSense(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	many := func(n int) (keys []string) {
		for i := range n {
			keys = append(keys, fmt.Sprintf("%03d", i))
		}
		return keys
	}
	for name, change := range map[string]func(*Ask){
		"":                         func(*Ask) {},
		"as many keys as may be":   func(a *Ask) { a.Keys = many(MaxKeys) },
		"no key":                   func(a *Ask) { a.Keys = nil },
		"an empty key":             func(a *Ask) { a.Keys = []string{"", "a"} },
		"a key twice":              func(a *Ask) { a.Keys = []string{"a", "a"} },
		"keys in another order":    func(a *Ask) { a.Keys = []string{"b", "a"} },
		"too many keys":            func(a *Ask) { a.Keys = many(MaxKeys + 1) },
		"a long key":               func(a *Ask) { a.Keys = []string{long(MaxKey + 1)} },
		"unknown mode":             func(a *Ask) { a.Mode = 3 },
		"units without a limit":    func(a *Ask) { a.Mode, a.Weight = Units, 1 },
		"units without a weight":   func(a *Ask) { a.Mode, a.Limit = Units, 1 },
		"a weight above its limit": func(a *Ask) { a.Mode, a.Limit, a.Weight = Units, 1, 2 },
		"a limit beyond":           func(a *Ask) { a.Mode, a.Limit, a.Weight = Units, MaxUnits+1, 2 },
		"shared units":             func(a *Ask) { a.Mode, a.Limit, a.Weight = Shared, 1, 1 },
		"negative ttl":             func(a *Ask) { a.TTL = -1 },
		"a long ttl":               func(a *Ask) { a.TTL = MaxTime + 1 },
		"a long cooldown":          func(a *Ask) { a.Cooldown = MaxTime + 1 },
		"a long detached":          func(a *Ask) { a.Detached = MaxTime + 1 },
		"a long value":             func(a *Ask) { a.Value = make([]byte, MaxValue+1) },
		"a long where":             func(a *Ask) { a.Where = long(MaxWhere + 1) },
		"owner beyond MaxSeq":      func(a *Ask) { a.Owner = MaxSeq + 1 },
		"only, of nothing":         func(a *Ask) { a.Only = true },
		"origin, not detached":     func(a *Ask) { a.Origin = Origin{1, 1} },
		"origin without a number":  func(a *Ask) { a.Origin, a.Detached = Origin{1, 0}, 1 },
	} {
		a := &Ask{Keys: []string{"a", "b"}}
		change(a)
		w := NewWriter()
		Op{Kind: OpRequest, Seq: 1, Ask: a}.Encode(w)
		r := NewReader(w.Bytes())
		if DecodeOp(r); (r.End() == nil) != (name == "" || name == "as many keys as may be") {
			t.Errorf("%q: %v", name, r.Err())
		}
	}
}

func TestHandle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHandle(t)
		comesBack(t, h, h.Encode, DecodeHandle)
		text := h.String()
		if got, err := ParseHandle(text); err != nil || got != h {
			t.Fatalf("%s came back as %v, %v", text, got, err)
		}
		p := []byte(text)
		p[rapid.IntRange(0, len(p)-1).Draw(t, "at")]++
		if got, err := ParseHandle(string(p)); err == nil && got == h || err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatalf("%s came back as %v, %v", p, got, err)
		}
	})
	nonce := UUID{7}
	h := NewHandle(nonce, Origin{3, 5}, 9)
	if !h.Fits(nonce) || h.Fits(UUID{8}) {
		t.Error("a handle is to fit its nonce, and no other")
	}
	for _, other := range []Handle{{h.Origin, 8, h.Proof}, {Origin{4, 5}, 9, h.Proof}, {Origin{3, 6}, 9, h.Proof}, {h.Origin, 9, UUID{}}} {
		if other.Fits(nonce) {
			t.Errorf("%+v is made up", other)
		}
	}
	for _, s := range []string{"", "dl1-", h.String()[4:], h.String() + "A", h.String()[:20], Handle{}.String(), "dl2-" + h.String()[4:]} {
		if got, err := ParseHandle(s); !errors.Is(err, ErrMalformed) || got != (Handle{}) {
			t.Errorf("%q: %v %v", s, got, err)
		}
	}
}

func TestSessionsThatMakeNoSense(t *testing.T) {
	good := CreateSession{Nonce: UUID{1}, Name: "web-1", Server: UUID{2}, Instance: UUID{3}, TTL: 10_000}
	for name, change := range map[string]func(*CreateSession){
		"":                  func(*CreateSession) {},
		"no nonce":          func(c *CreateSession) { c.Nonce = UUID{} },
		"no instance":       func(c *CreateSession) { c.Instance = UUID{} },
		"no name":           func(c *CreateSession) { c.Name = "" },
		"long name":         func(c *CreateSession) { c.Name = strings.Repeat("n", MaxName+1) },
		"no ttl":            func(c *CreateSession) { c.TTL = 0 },
		"negative ttl":      func(c *CreateSession) { c.TTL = -1 },
		"ttl beyond MaxTTL": func(c *CreateSession) { c.TTL = MaxTTL + 1 },
		"long boot ID":      func(c *CreateSession) { c.Proof.Boot = strings.Repeat("b", MaxID+1) },
	} {
		c := good
		change(&c)
		w := NewWriter()
		c.Encode(w)
		r := NewReader(w.Bytes())
		if DecodeCreateSession(r); (r.End() == nil) != (name == "") {
			t.Errorf("%q: %v", name, r.Err())
		}
	}
}

// A hello from another version is told apart from a broken one: the receiver must be able to say which version it has.
func TestHelloOfAnotherVersion(t *testing.T) {
	w := NewWriter()
	w.Array(3)
	w.Uint(ProtocolVersion + 1)
	w.String("who knows")
	w.Bool(true)
	r := NewReader(w.Bytes())
	if h := DecodeHello(r); r.Err() != nil || h.Version != ProtocolVersion+1 {
		t.Fatal(h, r.Err())
	}
	w.Reset()
	w.Array(4)
	w.Uint(ProtocolVersion + 1)
	w.Uint(uint64(RefusedVersion))
	w.String("upgrade")
	w.Bool(true)
	r = NewReader(w.Bytes())
	if a := DecodeWelcome(r); r.Err() != nil || a.Version != ProtocolVersion+1 || a.Refusal != RefusedVersion || a.Text != "upgrade" {
		t.Fatal(a, r.Err())
	}
}

func TestProvesDead(t *testing.T) {
	old := Proof{Boot: "boot", NetNS: "net", Bound: "10.0.0.1:7950", Dir: "8:1234", Started: 100}
	change := func(f func(*Proof)) Proof {
		p := old
		p.Started = 200
		f(&p)
		return p
	}
	for _, c := range []struct {
		name string
		p    Proof
		want bool
	}{
		{"same address and directory", change(func(*Proof) {}), true},
		{"same address only", change(func(p *Proof) { p.Dir = "8:9" }), true},
		{"same address, in memory", change(func(p *Proof) { p.Dir = "" }), true},
		{"same directory only", change(func(p *Proof) { p.Bound = "10.0.0.1:7951" }), true},
		{"same directory in another namespace", change(func(p *Proof) { p.NetNS = "other" }), true},
		{"same address in another namespace", change(func(p *Proof) { p.NetNS, p.Dir = "other", "" }), false},
		{"neither", change(func(p *Proof) { p.Bound, p.Dir = "10.0.0.1:7951", "8:9" }), false},
		{"another kernel", change(func(p *Proof) { p.Boot = "other" }), false},
		{"no kernel's name", change(func(p *Proof) { p.Boot = "" }), false},
		{"started before it: a late copy of a dead one's words", change(func(p *Proof) { p.Started = 99 }), false},
		{"nothing known", Proof{}, false},
	} {
		if got := c.p.ProvesDead(old); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if (Proof{Boot: "b"}).ProvesDead(Proof{Boot: "b"}) {
		t.Error("the same kernel alone proves nothing")
	}
}
