package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/godistlock/distlock"
)

// mode is the switch: what keeps two orders for one product apart.
type mode string

const (
	none   mode = "none"   // nothing
	locks  mode = "locks"  // a lock
	fences mode = "fences" // a lock, whose fence the database checks
)

// shop is the service: each of its processes sells what is in one database.
type shop struct {
	name  string
	mode  mode
	locks distlock.Locker // nil without locks
	db    *sql.DB
	guard distlock.SQLGuard
	fault *fault
}

// order sells one piece: it reads the stock, thinks (asks for the payment, say), and writes what is left. Nothing but the lock keeps
// another order from doing the same meanwhile.
//
// A real service does its work under lock.Context(ctx), which ends when the lock is lost, and so is seldom late. This one doesn't, since
// seldom is not never: a process that was paused may write before it has noticed anything. That is what the fence is for.
func (s *shop) order(w http.ResponseWriter, r *http.Request) {
	ctx, sku := r.Context(), r.PathValue("sku")
	var fence distlock.Fence
	if s.mode != none {
		lock, err := s.locks.Lock(ctx, sku)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		defer lock.Unlock(ctx)
		fence = lock.Fence()
	}
	if s.mode == fences {
		if err := s.show(ctx, sku, fence); err != nil {
			s.refuse(w, r, sku, fence, err)
			return
		}
	}
	stock, err := s.stock(ctx, sku)
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	case stock <= 0:
		http.Error(w, "sold out", http.StatusGone)
		return
	}
	think(ctx)
	s.fault.here(ctx, fence)
	if err := s.sell(ctx, sku, stock, fence); err != nil {
		s.refuse(w, r, sku, fence, err)
		return
	}
	fmt.Fprintf(w, "yours; %d left\n", stock-1)
}

// refuse answers an order of which nothing was written.
func (s *shop) refuse(w http.ResponseWriter, r *http.Request, sku string, fence distlock.Fence, err error) {
	if !errors.Is(err, distlock.ErrStaleFence) {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.noteRefused(r.Context(), sku, fence)
	http.Error(w, err.Error(), http.StatusConflict) // the customer may try again
}

// show makes the fence known before the stock is read: what an earlier holder writes from here on is refused. Shown with the write only, the
// earlier one could still write after the read, and what is computed from that read would be written over it.
func (s *shop) show(ctx context.Context, sku string, fence distlock.Fence) error {
	return s.inTx(ctx, func(tx *sql.Tx) error { return s.guard.Admit(ctx, tx, sku, fence) })
}

func (s *shop) stock(ctx context.Context, sku string) (n int64, err error) {
	err = patiently(ctx, func() error {
		return s.db.QueryRowContext(ctx, `SELECT n FROM stock WHERE sku = $1`, sku).Scan(&n)
	})
	return n, err
}

// sell writes the stock that was read, less one, and the order. The fence is checked again, in the same transaction: the check holds
// until the commit.
func (s *shop) sell(ctx context.Context, sku string, read int64, fence distlock.Fence) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		if s.mode == fences {
			if err := s.guard.Admit(ctx, tx, sku, fence); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, `UPDATE stock SET n = $1 WHERE sku = $2`, read-1, sku); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO orders (sku, shop, stock, fence) VALUES ($1, $2, $3, $4)`, sku, s.name, read, int64(fence))
		return err
	})
}

// noteRefused keeps what was refused, beside the fence that stands, for the table at the end of the run.
func (s *shop) noteRefused(ctx context.Context, sku string, fence distlock.Fence) {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO refused (sku, shop, fence, newest)
			SELECT $1, $2, $3, coalesce(max(fence), 0) FROM distlock_fences`, sku, s.name, int64(fence))
		return err
	})
	if err != nil {
		s.fault.say(sayFailed+"a refused write was not noted: %v", err)
	}
}

// inTx does what write does in one transaction, or nothing of it.
func (s *shop) inTx(ctx context.Context, write func(*sql.Tx) error) error {
	return patiently(ctx, func() error {
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // does nothing after a Commit
		if err := write(tx); err != nil {
			return err
		}
		return tx.Commit()
	})
}

// think takes as long as whatever a shop does between its look at the stock and its sale.
func think(ctx context.Context) {
	t := time.NewTimer(10 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
