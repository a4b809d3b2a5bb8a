package distlock

import (
	"bytes"
	"context"
	"net"
	"sync"

	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/wire"
)

// Bounds of what a recorder keeps.
const (
	keptStreams = 256     // the oldest go, but those of kinds that are rare stay
	keptBytes   = 8 << 10 // of each stream, from its beginning
	keptPackets = 512
)

// said is what a member has said to another on a stream that it opened, or in one packet.
type said struct {
	to    string
	bytes []byte
}

// kind is the stream's kind, where it can be seen.
func (s said) kind() wire.Kind { return mux.KindOf(s.bytes) }

// recorder is the system's network; it keeps what is said in it, as who listens on the wire could.
type recorder struct {
	mux.Network

	mu      sync.Mutex // guards the fields below
	streams map[wire.Kind][]*recorded
	packets []said
}

func newRecorder() *recorder {
	return &recorder{Network: mux.System(), streams: map[wire.Kind][]*recorded{}}
}

func (r *recorder) Dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := r.Network.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return &recorded{Conn: c, r: r, said: said{to: addr}}, nil
}

func (r *recorder) Listen(bind string) (net.Listener, net.PacketConn, error) {
	l, p, err := r.Network.Listen(bind)
	if err != nil {
		return nil, nil, err
	}
	return l, &recordedPackets{p, r}, nil
}

// recorded is a stream that a member opened.
type recorded struct {
	net.Conn
	r    *recorder
	said said // guarded by r.mu
}

func (c *recorded) Write(p []byte) (int, error) {
	c.r.mu.Lock()
	if len(c.said.bytes) == 0 {
		kind := mux.KindOf(p)
		c.r.streams[kind] = append(c.r.streams[kind], c)
		if all := c.r.streams[kind]; len(all) > keptStreams {
			c.r.streams[kind] = all[1:]
		}
	}
	if room := keptBytes - len(c.said.bytes); room > 0 {
		c.said.bytes = append(c.said.bytes, p[:min(room, len(p))]...)
	}
	c.r.mu.Unlock()
	return c.Conn.Write(p)
}

type recordedPackets struct {
	net.PacketConn
	r *recorder
}

func (p *recordedPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	p.r.mu.Lock()
	if len(p.r.packets) == keptPackets {
		p.r.packets = p.r.packets[1:]
	}
	p.r.packets = append(p.r.packets, said{to.String(), bytes.Clone(b)})
	p.r.mu.Unlock()
	return p.PacketConn.WriteTo(b, to)
}

// stream is one of those of a kind, nth of them in some order; false when there is none.
func (r *recorder) stream(kind wire.Kind, nth int) (said, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.streams[kind]
	if len(all) == 0 {
		return said{}, false
	}
	s := all[nth%len(all)].said
	return said{s.to, bytes.Clone(s.bytes)}, true
}

func (r *recorder) packet(nth int) (said, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.packets) == 0 {
		return said{}, false
	}
	p := r.packets[nth%len(r.packets)]
	return said{p.to, bytes.Clone(p.bytes)}, true
}

// kinds are those of the streams that were seen; 0 for streams that don't tell.
func (r *recorder) kinds() []wire.Kind {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []wire.Kind
	for _, kind := range []wire.Kind{0, wire.KindRaft, wire.KindCall, wire.KindGossip} {
		if len(r.streams[kind]) > 0 {
			all = append(all, kind)
		}
	}
	return all
}
