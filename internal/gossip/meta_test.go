package gossip

import (
	"errors"
	"strings"
	"testing"

	"github.com/godistlock/distlock/internal/alloctest"
	"github.com/godistlock/distlock/internal/wire"
	"pgregory.net/rapid"
)

func anyMeta() *rapid.Generator[Meta] {
	uuid := rapid.Custom(func(t *rapid.T) wire.UUID {
		return wire.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid"))
	})
	text := func(limit int) *rapid.Generator[string] { // any bytes, and often the longest there are
		return rapid.OneOf(
			rapid.Custom(func(t *rapid.T) string {
				return string(rapid.SliceOfN(rapid.Byte(), 1, limit).Draw(t, "bytes"))
			}),
			rapid.Just(strings.Repeat("\xff", limit)),
		)
	}
	return rapid.Custom(func(t *rapid.T) Meta {
		m := Meta{
			Instance: uuid.Draw(t, "instance"), Server: uuid.Draw(t, "server"), Cluster: uuid.Draw(t, "cluster"),
			Name: text(wire.MaxName).Draw(t, "name"), Addr: text(wire.MaxAddr).Draw(t, "addr"),
			Term:   rapid.OneOf(rapid.Uint64(), rapid.Just(^uint64(0))).Draw(t, "term"),
			Expect: rapid.Uint8().Draw(t, "expect"), Voters: rapid.Uint8().Draw(t, "voters"),
			Format: uint64(rapid.Uint8().Draw(t, "format")), Started: rapid.Uint64Max(maxStarted).Draw(t, "started"),
		}
		m.Instance[0] = 1 // not zero
		for _, b := range []*bool{&m.MayVote, &m.Durable, &m.Open, &m.Voter, &m.Leader, &m.Standby, &m.Leaving, &m.Parting} {
			*b = rapid.Bool().Draw(t, "flag")
		}
		return m
	})
}

// Hazard 23: memberlist panics on more than 512 bytes.
func TestMetaFitsWhateverIsInIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := anyMeta().Draw(t, "meta")
		p := m.encode()
		if len(p) > MaxMeta {
			t.Fatalf("%d bytes, memberlist carries %d: %+v", len(p), MaxMeta, m)
		}
		if got, err := decodeMeta(p); err != nil || got != m {
			t.Fatalf("%+v came back as %+v, %v", m, got, err)
		}
	})
}

func TestMetaBeyondBoundsIsRefused(t *testing.T) {
	good := Meta{Instance: wire.NewUUID(), Name: "a", Addr: "127.0.0.1:1"}
	for name, spoil := range map[string]func(*Meta){
		"no instance":      func(m *Meta) { m.Instance = wire.UUID{} },
		"no name":          func(m *Meta) { m.Name = "" },
		"a long name":      func(m *Meta) { m.Name = strings.Repeat("n", wire.MaxName+1) },
		"no address":       func(m *Meta) { m.Addr = "" },
		"a long address":   func(m *Meta) { m.Addr = strings.Repeat("a", wire.MaxAddr+1) },
		"no such format":   func(m *Meta) { m.Format = maxFormat + 1 },
		"a megabyte of it": func(m *Meta) { m.Name = strings.Repeat("n", 1<<20) },
	} {
		m := good
		spoil(&m)
		if m.check() == nil {
			t.Errorf("%s: may be sent", name)
		}
		if m.Format > maxFormat {
			continue // what is above is ignored, as flags of the future are
		}
		if _, err := decodeMeta(m.encode()); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: read with error %v", name, err)
		}
	}
	if _, err := Start(Config{Self: Meta{Instance: wire.NewUUID(), Name: strings.Repeat("n", 129), Addr: "127.0.0.1:1"}}); err == nil {
		t.Error("Start takes a name that doesn't fit")
	}
}

func TestMetaOfAnotherVersionSaysSo(t *testing.T) {
	w := wire.NewWriter()
	w.Array(3)
	w.Uint(MetaVersion + 1)
	w.String("whatever")
	w.String("it has")
	if _, err := decodeMeta(w.Bytes()); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("got %v", err)
	}
}

// The format goes where a process that doesn't know of it looks for flags only, and one that doesn't send it has none.
func TestMetaFormatIsNewsToNobody(t *testing.T) {
	m := Meta{Instance: wire.NewUUID(), Name: "a", Addr: "127.0.0.1:1", MayVote: true, Leaving: true}
	old := m.encode()
	m.Format = 2
	p := m.encode()
	r, was := wire.NewReader(p), wire.NewReader(old)
	if n, v := r.Array(64), r.Uint(); n != was.Array(64) || v != was.Uint() {
		t.Fatalf("%d fields of version %d: it would not be read", n, v)
	}
	if got, err := decodeMeta(p); err != nil || got != m {
		t.Errorf("%+v came back as %+v, %v", m, got, err)
	}
	if got, err := decodeMeta(old); err != nil || got.Format != 0 {
		t.Errorf("a process that sends none has format %d, %v", got.Format, err)
	}
	if m.flags() >= 1<<formatShift {
		t.Error("the flags reach into the format")
	}
}

func FuzzDecodeMeta(f *testing.F) {
	f.Add(Meta{Instance: wire.NewUUID(), Name: "a", Addr: "127.0.0.1:1", Open: true}.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		alloctest.PaidWith(t, 0, alloctest.Constant, func() { _, _ = decodeMeta(p) }) // MaxMeta bounds it
		m, err := decodeMeta(p)
		if err != nil {
			return
		}
		if again, err := decodeMeta(m.encode()); err != nil || again != m {
			t.Errorf("%+v came back as %+v, %v", m, again, err)
		}
	})
}
