package node

import (
	"fmt"

	"github.com/godistlock/distlock/internal/gossip"
	"github.com/godistlock/distlock/internal/session"
	"github.com/godistlock/distlock/internal/wire"
)

// Rolling versions. A process that knows format 1 of the log only can't read an entry, or a snapshot, of format 2: it would have to stop. So the
// leader writes format 2 from the moment on when everybody reads it, and never goes back: what the state holds by then can't be said in format 1.
// Who comes later and can't read it gets no seat (see roster), and takes its locks as a client.

// allowedFormat is the greatest version of the log's format that all read who may have to, and where that is less than this process's own, who
// is to be updated, for people. It is asked under lead.formatMu only.
func (n *Node) allowedFormat(g *group) (allowed uint64, tooOld string) {
	conf, _, err := g.configuration()
	if err != nil {
		return 1, "the Raft group's members are not known"
	}
	seats := make([]wire.UUID, 0, len(conf.Servers))
	for _, s := range conf.Servers {
		id, err := wire.ParseUUID(string(s.ID))
		if err != nil {
			return 1, fmt.Sprintf("server %q of the Raft group is none of this library", s.ID)
		}
		seats = append(seats, id)
	}
	return formatOfAll(n.ownFormat(), n.raftClusterID(), seats, n.members())
}

// ownFormat is the greatest version that this process reads.
func (n *Node) ownFormat() uint64 {
	if f := n.cfg.Hooks.Format; f != 0 {
		return f
	}
	return wire.Format
}

// formatOfAll decides it: every server with a seat must have said, at some time, that it reads the format, and so must every process that is here
// now and may be given a seat: those of the cluster, and those that found it or are about to join it, which say only later whose they are.
func formatOfAll(own uint64, cluster wire.UUID, seats []wire.UUID, members []gossip.Member) (allowed uint64, tooOld string) {
	allowed = own
	lower := func(format uint64, text string) {
		if format = max(format, 1); format < allowed {
			allowed, tooOld = format, text
		}
	}
	known := make(map[wire.UUID]gossip.Member, len(members))
	for _, m := range members {
		if lives(m) && (m.Cluster == cluster || !m.Open) {
			lower(m.Format, tooOldText(m.Name))
		}
		if old, ok := known[m.Server]; m.State != gossip.Left && (!ok || lives(m) && !lives(old) || lives(m) == lives(old) && m.Since.After(old.Since)) {
			known[m.Server] = m
		}
	}
	for _, s := range seats {
		if m, ok := known[s]; ok {
			lower(m.Format, tooOldText(m.Name))
		} else {
			lower(1, fmt.Sprintf("server %s of the Raft group is not there to say which version it is of; start it, or wait until another has its seat", s))
		}
	}
	return allowed, tooOld
}

func tooOldText(name string) string {
	return fmt.Sprintf("%q is of a version that knows exclusive locks of one key only; update it, and the whole cluster can have other kinds", name)
}

// checkFormat raises the format in which entries are written to what all members read by now. It answers for people who is too old for the one
// that this process writes; "" if nobody is.
func (l *lead) checkFormat() (tooOld string) {
	l.formatMu.Lock()
	defer l.formatMu.Unlock()
	if l.batch.format.Load() >= wire.Format {
		return ""
	}
	allowed, tooOld := l.allowed()
	l.raiseFormatLocked(allowed)
	return tooOld
}

// raiseFormat makes format the least in which entries are written.
func (l *lead) raiseFormat(format uint64) {
	l.formatMu.Lock()
	defer l.formatMu.Unlock()
	l.raiseFormatLocked(format)
}

func (l *lead) raiseFormatLocked(format uint64) {
	if old := l.batch.format.Load(); format > old {
		l.batch.format.Store(format)
		l.logger.Debug("entries of the log have another format from now on", "format", format, "before", old)
	}
}

// format is the version in which entries are written.
func (l *lead) format() uint64 { return l.batch.format.Load() }

// downToFormat1 makes of ops what the log can carry while a process is too old for more. What can be said in format 1 is; the rest is answered by
// outs. Before anything is refused, check says who is too old, or that nobody is any more: then ops are fine as they are.
func downToFormat1(ops []wire.Op, check func() (tooOld string, fine bool)) (kept []wire.Op, outs []wire.Outcome, fine bool) {
	tooOld, checked := "", false
	kept = make([]wire.Op, 0, len(ops)) // the sender may send the others again
	for _, o := range ops {
		plain, ok := inFormat1(o)
		if ok {
			kept = append(kept, plain)
			continue
		}
		if !checked {
			checked = true
			if tooOld, fine = check(); fine {
				return ops, nil, true
			}
		}
		if o.Kind == wire.OpTime { // there is no such grant
			outs = append(outs, wire.Outcome{Kind: wire.OutEnded, Seq: o.Seq})
			continue
		}
		outs = append(outs, wire.Outcome{Kind: wire.OutFailed, Seq: o.Seq, Code: wire.CodeUnsupported, Text: tooOld})
	}
	return kept, outs, false
}

// downToFormat1 is the function of that name for this lead, which tells sink what is refused.
func (l *lead) downToFormat1(id uint64, ops []wire.Op, sink session.Sink) []wire.Op {
	ops, outs, _ := downToFormat1(ops, func() (string, bool) { // nothing is refused because of a process that has just been updated
		tooOld := l.checkFormat()
		return tooOld, l.format() >= wire.OpFormat
	})
	if len(outs) > 0 {
		sink.Outcomes(id, outs)
	}
	return ops
}

// inFormat1 is o as format 1 says it, if it can.
func inFormat1(o wire.Op) (wire.Op, bool) {
	switch {
	case o.Format() < wire.OpFormat:
		return o, true
	case o.Kind == wire.OpExpire: // no grant has a cooldown yet, so all that is lost is that it counts as an expiry
		return wire.Op{Kind: wire.OpFinish, Seq: o.Seq}, true
	case o.Kind == wire.OpRequest && plain(o.Ask):
		return wire.Op{Kind: wire.OpAcquire, Try: o.Try, Seq: o.Seq, Key: o.Ask.Keys[0]}, true
	}
	return o, false
}

// plain says that a asks for one key exclusively and for nothing else, but for what helps people.
func plain(a *wire.Ask) bool {
	return len(a.Keys) == 1 && a.Mode == wire.Exclusive && a.Limit == 0 && a.Weight == 0 && a.TTL == 0 && a.Cooldown == 0 && a.Detached == 0 &&
		len(a.Value) == 0 && a.Origin.IsZero() && !a.Only
}
