package sqltest

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godistlock/distlock"
)

// The proof of the guard: no lock at all, only fences. Eight writers write to four keys, at isolation levels that vary; three of them hold fences from
// before all others and must write nothing, the others take a new fence for every few writes and overtake each other. A write reads a counter after
// Admit, and writes what it read plus one, so that a single write that the guard should have kept out or back is seen in the sum.
const (
	writers   = 8
	staleOnes = 3
	fences    = 1000 // of the stale ones are below
)

// DISTLOCK_SQL_WRITES sets another number of writes than these, in all for each database.
func writes(t *testing.T) int {
	text := os.Getenv("DISTLOCK_SQL_WRITES")
	if text == "" {
		return 10_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < writers {
		t.Fatalf("DISTLOCK_SQL_WRITES=%q: it must be a number from %d", text, writers)
	}
	return n
}

func TestStaleWritersWriteNothing(t *testing.T) {
	each(t, func(t *testing.T, d database) {
		if d.whole {
			newProof(t, d).run(t)
		}
	})
}

type proof struct {
	database
	db       *sql.DB
	guard    distlock.SQLGuard
	counters string // a table: the writes of each key
	audit    string // a table: the fence of each write, by key and number
	keys     []string

	fence   atomic.Uint64   // the last one given
	highest []atomic.Uint64 // of each key, that a transaction was committed with

	mu       sync.Mutex // guards what follows
	admitted map[string]int
	stale    map[string]int
	retries  map[string]int
}

func newProof(t *testing.T, d database) *proof {
	db := d.open(t)
	p := &proof{database: d, db: db, guard: d.guard(t, db), counters: d.unique(t, db, "counters"), audit: d.unique(t, db, "audit"),
		keys: []string{"sku-1", "sku-2", "sku-3", "sku-4"}, admitted: make(map[string]int), stale: make(map[string]int), retries: make(map[string]int)}
	p.highest = make([]atomic.Uint64, len(p.keys))
	p.fence.Store(fences)
	exec(t, db, "CREATE TABLE "+p.counters+" (sku VARCHAR(20) NOT NULL PRIMARY KEY, n BIGINT NOT NULL)")
	exec(t, db, "CREATE TABLE "+p.audit+" (sku VARCHAR(20) NOT NULL, n BIGINT NOT NULL, fence BIGINT NOT NULL, PRIMARY KEY (sku, n))")
	for _, key := range p.keys {
		exec(t, db, d.args("INSERT INTO "+p.counters+" VALUES (?, 0)"), key)
	}
	wants(t, "the fence above the stale ones", admitted(db, p.guard, d.levels[0], fences, p.keys...), nil)
	return p
}

func (p *proof) run(t *testing.T) {
	begin := time.Now()
	mine := (writes(t) + writers - 1) / writers // each tries so many
	total := mine * writers
	seed := uint64(begin.UnixNano())
	t.Logf("seed %d", seed)
	var all sync.WaitGroup
	for writer := range writers {
		rnd := rand.New(rand.NewPCG(seed, uint64(writer)))
		all.Go(func() { p.write(t, writer, mine, rnd) }) // ends after its tries
	}
	all.Wait()
	p.judge(t, total)
	t.Logf("%d writes by %d in %v: admitted %v, stale %v, other tries %v", total, writers, time.Since(begin).Round(time.Millisecond), p.admitted, p.stale, p.retries)
}

// write is one writer.
func (p *proof) write(t *testing.T, writer, mine int, rnd *rand.Rand) {
	old := writer < staleOnes
	fence := distlock.Fence(1 + rnd.Uint64N(fences-1))
	for i := range mine {
		if !old && i%3 == 0 { // it was granted the lock again
			fence = distlock.Fence(p.fence.Add(1))
		}
		key := rnd.IntN(len(p.keys))
		level := p.levels[rnd.IntN(len(p.levels))]
		early := rnd.IntN(8) == 0
		before := p.highest[key].Load()
		var err error
		for tries := 0; ; tries++ {
			if err = p.once(key, level, fence, early); again(err) == "" {
				break
			}
			p.count(p.retries, again(err))
			if tries > 10_000 {
				t.Errorf("writer %d comes to no end: %v", writer, err)
				return
			}
		}
		switch {
		case err == nil:
			p.count(p.admitted, level.String())
			if old || uint64(fence) < before {
				t.Errorf("writer %d wrote with fence %d at %v, after one with %d had", writer, fence, level, before)
			}
			for was := p.highest[key].Load(); was < uint64(fence) && !p.highest[key].CompareAndSwap(was, uint64(fence)); {
				was = p.highest[key].Load()
			}
		case errors.Is(err, distlock.ErrStaleFence):
			p.count(p.stale, level.String())
		default:
			t.Errorf("writer %d with fence %d at %v: %v", writer, fence, level, err)
			return
		}
	}
}

func (p *proof) count(what map[string]int, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	what[name]++
}

// once is one transaction: check, read, write. Early, it looks at the counter before, so that it has a snapshot that may be old.
func (p *proof) once(key int, level sql.IsolationLevel, fence distlock.Fence, early bool) error {
	ctx := context.Background()
	tx, err := p.db.BeginTx(ctx, &sql.TxOptions{Isolation: level})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	read := func(lock string) (n int64, err error) {
		err = tx.QueryRowContext(ctx, p.args("SELECT n FROM "+p.counters+" WHERE sku = ?"+lock), p.keys[key]).Scan(&n)
		return n, err
	}
	lock := ""
	if early {
		if _, err := read(""); err != nil {
			return err
		}
		if p.dialect == distlock.MySQL && level == sql.LevelRepeatableRead {
			lock = " FOR UPDATE" // see TestSnapshotsOutliveAdmit
		}
	}
	if err := p.guard.Admit(ctx, tx, p.keys[key], fence); err != nil {
		return err
	}
	n, err := read(lock)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, p.args("UPDATE "+p.counters+" SET n = ? WHERE sku = ?"), n+1, p.keys[key]); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, p.args("INSERT INTO "+p.audit+" (sku, n, fence) VALUES (?, ?, ?)"), p.keys[key], n+1, fence); err != nil {
		return err
	}
	return tx.Commit()
}

// judge asks the database.
func (p *proof) judge(t *testing.T, total int) {
	admitted, stale := sum(p.admitted), sum(p.stale)
	if admitted+stale != total {
		t.Errorf("%d admitted and %d stale are not %d", admitted, stale, total)
	}
	if admitted < total/20 || stale < total/writers*staleOnes {
		t.Errorf("%d admitted, %d stale: this proves nothing", admitted, stale)
	}
	for _, level := range p.levels {
		if p.admitted[level.String()] == 0 || p.stale[level.String()] == 0 {
			t.Errorf("nothing admitted or nothing stale at %v", level)
		}
	}
	ask := func(query string) (n int) {
		t.Helper()
		if err := p.db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		return n
	}
	if n := ask("SELECT SUM(n) FROM " + p.counters); n != admitted {
		t.Errorf("the counters say %d; %d writes were admitted", n, admitted)
	}
	if n := ask("SELECT COUNT(*) FROM " + p.audit); n != admitted {
		t.Errorf("%d writes in the audit; %d were admitted", n, admitted)
	}
	if n := ask("SELECT COUNT(*) FROM " + p.audit + " WHERE fence < " + strconv.Itoa(fences)); n != 0 {
		t.Errorf("%d writes of stale writers", n)
	}
	if n := ask("SELECT COUNT(*) FROM (SELECT fence, LAG(fence) OVER (PARTITION BY sku ORDER BY n) AS before_it FROM " + p.audit + ") AS steps WHERE before_it > fence"); n != 0 {
		t.Errorf("fences fell %d times", n)
	}
	for i, key := range p.keys {
		last := ask("SELECT MAX(fence) FROM " + p.audit + " WHERE sku = '" + key + "'")
		if f := p.stored(t, p.db, p.guard, key); int(f) != last || uint64(last) != p.highest[i].Load() {
			t.Errorf("%s: the guard has fence %d, the audit %d, we saw %d", key, f, last, p.highest[i].Load())
		}
	}
}

func sum(counts map[string]int) (n int) {
	for _, count := range slices.Collect(maps.Values(counts)) {
		n += count
	}
	return n
}
