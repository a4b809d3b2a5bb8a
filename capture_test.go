package distlock

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/mux"
)

// wiretap is a network that keeps all that is sent on it, packets and streams.
type wiretap struct {
	mux.Network

	mu      sync.Mutex // guards what follows
	streams []*bytes.Buffer
	packets bytes.Buffer
}

func (w *wiretap) Listen(bind string) (net.Listener, net.PacketConn, error) {
	l, p, err := w.Network.Listen(bind)
	if err != nil {
		return nil, nil, err
	}
	return tappedListener{l, w}, tappedPackets{p, w}, nil
}

func (w *wiretap) Dial(ctx context.Context, addr string) (net.Conn, error) {
	nc, err := w.Network.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return w.tap(nc), nil
}

func (w *wiretap) tap(nc net.Conn) net.Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := new(bytes.Buffer)
	w.streams = append(w.streams, s)
	return tappedStream{nc, w, s}
}

// carried says which of texts went over the network as they are.
func (w *wiretap) carried(texts map[string]string) (found []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for what, text := range texts {
		hit := bytes.Contains(w.packets.Bytes(), []byte(text))
		for _, s := range w.streams {
			hit = hit || bytes.Contains(s.Bytes(), []byte(text))
		}
		if hit {
			found = append(found, what)
		}
	}
	return found
}

type tappedListener struct {
	net.Listener
	w *wiretap
}

func (l tappedListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.w.tap(nc), nil
}

type tappedStream struct { // both ends of a stream are tapped, each for what it sends
	net.Conn
	w    *wiretap
	sent *bytes.Buffer
}

func (s tappedStream) Write(p []byte) (int, error) {
	s.w.mu.Lock()
	s.sent.Write(p)
	s.w.mu.Unlock()
	return s.Conn.Write(p)
}

type tappedPackets struct {
	net.PacketConn
	w *wiretap
}

func (p tappedPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	p.w.mu.Lock()
	p.w.packets.Write(b)
	p.w.packets.WriteString("\n---\n")
	p.w.mu.Unlock()
	return p.PacketConn.WriteTo(b, to)
}

// With Secret nothing of what users name is on the wire in the open: keys, values, names of members, the group; without it all of it is, or
// this test would look in the wrong place.
func TestNothingIsReadOnTheWire(t *testing.T) {
	for _, secret := range []string{"", newSecret} {
		name := "open"
		if secret != "" {
			name = "secret"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &wiretap{Network: mux.System()}
			tapped := func(int) surroundings {
				env := machine()
				env.network = w
				return env
			}
			ms := newMembersIn(t, 3, tapped, func(i int, c *Config) {
				c.Secret, c.Group, c.Name = secret, "wire-group-of-test", []string{"wire-member-a", "wire-member-b", "wire-member-c"}[i]
			})
			ctx := testContext(t, 60*time.Second)
			for _, m := range ms.all {
				l := mustLockAs(t, ctx, m, "wire-key-of-test", Value([]byte("wire-value-of-test")))
				if _, err := ms.all[0].Locks(ctx, ""); err != nil {
					t.Fatal(err)
				}
				mustUnlock(t, ctx, l)
			}
			texts := map[string]string{"key": "wire-key-of-test", "value": "wire-value-of-test", "group": "wire-group-of-test", "name": "wire-member-"}
			if secret == "" {
				eventually(t, ctx, "all of it is seen", func() bool { return len(w.carried(texts)) == len(texts) })
				return
			}
			texts["secret"] = secret
			eventually(t, ctx, "gossip has exchanged packets", func() bool {
				w.mu.Lock()
				defer w.mu.Unlock()
				return bytes.Count(w.packets.Bytes(), []byte("\n---\n")) > 20
			})
			if found := w.carried(texts); len(found) > 0 {
				t.Errorf("seen on the wire: %q", found)
			}
		})
	}
}
