package mux

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// A stream opens with magic, kind (1 byte), length (2 bytes, big endian) and a Hello; the answer is magic, length and a Welcome. Nothing
// else is sent before the answer has come, so neither side reads beyond what it asks for.
const magic = "DLK1"

// How a stream with TLS begins: the type and the major version of a record.
const (
	tlsHandshake = 22
	tlsMajor     = 3
)

const (
	helloHeader   = len(magic) + 1 + 2
	welcomeHeader = len(magic) + 2
)

var (
	errStranger = errors.New("this is no distlock stream")
	errTLS      = errors.New("it begins as TLS does")
)

func encodeHello(h wire.Hello) []byte {
	w := wire.NewWriter()
	h.Encode(w)
	p := append(make([]byte, 0, helloHeader+w.Len()), magic...)
	p = append(p, byte(h.Kind))
	p = binary.BigEndian.AppendUint16(p, uint16(w.Len()))
	return append(p, w.Bytes()...)
}

func encodeWelcome(a wire.Welcome) []byte {
	if len(a.Text) > wire.MaxText {
		a.Text = strings.ToValidUTF8(a.Text[:wire.MaxText], "")
	}
	w := wire.NewWriter()
	a.Encode(w)
	p := append(make([]byte, 0, welcomeHeader+w.Len()), magic...)
	p = binary.BigEndian.AppendUint16(p, uint16(w.Len()))
	return append(p, w.Bytes()...)
}

// readHello reads exactly one Hello. Of another version only Version and Kind are set.
func readHello(r io.Reader) (wire.Hello, error) {
	head := make([]byte, helloHeader)
	body, err := readOpening(r, head, MaxHello)
	if err != nil {
		return wire.Hello{}, err
	}
	rd := wire.NewReader(body)
	h := wire.DecodeHello(rd)
	kind := wire.Kind(head[len(magic)])
	if err := rd.Err(); err != nil {
		return wire.Hello{}, err
	}
	if h.Version != wire.ProtocolVersion {
		h.Kind = kind
		return h, nil
	}
	if err := rd.End(); err != nil {
		return wire.Hello{}, err
	}
	if h.Kind != kind {
		return wire.Hello{}, fmt.Errorf("%w: the header says kind %q, the hello %q", wire.ErrMalformed, kind, h.Kind)
	}
	return h, nil
}

// readWelcome reads exactly one Welcome. Of another version only Version, Refusal and Text are set.
func readWelcome(r io.Reader) (wire.Welcome, error) {
	body, err := readOpening(r, make([]byte, welcomeHeader), MaxWelcome)
	if err != nil {
		return wire.Welcome{}, err
	}
	rd := wire.NewReader(body)
	a := wire.DecodeWelcome(rd)
	err = rd.Err()
	if a.Version == wire.ProtocolVersion {
		err = rd.End()
	}
	return a, err
}

// readOpening fills head, which begins with the magic and ends with a length, and reads the body of that length.
func readOpening(r io.Reader, head []byte, limit int) ([]byte, error) {
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	if string(head[:len(magic)]) != magic {
		if head[0] == tlsHandshake && head[1] == tlsMajor {
			return nil, errTLS
		}
		return nil, errStranger
	}
	n := int(binary.BigEndian.Uint16(head[len(head)-2:]))
	if n == 0 || n > limit {
		return nil, fmt.Errorf("%w: opening of %d bytes, limit %d", wire.ErrMalformed, n, limit)
	}
	body := make([]byte, n)
	_, err := io.ReadFull(r, body)
	return body, err
}

// greet is the dialing side of the handshake. What ends it early closes c.
func (m *Mux) greet(c *Conn, addr string, target wire.UUID) error {
	if err := m.secure(c, time.Now().Add(HandshakeTimeout), false); err != nil {
		if spokePlain(err) {
			return &RefusedError{Addr: addr, Welcome: wire.Welcome{Version: wire.ProtocolVersion, Refusal: wire.RefusedTLS}}
		}
		return err
	}
	h := m.cfg.Self(c.kind, target)
	h.Version, h.Kind, h.Target = wire.ProtocolVersion, c.kind, target
	if _, err := c.Conn.Write(encodeHello(h)); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	a, err := readWelcome(c.Conn)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w (closed by the other side: no distlock process, or one with too many connections)", err)
		}
		return fmt.Errorf("waiting for the welcome: %w", err)
	}
	switch {
	case a.Version != wire.ProtocolVersion:
		a.Refusal = wire.RefusedVersion
	case a.Refusal == 0 && !target.IsZero() && a.Server != target:
		a.Refusal = wire.RefusedTarget // it should have said so itself
	}
	if a.Refusal != 0 {
		return &RefusedError{Addr: addr, Welcome: a}
	}
	if err := c.proven(h.Group, a.Name, a.Server); err != nil {
		return &StrangerError{Addr: addr, Name: a.Name, Reason: refusalName(wire.RefusedIdentity), Err: err}
	}
	c.hello, c.welcome = h, a
	return c.Conn.SetDeadline(time.Time{})
}

// proven says whether the other side is who it says it is, as far as that is asked here, and ends the bounds on strangers.
func (c *Conn) proven(group, name string, server wire.UUID) error {
	if c.secured == nil {
		return nil
	}
	if err := c.secured.Proves(group, name, server); err != nil {
		return err
	}
	c.secured.Trust()
	return nil
}

// spokePlain says that the other side speaks as we do, but without TLS.
func spokePlain(err error) bool {
	var record tls.RecordHeaderError
	return errors.As(err, &record) && string(record.RecordHeader[:len(magic)]) == magic
}

// serve is the accepting side of the handshake, and hands the stream over.
func (m *Mux) serve(c *Conn) {
	deadline := time.Now().Add(HandshakeTimeout)
	h, a, err := m.answer(c, deadline)
	if err != nil || a.Refusal != 0 {
		c.Close()
		m.logRefusal(c, h, a, err)
		return
	}
	m.mu.Lock()
	ch := m.channel(h.Kind)
	m.mu.Unlock()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case ch <- c:
	case <-c.closing: // by Mute, CloseStreams or Close
	case <-timer.C:
		c.Close()
		m.logRefusal(c, h, a, errors.New("nobody here takes streams of this kind"))
	}
}

// answer reads the Hello, decides and writes the Welcome. An error means that nothing could be read or said.
func (m *Mux) answer(c *Conn, deadline time.Time) (wire.Hello, wire.Welcome, error) {
	if err := m.secure(c, deadline, true); err != nil {
		if spokePlain(err) {
			a, err := m.turnAway(c, refuse(wire.RefusedPlain, "give all members the same Secret, or TLS"))
			return wire.Hello{}, a, err
		}
		return wire.Hello{}, wire.Welcome{}, err
	}
	h, err := readHello(c.Conn)
	if errors.Is(err, errTLS) {
		a, err := m.turnAway(c, refuse(wire.RefusedTLS, "give all members the same Secret, or TLS"))
		return wire.Hello{}, a, err
	}
	if err != nil {
		return h, wire.Welcome{}, err
	}
	a := m.decide(c, h)
	c.hello, c.welcome = h, a
	if _, err := c.Conn.Write(encodeWelcome(a)); err != nil {
		return h, a, fmt.Errorf("welcome: %w", err)
	}
	if a.Refusal != 0 {
		return h, a, nil
	}
	return h, a, c.Conn.SetDeadline(time.Time{})
}

// turnAway tells a process that could not prove itself why it is refused, and nothing of this one.
func (m *Mux) turnAway(c *Conn, a wire.Welcome) (wire.Welcome, error) {
	a.Version = wire.ProtocolVersion
	_, err := c.raw.Write(encodeWelcome(a))
	return a, err
}

// secure sets the handshake's deadline and wraps the raw stream.
func (m *Mux) secure(c *Conn, deadline time.Time, server bool) error {
	if err := c.raw.SetDeadline(deadline); err != nil {
		return err
	}
	if m.cfg.Secure == nil {
		return nil
	}
	s, err := m.cfg.Secure(c.raw, server)
	if err != nil {
		return err
	}
	c.Conn, c.secured = s, s
	return nil
}

// decide answers a Hello; what it welcomes counts as open.
func (m *Mux) decide(c *Conn, h wire.Hello) wire.Welcome {
	self := m.cfg.Self(h.Kind, wire.UUID{})
	a := m.judge(c, h, self)
	a.Version = wire.ProtocolVersion
	if a.Cluster.IsZero() {
		a.Cluster = self.Cluster
	}
	if a.Server.IsZero() {
		a.Server = self.Server
	}
	if a.Instance.IsZero() {
		a.Instance = self.Instance
	}
	if a.Name == "" {
		a.Name = self.Name
	}
	return a
}

func (m *Mux) judge(c *Conn, h, self wire.Hello) wire.Welcome {
	switch {
	case h.Version != wire.ProtocolVersion:
		return refuse(wire.RefusedVersion, "this process speaks protocol version %d, not %d", wire.ProtocolVersion, h.Version)
	case h.Kind != wire.KindRaft && h.Kind != wire.KindCall && h.Kind != wire.KindGossip && h.Kind != wire.KindPacket:
		return refuse(wire.RefusedMuted, "there are no streams of kind %q", h.Kind)
	case h.Kind == wire.KindRaft && (h.Target.IsZero() || h.Target != self.Server):
		// A Raft message for another must never be answered, whatever Admit thinks: HAZARDS 4.
		return refuse(wire.RefusedTarget, "server %s was wanted, this is %s", h.Target, self.Server)
	}
	var a wire.Welcome
	if m.cfg.Admit != nil {
		a = m.cfg.Admit(h)
	}
	if a.Refusal != 0 {
		return a
	}
	if err := c.proven(h.Group, h.Name, h.Server); err != nil {
		return refuse(wire.RefusedIdentity, "%v", err)
	}
	return m.settle(c, h.Kind, a)
}

// settle gives c its kind and its place, in one step with the check of what Mute and Close have said.
func (m *Mux) settle(c *Conn, kind wire.Kind, a wire.Welcome) wire.Welcome {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(kind); err != nil {
		return refuse(wire.RefusedMuted, "%v", err)
	}
	if _, ok := m.streams[c]; !ok {
		return refuse(wire.RefusedMuted, "%v", net.ErrClosed)
	}
	if kind == wire.KindRaft && m.raftStreams() >= MaxRaftStreams {
		return refuse(wire.RefusedBusy, "%d streams for Raft are open", MaxRaftStreams)
	}
	if !m.load.open(c.host) {
		return refuse(wire.RefusedBusy, "too many connections, in all or from %s", c.host)
	}
	c.kind, c.pending = kind, false
	delete(m.pending, c)
	return a
}

// raftStreams counts those that came in; m.mu is held.
func (m *Mux) raftStreams() (n int) {
	for c := range m.streams {
		if c.incoming && c.kind == wire.KindRaft {
			n++
		}
	}
	return n
}

func refuse(why wire.Refusal, format string, args ...any) wire.Welcome {
	return wire.Welcome{Refusal: why, Text: fmt.Sprintf(format, args...)}
}

func (m *Mux) logRefusal(c *Conn, h wire.Hello, a wire.Welcome, err error) {
	if m.ctx.Err() != nil {
		return
	}
	if err != nil {
		reason := "handshake"
		if s, ok := estranged(err); ok {
			reason = s
			m.strangers.note(Stranger{Addr: c.host, Name: h.Name, Reason: reason, Text: err.Error(), Incoming: true})
		}
		if m.quiet.may(c.host, reason) {
			m.log.Warn("incoming stream closed", "remote", c.RemoteAddr().String(), "name", h.Name, "reason", reason, "error", err)
		}
		return
	}
	if estranges(a.Refusal) {
		m.strangers.note(Stranger{Addr: c.host, Name: h.Name, Reason: refusalName(a.Refusal), Text: strangerText(a), Incoming: true})
	}
	if reason := refusalName(a.Refusal); m.quiet.may(c.host, reason) {
		m.log.Warn("incoming stream refused", "remote", c.RemoteAddr().String(), "name", h.Name, "kind", string(rune(h.Kind)),
			"reason", reason, "text", a.Text)
	}
}

// KindOf tells the kind of a stream by the first bytes that its dialer has sent; 0 when they don't tell. With Secure they never do.
func KindOf(opening []byte) wire.Kind {
	if len(opening) <= len(magic) || string(opening[:len(magic)]) != magic {
		return 0
	}
	return wire.Kind(opening[len(magic)])
}
