package wire

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/godistlock/distlock/internal/alloctest"
)

func charterOf(n int) Charter {
	c := Charter{Cluster: UUID{1}, Inviter: UUID{2, 0}, Name: "a", Expect: 3, Size: 3, Silent: true}
	for i := range n {
		c.Voters = append(c.Voters, UUID{2, byte(i)})
	}
	return c
}

// foundings has one message of each kind.
func foundings() []Founding {
	c := charterOf(3)
	return []Founding{
		{Kind: FoundingInvite, Cluster: c.Cluster, Charter: c, Target: UUID{3}, Round: 7},
		{Kind: FoundingAnswer, Cluster: UUID{1}, Verdict: VerdictKnown, Known: UUID{4}, Text: "why"},
		{Kind: FoundingRelease, Cluster: UUID{1}},
		{Kind: FoundingBegun, Cluster: c.Cluster, Charter: c},
		{Kind: FoundingBound, Cluster: UUID{1}, Target: UUID{3}, Verdict: VerdictRefused},
		{Kind: FoundingAsk, Cluster: UUID{1}},
	}
}

func encodeFounding(m Founding) []byte {
	w := NewWriter()
	m.Encode(w)
	return w.Bytes()
}

func TestFoundingSurvives(t *testing.T) {
	for _, m := range foundings() {
		p := encodeFounding(m)
		r := NewReader(p)
		if got := DecodeFounding(r); r.End() != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v became %+v (%v)", m, got, r.Err())
		}
		for n := range p { // cut short anywhere
			r := NewReader(p[:n])
			if got := DecodeFounding(r); !errors.Is(r.End(), ErrMalformed) || !reflect.DeepEqual(got, Founding{}) {
				t.Errorf("%d bytes of %+v became %+v (%v)", n, m, got, r.Err())
			}
		}
	}
}

func TestFoundingRefused(t *testing.T) {
	with := func(change func(*Charter)) Founding {
		c := charterOf(3)
		change(&c)
		return Founding{Kind: FoundingBegun, Cluster: c.Cluster, Charter: c}
	}
	for name, m := range map[string]Founding{
		"no cluster":          {Kind: FoundingAsk},
		"no verdict":          {Kind: FoundingAnswer, Cluster: UUID{1}},
		"unknown verdict":     {Kind: FoundingBound, Cluster: UUID{1}, Verdict: 9},
		"unknown kind":        {Kind: 99, Cluster: UUID{1}},
		"long text":           {Kind: FoundingAnswer, Cluster: UUID{1}, Verdict: VerdictBusy, Text: strings.Repeat("x", MaxText+1)},
		"long name":           with(func(c *Charter) { c.Name = strings.Repeat("x", MaxName+1) }),
		"too many voters":     with(func(c *Charter) { *c = charterOf(MaxCharterVoters + 1) }),
		"no voters":           with(func(c *Charter) { c.Voters = nil }),
		"a voter twice":       with(func(c *Charter) { c.Voters = append(c.Voters, c.Voters[0]) }),
		"a voter that is not": with(func(c *Charter) { c.Voters = append(c.Voters, UUID{}) }),
		"a foreign inviter":   with(func(c *Charter) { c.Inviter = UUID{9} }),
		"nobody expected":     with(func(c *Charter) { c.Expect = 0 }),
		"too many expected":   with(func(c *Charter) { c.Expect = MaxCharterExpect + 1 }),
		"no size":             with(func(c *Charter) { c.Size = 0 }),
		"too great a size":    with(func(c *Charter) { c.Size = MaxCharterVoters + 1 }),
		"a charter of none":   with(func(c *Charter) { c.Cluster = UUID{} }),
	} {
		r := NewReader(encodeFounding(m))
		if got := DecodeFounding(r); !errors.Is(r.End(), ErrMalformed) {
			t.Errorf("%s: became %+v", name, got)
		}
	}
}

func FuzzFounding(f *testing.F) {
	for _, m := range foundings() {
		f.Add(append([]byte(nil), encodeFounding(m)...))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		alloctest.Paid(t, len(p), func() { DecodeFounding(NewReader(p)) })
		r := NewReader(p)
		m := DecodeFounding(r)
		if r.End() != nil {
			return
		}
		r = NewReader(encodeFounding(m))
		if got := DecodeFounding(r); r.End() != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("%+v became %+v (%v)", m, got, r.Err())
		}
	})
}
