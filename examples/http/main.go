// A web shop whose processes lock among themselves. Three terminals make a cluster:
//
//	go run ./examples/http -bind 127.0.0.1:7951 -http 127.0.0.1:8081 -peers 127.0.0.1:7952,127.0.0.1:7953
//	go run ./examples/http -bind 127.0.0.1:7952 -http 127.0.0.1:8082 -peers 127.0.0.1:7951,127.0.0.1:7953
//	go run ./examples/http -bind 127.0.0.1:7953 -http 127.0.0.1:8083 -peers 127.0.0.1:7951,127.0.0.1:7952
//
// Then order at any of them, and stop any one of them with Ctrl-C: curl -X POST 127.0.0.1:8081/order
//
// In containers: examples/kubernetes and examples/compose.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/godistlock/distlock"
)

func main() { run(order) }

// run is the whole program but for what an order does; its test has orders of its own.
func run(order func(distlock.Locker) http.Handler) {
	cfg := distlock.Config{Logger: slog.Default(), Secret: os.Getenv("DISTLOCK_SECRET")} // no flag: whoever lists processes would see it
	flag.StringVar(&cfg.Name, "name", "", "what the other shops see; none: the host's name and the port")
	flag.StringVar(&cfg.Bind, "bind", "127.0.0.1:7951", "the locks' address, TCP and UDP")
	flag.StringVar(&cfg.DataDir, "data", "", "the directory of the locks' log; none: all in memory")
	flag.IntVar(&cfg.Expect, "expect", 0, "shops that must find each other before the first cluster forms; 0: 3, or 1 without peers")
	flag.BoolVar(&cfg.Insecure, "insecure", false, "allow a -bind that other machines can reach without DISTLOCK_SECRET, which keeps strangers out")
	flag.DurationVar(&cfg.JoinTimeout, "join", 30*time.Second, "how long to look for the others")
	peers := flag.String("peers", "", "the other shops' -bind, or names that resolve to many, with commas; none: this one alone")
	web := flag.String("http", "127.0.0.1:8081", "the shop's address")
	grace := flag.Duration("grace", 20*time.Second, "how long requests may go on after SIGTERM; to leave takes up to 10s more")
	check := flag.String("check", "", "only get this URL, and fail unless the answer is 200: a health check where there is no curl")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("%q is no flag", flag.Arg(0)) // and those behind it were not read: without its peers a shop is a cluster of its own
	}
	if *check != "" {
		if err := get(*check); err != nil {
			log.Fatal(err)
		}
		return
	}
	if *peers != "" {
		cfg.Peers = strings.Split(*peers, ",")
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	locker, err := distlock.JoinContext(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("POST /order", order(locker))
	mux.Handle("/", locker.Handler()) // /livez, /readyz, /status
	server := &http.Server{Addr: *web, Handler: mux}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }() // ended by Shutdown
	log.Printf("shop %s on http://%s, locks on %s", locker.Status().Name, *web, locker.Status().Addr)
	select {
	case <-ctx.Done():
	case <-locker.Done():
		err = locker.Err()
	case err = <-failed:
	}
	stop() // the next signal ends the process at once
	bounded, cancel := context.WithTimeout(context.Background(), *grace)
	defer cancel()
	// First no more requests: those that have come finish, and lock and unlock as before. Then no more locks.
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

func get(url string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}
