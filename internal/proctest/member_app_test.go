//go:build unix

package proctest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// leaveTime is what a process gives itself to finish what is in flight and to leave, as examples/http does.
const leaveTime = 20 * time.Second

// serve makes the process an application as examples/http is one: health over HTTP once it has joined, and on SIGTERM it leaves.
func (p *process) serve() error {
	l, err := net.Listen("tcp", p.config.Web)
	if err != nil {
		return err
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	server := &http.Server{Handler: p.cluster.Handler(), ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(l) }() // ended by Shutdown, or with the process
	go func() {                         // ends the process
		<-term
		p.goAway(server)
		os.Exit(0)
	}()
	return nil
}

// goAway finishes what is in flight, leaves, and says how that went: what main of examples/http does.
func (p *process) goAway(server *http.Server) {
	bounded, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	began := now()
	close(p.last)
	err := server.Shutdown(bounded)
	finished := make(chan struct{})
	p.mu.Lock() // who has begun to work by now is waited for
	load := p.load
	p.mu.Unlock()
	go func() { defer close(finished); load.Wait() }() // ends with the workers, or with the process
	select {
	case <-finished:
	case <-bounded.Done():
		err = errors.Join(err, errors.New("what was in flight is not finished"))
	}
	close(p.leave)
	said := left{}
	if err = errors.Join(err, p.cluster.Leave(bounded)); err != nil {
		said.Error = err.Error()
	}
	said.Took = time.Duration(now() - began)
	p.say(answer{Left: &said})
}

// askForNames makes server the one that this process asks for the addresses of names.
func askForNames(server string) {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, server)
	}}
}
