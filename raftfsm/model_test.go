package raftfsm

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// model is the lock table once more, as plainly as can be: maps and slices, nothing shared, nothing counted, every question answered by looking at
// everything. What it says of an entry is compared with what the machine says, word for word. Two things it takes from the machine, after a
// look at them: which of several that may be granted comes first, and which of several circles a deadlock is explained by.
type model struct {
	term, index uint64
	wall        int64
	silent      bool
	fence       uint64
	lastSession uint64
	dead        []wire.UUID
	bound       map[wire.UUID]string
	sessions    map[uint64]*modelSession
	queue       []*modelRequest // that wait, in the order in which they began to
	wishes      []*modelRequest // for the end of grants, likewise
	held        []*modelRequest // grants and cooldowns, by fence
	asking      *modelRequest   // that may have to wait
	res, got    *Result

	grants, releases, expirations uint64
}

type modelSession struct {
	who      wire.CreateSession
	renewed  uint64
	seen     map[uint64]bool
	requests map[uint64]*modelRequest
}

type modelRequest struct {
	session, seq uint64 // session 0: nobody's
	ask          wire.Ask
	now          string // "waiting", "granted", "cooling", "failed", "settled"; "forcing", "releasing" or "adopting" of a wish
	fence        uint64
	since        int64
	revoked      bool
	code         wire.Code
	failure      wire.Outcome
	ends         []*modelRequest // of a wish: the grants whose end it wants
	adopted      bool
	origin       wire.Origin
	nonce        wire.UUID
	left         int64
	armed, nth   uint64
}

func newModel(silent bool, fence uint64) *model {
	return &model{silent: silent, fence: fence, sessions: map[uint64]*modelSession{}, bound: map[wire.UUID]string{}}
}

// apply says what e leads to; got is what the machine says.
func (m *model) apply(index, term uint64, e Entry, got *Result) *Result {
	m.index, m.term, m.wall, m.got = index, term, e.Wall, got
	m.res = &Result{Index: index, Term: term}
	for _, c := range e.Commands {
		m.res.Replies = append(m.res.Replies, m.command(c))
	}
	return m.res
}

func (m *model) command(c Command) Reply {
	switch c := c.(type) {
	case Ops:
		ses := m.sessions[c.Session]
		if ses == nil {
			return Reply{Code: wire.CodeGone}
		}
		for _, o := range c.Ops {
			m.op(c.Session, ses, o)
			m.serveAll()
		}
	case Create:
		return m.create(c.CreateSession)
	case Close:
		if m.sessions[c.Session] == nil {
			return Reply{Code: wire.CodeGone}
		}
		m.endSession(c.Session, "released", &m.releases)
	case Expire:
		if ses := m.sessions[c.Session]; ses == nil || c.Term != m.term || c.Seen != ses.renewed {
			return Reply{Code: wire.CodeStale}
		}
		m.endSession(c.Session, "expired", &m.expirations)
	case EndSilence:
		if !m.silent || c.Term != m.term {
			return Reply{Code: wire.CodeStale}
		}
		m.silent = false
		m.serveAll()
	case Time:
		if c.Term != m.term {
			return Reply{Code: wire.CodeStale}
		}
		for _, t := range c.Timers {
			m.time(t)
		}
		m.serveAll()
	case Bind:
		switch name := m.bound[c.Server]; name {
		case "":
			m.bound[c.Server] = c.Name
		case c.Name:
		default:
			return Reply{Code: wire.CodeHeld, Text: fmt.Sprintf("server %v is bound to the name %q", c.Server, name)}
		}
	case Unbind:
		if m.bound[c.Server] == "" || c.Term != m.term {
			return Reply{Code: wire.CodeStale}
		}
		delete(m.bound, c.Server)
	}
	return Reply{}
}

func (m *model) tell(session uint64, o wire.Outcome) {
	m.res.Outcomes = append(m.res.Outcomes, Routed{session, o})
}

func (m *model) op(id uint64, ses *modelSession, o wire.Op) {
	r := ses.requests[o.Seq]
	fresh := !ses.seen[o.Seq]
	switch o.Kind {
	case wire.OpAcquire, wire.OpForce, wire.OpRequest, wire.OpRelease, wire.OpAdopt:
		ses.seen[o.Seq] = true
		if !fresh {
			switch {
			case r != nil:
				m.repeat(r)
			case o.Kind == wire.OpRequest && o.Ask.Only:
				m.tell(id, wire.Outcome{Kind: wire.OutFailed, Seq: o.Seq, Code: wire.CodeNotHeld, Text: notThere})
			}
			return
		}
		r = &modelRequest{session: id, seq: o.Seq, since: m.wall}
		ses.requests[o.Seq] = r
		switch o.Kind {
		case wire.OpAcquire:
			m.ask(r, wire.Ask{Keys: []string{o.Key}}, o.Try)
		case wire.OpRequest:
			m.ask(r, *o.Ask, o.Try)
		case wire.OpForce:
			m.force(r, o.Key)
		default:
			m.byHandle(r, o)
		}
	case wire.OpFinish, wire.OpExpire:
		ses.seen[o.Seq] = true
		m.tell(id, wire.Outcome{Kind: wire.OutEnded, Seq: o.Seq})
		switch {
		case r == nil:
		case r.now != "granted":
			m.remove(r)
		case o.Kind == wire.OpExpire:
			m.end(r, "expired", &m.expirations)
		default:
			m.end(r, "released", &m.releases)
		}
	case wire.OpConfirm:
		if r != nil && r.now == "granted" && r.revoked {
			m.conclude(r, &m.releases)
		}
	case wire.OpForget:
		if fresh {
			ses.seen[o.Seq] = true
		} else if r != nil && r.now != "waiting" && r.now != "granted" {
			m.remove(r)
		}
	case wire.OpTime:
		if r == nil || r.now != "granted" || r.ask.Detached == 0 {
			m.tell(id, wire.Outcome{Kind: wire.OutEnded, Seq: o.Seq})
			return
		}
		if o.Ask.Nth > r.nth {
			r.nth = o.Ask.Nth
			m.arm(r, o.Ask.Time)
		}
		m.tell(id, wire.Outcome{Kind: wire.OutNoted, Seq: o.Seq, Fence: r.nth})
	case wire.OpDowngrade:
		if r == nil || r.now != "granted" || r.ask.Mode == wire.Units {
			m.tell(id, wire.Outcome{Kind: wire.OutEnded, Seq: o.Seq})
			return
		}
		r.ask.Mode = wire.Shared
		m.tell(id, wire.Outcome{Kind: wire.OutNoted, Seq: o.Seq})
	}
}

func (m *model) ask(r *modelRequest, a wire.Ask, try bool) {
	if !a.Origin.IsZero() {
		for _, g := range m.held {
			if g.now == "granted" && g.session == 0 && g.from() == a.Origin {
				g.session, g.seq = r.session, r.seq
				m.sessions[r.session].requests[r.seq] = g
				m.repeat(g)
				return
			}
		}
		if a.Only {
			m.fail(r, wire.CodeNotHeld, notThere)
			return
		}
	}
	r.ask = a
	for _, key := range a.Keys {
		limit, used := m.limit(key)
		if !used || limit == a.Limit {
			continue
		}
		if limit == 0 {
			m.fail(r, wire.CodeInvalid, fmt.Sprintf("%q is in use as a lock, not as a semaphore; use another key, or the same kind everywhere", key))
		} else {
			m.fail(r, wire.CodeInvalid, fmt.Sprintf("%q is in use as a semaphore of %d units (Limit); use another key, or the same Limit everywhere", key, limit))
		}
		return
	}
	if try {
		for _, key := range a.Keys {
			if len(m.waiters(key)) > 0 || !m.fitsAt(key, r) || m.silent {
				m.fail(r, wire.CodeHeld, m.whyNot(r, key))
				return
			}
		}
	}
	r.now = "waiting"
	m.queue = append(m.queue, r)
	m.asking = r
	m.serveAll()
	m.asking = nil
	if r.now != "waiting" {
		return
	}
	if m.closesCircle(r) {
		text := "it would wait for …"
		if o := m.next(); o.Kind == wire.OutFailed && strings.HasPrefix(o.Text, "it would wait for \"") {
			text = o.Text
		}
		m.queue = slices.DeleteFunc(m.queue, func(o *modelRequest) bool { return o == r })
		m.fail(r, wire.CodeDeadlock, text)
		return
	}
	m.repeat(r)
}

// next is what the machine says after what was said so far.
func (m *model) next() Routed {
	if n := len(m.res.Outcomes); n < len(m.got.Outcomes) {
		return m.got.Outcomes[n]
	}
	return Routed{}
}

func (m *model) force(r *modelRequest, key string) {
	for _, g := range m.holders(key) {
		if g.now == "granted" {
			r.ends = append(r.ends, g)
		}
	}
	if len(r.ends) == 0 {
		m.fail(r, wire.CodeNotHeld, "nobody holds it")
		return
	}
	r.now, r.ask.Keys = "forcing", []string{key}
	m.wishes = append(m.wishes, r)
	for _, g := range r.ends {
		m.revoke(g, wire.CodeForced)
	}
}

func (m *model) byHandle(r *modelRequest, o wire.Op) {
	h := o.Ask.Handle
	adopt := o.Kind == wire.OpAdopt
	for _, g := range m.held {
		nonce := g.nonce
		if g.origin.IsZero() && g.session != 0 {
			nonce = m.sessions[g.session].who.Nonce
		}
		if g.now != "granted" || h != wire.NewHandle(nonce, g.from(), g.fence) || adopt && g.revoked && g.code != wire.CodeMoved {
			continue
		}
		r.ends, r.ask.Keys = []*modelRequest{g}, g.ask.Keys[:1]
		m.wishes = append(m.wishes, r)
		if adopt {
			r.now = "adopting"
			m.revoke(g, wire.CodeMoved)
		} else {
			r.now = "releasing"
			m.revoke(g, wire.CodeUnlocked)
		}
		return
	}
	m.fail(r, wire.CodeNotHeld, handleGone)
}

func (r *modelRequest) from() wire.Origin {
	if r.origin.IsZero() {
		return wire.Origin{Session: r.session, Seq: r.seq}
	}
	return r.origin
}

func (m *model) revoke(g *modelRequest, code wire.Code) {
	if g.revoked {
		if g.code == wire.CodeMoved {
			g.code = code
		}
		return
	}
	g.revoked, g.code = true, code
	if g.session == 0 {
		m.conclude(g, &m.releases)
		return
	}
	m.tell(g.session, m.revocation(g))
}

// conclude: the holder of a revoked grant has let go.
func (m *model) conclude(g *modelRequest, count *uint64) {
	switch g.code {
	case wire.CodeForced:
		m.end(g, "forced", count)
	case wire.CodeUnlocked:
		m.end(g, "released", count)
	default:
		for _, w := range m.wishes {
			if w.now == "adopting" && w.ends[0] == g {
				m.move(g, w)
				return
			}
		}
		m.end(g, "released", count)
	}
}

func (m *model) move(g, w *modelRequest) {
	if g.session != 0 {
		if g.origin.IsZero() {
			g.origin, g.nonce = g.from(), m.sessions[g.session].who.Nonce
		}
		delete(m.sessions[g.session].requests, g.seq)
	}
	m.disarm(g)
	m.remove(w)
	g.session, g.seq, g.adopted, g.revoked, g.code, g.ask.Owner, g.ask.Detached, g.nth = w.session, w.seq, true, false, 0, 0, 0, 0
	m.sessions[g.session].requests[g.seq] = g
	m.repeat(g)
	if slices.ContainsFunc(m.wishes, func(w *modelRequest) bool { return w.now == "adopting" && w.ends[0] == g }) {
		m.revoke(g, wire.CodeMoved)
	}
}

func (m *model) fail(r *modelRequest, code wire.Code, text string) {
	r.now, r.failure = "failed", wire.Outcome{Kind: wire.OutFailed, Seq: r.seq, Code: code, Text: text}
	m.repeat(r)
}

func (m *model) revocation(r *modelRequest) wire.Outcome {
	return wire.Outcome{Kind: wire.OutRevoked, Seq: r.seq, Fence: r.fence, Since: r.since, Code: r.code}
}

func (m *model) repeat(r *modelRequest) {
	switch r.now {
	case "granted":
		o := wire.Outcome{Kind: wire.OutGranted, Seq: r.seq, Fence: r.fence, Since: r.since}
		if r.adopted {
			o.Kind = wire.OutAdopted
			o.Grant = &wire.Grant{Keys: r.ask.Keys, Mode: r.ask.Mode, Limit: r.ask.Limit, Weight: r.ask.Weight, TTL: r.ask.TTL}
		}
		m.tell(r.session, o)
		if r.revoked {
			m.tell(r.session, m.revocation(r))
		}
	case "failed":
		m.tell(r.session, r.failure)
	case "settled":
		m.tell(r.session, wire.Outcome{Kind: wire.OutSettled, Seq: r.seq})
	case "waiting":
		m.tell(r.session, m.queued(r))
	}
}

// remove takes a request out of everything.
func (m *model) remove(r *modelRequest) {
	same := func(o *modelRequest) bool { return o == r }
	m.queue = slices.DeleteFunc(m.queue, same)
	m.wishes = slices.DeleteFunc(m.wishes, same)
	m.held = slices.DeleteFunc(m.held, same)
	if ses := m.sessions[r.session]; ses != nil {
		delete(ses.requests, r.seq)
	}
}

// end ends a grant.
func (m *model) end(g *modelRequest, why string, count *uint64) {
	*count++
	m.disarm(g)
	m.remove(g)
	if why != "released" && g.ask.Cooldown > 0 {
		c := &modelRequest{ask: g.ask, now: "cooling", fence: g.fence}
		m.held = append(m.held, c)
		slices.SortFunc(m.held, func(a, b *modelRequest) int { return cmp.Compare(a.fence, b.fence) })
		m.arm(c, g.ask.Cooldown)
	}
	g.now = "over"
	for _, key := range g.ask.Keys { // who wanted this
		for _, w := range slices.Clone(m.wishes) {
			over := func(g *modelRequest) bool { return g.now == "over" }
			if w.ask.Keys[0] != key || slices.ContainsFunc(w.ends, func(g *modelRequest) bool { return !over(g) }) {
				continue
			}
			m.wishes = slices.DeleteFunc(m.wishes, func(o *modelRequest) bool { return o == w })
			if w.now == "adopting" {
				m.fail(w, wire.CodeNotHeld, handleGone)
				continue
			}
			w.now = "settled"
			m.repeat(w)
		}
	}
}

func (m *model) arm(r *modelRequest, left int64) {
	r.left, r.armed = left, m.index
	m.res.Armed = append(m.res.Armed, Timer{Key: r.ask.Keys[0], Fence: r.fence, Armed: m.index, Left: left})
}

func (m *model) disarm(r *modelRequest) {
	if r.armed != 0 {
		m.res.Disarmed = append(m.res.Disarmed, r.fence)
		r.armed, r.left = 0, 0
	}
}

func (m *model) time(t Timer) {
	for _, r := range slices.Clone(m.held) {
		switch {
		case r.fence != t.Fence || r.ask.Keys[0] != t.Key || r.armed == 0 || r.armed != t.Armed:
		case t.Left > 0:
			r.left = min(r.left, t.Left)
		case r.now == "cooling":
			m.disarm(r)
			m.remove(r)
		default:
			if r.session != 0 {
				m.tell(r.session, wire.Outcome{Kind: wire.OutEnded, Seq: r.seq})
			}
			m.end(r, "expired", &m.expirations)
		}
	}
}

// What is there at a key.

func (m *model) holders(key string) (all []*modelRequest) {
	for _, r := range m.held {
		if slices.Contains(r.ask.Keys, key) {
			all = append(all, r)
		}
	}
	return all
}

func (m *model) waiters(key string) (all []*modelRequest) {
	for _, r := range m.queue {
		if slices.Contains(r.ask.Keys, key) {
			all = append(all, r)
		}
	}
	return all
}

func (m *model) limit(key string) (limit uint32, used bool) {
	for _, r := range append(m.holders(key), m.waiters(key)...) {
		return r.ask.Limit, true
	}
	return 0, false
}

func (m *model) fitsAt(key string, r *modelRequest) bool {
	used := r.ask.Weight
	for _, h := range m.holders(key) {
		if !share(h, r) && r.ask.Mode != wire.Units {
			return false
		}
		used += h.ask.Weight
	}
	return used <= r.ask.Limit
}

func share(a, b *modelRequest) bool { return a.ask.Mode == wire.Shared && b.ask.Mode == wire.Shared }

// earlier are the waiters of key before r.
func (m *model) earlier(key string, r *modelRequest) []*modelRequest {
	all := m.waiters(key)
	return all[:slices.Index(all, r)]
}

// serveAll grants whatever can be, until nothing can.
func (m *model) serveAll() {
	for !m.silent {
		var may []*modelRequest
		for _, r := range m.queue {
			if m.mayGo(r) {
				may = append(may, r)
			}
		}
		if len(may) == 0 {
			return
		}
		pick := may[0]
		o := m.next()
		for _, r := range may {
			if r.session != o.Session || r.seq != o.Seq {
				continue
			}
			if r == m.asking { // it need not begin to wait
				pick = r
			}
			for _, key := range r.ask.Keys { // else it must be the first at one of its keys
				if !slices.ContainsFunc(m.earlier(key, r), func(p *modelRequest) bool { return slices.Contains(may, p) && !share(p, r) }) {
					pick = r
				}
			}
		}
		m.queue = slices.DeleteFunc(m.queue, func(r *modelRequest) bool { return r == pick })
		m.fence++
		m.grants++
		pick.now, pick.fence, pick.since = "granted", m.fence, m.wall
		m.held = append(m.held, pick)
		m.repeat(pick)
	}
}

// mayGo: there is room for r, and nobody comes before it; or they wait for r's session, and none of them waits for the room that r would take.
func (m *model) mayGo(r *modelRequest) bool {
	behind := false
	for _, key := range r.ask.Keys {
		if !m.fitsAt(key, r) {
			return false
		}
		for _, p := range m.earlier(key, r) {
			behind = behind || !share(p, r)
		}
	}
	if !behind {
		return true
	}
	waitedFor := map[uint64]bool{}
	seen := map[*modelRequest]bool{}
	for _, key := range r.ask.Keys {
		for _, p := range m.earlier(key, r) {
			if len(p.ask.Keys) == 1 && !m.fitsAt(key, p) {
				return false
			}
			if len(p.ask.Keys) > 1 {
				m.follow(p, waitedFor, seen)
			}
		}
	}
	return waitedFor[r.session]
}

// follow notes all sessions that r waits for.
func (m *model) follow(r *modelRequest, waitedFor map[uint64]bool, seen map[*modelRequest]bool) {
	if seen[r] {
		return
	}
	seen[r] = true
	for _, key := range r.ask.Keys {
		for _, h := range m.holders(key) {
			if h.session == 0 {
				continue
			}
			waitedFor[h.session] = true
			for _, w := range m.queue {
				if w.session == h.session {
					m.follow(w, waitedFor, seen)
				}
			}
		}
		for _, p := range m.earlier(key, r) {
			m.follow(p, waitedFor, seen)
		}
	}
}

// closesCircle: r's owner waits for itself by way of others, and no release by anybody who goes on helps.
func (m *model) closesCircle(r *modelRequest) bool {
	type owner [2]uint64
	by := func(r *modelRequest) owner {
		if r.ask.Owner != 0 {
			return owner{r.session, r.ask.Owner}
		}
		return owner{r.session, r.seq}
	}
	if by(r)[1] == r.seq {
		return false // a new owner has nothing, whatever other requests say
	}
	stuck := map[owner]bool{}
	for _, w := range m.queue {
		stuck[by(w)] = true
	}
	goesOn := func(w *modelRequest) bool {
		for _, key := range w.ask.Keys {
			used, inTheWay := w.ask.Weight, false
			for _, h := range m.holders(key) {
				if h.session != 0 && stuck[by(h)] {
					used += h.ask.Weight
					inTheWay = inTheWay || !share(h, w)
				}
			}
			if w.ask.Mode == wire.Units {
				inTheWay = used > w.ask.Limit
			}
			for _, p := range m.earlier(key, w) {
				inTheWay = inTheWay || !share(p, w) && stuck[by(p)]
			}
			if inTheWay {
				return false
			}
		}
		return true
	}
	for changed := true; changed; {
		changed = false
		for o := range stuck {
			all := true
			for _, w := range m.queue {
				all = all && (by(w) != o || goesOn(w))
			}
			if all {
				delete(stuck, o)
				changed = true
			}
		}
	}
	// From r back to its owner, by those who are stuck.
	todo, seen := []*modelRequest{r}, map[owner]bool{}
	for len(todo) > 0 {
		w := todo[0]
		todo = todo[1:]
		for _, key := range w.ask.Keys {
			var blockers []*modelRequest
			if !m.fitsAt(key, w) {
				blockers = m.holders(key)
			}
			for _, p := range m.earlier(key, w) {
				if !share(p, w) {
					blockers = append(blockers, p)
				}
			}
			for _, b := range blockers {
				if b.session == 0 || !stuck[by(b)] || seen[by(b)] {
					continue
				}
				seen[by(b)] = true
				for _, w := range m.queue {
					if by(w) == by(b) {
						todo = append(todo, w)
					}
				}
			}
		}
	}
	return seen[by(r)]
}

// What is said to people.

func (m *model) holderText(key string) (string, *modelRequest) {
	all := m.holders(key)
	var first *modelRequest
	for _, h := range all {
		if h.now == "granted" {
			first = h
			break
		}
	}
	if first == nil && len(all) > 0 {
		return "in cooldown after a holder was lost", nil
	}
	if first == nil {
		return "free, but others wait for it", nil
	}
	text := "held detached"
	if first.session != 0 && first.ask.Detached == 0 {
		text = fmt.Sprintf("held by %q", m.sessions[first.session].who.Name)
	}
	text += fmt.Sprintf(" (fence %d", first.fence)
	if first.ask.Where != "" {
		text += ", taken at " + first.ask.Where
	}
	text += ")"
	if len(all) > 1 {
		text += fmt.Sprintf(" and %d more", len(all)-1)
	}
	return text, first
}

func (m *model) whyNot(r *modelRequest, key string) string {
	if m.silent {
		return "nothing is granted yet: holders from before the cluster lost its state may be alive"
	}
	text, h := m.holderText(key)
	if h != nil {
		text += " since " + time.UnixMicro(h.since).UTC().Format(time.RFC3339)
	}
	text += fmt.Sprintf(", %d waiting", len(m.waiters(key)))
	if len(r.ask.Keys) > 1 {
		return fmt.Sprintf("%q: %s", key, text)
	}
	return text
}

func (m *model) queued(r *modelRequest) wire.Outcome {
	key := r.ask.Keys[0]
	for i := len(r.ask.Keys) - 1; i >= 0; i-- {
		if !m.fitsAt(r.ask.Keys[i], r) {
			key = r.ask.Keys[i]
		}
	}
	o := wire.Outcome{Kind: wire.OutQueued, Seq: r.seq}
	text, h := m.holderText(key)
	if h != nil {
		o.Fence, o.Since = h.fence, h.since
	}
	if m.silent {
		text = "nothing was granted yet"
	}
	if len(r.ask.Keys) > 1 {
		text = fmt.Sprintf("%q: %s", key, text)
	}
	o.Text = fmt.Sprintf("%s, %d waiting before", text, len(m.waiters(key))-1)
	return o
}

// Sessions.

func (m *model) named(name string) (uint64, *modelSession) {
	for id, ses := range m.sessions {
		if ses.who.Name == name {
			return id, ses
		}
	}
	return 0, nil
}

func (m *model) create(c wire.CreateSession) Reply {
	if id, ses := m.named(c.Name); ses != nil && ses.who.Nonce == c.Nonce {
		ses.renewed = m.index
		m.res.Created = append(m.res.Created, id)
		return Reply{Session: id}
	}
	if old := m.sessions[c.Previous]; old != nil && old.who.Instance == c.Instance {
		m.endSession(c.Previous, "expired", &m.releases)
	}
	if id, old := m.named(c.Name); old != nil {
		if old.who.Instance == c.Instance || !c.Proof.ProvesDead(old.who.Proof) {
			return Reply{Code: wire.CodeNameTaken, Session: id, Text: fmt.Sprintf("the session of a process named %q lives", c.Name)}
		}
		if old.who.Server != c.Server {
			m.dead = append(slices.DeleteFunc(m.dead, func(u wire.UUID) bool { return u == old.who.Server }), old.who.Server)
		}
		m.endSession(id, "expired", &m.expirations)
	}
	m.dead = slices.DeleteFunc(m.dead, func(u wire.UUID) bool { return u == c.Server })
	m.lastSession++
	m.sessions[m.lastSession] = &modelSession{who: c, renewed: m.index, seen: map[uint64]bool{}, requests: map[uint64]*modelRequest{}}
	m.res.Created = append(m.res.Created, m.lastSession)
	return Reply{Session: m.lastSession}
}

func (m *model) endSession(id uint64, why string, count *uint64) {
	ses := m.sessions[id]
	var all []*modelRequest
	for _, r := range ses.requests {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *modelRequest) int { return cmp.Compare(a.seq, b.seq) })
	for _, r := range all {
		if r.now != "granted" {
			m.remove(r)
		}
	}
	for _, r := range all {
		switch {
		case r.now != "granted":
		case r.revoked:
			m.conclude(r, count)
		case r.ask.Detached > 0:
			if r.origin.IsZero() {
				r.origin, r.nonce = r.from(), ses.who.Nonce
			}
			r.session, r.ask.Owner = 0, 0
			if r.armed == 0 {
				m.arm(r, r.ask.Detached)
			}
		default:
			m.end(r, why, count)
		}
	}
	delete(m.sessions, id)
	m.res.Ended = append(m.res.Ended, id)
	m.serveAll()
}

// inUse are all keys that are, in order.
func (m *model) inUse() []string {
	var keys []string
	for _, r := range append(slices.Clone(m.held), m.queue...) {
		keys = append(keys, r.ask.Keys...)
	}
	sort.Strings(keys)
	return slices.Compact(keys)
}

// dump is the model's state as dump(View) shows it, without its first line.
func (m *model) dump() string {
	var out strings.Builder
	ids := make([]uint64, 0, len(m.sessions))
	for id := range m.sessions {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		ses, revoked := m.sessions[id], 0
		for _, r := range ses.requests {
			if r.revoked && r.now == "granted" {
				revoked++
			}
		}
		fmt.Fprintf(&out, "session %d %q, renewed %d, %d requests, %d revoked\n", id, ses.who.Name, ses.renewed, len(ses.requests), revoked)
	}
	holders, waiters := 0, 0
	for _, key := range m.inUse() {
		limit, _ := m.limit(key)
		fmt.Fprintf(&out, "key %q", key)
		for _, h := range m.holders(key) {
			if h.now == "cooling" {
				continue
			}
			holders++
			if h.session == 0 {
				fmt.Fprintf(&out, " held by nobody, fence %d", h.fence)
			} else {
				name := m.sessions[h.session].who.Name
				if h.ask.Detached > 0 {
					name = ""
				}
				fmt.Fprintf(&out, " held by %q %d/%d, fence %d", name, h.session, h.seq, h.fence)
			}
			out.WriteString(showMode(h.ask.Mode, h.ask.Weight, limit))
			if h.ask.Detached > 0 {
				out.WriteString(", detached")
			}
			if len(h.ask.Value) > 0 {
				fmt.Fprintf(&out, ", value %q", h.ask.Value)
			}
			if h.revoked {
				out.WriteString(", revoked")
			}
		}
		for _, w := range m.waiters(key) {
			waiters++
			fmt.Fprintf(&out, "; %q %d/%d waits", m.sessions[w.session].who.Name, w.session, w.seq)
		}
		out.WriteString("\n")
	}
	for _, d := range m.dead {
		fmt.Fprintf(&out, "dead %s\n", showID(d))
	}
	bound := slices.SortedFunc(maps.Keys(m.bound), func(a, b wire.UUID) int { return bytes.Compare(a[:], b[:]) })
	for _, server := range bound {
		fmt.Fprintf(&out, "server %s is %q\n", showID(server), m.bound[server])
	}
	fmt.Fprintf(&out, "%d keys, %d holders, %d waiters, %d sessions; %d grants, %d releases, %d expirations, fence %d\n",
		len(m.inUse()), holders, waiters, len(m.sessions), m.grants, m.releases, m.expirations, m.fence)
	return out.String()
}
