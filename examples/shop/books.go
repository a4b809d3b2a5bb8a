package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/godistlock/distlock"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"
)

const (
	product   = "sku-42"
	delivered = 1_000_000 // pieces in stock at the start; more than any run sells

	schemaPrefix = "distlock_shop_" // and the process that made the schema
)

// books say where the stock and the orders of one run are.
type books struct {
	Database distlock.Dialect
	DSN      string // PostgreSQL's
	Schema   string // of PostgreSQL: the run's own, in the user's database
	File     string // SQLite's
}

// newBooks names books that are not there yet.
func newBooks(o options, folder string, m mode) books {
	return books{
		Database: o.database, DSN: o.dsn,
		Schema: fmt.Sprintf("%s%d_%s_%s", schemaPrefix, os.Getpid(), m, strings.ToLower(rand.Text()[:8])),
		File:   filepath.Join(folder, string(m)+".db"),
	}
}

func (b books) guard() distlock.SQLGuard { return distlock.SQLGuard{Dialect: b.Database} }

func (b books) open() (*sql.DB, error) {
	if b.Database == distlock.Postgres {
		config, err := pgx.ParseConfig(b.DSN)
		if err != nil {
			return nil, err
		}
		config.RuntimeParams["search_path"] = `"` + b.Schema + `"`
		return stdlib.OpenDB(*config), nil
	}
	// WAL lets the others read while one writes. A transaction that will write takes its place at its start: one that began as a reader and
	// was overtaken could not go on (SQLITE_BUSY_SNAPSHOT), however long it waits.
	settings := url.Values{"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)"}, "_txlock": {"immediate"}}
	return sql.Open("sqlite", b.File+"?"+settings.Encode())
}

// create makes the tables; drop undoes it, also when it failed half-way.
func (b books) create(ctx context.Context, db *sql.DB) error {
	number := "INTEGER PRIMARY KEY AUTOINCREMENT"
	if b.Database == distlock.Postgres {
		number = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
		if _, err := db.ExecContext(ctx, `CREATE SCHEMA "`+b.Schema+`"`); err != nil {
			return err
		}
	}
	for _, statement := range []string{
		`CREATE TABLE stock (sku TEXT PRIMARY KEY, n BIGINT NOT NULL)`,
		// An order is inserted after the update of its product's stock, whose row is then locked: numbers are in the order of the commits.
		`CREATE TABLE orders (number ` + number + `, sku TEXT NOT NULL, shop TEXT NOT NULL, stock BIGINT NOT NULL, fence BIGINT NOT NULL)`,
		`CREATE TABLE refused (sku TEXT NOT NULL, shop TEXT NOT NULL, fence BIGINT NOT NULL, newest BIGINT NOT NULL)`,
		fmt.Sprintf(`INSERT INTO stock (sku, n) VALUES ('%s', %d)`, product, delivered),
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return b.guard().CreateTable(ctx, db)
}

// drop removes PostgreSQL's schema. SQLite's file is the folder's.
func (b books) drop(ctx context.Context, db *sql.DB) error {
	if b.Database != distlock.Postgres {
		return nil
	}
	_, err := db.ExecContext(ctx, `DROP SCHEMA IF EXISTS "`+b.Schema+`" CASCADE`)
	return err
}

// result is what the books say of a run.
type result struct {
	orders   int64
	oversold int64 // orders beyond what left the shelf
	stale    int64 // orders with a fence below an earlier order's; without locks: of a stock that was not what the order had read
	rejected int64 // writes that the guard refused when it had a greater fence
	wronged  int64 // writes that it refused when it had none
}

// attempted are the writes that came after what they should have come before.
func (r result) attempted() int64 { return r.stale + r.rejected }

func (b books) count(ctx context.Context, db *sql.DB, m mode) (r result, err error) {
	stale := `fence < max(fence) OVER (ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)`
	if m == none {
		stale = `stock <> lag(stock) OVER (ORDER BY number) - 1`
	}
	var left, refused int64
	err = errors.Join(
		db.QueryRowContext(ctx, `SELECT n FROM stock WHERE sku = $1`, product).Scan(&left),
		db.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(CASE WHEN stale THEN 1 ELSE 0 END), 0) FROM (SELECT `+stale+` AS stale FROM orders) AS o`).
			Scan(&r.orders, &r.stale),
		db.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(CASE WHEN fence < newest THEN 1 ELSE 0 END), 0) FROM refused`).Scan(&refused, &r.rejected),
	)
	r.oversold = r.orders - (delivered - left)
	r.wronged = refused - r.rejected
	return r, err
}

// patiently tries again as long as SQLite is busy, which one process is for all others when it writes. PostgreSQL makes them wait.
func patiently(ctx context.Context, try func() error) error {
	for {
		err := try()
		var e *sqlite.Error
		if !errors.As(err, &e) || e.Code()&0xff != sqliteBusy || ctx.Err() != nil {
			return err
		}
	}
}

const sqliteBusy = 5 // SQLITE_BUSY, the lowest byte of all its kinds
