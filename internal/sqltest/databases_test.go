package sqltest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/godistlock/distlock"
	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	sqlite "modernc.org/sqlite"
)

// database is one kind of database in one of the ways to use it.
type database struct {
	name    string
	dialect distlock.Dialect
	driver  string
	dsn     func(t testing.TB, patience string) string // patience: milliseconds that SQLite waits for a lock; others ignore it
	levels  []sql.IsolationLevel
	whole   bool // it takes part in the long proof, not only in the promises
	found   bool // counts rows that a statement found, also those that it leaves as they were
}

// databases are those that run here; main says which. SQLite always does.
var databases []database

func TestMain(m *testing.M) {
	missing := findDatabases()
	for _, d := range databases {
		fmt.Println("runs:", d.name)
	}
	for _, name := range missing {
		fmt.Println("not run:", name)
	}
	if len(missing) > 0 && os.Getenv("DISTLOCK_TEST_DATABASES") == "all" {
		fmt.Println("FAIL: DISTLOCK_TEST_DATABASES asks for all of them; see .ci/databases")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func findDatabases() (missing []string) {
	file := func(options string) func(testing.TB, string) string {
		return func(t testing.TB, patience string) string {
			return "file:" + filepath.Join(t.TempDir(), "test.db") + "?_pragma=journal_mode(wal)&_pragma=synchronous(off)&_pragma=busy_timeout(" + patience + ")" + options
		}
	}
	only := []sql.IsolationLevel{sql.LevelDefault} // a SQLite transaction is serializable, whatever one asks for
	databases = append(databases,
		database{name: "sqlite", dialect: distlock.SQLite, driver: "sqlite", dsn: file(""), levels: only, whole: true, found: true},
		database{name: "sqlite, immediate", dialect: distlock.SQLite, driver: "sqlite", dsn: file("&_txlock=immediate"), levels: only, whole: true, found: true})

	if dsn := os.Getenv("DISTLOCK_TEST_POSTGRES"); dsn == "" {
		missing = append(missing, "postgres: DISTLOCK_TEST_POSTGRES is not set")
	} else {
		levels := []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable}
		given := func(options string) func(testing.TB, string) string {
			return func(testing.TB, string) string { return dsn + options }
		}
		simple := " default_query_exec_mode=simple_protocol"
		if strings.Contains(dsn, "://") {
			simple = map[bool]string{true: "&", false: "?"}[strings.Contains(dsn, "?")] + strings.TrimSpace(simple)
		}
		databases = append(databases,
			database{name: "postgres", dialect: distlock.Postgres, driver: "pgx", dsn: given(""), levels: levels, whole: true, found: true},
			database{name: "postgres, simple protocol", dialect: distlock.Postgres, driver: "pgx", dsn: given(simple), levels: levels, found: true})
	}

	if dsn := os.Getenv("DISTLOCK_TEST_MYSQL"); dsn == "" {
		missing = append(missing, "mariadb: DISTLOCK_TEST_MYSQL is not set")
	} else {
		levels := []sql.IsolationLevel{sql.LevelReadUncommitted, sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable}
		given := func(options url.Values) func(testing.TB, string) string {
			return func(t testing.TB, _ string) string {
				c, err := mysql.ParseDSN(dsn)
				if err != nil {
					t.Fatal(err)
				}
				c.ClientFoundRows = options.Has("found")
				c.InterpolateParams = options.Has("interpolate")
				return c.FormatDSN()
			}
		}
		databases = append(databases,
			database{name: "mariadb", dialect: distlock.MySQL, driver: "mysql", dsn: given(nil), levels: levels, whole: true},
			database{name: "mariadb, found rows, interpolated", dialect: distlock.MySQL, driver: "mysql",
				dsn: given(url.Values{"found": nil, "interpolate": nil}), levels: levels, found: true})
	}
	return missing
}

// each runs test for each database, one after the other.
func each(t *testing.T, test func(t *testing.T, d database)) {
	for _, d := range databases {
		t.Run(d.name, func(t *testing.T) { test(t, d) })
	}
}

// pools of servers by DSN, for the process's time: a connection costs a server more than a test does.
var pools = make(map[string]*sql.DB)

// open is a pool. SQLite has a new database for each test, and waits half a minute for a lock there.
func (d database) open(t testing.TB) *sql.DB {
	t.Helper()
	dsn := d.dsn(t, "30000")
	if d.dialect == distlock.SQLite {
		return d.openBy(t, dsn)
	}
	if pools[dsn] == nil {
		db, err := sql.Open(d.driver, dsn)
		if err != nil {
			t.Fatal(err)
		}
		db.SetMaxIdleConns(16)
		pools[dsn] = db
	}
	return pools[dsn]
}

func (d database) openBy(t testing.TB, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(d.driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxIdleConns(16)
	t.Cleanup(func() { db.Close() })
	if err := db.PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return db
}

var tables atomic.Int64

// unique is a name that no table of this process has had; the table is dropped before and after.
func (d database) unique(t testing.TB, db *sql.DB, name string) string {
	t.Helper()
	name = fmt.Sprintf("%s_%d", name, tables.Add(1))
	drop := func() {
		if _, err := db.ExecContext(context.Background(), "DROP TABLE IF EXISTS "+name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	drop()
	t.Cleanup(drop)
	return name
}

// guard is a SQLGuard with a new table.
func (d database) guard(t testing.TB, db *sql.DB) distlock.SQLGuard {
	t.Helper()
	g := distlock.SQLGuard{Dialect: d.dialect, Table: d.unique(t, db, "fences")}
	if err := g.CreateTable(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	return g
}

// args is query with the placeholders of the dialect, ? in the text.
func (d database) args(query string) string {
	if d.dialect != distlock.Postgres {
		return query
	}
	var b strings.Builder
	for i, part := range strings.Split(query, "?") {
		if i > 0 {
			fmt.Fprintf(&b, "$%d", i)
		}
		b.WriteString(part)
	}
	return b.String()
}

// key is the guard's column, as the dialect wants it written.
func (d database) key() string {
	if d.dialect == distlock.MySQL {
		return "`key`"
	}
	return "key"
}

// again is the name of an error of the database that asks for another try of the whole transaction, else "".
func again(err error) string {
	var pg *pgconn.PgError
	var my *mysql.MySQLError
	var lite *sqlite.Error
	switch {
	case errors.As(err, &pg) && (pg.Code == "40001" || pg.Code == "40P01"):
		return pg.Code
	case errors.As(err, &my) && (my.Number == 1213 || my.Number == 1205 || my.Number == 1020):
		return fmt.Sprint(my.Number)
	case errors.As(err, &lite) && (lite.Code()&0xff == 5 || lite.Code()&0xff == 6): // SQLITE_BUSY, SQLITE_LOCKED
		return fmt.Sprintf("SQLITE_BUSY %d", lite.Code())
	}
	return ""
}

// deadlock is whether err is the database's word for transactions that wait for each other.
func deadlock(err error) bool { return again(err) == "40P01" || again(err) == "1213" }

// begin is a transaction for the test's time.
func begin(t testing.TB, db *sql.DB, level sql.IsolationLevel) *sql.Tx {
	t.Helper()
	tx, err := db.BeginTx(context.Background(), &sql.TxOptions{Isolation: level})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Rollback() })
	return tx
}

// admitted is a transaction of its own that admits and ends.
func admitted(db *sql.DB, g distlock.SQLGuard, level sql.IsolationLevel, fence distlock.Fence, keys ...string) error {
	ctx := context.Background()
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: level})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := g.AdmitAll(ctx, tx, keys, fence); err != nil {
		return err
	}
	return tx.Commit()
}

// stored is the fence in the table.
func (d database) stored(t testing.TB, db *sql.DB, g distlock.SQLGuard, key string) (fence distlock.Fence) {
	t.Helper()
	err := db.QueryRowContext(t.Context(), d.args("SELECT fence FROM "+g.Table+" WHERE "+d.key()+" = ?"), []byte(key)).Scan(&fence)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		t.Fatal(err)
	}
	return fence
}

// exec must succeed.
func exec(t testing.TB, tx distlock.SQLTx, query string, args ...any) {
	t.Helper()
	if _, err := tx.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// wants is whether err is what is wanted: nil, or an error that matches.
func wants(t testing.TB, what string, err, is error) {
	t.Helper()
	if !errors.Is(err, is) || (err == nil) != (is == nil) {
		t.Errorf("%s: %v; want %v", what, err, is)
	}
}
