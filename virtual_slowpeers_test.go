package distlock

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/mux"
	"github.com/godistlock/distlock/internal/wire"
)

// slowPeers are ways of keeping a stream without being of any use, how many play each at a member, and how long that may bear with it. More are
// in their handshake at a time than one address may have.
var slowPeers = []struct {
	name string
	n    int
	most time.Duration
	play func(w *world, c net.Conn)
}{
	{"silent", mux.MaxPendingPerHost/2 + 20, mux.HandshakeTimeout + 100*time.Millisecond, func(*world, net.Conn) {}},
	{"one byte a second", mux.MaxPendingPerHost/2 + 20, mux.HandshakeTimeout + 100*time.Millisecond, func(w *world, c net.Conn) {
		for _, b := range openingOf(wire.KindCall) {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(time.Second) // virtual
		}
	}},
	{"silent when welcomed to calls", 20, 10 * time.Second, func(_ *world, c net.Conn) { _, _ = c.Write(openingOf(wire.KindCall)) }},
	{"silent when welcomed to gossip", 20, 15 * time.Second, func(_ *world, c net.Conn) { _, _ = c.Write(openingOf(wire.KindGossip)) }},
	{"half a frame", 20, 10 * time.Second, func(_ *world, c net.Conn) {
		_, _ = c.Write(binary.BigEndian.AppendUint32(openingOf(wire.KindCall), wire.MaxFrame))
	}},
}

func openingOf(kind wire.Kind) []byte {
	th := thrower{group: defaultGroup}
	return th.opening(kind)
}

// slowCrowd keeps streams to each of the members, from one address, until stop is called, which answers the longest that one of each kind lasted.
// refused are those that were closed at once, since too many of that address were in their handshake.
func (w *world) slowCrowd(ip string) (stop func() map[string]time.Duration, refused *atomic.Int64) {
	ctx, cancel := context.WithCancel(context.Background())
	from := w.net.Host(ip)
	refused = new(atomic.Int64)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards longest
	longest := map[string]time.Duration{}
	for _, kind := range slowPeers {
		for i := range kind.n * len(w.members) {
			addr := w.members[i%len(w.members)].cfg.Bind
			rng := rand.New(rand.NewPCG(w.seed, uint64(i)))
			wg.Go(func() { // ends with ctx
				for ctx.Err() == nil {
					c, err := from.Dial(ctx, addr)
					if err != nil {
						continue
					}
					end := context.AfterFunc(ctx, func() { c.Close() })
					began := time.Now()
					wg.Go(func() { kind.play(w, c) }) // ends with the stream
					_, _ = io.Copy(io.Discard, c)
					lasted := time.Since(began)
					end()
					c.Close()
					if ctx.Err() != nil {
						return
					}
					if lasted < 100*time.Millisecond {
						refused.Add(1)
					}
					mu.Lock()
					longest[kind.name] = max(longest[kind.name], lasted)
					mu.Unlock()
					time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond) // virtual
				}
			})
		}
	}
	return func() map[string]time.Duration {
		cancel()
		wg.Wait()
		return longest
	}, refused
}

// Peers that send a byte a second, or nothing, before the handshake and after it, hold what they have for some seconds and no more than one address may
// have; meanwhile members work, none loses its leader, and another joins.
func TestVirtualSlowPeers(t *testing.T) {
	virtual(t, 1, func(w *world) {
		w.add(3)
		w.startVoters(3)
		leader, term := w.leader(), w.leader().cluster().node.Term()
		stop, refused := w.slowCrowd("10.9.9.9")
		worst := time.Duration(0)
		try := func(m *member, key string) {
			began := time.Now()
			w.unlock(m.lock(key))
			worst = max(worst, time.Since(began))
		}
		seconds := 60
		if underRace {
			seconds = 15
		}
		for i := range seconds {
			for _, m := range w.members {
				try(m, fmt.Sprint("key ", i%3))
			}
			time.Sleep(time.Second) // virtual
		}
		w.add(1)
		began := time.Now()
		w.start()
		joined := time.Since(began)
		try(w.members[3], "key 0")
		longest := stop()
		w.note("figure: the worst lock took %s, joining %s; %d streams were refused; the others lasted %v", worst, joined, refused.Load(), longest)
		if worst > time.Second {
			w.errorf("a lock took %s", worst)
		}
		if joined > 10*time.Second {
			w.errorf("joining took %s", joined)
		}
		for _, kind := range slowPeers {
			if got := longest[kind.name]; got == 0 || got > kind.most {
				w.errorf("%s lasted %s, limit %s", kind.name, got, kind.most)
			}
		}
		if refused.Load() == 0 {
			w.errorf("no stream was refused: the crowd was too small")
		}
		if now := w.leader(); now != leader || now.cluster().node.Term() != term {
			w.errorf("there was an election")
		}
	})
}
