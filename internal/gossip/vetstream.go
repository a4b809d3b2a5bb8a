package gossip

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
)

// What one gossip stream carries is one message a direction; it is read and judged as a whole before memberlist gets its first byte. Memory is
// taken as bytes arrive, never for what a length claims.
const (
	maxExchange  = 8 << 20  // bytes of one message: all that a process knows, some 300 bytes for each process of a fleet
	freeExchange = 64 << 10 // of each stream without regard to the others: probes and fleets of two hundred always get through
	allExchanges = 16 << 20 // that all streams together hold beyond that
	maxNodes     = 2 * maxMembers
	minNode      = 64 // bytes of what is said of a process; memberlist makes room for a hundred of each that is announced
	readStep     = 4 << 10
)

var errFullHouse = errors.New("gossip: too much is being received at a time")

// room is what streams may still hold beyond their free part.
type room struct {
	mu   sync.Mutex // guards used
	used int
}

func (r *room) take(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used+n > allExchanges {
		return false
	}
	r.used += n
	return true
}

func (r *room) give(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used -= n
}

// incoming is the message that comes in on a stream.
type incoming struct {
	room     *room
	seals    seals
	label    string
	others   string // as in transport
	accepted bool   // it opens with a label, and asks; else it answers

	buf  []byte
	held int // of room
}

// receive reads it from c, whose deadline bounds the time. An error that is a *refusal says what is wrong with who sends it.
func (m *incoming) receive(c net.Conn) ([]byte, error) {
	at := 0
	if m.accepted {
		n, err := m.readLabel(c)
		if err != nil {
			return nil, err
		}
		at = n
	}
	if err := m.need(c, at+1); err != nil {
		return nil, err
	}
	sealed := m.buf[at] == msgSealed
	switch {
	case sealed && m.seals == nil:
		return nil, refuse(theySeal)
	case !sealed && m.seals != nil:
		return nil, refuse(otherSecret)
	case sealed:
		return m.buf, m.openSealed(c, at)
	}
	x := exchange{answer: !m.accepted}
	for {
		rest, err := x.advance(m.buf[at:])
		at = len(m.buf) - len(rest)
		switch {
		case err == nil && len(rest) > 0: // nothing follows a message
			return nil, refuse(noise)
		case err == nil:
			return m.buf, nil
		case !errors.Is(err, errShort):
			return nil, refuse(noise)
		case len(rest) > x.most():
			return nil, refuse(noise)
		}
		if err := m.more(c); err != nil {
			return nil, err
		}
	}
}

// readLabel answers how many bytes the label takes.
func (m *incoming) readLabel(c net.Conn) (int, error) {
	if err := m.need(c, 2); err != nil {
		return 0, err
	}
	if m.buf[0] != labelMark {
		return 0, refuse(noise)
	}
	n := 2 + int(m.buf[1])
	if err := m.need(c, n); err != nil {
		return 0, err
	}
	switch group := string(m.buf[2:n]); {
	case group == m.label:
		return n, nil
	case group == m.others && m.seals == nil:
		return 0, refuse(theySeal)
	case group == m.others:
		return 0, refuse(otherSecret)
	}
	return 0, refuse(otherGroup)
}

// openSealed reads a sealed message and judges what is in it.
func (m *incoming) openSealed(c net.Conn, at int) error {
	const head = 5 // type and length
	if err := m.need(c, at+head); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(m.buf[at+1:])
	if n > maxExchange {
		return refuse(noise)
	}
	if err := m.need(c, at+head+int(n)); err != nil {
		return err
	}
	body := m.buf[at+head:]
	if len(body) > int(n) {
		return refuse(noise)
	}
	if !m.hold(int(n)) { // the plain text, for a moment
		return errFullHouse
	}
	defer m.release(int(n))
	plain, err := m.seals.open(nil, body, append(m.buf[at:at+head:at+head], m.label...))
	if err != nil {
		return refuse(otherSecret)
	}
	x := exchange{answer: !m.accepted}
	if rest, err := x.advance(plain); err != nil || len(rest) > 0 {
		return refuse(noise)
	}
	return nil
}

// need reads until there are n bytes.
func (m *incoming) need(c net.Conn, n int) error {
	for len(m.buf) < n {
		if err := m.more(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *incoming) more(c net.Conn) error {
	if len(m.buf) > maxExchange {
		return refuse(noise)
	}
	if cap(m.buf)-len(m.buf) < readStep {
		grown := max(2*cap(m.buf), readStep)
		if !m.hold(grown - cap(m.buf)) {
			return errFullHouse
		}
		m.buf = slices.Grow(m.buf, grown-len(m.buf))
	}
	n, err := c.Read(m.buf[len(m.buf):cap(m.buf)])
	m.buf = m.buf[:len(m.buf)+n]
	if n > 0 {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) && len(m.buf) > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// hold takes n bytes more; release gives them back.
func (m *incoming) hold(n int) bool {
	over := max(m.held+n-freeExchange, 0) - max(m.held-freeExchange, 0)
	if over > 0 && !m.room.take(over) {
		return false
	}
	m.held += n
	return true
}

func (m *incoming) release(n int) {
	if over := max(m.held-freeExchange, 0) - max(m.held-n-freeExchange, 0); over > 0 {
		m.room.give(over)
	}
	m.held -= n
}

// drop forgets what was received.
func (m *incoming) drop() {
	m.release(m.held)
	m.buf = nil
}

// exchange judges the plain message of a stream as its bytes come in.
type exchange struct {
	answer bool
	begun  bool // its type has been read, and of a push/pull the header
	nodes  int  // that are still to come
	user   int  // bytes that are still to come
}

// most is how many bytes that have come in may make no sense yet: those of a field map.
func (x *exchange) most() int {
	if x.begun && x.nodes == 0 {
		return x.user
	}
	return maxErrorText + maxFields*(maxText+maxFieldName)
}

// advance takes what it understands off b. With nil, the message is complete; with errShort, more must come.
func (x *exchange) advance(b []byte) ([]byte, error) {
	if !x.begun {
		rest, err := x.begin(b)
		if err != nil {
			return b, err
		}
		b, x.begun = rest, true
	}
	for ; x.nodes > 0; x.nodes-- {
		f := fields{b}
		if err := f.read(nil); err != nil {
			return b, err
		}
		if len(b)-len(f.b) < minNode {
			return b, errMalformed
		}
		b = f.b
	}
	if len(b) < x.user {
		return b, errShort
	}
	b, x.user = b[x.user:], 0
	return b, nil
}

// begin reads the type and, whatever it is, the map after it.
func (x *exchange) begin(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return b, errShort
	}
	switch b[0] {
	case msgPushPull:
	case msgPing:
		if x.answer {
			return b, errMalformed
		}
	case msgAck, msgError:
		if !x.answer {
			return b, errMalformed
		}
	default:
		return b, errMalformed
	}
	var nodes, user uint64
	f := fields{b[1:]}
	err := f.read(func(name string, n uint64) {
		switch name {
		case "Nodes":
			nodes = n
		case "UserStateLen":
			user = n
		}
	})
	switch {
	case err != nil:
		return b, err
	case b[0] != msgPushPull:
	case nodes > maxNodes || user > maxExchange:
		return b, errMalformed
	default:
		x.nodes, x.user = int(nodes), int(user)
	}
	return f.b, nil
}
