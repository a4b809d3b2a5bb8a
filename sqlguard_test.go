package distlock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// fakeDB is a database that does what a test says: the guard itself is proven on real ones in internal/sqltest.
type fakeDB struct {
	rows    int64 // affected by a statement
	counted error // what counting them answers
	answer  []driver.Value
	fails   error

	queries []string
	args    [][]driver.Value
}

func (f *fakeDB) Connect(context.Context) (driver.Conn, error) { return fakeConn{f}, nil }
func (f *fakeDB) Driver() driver.Driver                        { return nil }

type fakeConn struct{ *fakeDB }

func (c fakeConn) Prepare(query string) (driver.Stmt, error) { return fakeStmt{c, query}, nil }
func (c fakeConn) Close() error                              { return nil }
func (c fakeConn) Begin() (driver.Tx, error)                 { return c, nil }
func (c fakeConn) Commit() error                             { return nil }
func (c fakeConn) Rollback() error                           { return nil }

type fakeStmt struct {
	fakeConn
	query string
}

func (s fakeStmt) NumInput() int { return -1 }

func (s fakeStmt) Exec(args []driver.Value) (driver.Result, error) {
	s.queries, s.args = append(s.queries, s.query), append(s.args, args)
	return fakeResult{s.fakeDB}, s.fails
}

func (s fakeStmt) Query(args []driver.Value) (driver.Rows, error) {
	s.queries, s.args = append(s.queries, s.query), append(s.args, args)
	return &fakeRows{answer: s.answer}, s.fails
}

type fakeResult struct{ *fakeDB }

func (r fakeResult) LastInsertId() (int64, error) { return 0, nil }
func (r fakeResult) RowsAffected() (int64, error) { return r.rows, r.counted }

type fakeRows struct {
	answer []driver.Value
	read   bool
}

func (r *fakeRows) Columns() []string { return make([]string, len(r.answer)) }
func (r *fakeRows) Close() error      { return nil }
func (r *fakeRows) Next(row []driver.Value) error {
	if r.read || len(r.answer) == 0 {
		return io.EOF
	}
	r.read = true
	copy(row, r.answer)
	return nil
}

// fakeTx is a transaction in f, which ends with the test.
func fakeTx(t *testing.T, f *fakeDB) *sql.Tx {
	t.Helper()
	db := sql.OpenDB(f)
	t.Cleanup(func() { db.Close() })
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Rollback() })
	return tx
}

var dialects = []Dialect{Postgres, MySQL, SQLite}

func TestSQLGuardNonsense(t *testing.T) {
	f := &fakeDB{rows: 1}
	tx := fakeTx(t, f)
	for _, c := range []struct {
		guard SQLGuard
		says  []string
	}{
		{SQLGuard{}, []string{"SQLGuard.Dialect", `""`, `"postgres", "mysql" or "sqlite"`}},
		{SQLGuard{Dialect: "oracle"}, []string{"SQLGuard.Dialect", `"oracle"`}},
		{SQLGuard{Dialect: "Postgres"}, []string{"SQLGuard.Dialect"}},
	} {
		judgeRefused(t, c.guard, tx, c.says...)
	}
	for _, name := range []string{
		" ", "a b", "a;", `a"`, "a`", "a'", "a.b.c", ".a", "a.", ".", "1a", "a.1b", "a-b", "ä", "a\x00", "a\n", "$1", "?", "a--", `a" (key) VALUES (1); DROP TABLE x; --`,
		strings.Repeat("a", 64), "a." + strings.Repeat("a", 64), strings.Repeat("a", 1<<20),
	} {
		for _, d := range dialects {
			judgeRefused(t, SQLGuard{Dialect: d, Table: name}, tx, "SQLGuard.Table", "plain name")
		}
	}
	if len(f.queries) != 0 {
		t.Errorf("nonsense reached the database: %q", f.queries)
	}
}

func judgeRefused(t *testing.T, g SQLGuard, tx SQLTx, says ...string) {
	t.Helper()
	what := fmt.Sprintf("%.80v", g)
	_, err := g.TableSQL()
	wantFaults(t, what, err, ErrInvalid, says...)
	if err != nil && len(err.Error()) > 1000 {
		t.Errorf("%s: an error of %d bytes", what, len(err.Error()))
	}
	wantFaults(t, what, g.CreateTable(t.Context(), tx), ErrInvalid, says...)
	wantFaults(t, what, g.Admit(t.Context(), tx, "k", 1), ErrInvalid, says...)
	wantFaults(t, what, g.AdmitAll(t.Context(), tx, []string{"k"}, 1), ErrInvalid, says...)
}

func TestTableSQL(t *testing.T) {
	for _, c := range []struct {
		guard SQLGuard
		want  string
	}{
		{SQLGuard{Dialect: Postgres}, `CREATE TABLE IF NOT EXISTS "distlock_fences" ("key" BYTEA NOT NULL PRIMARY KEY, fence BIGINT NOT NULL)`},
		{SQLGuard{Dialect: Postgres, Table: "App.Fences"}, `CREATE TABLE IF NOT EXISTS "app"."fences" ("key" BYTEA NOT NULL PRIMARY KEY, fence BIGINT NOT NULL)`},
		{SQLGuard{Dialect: MySQL, Table: "App._f2"}, "CREATE TABLE IF NOT EXISTS `App`.`_f2` (`key` VARBINARY(1024) NOT NULL PRIMARY KEY, fence BIGINT NOT NULL) ENGINE=InnoDB"},
		{SQLGuard{Dialect: SQLite, Table: strings.Repeat("f", 63)},
			`CREATE TABLE IF NOT EXISTS "` + strings.Repeat("f", 63) + `" ("key" BLOB NOT NULL PRIMARY KEY, fence BIGINT NOT NULL) WITHOUT ROWID`},
	} {
		if got, err := c.guard.TableSQL(); err != nil || got != c.want {
			t.Errorf("%v: %s, %v; want %s", c.guard, got, err, c.want)
		}
	}
}

// pinger is what a wrapped *sql.DB is, and a wrapped *sql.Tx is not.
type pinger struct{ *sql.DB }

func TestSQLGuardWantsATransaction(t *testing.T) {
	f := &fakeDB{rows: 1}
	db := sql.OpenDB(f)
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, d := range dialects {
		g := SQLGuard{Dialect: d}
		for _, tx := range []SQLTx{db, conn, pinger{db}} {
			wantFaults(t, fmt.Sprintf("%T", tx), g.Admit(t.Context(), tx, "k", 1), ErrInvalid, fmt.Sprintf("%T", tx), "use a *sql.Tx")
			wantFaults(t, fmt.Sprintf("%T", tx), g.AdmitAll(t.Context(), tx, []string{"k"}, 1), ErrInvalid, fmt.Sprintf("%T", tx))
		}
		for _, tx := range []SQLTx{nil, (*sql.Tx)(nil)} {
			wantFaults(t, "nil", g.Admit(t.Context(), tx, "k", 1), ErrInvalid, "nil")
		}
		wantFaults(t, "nil", g.CreateTable(t.Context(), nil), ErrInvalid, "nil")
	}
	if len(f.queries) != 0 {
		t.Errorf("it reached the database: %q", f.queries)
	}
	if err := (SQLGuard{Dialect: SQLite}).Admit(t.Context(), struct{ *sql.Tx }{fakeTx(t, f)}, "k", 1); err != nil {
		t.Errorf("a wrapped transaction: %v", err)
	}
}

func TestSQLGuardJudgesItsArguments(t *testing.T) {
	f := &fakeDB{rows: 1}
	tx, g := fakeTx(t, f), SQLGuard{Dialect: SQLite}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	many := make([]string, 65)
	for i := range many {
		many[i] = "k"
	}
	for i, c := range []struct {
		ctx   context.Context
		keys  []string
		fence Fence
		is    error
	}{
		{t.Context(), nil, 1, ErrInvalid}, {t.Context(), []string{"k", ""}, 1, ErrInvalid}, {t.Context(), []string{"k"}, 0, ErrInvalid}, {t.Context(), []string{"k"}, 1 << 53, ErrInvalid},
		{t.Context(), []string{"a", strings.Repeat("k", 1025)}, 1, ErrLimit}, {t.Context(), many, 1, ErrLimit}, {ended, []string{"k"}, 1, context.Canceled},
	} {
		wantFaults(t, fmt.Sprint(i), g.AdmitAll(c.ctx, tx, c.keys, c.fence), c.is)
		if len(c.keys) == 1 {
			wantFaults(t, fmt.Sprint(i), g.Admit(c.ctx, tx, c.keys[0], c.fence), c.is)
		}
	}
	if len(f.queries) != 0 {
		t.Errorf("it reached the database: %q", f.queries)
	}
}

// Keys go in ascending order, each once, as bytes, and the caller's are left as they are.
func TestAdmitAllOrder(t *testing.T) {
	for _, d := range dialects {
		f := &fakeDB{rows: 3, answer: []driver.Value{int64(3), int64(7), int64(7)}}
		keys := []string{"b", "\xff", "a", "b"}
		if err := (SQLGuard{Dialect: d}).AdmitAll(t.Context(), fakeTx(t, f), keys, 7); err != nil {
			t.Errorf("%s: %v", d, err)
		}
		if !slices.Equal(keys, []string{"b", "\xff", "a", "b"}) {
			t.Errorf("%s: the caller's keys are %q now", d, keys)
		}
		if got, want := fmt.Sprintf("%q", f.args[0]), fmt.Sprintf("%q", []driver.Value{[]byte("a"), int64(7), []byte("b"), int64(7), []byte("\xff"), int64(7)}); got != want {
			t.Errorf("%s: arguments %s; want %s", d, got, want)
		}
		for i, query := range f.queries {
			if n := len(regexp.MustCompile(`\?|\$\d+`).FindAllString(query, -1)); n != len(f.args[i]) {
				t.Errorf("%s: %d places for %d arguments: %s", d, n, len(f.args[i]), query)
			}
		}
		if d == Postgres && !strings.Contains(f.queries[0], "VALUES ($1, $2), ($3, $4), ($5, $6)") {
			t.Error(f.queries[0])
		}
	}
}

func TestSQLGuardVerdicts(t *testing.T) {
	lost, uncounted := errors.New("connection lost"), errors.New("not counted")
	for name, c := range map[string]struct {
		dialect Dialect
		db      fakeDB
		is      error
		says    []string
	}{
		"written":              {Postgres, fakeDB{rows: 2}, nil, nil},
		"one of two":           {Postgres, fakeDB{rows: 1, answer: []driver.Value{[]byte("b"), int64(9)}}, ErrStaleFence, []string{`key "b"`, "fence 7, and 9"}},
		"none of two":          {SQLite, fakeDB{answer: []driver.Value{[]byte("b"), int64(9)}}, ErrStaleFence, []string{`key "b"`, "fence 7, and 9"}},
		"none, and no more":    {SQLite, fakeDB{}, ErrStaleFence, []string{`key "a" and 1 more`, "fence 7"}},
		"it fails":             {Postgres, fakeDB{rows: 2, fails: lost}, lost, []string{`key "a" and 1 more`, "fence 7"}},
		"it can't be counted":  {SQLite, fakeDB{rows: 2, counted: uncounted}, uncounted, nil},
		"mysql: equal":         {MySQL, fakeDB{answer: []driver.Value{int64(2), int64(7), int64(7)}}, nil, nil},
		"mysql: newer":         {MySQL, fakeDB{rows: 2, answer: []driver.Value{int64(2), int64(7), int64(9)}}, ErrStaleFence, []string{"fence 7"}},
		"mysql: a row is gone": {MySQL, fakeDB{rows: 2, answer: []driver.Value{int64(1), int64(7), int64(7)}}, errNotThere, []string{"distlock_fences"}},
		"mysql: not written":   {MySQL, fakeDB{rows: 2, answer: []driver.Value{int64(2), int64(6), int64(7)}}, errNotThere, nil},
		"mysql: none":          {MySQL, fakeDB{rows: 2, answer: []driver.Value{int64(0), nil, nil}}, errNotThere, nil},
		"mysql: no answer":     {MySQL, fakeDB{rows: 2}, sql.ErrNoRows, nil},
		"mysql: it fails":      {MySQL, fakeDB{rows: 2, fails: lost}, lost, nil},
	} {
		err := (SQLGuard{Dialect: c.dialect}).AdmitAll(t.Context(), fakeTx(t, &c.db), []string{"a", "b"}, 7)
		if !errors.Is(err, c.is) || (err == nil) != (c.is == nil) || errors.Is(err, ErrStaleFence) != (c.is == ErrStaleFence) {
			t.Errorf("%s: %v; want %v", name, err, c.is)
			continue
		}
		for _, says := range c.says {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %q does not say %q", name, err, says)
			}
		}
	}
}

func TestStaleIfNone(t *testing.T) {
	lost, uncounted := errors.New("connection lost"), errors.New("not counted")
	for i, c := range []struct {
		db fakeDB
		is error
	}{
		{fakeDB{rows: 1}, nil}, {fakeDB{rows: 5}, nil}, {fakeDB{}, ErrStaleFence}, {fakeDB{rows: 1, counted: uncounted}, uncounted}, {fakeDB{rows: 1, fails: lost}, lost},
	} {
		err := StaleIfNone(fakeTx(t, &c.db).ExecContext(t.Context(), "UPDATE stock SET fence = ? WHERE fence <= ?", Fence(7), Fence(7)))
		if !errors.Is(err, c.is) || (err == nil) != (c.is == nil) || errors.Is(err, ErrStaleFence) != (c.is == ErrStaleFence) {
			t.Errorf("%d: %v; want %v", i, err, c.is)
		}
		if got := c.db.args[0]; len(got) != 2 || got[0] != int64(7) {
			t.Errorf("the fence comes as %v, %T", got, got[0])
		}
	}
}
