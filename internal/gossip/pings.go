package gossip

import (
	"bytes"
	"encoding/binary"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/vmihailenco/msgpack/v5"
)

// pings remembers the probes that were sent a moment ago. memberlist's Shutdown doesn't wait for a probe whose answer is outstanding, and a
// goroutine of it would live on for up to two seconds; so on the way out the transport answers them itself.
type pings struct {
	mu     sync.Mutex // guards what follows
	recent [256]sentPing
	next   int
	closed bool
}

type sentPing struct {
	seq uint32
	at  time.Time
}

// pingFor is how long a probe can wait: memberlist stretches its interval while it finds itself slow.
const pingFor = probeInterval * awarenessMax

// note looks at a packet on its way out, without label and seal, and says whether it may go: none may, once take was called.
func (p *pings) note(b []byte) bool {
	seq, ok := pingSeq(b)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if ok {
		p.recent[p.next%len(p.recent)] = sentPing{seq, time.Now()}
		p.next++
	}
	return true
}

// take answers the probes that may be outstanding. From then on none is let out.
func (p *pings) take() []uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var seqs []uint32
	for _, s := range p.recent {
		if !s.at.IsZero() && time.Since(s.at) <= pingFor {
			seqs = append(seqs, s.seq)
		}
	}
	return seqs
}

// pingSeq reads the sequence number of a probe that memberlist has made; a probe comes first in its packet.
func pingSeq(b []byte) (uint32, bool) {
	if len(b) > 5 && b[0] == msgCRC {
		b = b[5:]
	}
	if len(b) > 2 && b[0] == msgCompound {
		n := int(b[1])
		if n == 0 || len(b) < 2+2*n {
			return 0, false
		}
		first := int(binary.BigEndian.Uint16(b[2:]))
		if b = b[2+2*n:]; first > len(b) {
			return 0, false
		}
		b = b[:first]
	}
	if len(b) < 2 || b[0] != msgPing {
		return 0, false
	}
	d := msgpack.NewDecoder(bytes.NewReader(b[1:]))
	fields, err := d.DecodeMapLen()
	for i := 0; err == nil && i < fields; i++ {
		var name string
		if name, err = d.DecodeString(); err != nil {
			break
		}
		if name == "SeqNo" {
			seq, err := d.DecodeUint32()
			return seq, err == nil
		}
		err = d.Skip()
	}
	return 0, false
}

// ackPacket is memberlist's answer to the probe seq.
func ackPacket(label string, keys seals, seq uint32) (*memberlist.Packet, error) {
	var buf bytes.Buffer
	buf.WriteByte(msgAck)
	e := msgpack.NewEncoder(&buf)
	for _, err := range []error{e.EncodeMapLen(1), e.EncodeString("SeqNo"), e.EncodeUint32(seq)} {
		if err != nil {
			return nil, err
		}
	}
	b := buf.Bytes()
	if keys != nil {
		b = keys.seal(nil, b, []byte(label))
	}
	b, err := memberlist.AddLabelHeaderToPacket(b, label)
	return &memberlist.Packet{Buf: b, From: &net.UDPAddr{}, Timestamp: time.Now()}, err
}
