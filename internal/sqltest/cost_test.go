package sqltest

import (
	"context"
	"database/sql"
	"slices"
	"testing"
	"time"

	"github.com/godistlock/distlock"
)

// What the guard costs: the same transaction (read a row, write it) without it, with Admit of one key and with AdmitAll of four, by turns, one
// at a time on one connection. Medians, in microseconds.
func BenchmarkGuard(b *testing.B) {
	for _, d := range databases {
		b.Run(d.name, func(b *testing.B) { cost(b, d) })
	}
}

func cost(b *testing.B, d database) {
	db := d.open(b)
	guard := d.guard(b, db)
	stock := d.unique(b, db, "stock")
	exec(b, db, "CREATE TABLE "+stock+" (sku VARCHAR(20) NOT NULL PRIMARY KEY, n BIGINT NOT NULL, fence BIGINT NOT NULL)")
	exec(b, db, "INSERT INTO "+stock+" VALUES ('a', 0, 0)")
	ctx := context.Background()
	sell := func(fence distlock.Fence, column bool, keys ...string) error {
		tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: d.levels[0]})
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if len(keys) > 0 {
			if err := guard.AdmitAll(ctx, tx, keys, fence); err != nil {
				return err
			}
		}
		var n int
		if err := tx.QueryRowContext(ctx, d.args("SELECT n FROM "+stock+" WHERE sku = ?"), "a").Scan(&n); err != nil {
			return err
		}
		if column {
			err = distlock.StaleIfNone(tx.ExecContext(ctx, d.args("UPDATE "+stock+" SET n = ?, fence = ? WHERE sku = ? AND fence <= ?"), n+1, fence, "a", fence))
		} else {
			_, err = tx.ExecContext(ctx, d.args("UPDATE "+stock+" SET n = ? WHERE sku = ?"), n+1, "a")
		}
		if err != nil {
			return err
		}
		return tx.Commit()
	}
	kinds := []struct {
		name   string
		column bool
		keys   []string
	}{
		{"bare", false, nil}, {"column", true, nil}, {"admit", false, []string{"a"}}, {"admit4", false, []string{"a", "b", "c", "d"}},
	}
	times := make([][]time.Duration, len(kinds))
	fence := distlock.Fence(1)
	for b.Loop() {
		fence++
		for i, k := range kinds {
			begin := time.Now()
			if err := sell(fence, k.column, k.keys...); err != nil {
				b.Fatal(err)
			}
			times[i] = append(times[i], time.Since(begin))
		}
	}
	b.ReportMetric(0, "ns/op") // a sum of unlike things
	for i, k := range kinds {
		slices.Sort(times[i])
		b.ReportMetric(float64(times[i][len(times[i])/2].Nanoseconds())/1000, "µs/"+k.name)
	}
}
