package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	customers = 4                // at each shop, each with one order at a time
	patience  = 60 * time.Second // with whatever must happen: a limit, no wait
)

// play lets three shops sell in mode m over new books, and reads the books.
func play(ctx context.Context, o options, b books, m mode, out io.Writer) (r result, err error) {
	db, err := b.open()
	if err != nil {
		return r, err
	}
	defer db.Close()
	defer func() {
		if derr := b.drop(context.WithoutCancel(ctx), db); err == nil {
			err = derr
		}
	}()
	if err := b.create(ctx, db); err != nil {
		return r, err
	}
	shops, err := open(ctx, o, b, m)
	if err == nil {
		err = sell(ctx, o, shops, func(ctx context.Context) error {
			if m == none {
				return nil
			}
			return pauseHolders(ctx, o.pauses, shops, db, out)
		})
	}
	if err = errors.Join(err, closeAll(shops)); err != nil {
		return r, err
	}
	return b.count(ctx, db, m)
}

// sell lets customers order at all shops while meanwhile runs, and then for o.duration. The orders under way are finished.
func sell(ctx context.Context, o options, shops []*process, meanwhile func(context.Context) error) error {
	ctx, fail := context.WithCancelCause(ctx) // the first failure ends all
	defer fail(nil)
	enough := make(chan struct{})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: customers}, Timeout: 2 * patience}
	defer client.CloseIdleConnections()
	var home sync.WaitGroup
	for _, p := range shops {
		for range customers {
			home.Go(func() { // ended by enough, or with ctx
				for ctx.Err() == nil {
					select {
					case <-enough:
						return
					default:
					}
					if err := order(ctx, client, p); err != nil {
						fail(err)
					}
				}
			})
		}
	}
	if err := meanwhile(ctx); err != nil {
		fail(err)
	}
	timer := time.NewTimer(o.duration)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	close(enough)
	home.Wait()
	return context.Cause(ctx)
}

// order is one customer's. To be told that it came too late is no fault: the customer orders again.
func order(ctx context.Context, client *http.Client, p *process) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.addr+"/orders/"+product, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("order at %s: %w", p.name, err)
	}
	defer answer.Body.Close()
	words, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusConflict {
		err = fmt.Errorf("%s: %s", answer.Status, words)
	}
	if err != nil {
		return fmt.Errorf("order at %s: %w", p.name, err)
	}
	return nil
}
