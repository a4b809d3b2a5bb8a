package raftfsm

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/godistlock/distlock/internal/wire"
)

// MaxBindings bounds the servers that are bound to names: many times the seats that a cluster has, and those that just lost one.
const MaxBindings = 64

// Binding is a server of the Raft group and the name that it goes by, for as long as it has a seat: certificates prove names, and nothing
// else proves that a server's UUID is not another's.
type Binding struct {
	Server wire.UUID
	Name   string
}

// Bindings are those of a state, ascending by server. They never change: a state that changes them gets new ones. Nil are none.
type Bindings struct{ all []Binding }

// NameOf is the name that server is bound to; false when it is bound to none.
func (b *Bindings) NameOf(server wire.UUID) (string, bool) {
	if b == nil {
		return "", false
	}
	at, ok := b.find(server)
	if !ok {
		return "", false
	}
	return b.all[at].Name, true
}

// All lists them.
func (b *Bindings) All() []Binding {
	if b == nil {
		return nil
	}
	return slices.Clone(b.all)
}

func (b *Bindings) find(server wire.UUID) (at int, ok bool) {
	return slices.BinarySearchFunc(b.all, server, func(x Binding, server wire.UUID) int { return bytes.Compare(x.Server[:], server[:]) })
}

// bind binds a server that is bound to nothing.
func (m *machine) bind(c Bind) Reply {
	old := m.bindings
	if old == nil {
		old = &Bindings{}
	}
	at, bound := old.find(c.Server)
	switch {
	case c.Server.IsZero() || c.Name == "":
		return Reply{Code: wire.CodeInvalid, Text: "a server without a UUID, or a name, to be bound to one"}
	case bound && old.all[at].Name == c.Name:
		return Reply{}
	case bound:
		return Reply{Code: wire.CodeHeld, Text: fmt.Sprintf("server %v is bound to the name %q", c.Server, old.all[at].Name)}
	case len(old.all) >= MaxBindings:
		return Reply{Code: wire.CodeLimit, Text: fmt.Sprintf("%d servers are bound to names, which is the limit", MaxBindings)}
	}
	m.bindings = &Bindings{slices.Insert(slices.Clone(old.all), at, Binding(c))}
	return Reply{}
}

// unbind forgets what a server is bound to.
func (m *machine) unbind(c Unbind) Reply {
	if m.bindings == nil || c.Term != m.term {
		return Reply{Code: wire.CodeStale}
	}
	at, bound := m.bindings.find(c.Server)
	switch {
	case !bound:
		return Reply{Code: wire.CodeStale}
	case len(m.bindings.all) == 1:
		m.bindings = nil
	default:
		m.bindings = &Bindings{slices.Delete(slices.Clone(m.bindings.all), at, at+1)}
	}
	return Reply{}
}

// Bindings are the names that servers are bound to.
func (v *View) Bindings() *Bindings { return v.s.bindings }

// Bindings are those of the state after the last batch, or after the snapshot that replaced it, without a lock: each stream asks for them
// often. The same pointer means that nothing has changed.
func (f *FSM) Bindings() *Bindings { return f.bindings.Load() }

func encodeBindings(w *wire.Writer, b *Bindings) {
	if b == nil {
		w.Array(0)
		return
	}
	w.Array(len(b.all))
	for _, x := range b.all {
		w.Array(2)
		w.UUID(x.Server)
		w.String(x.Name)
	}
}

func decodeBindings(r *wire.Reader) *Bindings {
	b := &Bindings{}
	for range r.Array(MaxBindings) {
		if n := r.Array(2); n != 2 {
			r.Fail("a binding with %d fields", n)
		}
		x := Binding{Server: r.UUID(), Name: r.String(wire.MaxName)}
		last := wire.UUID{}
		if n := len(b.all); n > 0 {
			last = b.all[n-1].Server
		}
		if x.Name == "" || !last.Less(x.Server) {
			r.Fail("server %v, bound to the name %q, out of order", x.Server, x.Name)
		}
		if r.Err() != nil {
			return nil
		}
		b.all = append(b.all, x)
	}
	if len(b.all) == 0 {
		return nil
	}
	return b
}
