package simnet

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/wire"
	"github.com/hashicorp/memberlist"
)

// gossip is the least of a memberlist.Transport over the one port.
type gossip struct {
	m       *member
	packets chan *memberlist.Packet
	streams chan net.Conn
	quit    chan struct{}
	ended   chan struct{} // capacity 2: one for each pump
}

func newGossip(m *member) *gossip {
	g := &gossip{m: m, packets: make(chan *memberlist.Packet, 64), streams: make(chan net.Conn), quit: make(chan struct{}), ended: make(chan struct{}, 2)}
	go func() { // ends when the packet socket is closed
		defer func() { g.ended <- struct{}{} }()
		buf := make([]byte, maxPacket)
		for {
			k, from, err := m.udp.ReadFrom(buf)
			if err != nil {
				return
			}
			select {
			case g.packets <- &memberlist.Packet{Buf: append([]byte(nil), buf[:k]...), From: from, Timestamp: time.Now()}:
			case <-g.quit:
			}
		}
	}()
	go func() { // ends when the mux is closed
		defer func() { g.ended <- struct{}{} }()
		for c := range m.mux.Accept(wire.KindGossip) {
			select {
			case g.streams <- c:
			case <-g.quit:
				c.Close()
			}
		}
	}()
	return g
}

func (g *gossip) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	a := g.m.mux.Addr().(*net.TCPAddr)
	return a.IP, a.Port, nil
}

func (g *gossip) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := net.ResolveUDPAddr("udp", addr)
	if err == nil {
		_, err = g.m.udp.WriteTo(b, to)
	}
	return time.Now(), err
}

func (g *gossip) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	nc, _, err := g.m.mux.Dial(ctx, addr, wire.KindGossip, wire.UUID{})
	return nc, err
}

func (g *gossip) PacketCh() <-chan *memberlist.Packet { return g.packets }
func (g *gossip) StreamCh() <-chan net.Conn           { return g.streams }
func (g *gossip) Shutdown() error                     { close(g.quit); return nil }

// memberlist finds, loses and finds its members again, in virtual time.
func TestMemberlistInVirtualTime(t *testing.T) {
	virtual(t, func(t *testing.T, n *Net) {
		var lists []*memberlist.Memberlist
		var gossips []*gossip
		for i := range 3 {
			g := newGossip(newMember(t, n, fmt.Sprintf("10.0.0.%d", i+1)))
			cfg := memberlist.DefaultLANConfig()
			cfg.Name, cfg.Transport, cfg.LogOutput = g.m.ip, g, io.Discard
			l, err := memberlist.Create(cfg)
			if err != nil {
				t.Fatal(err)
			}
			lists, gossips = append(lists, l), append(gossips, g)
		}
		all := func(want int) {
			t.Helper()
			for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) { // virtual
				ok := true
				for _, l := range lists {
					ok = ok && l.NumMembers() == want
				}
				if ok {
					return
				}
				if time.Since(begin) > 5*time.Minute {
					t.Fatalf("members: %d, %d, %d, want %d", lists[0].NumMembers(), lists[1].NumMembers(), lists[2].NumMembers(), want)
				}
			}
		}
		for _, l := range lists[1:] {
			if _, err := l.Join([]string{gossips[0].m.mux.Addr().String()}); err != nil {
				t.Fatal(err)
			}
		}
		all(3)
		n.SetLosses(0.2)
		time.Sleep(time.Minute)
		all(3)
		n.SetLosses(0)
		n.Partition([]string{"10.0.0.1"})
		n.Partition([]string{"10.0.0.2"})
		all(1)
		n.HealAll()
		for i := 1; i < 3; i++ {
			if _, err := lists[i].Join([]string{gossips[0].m.mux.Addr().String()}); err != nil {
				t.Fatal(err)
			}
		}
		all(3)
		for _, l := range lists {
			if err := l.Shutdown(); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Minute) // virtual: Shutdown leaves probes behind, which end at their time-outs
		for i := range lists {
			gossips[i].m.stop(t)
			<-gossips[i].ended
			<-gossips[i].ended
			if open := n.Open(gossips[i].m.ip); open != 0 {
				t.Errorf("%s: %d sockets open", gossips[i].m.ip, open)
			}
		}
	})
}
