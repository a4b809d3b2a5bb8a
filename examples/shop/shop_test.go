package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock"
)

// playShop makes the test's binary the program, so that its tests run real processes without building anything.
const playShop = "DISTLOCK_TEST_PLAY_SHOP"

func TestMain(m *testing.M) {
	if os.Getenv(playShop) != "" {
		main()
	}
	os.Exit(m.Run())
}

// database is one to run on: SQLite always, PostgreSQL when DISTLOCK_TEST_POSTGRES has a DSN. DISTLOCK_TEST_DATABASES=all wants all of them.
type database struct {
	kind distlock.Dialect
	dsn  string
}

func databases(t *testing.T) []database {
	t.Helper()
	list := []database{{kind: distlock.SQLite}}
	if dsn := os.Getenv("DISTLOCK_TEST_POSTGRES"); dsn != "" {
		list = append(list, database{distlock.Postgres, dsn})
	} else if os.Getenv("DISTLOCK_TEST_DATABASES") == "all" {
		t.Error("DISTLOCK_TEST_DATABASES is all, and DISTLOCK_TEST_POSTGRES has no DSN")
	}
	return list
}

// TestCount writes books by hand: what the table says is what stands in them, not what the program meant to do.
func TestCount(t *testing.T) {
	t.Parallel()
	type row struct {
		stock int64 // as the order read it
		fence int64
	}
	tests := []struct {
		name    string
		mode    mode
		left    int64 // below what was delivered
		orders  []row
		refused [][2]int64 // the fence, and the newest that stood
		want    result
	}{
		{name: "nothing", mode: fences},
		{name: "in turn", mode: locks, left: 3, orders: []row{{0, 5}, {-1, 6}, {-2, 6}}, want: result{orders: 3}},
		{name: "a late write", mode: locks, left: 1, orders: []row{{0, 6}, {-1, 7}, {0, 5}}, want: result{orders: 3, oversold: 2, stale: 1}},
		{name: "two late writes", mode: locks, left: 2, orders: []row{{0, 7}, {0, 6}, {-1, 5}, {-2, 8}}, want: result{orders: 4, oversold: 2, stale: 2}},
		{name: "refused", mode: fences, left: 2, orders: []row{{0, 6}, {-1, 7}}, refused: [][2]int64{{5, 7}}, want: result{orders: 2, rejected: 1}},
		{name: "refused without need", mode: fences, left: 1, orders: []row{{0, 6}}, refused: [][2]int64{{6, 6}, {7, 6}, {5, 6}},
			want: result{orders: 1, rejected: 1, wronged: 2}},
		{name: "no fences", mode: none, left: 2, orders: []row{{0, 0}, {0, 0}, {-1, 0}, {0, 0}}, want: result{orders: 4, oversold: 2, stale: 2}},
	}
	for _, d := range databases(t) {
		for _, test := range tests {
			t.Run(string(d.kind)+"/"+test.name, func(t *testing.T) {
				t.Parallel()
				ctx := t.Context()
				b := newBooks(options{database: d.kind, dsn: d.dsn}, t.TempDir(), test.mode)
				db, err := b.open()
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				defer b.drop(context.WithoutCancel(ctx), db)
				if err := b.create(ctx, db); err != nil {
					t.Fatal(err)
				}
				exec := func(statement string, args ...any) {
					if _, err := db.ExecContext(ctx, statement, args...); err != nil {
						t.Fatal(err)
					}
				}
				exec(`UPDATE stock SET n = n - $1`, test.left)
				for _, o := range test.orders {
					exec(`INSERT INTO orders (sku, shop, stock, fence) VALUES ('sku-42', 'shop-1', $1, $2)`, delivered+o.stock, o.fence)
				}
				for _, r := range test.refused {
					exec(`INSERT INTO refused (sku, shop, fence, newest) VALUES ('sku-42', 'shop-1', $1, $2)`, r[0], r[1])
				}
				if got, err := b.count(ctx, db, test.mode); err != nil || got != test.want {
					t.Errorf("%+v, %v, want %+v", got, err, test.want)
				}
			})
		}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		mode   mode
		pauses int
		result result
		want   string // what the error says; "" for none
	}{
		{none, 0, result{}, "no orders: the run proves nothing"},
		{none, 0, result{orders: 9}, "nothing was oversold: the run proves nothing"},
		{none, 0, result{orders: 9, oversold: 1}, ""},
		{locks, 0, result{orders: 9}, ""},
		{locks, 0, result{orders: 9, oversold: 1, stale: 1}, ""}, // told in the table: the machine itself paused somebody
		{locks, 1, result{orders: 9}, "0 stale writes after 1 pauses: the run proves nothing"},
		{locks, 1, result{orders: 9, stale: 1}, "stale writes, and nothing was oversold: the run proves nothing"},
		{locks, 1, result{orders: 9, oversold: 1, stale: 1}, ""},
		{fences, 0, result{orders: 9}, ""},
		{fences, 0, result{orders: 9, oversold: 1}, "1 too many sold"},
		{fences, 2, result{orders: 9, rejected: 1}, "1 stale writes after 2 pauses: the run proves nothing"},
		{fences, 2, result{orders: 9, rejected: 2, oversold: 3}, "3 too many sold"},
		{fences, 2, result{orders: 9, rejected: 1, stale: 1, oversold: 3}, "1 stale writes were let in"},
		{fences, 1, result{orders: 9, rejected: 1, wronged: 1}, "1 writes were refused that were not stale"},
		{fences, 2, result{orders: 9, rejected: 3}, ""},
	} {
		got := fmt.Sprint(test.result.judge(test.mode, test.pauses))
		want := "<nil>"
		if test.want != "" {
			want = fmt.Sprintf("mode %s: %s", test.mode, test.want)
		}
		if got != want {
			t.Errorf("%s after %d pauses, %+v: %s, want %s", test.mode, test.pauses, test.result, got, want)
		}
	}
}

func TestFlags(t *testing.T) {
	t.Setenv("SHOP_DSN", "")
	for args, want := range map[string]string{
		"-mode some":             "-mode some: it must be none, locks, fences or all",
		"-database oracle":       "-database oracle: it must be sqlite or postgres",
		"-database postgres":     "-database postgres: it needs a -dsn",
		"-duration 0s":           "-duration 0s: it must be above 0",
		"-fault sometimes":       "-fault sometimes: it must be on, off or a number",
		"-fault -1":              "-fault -1: it must be on, off or a number",
		"-mode locks now":        `unexpected "now"`,
		"-fault 3 -mode surplus": "-mode surplus",
	} {
		var words strings.Builder
		if _, err := parse(strings.Fields(args), &words); err == nil || !strings.Contains(words.String(), want) {
			t.Errorf("%s: %v, %s", args, err, words.String())
		}
	}
	o, err := parse(strings.Fields("-mode fences -database postgres -dsn a -duration 3s -fault off"), io.Discard)
	if err != nil || len(o.modes) != 1 || o.modes[0] != fences || o.database != distlock.Postgres || o.dsn != "a" || o.duration != 3*time.Second || o.pauses != 0 {
		t.Errorf("%+v, %v", o, err)
	}
}

// TestFenceIsShownBeforeTheRead: an order that has read the stock and not yet written keeps an earlier holder's late write out. Let in, that write would be
// overwritten by what was computed before it.
func TestFenceIsShownBeforeTheRead(t *testing.T) {
	t.Parallel()
	for _, d := range databases(t) {
		t.Run(string(d.kind), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			b := newBooks(options{database: d.kind, dsn: d.dsn}, t.TempDir(), fences)
			db, err := b.open()
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			defer b.drop(context.WithoutCancel(ctx), db)
			if err := b.create(ctx, db); err != nil {
				t.Fatal(err)
			}
			cluster, err := distlock.Join(distlock.Config{Bind: "127.0.0.1:0"})
			if err != nil {
				t.Fatal(err)
			}
			defer cluster.Close()
			heard, said := io.Pipe()
			defer heard.Close()
			s := &shop{name: "shop-1", mode: fences, locks: cluster, db: db, guard: b.guard(), fault: &fault{out: said, goOn: make(chan struct{}, 1)}}
			s.fault.obey(tellPause)
			answered := make(chan *httptest.ResponseRecorder, 1)
			go func() { // ends with the order, which ends with ctx
				r, w := httptest.NewRequestWithContext(ctx, http.MethodPost, "/orders/"+product, nil), httptest.NewRecorder()
				r.SetPathValue("sku", product)
				s.order(w, r)
				answered <- w
				heard.Close()
			}()
			line, err := bufio.NewReader(heard).ReadString('\n')
			if err != nil {
				t.Fatalf("the order did not come to where it pauses: %v", err)
			}
			fence, err := distlock.ParseFence(strings.TrimSpace(strings.TrimPrefix(line, sayPaused)))
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if err := s.sell(ctx, product, delivered, fence-1); !errors.Is(err, distlock.ErrStaleFence) {
				t.Errorf("the write of an earlier holder after the read of a later one: %v", err)
			}
			s.fault.obey(tellGoOn)
			if w := <-answered; w.Code != http.StatusOK {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if got, err := b.count(ctx, db, fences); err != nil || got != (result{orders: 1}) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}
