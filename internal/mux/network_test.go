package mux

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
)

func TestListenPicksOnePortForBoth(t *testing.T) {
	l, p, err := System().Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer p.Close()
	tcp, udp := l.Addr().(*net.TCPAddr), p.LocalAddr().(*net.UDPAddr)
	if tcp.Port == 0 || tcp.Port != udp.Port {
		t.Fatalf("TCP %v, UDP %v", tcp, udp)
	}
	nc, err := System().Dial(t.Context(), tcp.String())
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
}

func TestListenTriesAnotherPort(t *testing.T) {
	taken := 0
	s := system{listenPacket: func(network, addr string) (net.PacketConn, error) {
		if taken++; taken <= 3 {
			return nil, syscall.EADDRINUSE
		}
		return net.ListenPacket(network, addr)
	}}
	l, p, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	p.Close()

	tries := 0
	s.listenPacket = func(string, string) (net.PacketConn, error) { tries++; return nil, syscall.EADDRINUSE }
	if _, _, err := s.Listen("127.0.0.1:0"); !errors.Is(err, syscall.EADDRINUSE) || tries != portTries {
		t.Errorf("%v after %d tries", err, tries)
	}
	tries = 0
	if _, _, err := s.Listen(l.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) || tries != 1 {
		t.Errorf("a port that was named: %v after %d tries", err, tries)
	}
}

func TestListenSaysWhatToDo(t *testing.T) {
	l, p, err := System().Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	tests := map[string][]string{
		addr:             {addr, "another process", "port 0", "another Bind"},
		"203.0.113.77:0": {"203.0.113.77:0", "no interface", "Bind"},
		"nonsense":       {`"nonsense"`, "host:port"},
	}
	for bind, want := range tests {
		_, _, err := System().Listen(bind)
		if err == nil {
			t.Fatalf("listen on %s succeeded", bind)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("listen on %s: %q lacks %q", bind, err, w)
			}
		}
	}
	p.Close()

	// The TCP port must not stay taken when the UDP port is not to be had.
	busy, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	if _, _, err := System().Listen(busy.LocalAddr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("a UDP port in use: %v", err)
	}
	again, err := net.Listen("tcp", busy.LocalAddr().String())
	if err != nil {
		t.Fatalf("the TCP port was left taken: %v", err)
	}
	again.Close()
}

func TestSystemDialHonoursItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := System().Dial(ctx, "127.0.0.1:1"); err == nil {
		t.Error("dialed")
	}
}
