package sqltest

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/godistlock/distlock"
)

// Many processes make the table at the same time, as at the start of a service.
func TestCreateTableAtOnce(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		for round := range 6 {
			db := d.open(t)
			g := distlock.SQLGuard{Dialect: d.dialect, Table: d.unique(t, db, "made")}
			var all sync.WaitGroup
			start := make(chan struct{})
			for i := range 10 {
				all.Go(func() { // ends when the table is there
					<-start
					if i%2 == 0 && d.dialect != distlock.MySQL && round%2 == 0 {
						wants(t, "in a transaction", createIn(db, g), nil)
						return
					}
					wants(t, "by a pool", g.CreateTable(context.Background(), db), nil)
				})
			}
			close(start)
			all.Wait()
			wants(t, "once more", g.CreateTable(t.Context(), db), nil)
			wants(t, "its use", admitted(db, g, d.levels[0], 1, "a"), nil)
		}
	})
}

// createIn makes the table in a transaction of its own. SQLite may want another try.
func createIn(db *sql.DB, g distlock.SQLGuard) error {
	for {
		tx, err := db.BeginTx(context.Background(), nil)
		if err != nil {
			return err
		}
		if err = g.CreateTable(context.Background(), tx); err == nil {
			err = tx.Commit()
		}
		tx.Rollback()
		if again(err) == "" {
			return err
		}
	}
}

// A name is the table that it is in a migration, where nobody quotes it.
func TestTableNames(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		db := d.open(t)
		plain := d.unique(t, db, "Mixed_Case")
		made, err := distlock.SQLGuard{Dialect: d.dialect, Table: plain}.TableSQL()
		if err != nil {
			t.Fatal(err)
		}
		exec(t, db, strings.NewReplacer(`"`, "", "`"+plain+"`", plain).Replace(made)) // typed by hand
		schema := map[distlock.Dialect]string{distlock.Postgres: "public", distlock.SQLite: "main"}[d.dialect]
		if d.dialect == distlock.MySQL {
			if err := db.QueryRowContext(t.Context(), "SELECT DATABASE()").Scan(&schema); err != nil {
				t.Fatal(err)
			}
		}
		fence := distlock.Fence(0)
		for _, name := range []string{plain, schema + "." + plain} {
			g := distlock.SQLGuard{Dialect: d.dialect, Table: name}
			wants(t, name+" is there", g.CreateTable(t.Context(), db), nil)
			fence++
			wants(t, name, admitted(db, g, d.levels[0], fence, "a"), nil)
			if f := d.stored(t, db, distlock.SQLGuard{Table: plain}, "a"); f != fence {
				t.Errorf("%s: fence %d in %s; want %d", name, f, plain, fence)
			}
			wants(t, name, admitted(db, g, d.levels[0], fence, "a"), nil)
		}
		// The one that is copied into a migration, as it is, and the default name.
		for _, name := range []string{"order", ""} {
			g := distlock.SQLGuard{Dialect: d.dialect, Table: name}
			statement, err := g.TableSQL()
			if err != nil {
				t.Fatal(err)
			}
			quoted := strings.Fields(strings.TrimPrefix(statement, "CREATE TABLE IF NOT EXISTS "))[0]
			exec(t, db, "DROP TABLE IF EXISTS "+quoted)
			exec(t, db, statement+";")
			wants(t, quoted, admitted(db, g, d.levels[0], 1, "a"), nil)
			exec(t, db, "DROP TABLE "+quoted)
			if err := admitted(db, g, d.levels[0], 1, "a"); err == nil {
				t.Errorf("%s: admitted without a table", quoted)
			}
		}
	})
}

// In Postgres a transaction in which the table could not be looked at would be of no use any more.
func TestCreateTableThenAdmit(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		db := d.open(t)
		for range 2 { // it is made, then it is there
			g := distlock.SQLGuard{Dialect: d.dialect, Table: "made_in_a_transaction"}
			if d.dialect == distlock.MySQL {
				wants(t, "create", g.CreateTable(t.Context(), db), nil)
			}
			tx := begin(t, db, d.levels[0])
			wants(t, "create", g.CreateTable(t.Context(), tx), nil)
			wants(t, "admit", g.Admit(t.Context(), tx, "a", 1), nil)
			wants(t, "commit", tx.Commit(), nil)
			if f := d.stored(t, db, g, "a"); f != 1 {
				t.Errorf("fence %d; want 1", f)
			}
		}
		exec(t, db, "DROP TABLE made_in_a_transaction")
	})
}

// A fence is an argument and a column like any number.
func TestFenceAsArgument(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		db := d.open(t)
		table := d.unique(t, db, "numbers")
		exec(t, db, "CREATE TABLE "+table+" (fence BIGINT NOT NULL)")
		for _, f := range []distlock.Fence{1, 1<<53 - 1} {
			exec(t, db, d.args("INSERT INTO "+table+" VALUES (?)"), f)
			var n int64
			var back distlock.Fence
			err := db.QueryRowContext(t.Context(), d.args("SELECT fence, fence FROM "+table+" WHERE fence <= ? AND fence >= ?"), f, f).Scan(&n, &back)
			if err != nil || n != int64(f) || back != f {
				t.Errorf("%d comes back as %d, %d, %v", f, n, back, err)
			}
		}
	})
}

// The documented patterns for a table of the user's own.
func TestStaleIfNone(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		db := d.open(t)
		table := d.unique(t, db, "stock")
		exec(t, db, "CREATE TABLE "+table+" (sku VARCHAR(20) NOT NULL PRIMARY KEY, count BIGINT NOT NULL)")
		exec(t, db, "ALTER TABLE "+table+" ADD COLUMN fence BIGINT NOT NULL DEFAULT 0")
		exec(t, db, "ALTER TABLE "+table+" ADD COLUMN writes BIGINT NOT NULL DEFAULT 0")
		exec(t, db, "INSERT INTO "+table+" (sku, count) VALUES ('a', 10)")
		for _, pattern := range []string{"SET count = ?, fence = ?", "SET count = ?, fence = ?, writes = writes + 1"} {
			exec(t, db, "UPDATE "+table+" SET fence = 0, count = 10")
			write := func(tx distlock.SQLTx, sku string, count int, fence distlock.Fence) error {
				return distlock.StaleIfNone(tx.ExecContext(t.Context(), d.args("UPDATE "+table+" "+pattern+" WHERE sku = ? AND fence <= ?"), count, fence, sku, fence))
			}
			equal := error(nil)
			if !d.found && !strings.Contains(pattern, "writes") {
				equal = distlock.ErrStaleFence // as the doc comment says; the safe side
			}
			wants(t, "7", write(db, "a", 9, 7), nil)
			wants(t, "7 again, and nothing changes", write(db, "a", 9, 7), equal)
			wants(t, "7 again", write(db, "a", 8, 7), nil)
			wants(t, "6", write(db, "a", 3, 6), distlock.ErrStaleFence)
			wants(t, "8", write(db, "a", 7, 8), nil)
			wants(t, "no such row", write(db, "b", 7, 8), distlock.ErrStaleFence)
			for _, level := range d.levels {
				tx := begin(t, db, level)
				wants(t, fmt.Sprint("in a transaction at ", level), write(tx, "a", 3, 7), distlock.ErrStaleFence)
				wants(t, "rollback", tx.Rollback(), nil)
			}
			var count int
			if err := db.QueryRowContext(t.Context(), "SELECT count FROM "+table+" WHERE sku = 'a'").Scan(&count); err != nil || count != 7 {
				t.Errorf("%s: count %d, %v; want 7", pattern, count, err)
			}
		}
		_, err := db.ExecContext(t.Context(), "UPDATE no_such_table SET fence = 1")
		if err == nil || distlock.StaleIfNone(nil, err) != err {
			t.Errorf("an error becomes %v", distlock.StaleIfNone(nil, err))
		}
	})
}
