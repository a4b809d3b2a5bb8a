//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godistlock/distlock"
)

// The client of a slow order says when it goes on: with a first byte it locks, with a second it unlocks.
func slowOrder(locker distlock.Locker) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		step := make([]byte, 1)
		if _, err := io.ReadFull(r.Body, step); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		lock, err := locker.Lock(r.Context(), "sku-42")
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		if _, err = io.ReadFull(r.Body, step); err == nil {
			err = errors.Join(lock.Err(), lock.Unlock(r.Context()))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "sold under fence %d\n", lock.Fence())
	})
}

// slow is an order under way at a shop that plays "slow".
type slow struct {
	body   *io.PipeWriter
	answer chan string // its status and text
}

// send sends an order and returns once its handler runs, which is when the server asks for the body.
func send(t *testing.T, s *shop) *slow {
	t.Helper()
	reader, writer := io.Pipe()
	body := &asked{Reader: reader, once: make(chan struct{})}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.web+"/order", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Expect", "100-continue")
	o := &slow{body: writer, answer: make(chan string, 1)}
	go func() { // ends with the answer, or with the test
		client := http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Hour}}
		defer client.CloseIdleConnections()
		resp, err := client.Do(req)
		if err != nil {
			o.answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		o.answer <- fmt.Sprintf("%d %s%v", resp.StatusCode, text, err)
	}()
	select {
	case <-body.once:
	case words := <-o.answer:
		t.Fatalf("an order answered %q before it was under way", words)
	case <-t.Context().Done():
	}
	return o
}

// asked is a body that says once that it is read.
type asked struct {
	io.Reader
	once  chan struct{}
	begun bool
}

func (a *asked) Read(p []byte) (int, error) {
	if !a.begun {
		a.begun = true
		close(a.once)
	}
	return a.Reader.Read(p)
}

func (o *slow) goOn(t *testing.T) {
	t.Helper()
	if _, err := o.body.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
}

// sold waits for the answer 200 and returns its fence.
func (o *slow) sold(t *testing.T) (fence uint64) {
	t.Helper()
	select {
	case words := <-o.answer:
		if _, err := fmt.Sscanf(words, "200 sold under fence %d", &fence); err != nil {
			t.Fatalf("an order that was under way answered %q", words)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("an order that was under way is not answered")
	}
	return fence
}

// TestSIGTERM: of the orders that have come when the signal does, one holds the lock, one waits for it and one has not asked for it yet.
// All are served; later ones are not; then the process leaves, and its lock is free.
func TestSIGTERM(t *testing.T) {
	t.Parallel()
	for name, dir := range map[string]string{"memory": "", "durable": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shop, other := shopAndOther(t, dir)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			kept := &http.Client{Transport: &http.Transport{}} // keeps its connection
			resp, err := kept.Get("http://" + shop.web + "/readyz")
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("not ready: %v, %v", resp, err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()

			holds, waits, reads := send(t, shop), send(t, shop), send(t, shop)
			holds.goOn(t)
			within(t, 10*time.Second, "an order holds the lock", func() bool { h, w := inUse(t, ctx, other); return h == 1 && w == 0 })
			waits.goOn(t)
			within(t, 10*time.Second, "another waits for it", func() bool { h, w := inUse(t, ctx, other); return h == 1 && w == 1 })

			if err := shop.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			within(t, 10*time.Second, "no new connection is taken", func() bool { return !listens(shop.web) })
			if _, err := kept.Post("http://"+shop.web+"/order", "", strings.NewReader("12")); err == nil {
				t.Error("an order after SIGTERM was taken, on a connection from before")
			}
			reads.goOn(t)
			within(t, 10*time.Second, "the third asks after SIGTERM", func() bool { h, w := inUse(t, ctx, other); return h == 1 && w == 2 })
			if state := stateOf(other, "shop"); state != distlock.Alive {
				t.Errorf("the shop is %q while orders are under way", state)
			}
			var last uint64
			for _, o := range []*slow{holds, waits, reads} {
				o.goOn(t)
				fence := o.sold(t)
				if fence <= last {
					t.Errorf("fence %d after %d", fence, last)
				}
				last = fence
			}
			if words, err := shop.exit(); err != nil {
				t.Errorf("SIGTERM: %v: %s", err, words)
			}
			lock, err := other.TryLock(ctx, "sku-42")
			if err != nil {
				t.Fatalf("the lock after the shop left: %v", err)
			}
			if fence := uint64(lock.Fence()); fence <= last {
				t.Errorf("fence %d after %d", fence, last)
			}
			within(t, 10*time.Second, "the shop is listed as left", func() bool { return stateOf(other, "shop") == distlock.Left })
		})
	}
}

// An order that outlasts -grace does not keep the process: it leaves, and its locks with it.
func TestSIGTERMWaitsNoLongerThanGrace(t *testing.T) {
	t.Parallel()
	shop, other := shopAndOther(t, "", "-grace", "300ms")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	send(t, shop).goOn(t)
	within(t, 10*time.Second, "the order holds the lock", func() bool { h, _ := inUse(t, ctx, other); return h == 1 })
	if err := shop.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	words, err := shop.exit()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(words, context.DeadlineExceeded.Error()) {
		t.Errorf("ended by %v, and said %s", err, words)
	}
	if _, err := other.TryLock(ctx, "sku-42"); err != nil {
		t.Errorf("the lock after the shop left: %v", err)
	}
}

// A shop that still looks for the others has nothing to finish.
func TestSIGTERMWhileJoining(t *testing.T) {
	t.Parallel()
	addrs := freeAddrs(t, 2)
	shop := start(t, "main", "127.0.0.1:0", "-bind", addrs[0], "-peers", addrs[1], "-join", "1h")
	within(t, 10*time.Second, "it is there", func() bool { return listens(addrs[0]) })
	if err := shop.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	words, err := shop.exit()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(words, context.Canceled.Error()) {
		t.Errorf("ended by %v, and said %s", err, words)
	}
}

// -check is the health check of a container that has no other program.
func TestCheck(t *testing.T) {
	t.Parallel()
	addrs := freeAddrs(t, 2)
	shop := start(t, "main", addrs[0], "-bind", addrs[1])
	shop.waitUntilServing(t)
	for url, code := range map[string]int{"/readyz": 0, "/livez": 0, "/nowhere": 1} {
		words, err := start(t, "main", "", "-check", "http://"+shop.web+url).exit()
		if (err == nil) != (code == 0) {
			t.Errorf("-check %s: %v: %s", url, err, words)
		}
	}
	shop.cmd.Process.Kill()
	shop.cmd.Wait()
	if words, err := start(t, "main", "", "-check", "http://"+shop.web+"/livez").exit(); err == nil {
		t.Errorf("-check where nobody listens: %s", words)
	}
	// What is no flag hides the flags behind it, the peers for example.
	words, err := start(t, "main", "", "-insecure", "true", "-peers", "shop-2:7950").exit()
	if err == nil || !strings.Contains(words, `"true" is no flag`) {
		t.Errorf("-insecure true: %v: %s", err, words)
	}
}

// shopAndOther are a slow shop and a member of its cluster in the test's own process, which sees what becomes of it. There is a third, so
// that a majority stays where the shop keeps its seat.
func shopAndOther(t *testing.T, dir string, args ...string) (*shop, *distlock.Cluster) {
	t.Helper()
	addrs := freeAddrs(t, 4)
	binds, web := addrs[:3], addrs[3]
	peers := binds[1] + "," + binds[2]
	shop := start(t, "slow", web, append([]string{"-name", "shop", "-bind", binds[0], "-peers", peers, "-data", dir}, args...)...)
	joined := make(chan error, 2)
	var others [2]*distlock.Cluster
	for i := range others {
		go func() { // ends with Join
			var err error
			others[i], err = distlock.Join(distlock.Config{Name: fmt.Sprint("other ", i), Bind: binds[1+i], Peers: binds})
			joined <- err
		}()
	}
	if err := errors.Join(<-joined, <-joined); err != nil {
		t.Fatal(err)
	}
	for _, c := range others {
		t.Cleanup(func() { c.Close() })
	}
	shop.waitUntilServing(t)
	within(t, 10*time.Second, "gossip has told of the shop", func() bool { return stateOf(others[0], "shop") == distlock.Alive })
	return shop, others[0]
}

// inUse counts who holds the shop's lock and who waits for it.
func inUse(t *testing.T, ctx context.Context, c *distlock.Cluster) (holders, waiters int) {
	t.Helper()
	locks, err := c.Locks(ctx, "sku-42")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range locks {
		holders, waiters = holders+len(l.Holders), waiters+len(l.Waiters)
	}
	return holders, waiters
}

func stateOf(c *distlock.Cluster, name string) distlock.State {
	for _, m := range c.Status().Members {
		if m.Name == name {
			return m.State
		}
	}
	return ""
}
