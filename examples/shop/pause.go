package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// pauseHolders pauses a holder n times: a process that follows, one that leads the cluster, and so on in turn.
func pauseHolders(ctx context.Context, n int, shops []*process, db *sql.DB, out io.Writer) error {
	for i := range n {
		leads := i%2 == 1
		p, fence, err := holder(ctx, leads, shops)
		if err == nil {
			err = pauseHolder(ctx, p, leads, fence, db, out)
		}
		if err != nil {
			return fmt.Errorf("pause %d: %w", i+1, err)
		}
	}
	return nil
}

// holder waits until an order is where it can be paused, in a process that leads the cluster, or does not.
func holder(ctx context.Context, leads bool, shops []*process) (p *process, fence int64, err error) {
	err = until(ctx, "a holder is where it can be paused", func() (found bool, err error) {
		if p, err = whoever(ctx, leads, shops); p == nil || err != nil {
			return false, err
		}
		if err := p.tell(tellPause); err != nil {
			return false, err
		}
		text, err := p.hear(ctx, sayPaused)
		if err != nil {
			return false, err
		}
		if fence, err = strconv.ParseInt(text, 10, 64); err != nil {
			return false, err
		}
		leader, err := p.leader(ctx)
		if err != nil || leader != "" && leads == (leader == p.name) {
			return true, err
		}
		return false, p.tell(tellGoOn) // somebody else was elected meanwhile
	})
	return p, fence, err
}

// whoever leads, or does not lead; nil when there is nobody.
func whoever(ctx context.Context, leads bool, shops []*process) (*process, error) {
	for _, p := range shops {
		leader, err := p.leader(ctx)
		if err != nil {
			return nil, err
		}
		if leader != "" && leads == (leader == p.name) {
			return p, nil
		}
	}
	return nil, nil
}

// leader is who leads the cluster as far as p knows, "" when it knows nobody.
func (p *process) leader(ctx context.Context) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.addr+"/status", nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	var status struct{ Leader string }
	err = json.NewDecoder(answer.Body).Decode(&status)
	return status.Leader, err
}

// pauseHolder stops the process of a holder, which waits between its read of the stock and the start of its write, until another one has
// got the lock and has written. Then it lets the late write come.
func pauseHolder(ctx context.Context, p *process, leads bool, fence int64, db *sql.DB, out io.Writer) error {
	if err := pause(p.cmd.Process); err != nil {
		return fmt.Errorf("pause %s: %w", p.name, err)
	}
	stopped := time.Now()
	does := map[bool]string{false: "follows", true: "leads"}[leads]
	fmt.Fprintf(out, "%s, which %s, is paused with fence %d between its read and its write\n", p.name, does, fence)
	if err := until(ctx, "another shop writes", func() (bool, error) {
		return exists(ctx, db, `SELECT 1 FROM orders WHERE fence > $1`, fence)
	}); err != nil {
		return err
	}
	passed := time.Since(stopped)

	// Only now it gets the word that it waits for, so that its write is certain to be late.
	if err := errors.Join(p.tell(tellGoOn), resume(p.cmd.Process)); err != nil {
		return fmt.Errorf("wake %s: %w", p.name, err)
	}
	var applied, refused bool
	if err := until(ctx, "the late write comes", func() (bool, error) {
		var aerr, rerr error
		applied, aerr = exists(ctx, db, `SELECT 1 FROM orders WHERE fence = $1`, fence)
		refused, rerr = exists(ctx, db, `SELECT 1 FROM refused WHERE fence = $1`, fence)
		return applied || refused, errors.Join(aerr, rerr)
	}); err != nil {
		return err
	}
	became := "rejected"
	if applied {
		became = "applied"
	}
	fmt.Fprintf(out, "   %.1f s later others had sold on; it was woken, and its late write was %s\n", passed.Seconds(), became)
	return until(ctx, p.name+" sells again", func() (bool, error) {
		return exists(ctx, db, `SELECT 1 FROM orders WHERE shop = $1 AND fence > $2`, p.name, fence)
	})
}

func exists(ctx context.Context, db *sql.DB, query string, args ...any) (yes bool, err error) {
	err = patiently(ctx, func() error { return db.QueryRowContext(ctx, `SELECT EXISTS (`+query+`)`, args...).Scan(&yes) })
	return yes, err
}

// until asks again and again until the answer is yes.
func until(ctx context.Context, what string, yes func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %v: %s", patience, what))
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if done, err := yes(); done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
