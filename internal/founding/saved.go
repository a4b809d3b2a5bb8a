package founding

import (
	"slices"

	"github.com/godistlock/distlock/internal/wire"
)

// MaxRefused bounds how many refused clusters are remembered.
const MaxRefused = 1024

// Saved is what must be stored before an answer goes out. It survives a restart with DataDir, beside the log; a process in memory
// starts from the zero Saved, as a new server. A Raft log that is found while Cluster is zero is the rest of a wipe that was
// cut short: it must be removed.
type Saved struct {
	Server    wire.UUID    // this process's Raft identity; a wipe changes it
	Accepted  wire.UUID    // the cluster whose invitation is accepted (or sent); zero with Cluster set
	Cluster   wire.UUID    // the cluster that this process belongs to
	Charter   wire.Charter // of Accepted or of Cluster, until that is open
	Bootstrap bool         // this server is the one to bootstrap Cluster
	Confirmed bool         // this server may have confirmed Cluster: only proof that Cluster can't open undoes it
	Open      bool         // Cluster has opened
	Refused   []Refusal    // oldest first
}

// Refusal says that Server will never act in Cluster again.
type Refusal struct{ Cluster, Server wire.UUID }

func (s Saved) clone() Saved {
	s.Refused = slices.Clone(s.Refused)
	return s // a Charter's voters never change in place
}

// refusal finds what was refused of cluster.
func (s Saved) refusal(cluster wire.UUID) (Refusal, bool) {
	for _, r := range s.Refused {
		if r.Cluster == cluster {
			return r, true
		}
	}
	return Refusal{}, false
}

// Encode appends s, for a store that keeps it as bytes.
func (s Saved) Encode(w *wire.Writer) {
	w.Array(8)
	w.UUID(s.Server)
	w.UUID(s.Accepted)
	w.UUID(s.Cluster)
	if s.Charter.IsZero() {
		w.Array(0)
	} else {
		w.Array(1)
		s.Charter.Encode(w)
	}
	w.Bool(s.Bootstrap)
	w.Bool(s.Confirmed)
	w.Bool(s.Open)
	w.Array(len(s.Refused))
	for _, r := range s.Refused {
		w.Array(2)
		w.UUID(r.Cluster)
		w.UUID(r.Server)
	}
}

// DecodeSaved reads a Saved.
func DecodeSaved(r *wire.Reader) Saved {
	if n := r.Array(8); n != 8 {
		r.Fail("first start's state with %d fields", n)
	}
	s := Saved{Server: r.UUID(), Accepted: r.UUID(), Cluster: r.UUID()}
	if r.Array(1) == 1 {
		s.Charter = wire.DecodeCharter(r)
	}
	s.Bootstrap, s.Confirmed, s.Open = r.Bool(), r.Bool(), r.Bool()
	n := r.Array(MaxRefused)
	for range n {
		if two := r.Array(2); two != 2 {
			r.Fail("refusal with %d fields", two)
		}
		f := Refusal{Cluster: r.UUID(), Server: r.UUID()}
		if r.Err() != nil {
			return Saved{}
		}
		s.Refused = append(s.Refused, f)
	}
	if r.Err() != nil {
		return Saved{}
	}
	return s
}
