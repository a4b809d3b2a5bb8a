package distlock

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/godistlock/distlock/internal/wire"
)

// SQLGuard keeps the greatest admitted fence of each key in a table of the user's own database, checked inside the user's own
// transaction: Admit first, then write, roll back on error. It is no Guard, since it needs that transaction.
//
//	tx, err := db.BeginTx(ctx, nil)
//	…
//	defer tx.Rollback()
//	if err := guard.Admit(ctx, tx, "sku-42", lock.Fence()); err != nil {
//		return err // errors.Is(err, distlock.ErrStaleFence): somebody newer was here; nothing is written
//	}
//	… // read and write, by tx
//	return tx.Commit()
//
// Admit locks the key's row until tx ends. Whoever admits the same key meanwhile waits for that end, so no other fence comes between the check and the
// write. In SQLite it takes the one lock of all writers. This holds at every isolation level. Above READ COMMITTED the database may end the
// transaction of one who came late by an error of its own (see Admit) instead of ErrStaleFence, but never admits it.
//
// First means before the first read too: until Admit has let it through, older fences may still write, and what was read may be outdated. At REPEATABLE
// READ, their default, MySQL and MariaDB go on showing to a transaction what was there at its first read: one that had to read before Admit must
// read again after it, by SELECT … FOR UPDATE. Postgres and SQLite answer an error to Admit then.
//
// All that writes what a key protects must go through the guard, with the same Table in the same database.
//
// A SQLGuard is a value without state: it can be copied, and used by many at once.
type SQLGuard struct {
	Dialect Dialect

	// Table is its name, by default "distlock_fences"; a plain name, with a schema at most ("app.fences"), of ASCII letters, digits and underscores.
	// It means the table that it means in the database's SQL without quotes, so in Postgres "Fences" is the table fences. Reserved words are fine.
	Table string
}

// Dialect is a database's kind of SQL.
type Dialect string

// MySQL is MariaDB's dialect too. SQLite must be 3.24 or later.
const (
	Postgres Dialect = "postgres"
	MySQL    Dialect = "mysql"
	SQLite   Dialect = "sqlite"
)

// SQLTx is what SQLGuard needs of a transaction; *sql.Tx has it.
type SQLTx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

var (
	_ SQLTx = (*sql.Tx)(nil)
	_ SQLTx = (*sql.DB)(nil) // for CreateTable only
)

// TableSQL is the statement that CreateTable runs, for a migration of the user's own. It has no semicolon at its end.
func (g SQLGuard) TableSQL() (string, error) {
	table, err := g.table()
	if err != nil {
		return "", err
	}
	key, kind, options := g.Dialect.quote("key"), "BYTEA", ""
	switch g.Dialect {
	case MySQL:
		kind, options = "VARBINARY("+strconv.Itoa(wire.MaxKey)+")", " ENGINE=InnoDB" // others have no transactions
	case SQLite:
		kind, options = "BLOB", " WITHOUT ROWID"
	}
	return "CREATE TABLE IF NOT EXISTS " + table + " (" + key + " " + kind + " NOT NULL PRIMARY KEY, fence BIGINT NOT NULL)" + options, nil
}

// CreateTable makes the table if it is not there; where it is, it needs no right to make one. tx may be a *sql.DB here. Many processes may do it at once. It blocks while another makes
// the same table.
//
// MySQL and MariaDB commit what a transaction did when a table is made, and end it: there a *sql.DB is better than a transaction.
func (g SQLGuard) CreateTable(ctx context.Context, tx SQLTx) error {
	statement, err := g.TableSQL()
	switch {
	case err != nil:
		return err
	case tx == nil:
		return errNoTx
	case g.hasTable(ctx, tx):
		return nil
	}
	if g.Dialect == Postgres {
		// There IF NOT EXISTS fails when two do it at once, and a failure would be the end of the transaction.
		statement = "DO $$ BEGIN " + statement + "; EXCEPTION WHEN duplicate_table OR duplicate_object OR unique_violation THEN NULL; END $$"
	}
	if _, err = tx.ExecContext(ctx, statement); err != nil && !g.hasTable(ctx, tx) {
		return fmt.Errorf("SQLGuard: its table could not be made: %w", err)
	}
	return nil
}

// hasTable is whether the table is there, as far as tx can tell. In Postgres the question may not fail where it isn't, as the transaction would.
func (g SQLGuard) hasTable(ctx context.Context, tx SQLTx) bool {
	table, err := g.table()
	if err != nil {
		return false
	}
	if g.Dialect == Postgres {
		var there bool
		return tx.QueryRowContext(ctx, "SELECT to_regclass($1) IS NOT NULL", table).Scan(&there) == nil && there
	}
	var rows int
	return tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM "+table+" WHERE 1 = 0").Scan(&rows) == nil
}

// Admit answers ErrStaleFence when a newer fence of key was admitted, else it keeps fence in tx. Equal fences are admitted: one grant may write many
// times. Keys are stored as bytes. It blocks while another transaction that has admitted key goes on; a ctx that ends ends the wait and, as database/sql
// has it, may end tx too.
//
// After any error tx must be rolled back: what it wrote and will write is not guarded. Errors of the database come back wrapped. Those that ask
// for another try of the whole transaction, with the same fence, are, by the names that drivers give them: in Postgres 40001 and 40P01 (another came first, at
// REPEATABLE READ and SERIALIZABLE, or a deadlock), in MySQL and MariaDB 1213 and 1205, in SQLite SQLITE_BUSY with all its kinds.
//
// With a *sql.DB or *sql.Conn it is ErrInvalid, as check and write would be two; so it is with all that has a PingContext, as what wraps those mostly
// has. What hides it can't be told from a transaction. A savepoint that is rolled back takes with it what was admitted in it.
func (g SQLGuard) Admit(ctx context.Context, tx SQLTx, key string, fence Fence) error {
	if err := checkAdmit(ctx, key, fence); err != nil {
		return err
	}
	return g.admit(ctx, tx, []string{key}, fence)
}

// AdmitAll is Admit for each of keys, 1 to 64 as in LockAll, in a fixed order, so that two transactions that each call it once cannot wait for each
// other. A key named twice counts once. It answers ErrStaleFence when one of them has seen a newer fence. It takes no more round trips than Admit.
func (g SQLGuard) AdmitAll(ctx context.Context, tx SQLTx, keys []string, fence Fence) error {
	switch {
	case len(keys) == 0:
		return fmt.Errorf("%w keys: there are none; name what is to be written", ErrInvalid)
	case len(keys) > wire.MaxKeys:
		return fmt.Errorf("%w: %d keys at once, at most %d", ErrLimit, len(keys), wire.MaxKeys)
	}
	for _, key := range keys {
		if err := checkAdmit(ctx, key, fence); err != nil {
			return err
		}
	}
	return g.admit(ctx, tx, keys, fence)
}

// admit is AdmitAll of keys that were checked.
func (g SQLGuard) admit(ctx context.Context, tx SQLTx, keys []string, fence Fence) error {
	table, err := g.table()
	if err != nil {
		return err
	}
	if err := checkTx(tx); err != nil {
		return err
	}
	a := admission{Dialect: g.Dialect, table: table, keys: slices.Clone(keys), fence: int64(fence)}
	slices.Sort(a.keys)
	a.keys = slices.Compact(a.keys)
	admitted, err := a.raise(ctx, tx)
	switch {
	case err != nil:
		return fmt.Errorf("%s: fence %d could not be checked: %w", a.names(), fence, err)
	case !admitted:
		return a.stale(ctx, tx)
	}
	return nil
}

var errNoTx = fmt.Errorf("%w SQLGuard: there is no transaction (nil)", ErrInvalid)

// checkTx refuses what is known to be no transaction.
func checkTx(tx SQLTx) error {
	if t, is := tx.(*sql.Tx); tx == nil || is && t == nil {
		return errNoTx
	}
	if _, is := tx.(interface{ PingContext(context.Context) error }); is {
		return fmt.Errorf("%w SQLGuard: a %T is no transaction, and the check would be apart from the write; use a *sql.Tx", ErrInvalid, tx)
	}
	return nil
}

// table is the name of the table as the dialect quotes it.
func (g SQLGuard) table() (string, error) {
	switch g.Dialect {
	case Postgres, MySQL, SQLite:
	default:
		return "", fmt.Errorf("%w SQLGuard.Dialect %q: it must be %q, %q or %q", ErrInvalid, g.Dialect, Postgres, MySQL, SQLite)
	}
	name := g.Table
	if name == "" {
		name = "distlock_fences"
	}
	schema, plain, dotted := strings.Cut(name, ".")
	if !dotted {
		schema, plain = "", name
	}
	if !isIdentifier(plain) || dotted && !isIdentifier(schema) {
		return "", fmt.Errorf("%w SQLGuard.Table %.200q: it must be a plain name, or schema.name, of up to %d ASCII letters, digits and underscores, no digit first",
			ErrInvalid, g.Table, maxIdentifier)
	}
	if dotted {
		return g.Dialect.quote(schema) + "." + g.Dialect.quote(plain), nil
	}
	return g.Dialect.quote(plain), nil
}

const maxIdentifier = 63 // bytes; Postgres cuts off what is longer, and MySQL has 64

func isIdentifier(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', c >= '0' && c <= '9' && i > 0:
		default:
			return false
		}
	}
	return name != "" && len(name) <= maxIdentifier
}

// quote is name as the same name without quotes would be understood: Postgres folds those to lower case, the others compare either the same way.
func (d Dialect) quote(name string) string {
	switch d {
	case MySQL:
		return "`" + name + "`"
	case Postgres:
		name = strings.ToLower(name)
	}
	return `"` + name + `"`
}

// argument is the placeholder of a statement's n-th argument, from 1.
func (d Dialect) argument(n int) string {
	if d == Postgres {
		return "$" + strconv.Itoa(n)
	}
	return "?"
}

// StaleIfNone is for tables of the user's own that have a fence column, with no SQLGuard: check and write are one statement, and need no
// transaction. It answers err if there is one, ErrStaleFence when the statement affected no row, else nil.
//
//	ALTER TABLE stock ADD COLUMN fence BIGINT NOT NULL DEFAULT 0
//
//	err := distlock.StaleIfNone(db.ExecContext(ctx,
//		"UPDATE stock SET count = $1, fence = $2 WHERE sku = $3 AND fence <= $2", count, lock.Fence(), sku))
//
// The column must be NOT NULL, since nothing is less than NULL, and every write of the row must have both halves: "fence = $n" and "WHERE fence <= $n".
// (SQLite: ?2 for $2. MySQL and MariaDB: ?, and the fence twice.) No row is affected either when there is none, so rows must be inserted before, with fence 0.
//
// MySQL and MariaDB count only rows that changed, unless go-sql-driver is given clientFoundRows=true: without that, a second write of one grant that
// changes nothing looks stale. Set it, or have a column that every write changes, as in "SET count = ?, fence = ?, writes = writes + 1".
//
// Under REPEATABLE READ and above the database may answer an error of its own instead, which asks for another try; see SQLGuard.Admit.
func StaleIfNone(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	rows, err := res.RowsAffected()
	switch {
	case err != nil:
		return fmt.Errorf("the rows written can't be counted: %w", err)
	case rows == 0:
		return fmt.Errorf("%w: no row was written, since a newer one was there, or no such row", ErrStaleFence)
	}
	return nil
}
