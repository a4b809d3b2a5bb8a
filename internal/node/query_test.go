package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/wire"
	"github.com/godistlock/distlock/raftfsm"
)

// asked is what l answers to q, over the wire.
func asked(t *testing.T, l *lead, q Query) Answer {
	t.Helper()
	q, err := decodeQuery(q.encode())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.answer(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	a, err = decodeAnswer(a.encodeFor(q.Kind))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// A fence is checked against every holder of its key, not against one of them.
func TestQueryOfAFence(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Minute, &sink)
		other := newSession(t, l, "o", time.Minute, &fakeSink{})
		l.give(id, []wire.Op{
			request(1, wire.Ask{Keys: []string{"s"}, Mode: wire.Shared}), request(2, wire.Ask{Keys: []string{"s"}, Mode: wire.Shared}),
		}, &sink)
		synctest.Wait()
		_, outs := sink.got()
		first, second := outs[0].Fence, outs[1].Fence
		for _, c := range []struct {
			key   string
			fence uint64
			found bool
			tells uint64
		}{{"s", first, true, first}, {"s", second, true, second}, {"s", second + 1, false, first}, {"idle", first, false, 0}, {"s", 0, true, first}} {
			if a := asked(t, l, Query{Kind: QueryGrant, Key: c.key, Page: c.fence}); a.Found != c.found || a.Fence != c.tells {
				t.Errorf("fence %d of %s: %v, %d; want %v, %d", c.fence, c.key, a.Found, a.Fence, c.found, c.tells)
			}
		}
		l.give(other, []wire.Op{{Kind: wire.OpForce, Seq: 1, Key: "s"}}, &fakeSink{})
		synctest.Wait()
		if a := asked(t, l, Query{Kind: QueryGrant, Key: "s", Page: first}); a.Found {
			t.Error("a revoked grant is found")
		}
	})
}

// A listing of all kinds; an older process is answered as it understands.
func TestQueryOfAllKinds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Minute, &sink)
		l.give(id, []wire.Op{
			request(1, wire.Ask{Keys: []string{"s"}, Mode: wire.Shared, Value: []byte("v"), Where: "a.go:1"}),
			request(2, wire.Ask{Keys: []string{"u"}, Mode: wire.Units, Limit: 5, Weight: 3, Detached: 1000}),
			{Kind: wire.OpAcquire, Seq: 3, Key: "x"}, {Kind: wire.OpAcquire, Seq: 4, Key: "x"},
		}, &sink)
		synctest.Wait()
		a := asked(t, l, Query{Kind: QueryLocks})
		if len(a.Locks) != 3 || a.Page != 0 {
			t.Fatalf("%+v", a)
		}
		s, u, x := a.Locks[0], a.Locks[1], a.Locks[2]
		if h := s.Holders[0]; s.Mode != wire.Shared || string(h.Value) != "v" || h.Where != "a.go:1" || h.Member != "m" || h.Detached {
			t.Errorf("shared: %+v", s)
		}
		if h := u.Holders[0]; u.Mode != wire.Units || u.Limit != 5 || h.Weight != 3 || !h.Detached || h.Member != "" {
			t.Errorf("semaphore: %+v", u)
		}
		if x.Mode != wire.Exclusive || len(x.Holders) != 1 || len(x.Waiters) != 1 {
			t.Errorf("exclusive: %+v", x)
		}
		plain := asked(t, l, Query{Kind: queryPlain})
		if len(plain.Locks) != 3 || plain.Locks[0].Holders[0].Fence != s.Holders[0].Fence || plain.Locks[0].Holders[0].Value != nil {
			t.Errorf("for an older process: %+v", plain)
		}
		got, want := asked(t, l, Query{Kind: QueryStats}).Stats, l.group.fsm.View().Counters()
		if got != want || got.Keys != 3 || got.Grants != 3 || got.Waiters != 1 {
			t.Errorf("counted %+v; want %+v", got, want)
		}
	})
}

// A page has room for what it holds, also one key with very many holders that each show as much as they may.
func TestPagesOfLargeValuesAreBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Minute, &sink)
		value := []byte(strings.Repeat("v", wire.MaxValue))
		const holders, keys = 4000, 1000
		var ops []wire.Op
		for i := range holders + keys {
			key := "s"
			if i >= holders {
				key = fmt.Sprint("x", i)
			}
			ops = append(ops, request(uint64(i+1), wire.Ask{Keys: []string{key}, Mode: wire.Shared, Value: value, Where: strings.Repeat("w", wire.MaxWhere)}))
			if len(ops) == 1000 {
				l.give(id, ops, &sink)
				ops = nil
			}
		}
		synctest.Wait()
		q := Query{Kind: QueryLocks}
		count, pages := 0, 0
		for {
			a, err := l.answer(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if size := len(a.encode()); size > rpc.MaxBody {
				t.Fatalf("a page of %d bytes, limit %d", size, rpc.MaxBody)
			}
			pages++
			for _, k := range a.Locks {
				count += len(k.Holders)
			}
			if a.Page == 0 {
				break
			}
			q.Page, q.After = a.Page, a.Locks[len(a.Locks)-1].Key
		}
		if count != holders+keys || pages < 4 {
			t.Errorf("%d holders on %d pages", count, pages)
		}
	})
}

// longListing makes l's state one that is listed on at least four pages.
func longListing(t *testing.T, l *lead) {
	t.Helper()
	var sink fakeSink
	id := newSession(t, l, "m", time.Hour, &sink)
	value := []byte(strings.Repeat("v", wire.MaxValue))
	var ops []wire.Op
	for i := range 1000 {
		ops = append(ops, request(uint64(i+1), wire.Ask{Keys: []string{fmt.Sprint("k", i)}, Value: value}))
	}
	l.give(id, ops, &sink)
	synctest.Wait()
}

// nextPage reads the page that q asks for and makes q ask for the one after it.
func nextPage(t *testing.T, l *lead, q *Query) error {
	t.Helper()
	a, err := l.answer(t.Context(), *q)
	if err != nil {
		return queryError(*q, err)
	}
	q.Page, q.After = a.Page, a.Locks[len(a.Locks)-1].Key
	return nil
}

// held is how many views l holds, each with its place in the order.
func held(t *testing.T, l *lead) int {
	t.Helper()
	l.pages.mu.Lock()
	defer l.pages.mu.Unlock()
	if len(l.pages.order) != len(l.pages.views) {
		t.Errorf("%d views, and %d in order", len(l.pages.views), len(l.pages.order))
	}
	return len(l.pages.views)
}

// A listing that began at one leader does not go on in a moment that another holds for a listing of its own.
func TestPagesOfAnotherLead(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, first := newFakeCluster(t)
		longListing(t, first)
		var q, own Query
		q.Kind, own.Kind = QueryLocks, QueryLocks
		if err := nextPage(t, first, &q); err != nil || q.Page == 0 || held(t, first) != 1 {
			t.Fatalf("page %d, %d views held, %v", q.Page, held(t, first), err)
		}
		first.endAsync()
		synctest.Wait()
		if held(t, first) != 0 {
			t.Error("a lead that is over holds a view")
		}
		first.pages.hold(first.group.fsm.View()) // for a question that came just before
		if held(t, first) != 0 {
			t.Error("a lead that is over takes a view")
		}
		second := startLead(first.group, fakeTerm, f.propose, first.allowed, first.logger)
		defer second.end()
		f.lead = second
		if err := second.begin(); err != nil {
			t.Fatal(err)
		}
		if err := nextPage(t, second, &own); err != nil || own.Page == 0 {
			t.Fatalf("page %d, %v", own.Page, err)
		}
		if err := nextPage(t, second, &q); !errors.Is(err, ErrPageGone) {
			t.Errorf("page %d of another lead, whose own is %d: %v", q.Page, own.Page, err)
		}
	})
}

// Nothing is held for a listing that is complete. If its last answer was lost it begins anew.
func TestViewGoesWithItsLastPage(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		longListing(t, l)
		q := Query{Kind: QueryLocks}
		var last Query
		for ok := true; ok; ok = q.Page != 0 {
			last = q
			if err := nextPage(t, l, &q); err != nil {
				t.Fatal(err)
			}
			if q.Page != 0 && held(t, l) != 1 {
				t.Errorf("%d views are held for one listing", held(t, l))
			}
		}
		if last.Page == 0 || held(t, l) != 0 {
			t.Errorf("%d views are held after the last page", held(t, l))
		}
		if err := nextPage(t, l, &last); !errors.Is(err, ErrPageGone) {
			t.Errorf("the last page once more: %v", err)
		}
	})
}

// A view is held for as long as somebody goes on reading from it.
func TestViewGoesUnread(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		longListing(t, l)
		q := Query{Kind: QueryLocks}
		for range 3 {
			if err := nextPage(t, l, &q); err != nil || q.Page == 0 {
				t.Fatalf("page %d, %v", q.Page, err)
			}
			time.Sleep(pageLife - time.Millisecond)
			synctest.Wait()
		}
		if held(t, l) != 1 {
			t.Errorf("%d views are held %s after a page was read", held(t, l), pageLife-time.Millisecond)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if held(t, l) != 0 {
			t.Errorf("a view is held %s after a page was read", pageLife)
		}
		if err := nextPage(t, l, &q); !errors.Is(err, ErrPageGone) {
			t.Errorf("its next page: %v", err)
		}
	})
}

// Of more listings than there is room for the one that began first begins anew.
func TestOldestViewGoesFirst(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		longListing(t, l)
		qs := make([]Query, maxPages+1)
		for i := range qs {
			qs[i].Kind = QueryLocks
			if err := nextPage(t, l, &qs[i]); err != nil || qs[i].Page == 0 {
				t.Fatalf("page %d, %v", qs[i].Page, err)
			}
		}
		if held(t, l) != maxPages {
			t.Errorf("%d views are held; want %d", held(t, l), maxPages)
		}
		for i := range qs {
			if err := nextPage(t, l, &qs[i]); errors.Is(err, ErrPageGone) != (i == 0) {
				t.Errorf("listing %d: %v", i, err)
			}
		}
	})
}

// oldLeader answers as the first version does.
func oldLeader(v *raftfsm.View) func(context.Context, Query) (Answer, error) {
	return func(_ context.Context, q Query) (Answer, error) {
		switch {
		case q.Page != 0:
			return Answer{}, queryError(q, &rpc.RemoteError{Text: ErrPageGone.Error(), Code: codePageGone})
		case q.Kind == QueryGrant:
			g, ok := v.Grant(q.Key, 0)
			return decodeAnswer(Answer{Found: ok && !g.Revoked, Fence: g.Fence}.encodePlain())
		case q.Kind == queryPlain:
			return decodeAnswer(listPage(v, q, nil).encodePlain())
		}
		return Answer{}, queryError(q, &rpc.RemoteError{Text: fmt.Sprintf("query %d is not known to this version", q.Kind)})
	}
}

func TestQueriesOfAnOldLeader(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Minute, &sink)
		l.give(id, []wire.Op{{Kind: wire.OpAcquire, Seq: 1, Key: "k"}}, &sink)
		synctest.Wait()
		_, outs := sink.got()
		ask := oldLeader(l.group.fsm.View())
		if a, err := asUnderstood(t.Context(), Query{Kind: QueryLocks}, ask); err != nil || len(a.Locks) != 1 || a.Locks[0].Holders[0].Fence != outs[0].Fence {
			t.Errorf("locks: %+v, %v", a, err)
		}
		for fence, want := range map[uint64]bool{outs[0].Fence: true, outs[0].Fence + 1: false} {
			if a, err := asUnderstood(t.Context(), Query{Kind: QueryGrant, Key: "k", Page: fence}, ask); err != nil || a.Found != want || a.Fence != outs[0].Fence {
				t.Errorf("fence %d: %+v, %v", fence, a, err)
			}
		}
		if _, err := asUnderstood(t.Context(), Query{Kind: QueryStats}, ask); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("stats: %v", err)
		}
	})
}
