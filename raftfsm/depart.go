package raftfsm

import (
	"fmt"

	"github.com/godistlock/distlock/internal/wire"
)

// slot is the leaving slot: which server has it, and the entry with which it took it. The zero slot is free.
type slot struct {
	server wire.UUID
	at     uint64
}

// depart gives the leaving slot to a server, if it is free.
func (m *machine) depart(c Depart) Reply {
	switch {
	case c.Server.IsZero():
		return Reply{Code: wire.CodeInvalid, Text: "a server without a UUID wants to leave"}
	case m.slot.server == c.Server:
		return Reply{}
	case m.slot != slot{}:
		return Reply{Code: wire.CodeHeld, Text: fmt.Sprintf("server %v is leaving", m.slot.server)}
	}
	m.slot = slot{server: c.Server, at: m.index}
	return Reply{}
}

// endDepart frees the leaving slot.
func (m *machine) endDepart(c EndDepart) Reply {
	if c.Term != m.term || m.slot != (slot{server: c.Server, at: c.At}) || c.Server.IsZero() {
		return Reply{Code: wire.CodeStale}
	}
	m.slot = slot{}
	return Reply{}
}

// Leaving is the server that has the leaving slot, and the index of the entry with which it took it; zero for none.
func (v *View) Leaving() (server wire.UUID, at uint64) { return v.s.slot.server, v.s.slot.at }
