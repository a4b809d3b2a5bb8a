package wire

import (
	"errors"
	"reflect"
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

func drawOp(t *rapid.T) Op {
	o := Op{Kind: OpKind(rapid.IntRange(1, 5).Draw(t, "kind")), Seq: rapid.Uint64Range(1, MaxSeq).Draw(t, "seq")}
	if o.Kind == OpAcquire || o.Kind == OpForce {
		o.Key = drawText(t, "key", 1, MaxKey)
	}
	if o.Kind == OpAcquire {
		o.Try = rapid.Bool().Draw(t, "try")
	}
	return o
}

func drawOutcome(t *rapid.T) Outcome {
	return Outcome{
		Kind: OutcomeKind(rapid.IntRange(1, 5).Draw(t, "kind")), Seq: rapid.Uint64().Draw(t, "seq"), Fence: rapid.Uint64().Draw(t, "fence"),
		Since: rapid.Int64().Draw(t, "since"), Code: Code(rapid.Byte().Draw(t, "code")), Text: drawText(t, "text", 0, MaxText),
	}
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
		"unknown kind":        values(6, 1),
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
