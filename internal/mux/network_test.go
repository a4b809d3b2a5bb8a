package mux

import (
	"context"
	"errors"
	"net"
	"os"
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

// port is a TCP port that exists in a test only: the machine's own may be taken by others at any time.
type port struct {
	net.Listener
	open *int
}

func (port) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7950} }
func (p port) Close() error { *p.open--; return nil }

func TestListenTriesAnotherPort(t *testing.T) {
	for bind, want := range map[string]int{"127.0.0.1:0": portTries, "127.0.0.1:": portTries, "127.0.0.1:7950": 1} {
		for _, free := range []int{1, 4, portTries, portTries + 1} { // the try at which UDP is to be had
			open, tries := 0, 0
			s := system{
				listen: func(string) (net.Listener, error) { open++; return port{open: &open}, nil },
				listenPacket: func(addr string) (net.PacketConn, error) {
					if tries++; tries < free {
						return nil, &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
					}
					if addr != "127.0.0.1:7950" {
						t.Errorf("%s: UDP on %s", bind, addr)
					}
					return nil, nil
				},
			}
			_, _, err := s.Listen(bind)
			if free <= want {
				if err != nil || tries != free || open != 1 {
					t.Errorf("%s: %v after %d tries, %d ports open", bind, err, tries, open)
				}
			} else if !errors.Is(err, syscall.EADDRINUSE) || tries != want || open != 0 {
				t.Errorf("%s: %v after %d tries, %d ports open", bind, err, tries, open)
			}
		}
	}
}

func TestListenSaysWhatToDo(t *testing.T) {
	l, p, err := System().Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer p.Close()
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
}

func TestSystemDialHonoursItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := System().Dial(ctx, "127.0.0.1:1"); err == nil {
		t.Error("dialed")
	}
}
