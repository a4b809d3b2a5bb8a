package distlock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// admission is one fence that is to be admitted for some keys, in a transaction that goes on: the SQL of SQLGuard.
type admission struct {
	Dialect
	table string   // quoted
	keys  []string // ascending, each once: rows are locked in this order
	fence int64
}

// raise stores the fence for all keys that have no newer one, and leaves their rows locked. It answers whether all have it then.
func (a admission) raise(ctx context.Context, tx SQLTx) (bool, error) {
	if a.Dialect == MySQL {
		return a.raiseMySQL(ctx, tx)
	}
	// A row whose fence is newer is locked, not updated, and not counted.
	res, err := tx.ExecContext(ctx, "INSERT INTO "+a.table+" AS kept ("+a.quote("key")+", fence) VALUES "+a.rows()+
		" ON CONFLICT ("+a.quote("key")+") DO UPDATE SET fence = EXCLUDED.fence WHERE kept.fence <= EXCLUDED.fence", a.pairs()...)
	if err != nil {
		return false, err
	}
	rows, err := res.RowsAffected()
	return err == nil && rows == int64(len(a.keys)), err
}

// raiseMySQL asks which fence stands after the write, since the count of rows depends on a setting of the connection. The question locks what it reads:
// an ordinary one would be answered from a snapshot that may be older than the write. It goes by the primary key, since a scan of a small table
// would lock the rows of other keys as well.
func (a admission) raiseMySQL(ctx context.Context, tx SQLTx) (bool, error) {
	_, err := tx.ExecContext(ctx, "INSERT INTO "+a.table+" ("+a.quote("key")+", fence) VALUES "+a.rows()+
		" ON DUPLICATE KEY UPDATE fence = GREATEST(fence, VALUES(fence))", a.pairs()...)
	if err != nil {
		return false, err
	}
	var rows int
	var least, greatest sql.NullInt64
	err = tx.QueryRowContext(ctx, "SELECT COUNT(*), MIN(fence), MAX(fence) FROM "+a.table+" FORCE INDEX (PRIMARY) WHERE "+a.quote("key")+
		" IN ("+a.arguments(1, len(a.keys))+") FOR UPDATE", a.values()...).Scan(&rows, &least, &greatest)
	switch {
	case err != nil:
		return false, err
	case rows != len(a.keys) || least.Int64 < a.fence:
		return false, fmt.Errorf("%s: %w", a.table, errNotThere)
	}
	return greatest.Int64 == a.fence, nil
}

var errNotThere = errors.New("it was written and is not there; has the table a trigger, or is it another kind of table than CreateTable makes?")

// stale is the error that names the key and what was admitted for it, if that can still be asked.
func (a admission) stale(ctx context.Context, tx SQLTx) error {
	query := "SELECT " + a.quote("key") + ", fence FROM " + a.table
	if a.Dialect == MySQL {
		query += " FORCE INDEX (PRIMARY)"
	}
	query += " WHERE " + a.quote("key") + " IN (" + a.arguments(1, len(a.keys)) + ") AND fence > " + a.argument(len(a.keys)+1) + " ORDER BY fence DESC LIMIT 1"
	if a.Dialect == MySQL {
		query += " FOR UPDATE"
	}
	var key []byte
	var newer int64
	if err := tx.QueryRowContext(ctx, query, append(a.values(), a.fence)...).Scan(&key, &newer); err != nil {
		return fmt.Errorf("%s: %w: fence %d is older than one that was admitted", a.names(), ErrStaleFence, a.fence) // which it is matters less
	}
	return fmt.Errorf("key %q: %w: fence %d, and %d was admitted", key, ErrStaleFence, a.fence, newer)
}

// names is for errors.
func (a admission) names() string {
	if len(a.keys) == 1 {
		return fmt.Sprintf("key %q", a.keys[0])
	}
	return fmt.Sprintf("key %q and %d more", a.keys[0], len(a.keys)-1)
}

// rows is what stands after VALUES, and pairs are its arguments.
func (a admission) rows() string {
	rows := make([]string, len(a.keys))
	for i := range rows {
		rows[i] = "(" + a.arguments(2*i+1, 2) + ")"
	}
	return strings.Join(rows, ", ")
}

func (a admission) pairs() []any {
	args := make([]any, 0, 2*len(a.keys))
	for _, key := range a.keys {
		args = append(args, []byte(key), a.fence)
	}
	return args
}

// values are the keys as arguments.
func (a admission) values() []any {
	args := make([]any, 0, len(a.keys)+1)
	for _, key := range a.keys {
		args = append(args, []byte(key))
	}
	return args
}

// arguments are n placeholders from first on.
func (a admission) arguments(first, n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = a.argument(first + i)
	}
	return strings.Join(list, ", ")
}
