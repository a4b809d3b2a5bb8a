package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godistlock/distlock"
)

// sessionTTL is the least that the library allows: a shop that sleeps keeps its locks no longer than this.
const sessionTTL = 2 * time.Second

// What a shop says on its standard output, and what it is told on its standard input once it serves.
const (
	sayServing = "serving on "                 // and its address
	sayPaused  = "paused here, holding fence " // and the fence: between the read of the stock and the start of the write
	sayFailed  = "failed: "                    // and why
	tellPause  = "pause"                       // with the next order
	tellGoOn   = "go on"                       // with the paused order
	childMode  = "shop"                        // the first argument of a process that is to be a shop
	lastBreath = 20 * time.Second              // for the orders under way, and for leaving
)

// start is the first line that a shop is told, as JSON: no flags, since a DSN may have a password in it.
type start struct {
	Name   string
	Mode   mode
	Bind   string // of the locks
	Peers  []string
	Books  books
	Logged bool // on standard error
}

// runShop is a shop's process. It ends when its standard input does, and so not after the process that started it.
func runShop(in io.Reader, out io.Writer) (code int) {
	f := &fault{out: out, goOn: make(chan struct{}, 1)}
	lines := bufio.NewScanner(in)
	var s start
	if !lines.Scan() {
		return 1
	}
	err := json.Unmarshal(lines.Bytes(), &s)
	if err == nil {
		ctx, end := context.WithCancel(context.Background())
		defer end()
		go func() { // ended by the end of the input, and at the latest by that of the process
			defer end()
			for lines.Scan() {
				f.obey(lines.Text())
			}
		}()
		err = s.serve(ctx, f)
	}
	if err != nil {
		f.say(sayFailed+"%v", err)
		return 1
	}
	return 0
}

// serve joins the other shops, takes orders until ctx ends, and leaves in the order that the README asks for.
func (s start) serve(ctx context.Context, f *fault) (err error) {
	db, err := s.Books.open()
	if err != nil {
		return err
	}
	defer db.Close()
	shop := &shop{name: s.Name, mode: s.Mode, db: db, guard: s.Books.guard(), fault: f}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders/{sku}", shop.order)
	leave := func(context.Context) error { return nil }
	var stopped <-chan struct{}
	if s.Mode != none {
		cluster, err := distlock.JoinContext(ctx, s.config())
		if err != nil {
			return err
		}
		shop.locks, leave, stopped = cluster, cluster.Leave, cluster.Done()
		mux.Handle("/", cluster.Handler()) // /livez, /readyz, /status
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") // only now: none of the locks' ports is free any more
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }() // ended by Shutdown
	f.say(sayServing+"%s", listener.Addr())
	select {
	case <-ctx.Done():
	case <-stopped:
		err = errors.New("the cluster has stopped here")
	case err = <-failed:
	}
	bounded, cancel := context.WithTimeout(context.Background(), lastBreath)
	defer cancel()
	return errors.Join(err, server.Shutdown(bounded), leave(bounded))
}

func (s start) config() distlock.Config {
	c := distlock.Config{Name: s.Name, Bind: s.Bind, Peers: s.Peers, Expect: len(s.Peers) + 1, SessionTTL: sessionTTL, JoinTimeout: patience}
	if s.Logged {
		c.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("shop", s.Name)
	}
	return c
}

// fault is where an order may be paused.
type fault struct {
	mu    sync.Mutex // one line at a time; guards out
	out   io.Writer
	armed atomic.Bool
	goOn  chan struct{}
}

// here is between an order's read of the stock and the start of its write: no transaction is open, so that the pause holds nobody up but
// by the lock. The order waits for a word that it is only given after its whole process was stopped and has been passed by another one:
// however long the signal takes, its write is late.
func (f *fault) here(ctx context.Context, fence distlock.Fence) {
	if !f.armed.CompareAndSwap(true, false) {
		return
	}
	f.say(sayPaused+"%d", fence)
	select {
	case <-f.goOn:
	case <-ctx.Done():
	}
}

func (f *fault) obey(line string) {
	switch line {
	case tellPause:
		f.armed.Store(true)
	case tellGoOn:
		f.goOn <- struct{}{}
	}
}

// say drops its error: whoever does not listen any more has ended, and so does this process.
func (f *fault) say(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(f.out, format+"\n", args...)
}
