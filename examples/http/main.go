// A web shop whose processes lock among themselves. Three terminals make a cluster:
//
//	go run ./examples/http -bind 127.0.0.1:7951 -http 127.0.0.1:8081 -peers 127.0.0.1:7952,127.0.0.1:7953
//	go run ./examples/http -bind 127.0.0.1:7952 -http 127.0.0.1:8082 -peers 127.0.0.1:7951,127.0.0.1:7953
//	go run ./examples/http -bind 127.0.0.1:7953 -http 127.0.0.1:8083 -peers 127.0.0.1:7951,127.0.0.1:7952
//
// Then order at any of them, and stop any one of them with Ctrl-C: curl -X POST 127.0.0.1:8081/order
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/godistlock/distlock"
)

func main() {
	bind := flag.String("bind", "127.0.0.1:7951", "the locks' address, TCP and UDP")
	web := flag.String("http", "127.0.0.1:8081", "the shop's address")
	peers := flag.String("peers", "", "the other shops' -bind, with commas; none: this one alone")
	flag.Parse()

	cfg := distlock.Config{Bind: *bind}
	if *peers != "" {
		cfg.Peers = strings.Split(*peers, ",")
	}
	locker, err := distlock.Join(cfg)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("POST /order", order(locker))
	mux.Handle("/", locker.Handler())
	server := &http.Server{Addr: *web, Handler: mux}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }() // ended by Shutdown
	log.Printf("shop %s on http://%s, locks on %s", locker.Status().Name, *web, *bind)
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	bounded, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	// First no more requests, then no more locks.
	if err := errors.Join(err, server.Shutdown(bounded), locker.Leave(bounded)); err != nil {
		log.Fatal(err)
	}
}

// order sells one piece while no other process of the shop does.
func order(locker distlock.Locker) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		lock, err := locker.Lock(ctx, "sku-42")
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		defer lock.Unlock(ctx)
		// Check the stock and deduct here, with the fence in the same transaction: UPDATE ... WHERE fence <= ?
		fmt.Fprintf(w, "sold under fence %d\n", lock.Fence())
	})
}
