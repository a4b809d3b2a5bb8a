package mux

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// Network is where streams and packets come from: the system's, or an in-memory one in virtual time.
type Network interface {
	// Listen opens TCP and UDP on the same port of bind (host:port). Port 0 picks one that is free for both.
	Listen(bind string) (net.Listener, net.PacketConn, error)
	// Dial opens a stream; ctx bounds the dialing only.
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// portTries bounds how often Listen asks for another port when the one that is free for TCP is taken for UDP.
const portTries = 32

// keepAlive finds out that a peer's machine is gone, on streams whose owner sets no deadline of its own (raft's handlers): HAZARDS 19.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3}

// System is the machine's own network. Its streams have TCP_NODELAY set, which is Go's default, and TCP keepalive.
func System() Network {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	return system{
		listen:       func(addr string) (net.Listener, error) { return lc.Listen(context.Background(), "tcp", addr) },
		listenPacket: func(addr string) (net.PacketConn, error) { return net.ListenPacket("udp", addr) },
	}
}

type system struct { // a test replaces these, to take ports away
	listen       func(addr string) (net.Listener, error)
	listenPacket func(addr string) (net.PacketConn, error)
}

func (s system) Listen(bind string) (net.Listener, net.PacketConn, error) {
	host, port, err := net.SplitHostPort(bind)
	if err != nil {
		return nil, nil, fmt.Errorf("listen on %q: %w; an address is host:port, for example 127.0.0.1:7950 or :0", bind, err)
	}
	tries := 1
	if n, err := strconv.Atoi(port); err == nil && n == 0 || port == "" {
		tries = portTries
	}
	for range tries {
		var l net.Listener
		var p net.PacketConn
		if l, p, err = s.listenOnce(host, port); err == nil {
			return l, p, nil
		}
		if !inUse(err) {
			break
		}
	}
	return nil, nil, explainListen(bind, err)
}

// listenOnce takes the TCP port first: it is the one with more users.
func (s system) listenOnce(host, port string) (net.Listener, net.PacketConn, error) {
	l, err := s.listen(net.JoinHostPort(host, port))
	if err != nil {
		return nil, nil, err
	}
	got := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	p, err := s.listenPacket(net.JoinHostPort(host, got))
	if err != nil {
		l.Close()
		return nil, nil, err
	}
	return l, p, nil
}

func (system) Dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive}
	return d.DialContext(ctx, "tcp", addr)
}

// explainListen says what the user can do.
func explainListen(bind string, err error) error {
	switch {
	case inUse(err):
		return fmt.Errorf("listen on %s: %w: perhaps another process of this service already runs here; set another Bind, or port 0 to have a free one picked, and name that process in Peers to be in a cluster with it", bind, err)
	case isErrno(err, syscall.EADDRNOTAVAIL, 10049):
		return fmt.Errorf("listen on %s: %w: no interface of this machine has that address; set Bind to one that it has (and Advertise to what peers use)", bind, err)
	case isErrno(err, syscall.EACCES, 10013):
		return fmt.Errorf("listen on %s: %w: this user may not use that port; set a Bind with a port above 1023, or port 0", bind, err)
	}
	return fmt.Errorf("listen on %s: %w", bind, err)
}

func inUse(err error) bool { return isErrno(err, syscall.EADDRINUSE, 10048) }

// isErrno knows Windows's own numbers: its syscall.EADDRINUSE and the like are invented, and no system call answers them.
func isErrno(err error, unix, windows syscall.Errno) bool {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return false
	}
	return errno == unix || runtime.GOOS == "windows" && errno == windows
}
