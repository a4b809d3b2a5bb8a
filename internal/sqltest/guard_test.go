package sqltest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godistlock/distlock"
)

func TestAdmit(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		db := d.open(t)
		g := d.guard(t, db)
		for i, c := range []struct {
			key   string
			fence distlock.Fence
			is    error
		}{
			{"sku-42", 7, nil}, {"sku-42", 7, nil}, {"sku-42", 6, distlock.ErrStaleFence}, {"sku-42", 9, nil}, {"sku-42", 8, distlock.ErrStaleFence},
			{"other", 6, nil}, {"sku-42", 1<<53 - 1, nil}, {"sku-42", 9, distlock.ErrStaleFence},
			{"", 6, distlock.ErrInvalid}, {"other", 0, distlock.ErrInvalid}, {"other", 1 << 53, distlock.ErrInvalid},
		} {
			level := d.levels[i%len(d.levels)]
			wants(t, fmt.Sprintf("%d: %q with %d at %v", i, c.key, c.fence, level), admitted(db, g, level, c.fence, c.key), c.is)
		}
		err := admitted(db, g, d.levels[0], 8, "sku-42")
		for _, says := range []string{"sku-42", " 8", "9007199254740991"} {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%v does not say %q", err, says)
			}
		}
	})
}

// Keys are bytes: nothing is folded, cut, padded or decoded.
func TestKeysAreBytes(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		db := d.open(t)
		g := d.guard(t, db)
		long := strings.Repeat("k", 1023)
		keys := []string{"a", "A", "a ", "a\x00", "\x00", "ä", "\xff\xfe", "'; --", `\`, long, long + "x", long + "y", "%", "?", "$1"}
		for i, key := range keys {
			wants(t, fmt.Sprintf("%.9q", key), admitted(db, g, d.levels[0], distlock.Fence(100+i), key), nil)
		}
		for i, key := range keys {
			if f := d.stored(t, db, g, key); f != distlock.Fence(100+i) {
				t.Errorf("%.9q has fence %d; want %d", key, f, 100+i)
			}
		}
		wants(t, "a key too long", admitted(db, g, d.levels[0], 1, strings.Repeat("k", 1025)), distlock.ErrLimit)
	})
}

// The count of a statement that writes nothing must not be the one of the statement before.
func TestStaleAfterAWrite(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		db := d.open(t)
		g := d.guard(t, db)
		stock := d.unique(t, db, "stock")
		exec(t, db, "CREATE TABLE "+stock+" (n BIGINT NOT NULL)")
		wants(t, "the first", admitted(db, g, d.levels[0], 10, "a"), nil)
		for _, level := range d.levels {
			tx := begin(t, db, level)
			exec(t, tx, "INSERT INTO "+stock+" VALUES (1)")
			wants(t, "the stale one", g.Admit(t.Context(), tx, "a", 9), distlock.ErrStaleFence)
			wants(t, "its rollback", tx.Rollback(), nil)
		}
		var rows int
		if err := db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+stock).Scan(&rows); err != nil || rows != 0 {
			t.Errorf("%d rows of stale transactions, %v", rows, err)
		}
	})
}

// What a transaction admitted ends with it, when it is rolled back, and one may admit more than once.
func TestWithinOneTransaction(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		db := d.open(t)
		g := d.guard(t, db)
		for _, level := range d.levels {
			tx := begin(t, db, level)
			wants(t, "5", g.Admit(t.Context(), tx, "a", 5), nil)
			wants(t, "5 again", g.Admit(t.Context(), tx, "a", 5), nil)
			wants(t, "b", g.Admit(t.Context(), tx, "b", 6), nil)
			wants(t, "both", g.AdmitAll(t.Context(), tx, []string{"b", "a", "b"}, 7), nil)
			wants(t, "6 after 7", g.Admit(t.Context(), tx, "a", 6), distlock.ErrStaleFence)
			wants(t, "rollback", tx.Rollback(), nil)
			if f := d.stored(t, db, g, "a"); f != 0 {
				t.Errorf("%v: fence %d of a transaction that was rolled back", level, f)
			}
		}
		for _, level := range d.levels {
			wants(t, "both", admitted(db, g, level, 9, "a", "b"), nil)
			wants(t, "one is stale", admitted(db, g, level, 8, "a", "c"), distlock.ErrStaleFence)
			if a, c := d.stored(t, db, g, "a"), d.stored(t, db, g, "c"); a != 9 || c != 0 {
				t.Errorf("%v: fences %d, %d; want 9, 0", level, a, c)
			}
		}
		// One who commits in spite of the error has lowered nothing.
		tx := begin(t, db, d.levels[0])
		wants(t, "stale", g.AdmitAll(t.Context(), tx, []string{"a", "c"}, 8), distlock.ErrStaleFence)
		wants(t, "commit", tx.Commit(), nil)
		if f := d.stored(t, db, g, "a"); f != 9 {
			t.Errorf("fence %d; want 9", f)
		}
	})
}

// Check and write are one: a later one waits until the transaction of the earlier one ends, and then sees what it left.
func TestLaterOnesWait(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		db := d.open(t)
		g := d.guard(t, db)
		for _, level := range d.levels {
			for _, known := range []bool{false, true} {
				for _, commit := range []bool{false, true} {
					t.Run(fmt.Sprint(level, known, commit), func(t *testing.T) { laterWaits(t, db, g, level, known, commit) })
				}
			}
		}
	})
}

func laterWaits(t *testing.T, db *sql.DB, g distlock.SQLGuard, level sql.IsolationLevel, known, commit bool) {
	key := t.Name() // new to the guard
	if known {
		wants(t, "the first", admitted(db, g, level, 1, key), nil)
	}
	first := begin(t, db, level)
	wants(t, "5", g.Admit(t.Context(), first, key, 5), nil)

	answers := make(chan error, 1)
	begun := make(chan struct{})
	go func() { // ends with the answer
		tx, err := db.BeginTx(context.Background(), &sql.TxOptions{Isolation: level})
		close(begun)
		if err != nil {
			answers <- err
			return
		}
		defer tx.Rollback()
		if err = g.Admit(context.Background(), tx, key, 4); err == nil {
			err = tx.Commit()
		}
		answers <- err
	}()
	// There is no answer while the first goes on. One that would come is there within this time, or this test sees nothing.
	select {
	case err := <-answers:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if commit {
		wants(t, "commit", first.Commit(), nil)
	} else {
		wants(t, "rollback", first.Rollback(), nil)
	}
	<-begun
	err := <-answers
	switch {
	case !commit:
		wants(t, "4 after a rollback", err, nil)
	case again(err) != "" && level > sql.LevelReadCommitted: // as the database has it there; the next try is told
		wants(t, "4, once more", admitted(db, g, level, 4, key), distlock.ErrStaleFence)
	default:
		wants(t, "4", err, distlock.ErrStaleFence)
	}
}

// A table of few rows is not scanned: the locks of one key are no matter to others.
func TestOtherKeysDontWait(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		if d.dialect == distlock.SQLite { // which has one lock for all
			return
		}
		db := d.open(t)
		for _, level := range d.levels {
			g := d.guard(t, db)
			wants(t, "the first", admitted(db, g, level, 1, "a", "c", "e", "g"), nil)
			first := begin(t, db, level)
			wants(t, "the one that stays", g.Admit(t.Context(), first, "c", 5), nil)
			for _, keys := range [][]string{{"a"}, {"e"}, {"a", "e"}, {"e", "g", "a"}} {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				tx := begin(t, db, level)
				err := g.AdmitAll(ctx, tx, keys, 5)
				cancel()
				if err != nil {
					t.Fatalf("%v, %v: %v", level, keys, err)
				}
				wants(t, "rollback", tx.Rollback(), nil)
			}
			wants(t, "commit", first.Commit(), nil)
		}
	})
}

// A transaction that has looked at the database before, and so has a snapshot of a time when nobody newer was there, is not admitted.
func TestOldSnapshots(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		db := d.open(t)
		for _, level := range d.levels {
			for _, known := range []bool{false, true} {
				g := d.guard(t, db)
				wants(t, "another", admitted(db, g, level, 1, "z"), nil)
				if known {
					wants(t, "the first", admitted(db, g, level, 1, "a"), nil)
				}
				for _, fences := range [][2]distlock.Fence{{9, 8}, {10, 11}} {
					newer, fence := fences[0], fences[1]
					tx := begin(t, db, level)
					if d.name != "sqlite, immediate" { // where nobody else can write from here on
						var n int
						if err := tx.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+g.Table).Scan(&n); err != nil {
							t.Fatal(err)
						}
						if d.dialect == distlock.MySQL && level == sql.LevelSerializable {
							tx.Rollback() // there that has locked what it read, and nobody newer can come
							continue
						}
						wants(t, "the newer one", admitted(db, g, level, newer, "a"), nil)
					} else {
						tx.Rollback()
						wants(t, "the newer one", admitted(db, g, level, newer, "a"), nil)
						tx = begin(t, db, level)
					}
					err := g.Admit(t.Context(), tx, "a", fence)
					snapshot := d.name == "sqlite" || d.dialect == distlock.Postgres && level > sql.LevelReadCommitted
					switch {
					case snapshot && (again(err) == "" || errors.Is(err, distlock.ErrStaleFence)):
						t.Errorf("%v, known %v, %d: %v; want an error that asks for another try", level, known, fence, err)
					case !snapshot && fence < newer:
						wants(t, fmt.Sprint(level, known, fence), err, distlock.ErrStaleFence)
					case !snapshot:
						if again(err) == "" { // MariaDB may have it so, at REPEATABLE READ
							wants(t, fmt.Sprint(level, known, fence), err, nil)
						}
					}
					tx.Rollback()
					if f := d.stored(t, db, g, "a"); f != newer {
						t.Errorf("fence %d; want %d", f, newer)
					}
				}
			}
		}
	})
}

// What a transaction of MySQL or MariaDB read before Admit it reads again after it, unless it locks: as SQLGuard's comment says.
func TestSnapshotsOutliveAdmit(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		if d.dialect != distlock.MySQL { // others are in TestOldSnapshots: there Admit answers an error
			return
		}
		db := d.open(t)
		g := d.guard(t, db)
		stock := d.unique(t, db, "stock")
		exec(t, db, "CREATE TABLE "+stock+" (n BIGINT NOT NULL)")
		exec(t, db, "INSERT INTO "+stock+" VALUES (1)")
		for _, early := range []bool{true, false} {
			exec(t, db, "UPDATE "+stock+" SET n = 1")
			tx := begin(t, db, sql.LevelRepeatableRead)
			read := func(lock string) (n int) {
				if err := tx.QueryRowContext(t.Context(), "SELECT n FROM "+stock+lock).Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			if early {
				read("")
			}
			exec(t, db, "UPDATE "+stock+" SET n = 2")
			wants(t, "admit", g.Admit(t.Context(), tx, "a", 5), nil)
			want := map[bool]int{true: 1, false: 2}[early]
			if plain, locking := read(""), read(" FOR UPDATE"); plain != want || locking != 2 {
				t.Errorf("read before %v: then %d, locking %d; want %d, 2", early, plain, locking, want)
			}
			wants(t, "rollback", tx.Rollback(), nil)
		}
	})
}

// Many admit a key that nobody has admitted before.
func TestFirstUseOfAKey(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		db := d.open(t)
		g := d.guard(t, db)
		const writers = 12
		for round := range 2 * len(d.levels) {
			level := d.levels[round%len(d.levels)]
			key := fmt.Sprintf("new-%d", round)
			var all sync.WaitGroup
			start := make(chan struct{})
			answers := make([]error, writers+1)
			for fence := 1; fence <= writers; fence++ {
				all.Go(func() { // ends with a verdict
					<-start
					for {
						answers[fence] = admitted(db, g, level, distlock.Fence(fence), key)
						if again(answers[fence]) == "" {
							return
						}
					}
				})
			}
			close(start)
			all.Wait()
			for fence, err := range answers[1:] {
				if err != nil && !errors.Is(err, distlock.ErrStaleFence) {
					t.Errorf("%v: %d: %v", level, fence+1, err)
				}
			}
			wants(t, "the newest", answers[writers], nil)
			if f := d.stored(t, db, g, key); f != writers {
				t.Errorf("%v: fence %d; want %d", level, f, writers)
			}
		}
	})
}

// Transactions that admit the same keys, named in whatever order, don't wait for each other in a circle.
func TestAdmitAllDoesNotDeadlock(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		db := d.open(t)
		g := d.guard(t, db)
		keys := []string{"a", "b", "c", "d"}
		wants(t, "the first", admitted(db, g, d.levels[0], 1, keys...), nil)
		for _, level := range d.levels {
			var all sync.WaitGroup
			for range 2 {
				for _, back := range []bool{false, true} {
					all.Go(func() { // ends after its rounds
						mine := slices.Clone(keys)
						if back {
							slices.Reverse(mine)
						}
						for range 60 {
							err := admitted(db, g, level, 1, mine...)
							if deadlock(err) || err != nil && again(err) == "" {
								t.Errorf("%v: %v", level, err)
								return
							}
						}
					})
				}
			}
			all.Wait()
		}
	})
}

// Without the order there is a deadlock, and it is seen here: else the test above would prove nothing.
func TestWithoutTheOrderTheyDeadlock(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		if d.dialect == distlock.SQLite { // where a second one can't begin
			return
		}
		db := d.open(t)
		g := d.guard(t, db)
		wants(t, "the first", admitted(db, g, d.levels[0], 1, "a", "b"), nil)
		answers := make(chan error, 2)
		txs := []*sql.Tx{begin(t, db, sql.LevelReadCommitted), begin(t, db, sql.LevelReadCommitted)}
		for i, key := range []string{"a", "b"} {
			wants(t, key, g.Admit(t.Context(), txs[i], key, 1), nil)
		}
		for i, key := range []string{"b", "a"} {
			go func() { // ends when the database has seen the circle
				answers <- g.Admit(context.Background(), txs[i], key, 1)
				txs[i].Rollback()
			}()
		}
		if one, other := <-answers, <-answers; deadlock(one) == deadlock(other) {
			t.Errorf("%v and %v; want one deadlock", one, other)
		}
	})
}

// The context ends a wait, and the answer is no verdict.
func TestContextEndsTheWait(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		if d.dialect == distlock.SQLite {
			return // waits in the driver: see TestSQLiteIsBusy
		}
		db := d.open(t)
		g := d.guard(t, db)
		first := begin(t, db, d.levels[0])
		wants(t, "5", g.Admit(t.Context(), first, "a", 5), nil)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		err := g.Admit(ctx, begin(t, db, d.levels[0]), "a", 6)
		if err == nil || errors.Is(err, distlock.ErrStaleFence) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v; want one that matches context.DeadlineExceeded", err)
		}
	})
}

// A database that is locked for longer than the busy time-out says so, and that is no verdict.
func TestSQLiteIsBusy(t *testing.T) {
	d := databases[0]
	db := d.openBy(t, d.dsn(t, "20"))
	g := d.guard(t, db)
	first := begin(t, db, sql.LevelDefault)
	wants(t, "5", g.Admit(t.Context(), first, "a", 5), nil)
	for _, fence := range []distlock.Fence{4, 6} {
		if err := admitted(db, g, sql.LevelDefault, fence, "b"); again(err) == "" || errors.Is(err, distlock.ErrStaleFence) {
			t.Errorf("%d: %v; want SQLITE_BUSY", fence, err)
		}
	}
}

func TestNoTransaction(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		db := d.open(t)
		g := d.guard(t, db)
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, tx := range []distlock.SQLTx{db, conn, struct{ *sql.DB }{db}, nil, (*sql.Tx)(nil)} {
			wants(t, fmt.Sprintf("%T", tx), g.Admit(t.Context(), tx, "a", 1), distlock.ErrInvalid)
			wants(t, fmt.Sprintf("%T", tx), g.AdmitAll(t.Context(), tx, []string{"a"}, 1), distlock.ErrInvalid)
		}
		ended := begin(t, db, d.levels[0])
		wants(t, "rollback", ended.Rollback(), nil)
		wants(t, "a transaction that has ended", g.Admit(t.Context(), ended, "a", 1), sql.ErrTxDone)
		if f := d.stored(t, db, g, "a"); f != 0 {
			t.Errorf("fence %d", f)
		}
	})
}
