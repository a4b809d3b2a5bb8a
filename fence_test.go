package distlock

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFenceFrom(t *testing.T) {
	if f, ok := FenceFrom(t.Context()); ok || f != 0 {
		t.Errorf("a context without a lock has fence %d, %v", f, ok)
	}
	if ownerFrom(t.Context()) != nil {
		t.Error("a context without a lock has an owner")
	}
	outer := withGrant(t.Context(), 7, nil)
	inner, cancel := context.WithCancel(withGrant(outer, 8, nil))
	defer cancel()
	if f, ok := FenceFrom(outer); !ok || f != 7 {
		t.Errorf("fence %d, %v; want 7", f, ok)
	}
	if f, ok := FenceFrom(inner); !ok || f != 8 {
		t.Errorf("fence %d, %v; want the innermost, 8", f, ok)
	}
	if f, ok := FenceFrom(withGrant(outer, 0, nil)); ok {
		t.Errorf("fence %d of a lock that has none", f)
	}
}

// mapStore is a store of fences; broken, it can't tell.
type mapStore struct {
	fences map[string]Fence
	broken error
	lies   bool
}

func (s mapStore) Raise(_ context.Context, key string, fence Fence) (Fence, error) {
	if s.lies {
		return fence - 1, nil
	}
	if s.broken == nil {
		s.fences[key] = max(s.fences[key], fence)
	}
	return s.fences[key], s.broken
}

func TestGuards(t *testing.T) {
	for name, g := range map[string]Guard{"memory": NewGuard(), "stored": StoredGuard(mapStore{fences: map[string]Fence{}})} {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for i, c := range []struct {
			ctx   context.Context
			key   string
			fence Fence
			is    error
		}{
			{t.Context(), "sku-42", 7, nil}, {t.Context(), "sku-42", 7, nil}, {t.Context(), "sku-42", 6, ErrStaleFence}, {t.Context(), "other", 6, nil},
			{t.Context(), "sku-42", 0, ErrInvalid}, {t.Context(), "sku-42", 1 << 53, ErrInvalid}, {t.Context(), "sku-42", 1<<53 - 1, nil},
			{t.Context(), "", 7, ErrInvalid}, {t.Context(), strings.Repeat("k", 1025), 7, ErrLimit}, {ended, "third", 7, context.Canceled},
		} {
			if err := g.Admit(c.ctx, c.key, c.fence); !errors.Is(err, c.is) || (err == nil) != (c.is == nil) {
				t.Errorf("%s, %d: %.20q with %d: %v; want %v", name, i, c.key, c.fence, err, c.is)
			}
		}
	}
	broken := errors.New("disk full")
	if err := StoredGuard(mapStore{broken: broken}).Admit(t.Context(), "k", 1); !errors.Is(err, broken) || errors.Is(err, ErrStaleFence) {
		t.Errorf("a store that fails: %v", err)
	}
	if err := StoredGuard(mapStore{lies: true}).Admit(t.Context(), "k", 5); err == nil {
		t.Error("a store that has stored nothing lets through")
	}
}

func TestRequireFence(t *testing.T) {
	var got []string
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fence, ok, err := FenceOf(r)
		if !ok || err != nil {
			t.Errorf("next sees fence %d, %v, %v", fence, ok, err)
		}
		got = append(got, r.URL.Path)
		w.WriteHeader(http.StatusNoContent)
	})
	byPath := RequireFence(NewGuard(), nil, next)
	one := RequireFence(NewGuard(), func(*http.Request) string { return "the only one" }, next)
	none := RequireFence(NewGuard(), func(*http.Request) string { return "" }, next)
	broken := RequireFence(StoredGuard(mapStore{broken: errors.New("at 10.1.2.3")}), nil, next)
	for i, c := range []struct {
		h      http.Handler
		path   string
		fences []string
		code   int
	}{
		{byPath, "/a", []string{"7"}, 204}, {byPath, "/a", []string{"7"}, 204}, {byPath, "/a", []string{"6"}, 412}, {byPath, "/b", []string{"6"}, 204}, {byPath, "/a", []string{"10"}, 204},
		{byPath, "/a", nil, 428}, {byPath, "/a", []string{""}, 400}, {byPath, "/a", []string{"x"}, 400}, {byPath, "/a", []string{"+11"}, 400}, {byPath, "/a", []string{" 11"}, 400},
		{byPath, "/a", []string{"0"}, 400}, {byPath, "/a", []string{"011"}, 400}, {byPath, "/a", []string{"9007199254740992"}, 400}, {byPath, "/a", []string{"11", "12"}, 400},
		{byPath, "/a", []string{"99999999999999999999999999"}, 400}, {byPath, "/a", []string{"11;q=1"}, 400}, {byPath, "/a", []string{"9007199254740991"}, 204},
		{one, "/a", []string{"5"}, 204}, {one, "/b", []string{"4"}, 412},
		{none, "/a", []string{"5"}, 400}, {broken, "/a", []string{"5"}, 503},
	} {
		before := len(got)
		r := httptest.NewRequest(http.MethodPost, c.path, nil)
		if c.fences != nil {
			r.Header[FenceHeader] = c.fences
		}
		w := httptest.NewRecorder()
		c.h.ServeHTTP(w, r)
		if w.Code != c.code || (len(got) > before) != (c.code == 204) {
			t.Errorf("%d: %s with %q: %d %s; want %d", i, c.path, c.fences, w.Code, w.Body, c.code)
		}
		if strings.Contains(w.Body.String(), "10.1.2.3") {
			t.Error("it tells the client where the store is")
		}
	}
}

func TestRequireFenceAllocatesNothing(t *testing.T) {
	h := RequireFence(NewGuard(), nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest(http.MethodPost, "/stock/sku-42", nil)
	r.Header.Set(FenceHeader, "7")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r) // the key is new
	if n := testing.AllocsPerRun(100, func() { h.ServeHTTP(w, r) }); n != 0 {
		t.Errorf("%.0f allocations", n)
	}
}

func TestFenceTransport(t *testing.T) {
	var sent *http.Request
	idle := 0
	tr := FenceTransport{Base: idler{roundTripper(func(r *http.Request) (*http.Response, error) {
		sent = r
		return &http.Response{StatusCode: 204, Body: http.NoBody}, nil
	}), &idle}}
	send := func(ctx context.Context, header http.Header) []string {
		t.Helper()
		r := httptest.NewRequest(http.MethodPost, "http://warehouse/stock/sku-42", nil).WithContext(ctx)
		r.Header = header
		before := len(header)
		resp, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if len(r.Header) != before {
			t.Error("it has changed the request that it was given")
		}
		return sent.Header[FenceHeader]
	}
	in := withGrant(t.Context(), 1795400835142333, nil)
	for name, c := range map[string]struct {
		ctx    context.Context
		header http.Header
		want   []string
	}{
		"under a lock": {in, http.Header{"X": {"y"}}, []string{"1795400835142333"}}, "without headers": {in, nil, []string{"1795400835142333"}},
		"without a lock": {t.Context(), http.Header{}, nil}, "given": {in, http.Header{FenceHeader: {"5"}}, []string{"5"}},
	} {
		if got := send(c.ctx, c.header); !slices.Equal(got, c.want) {
			t.Errorf("%s: sent with %q, want %q", name, got, c.want)
		}
	}
	(&http.Client{Transport: tr}).CloseIdleConnections()
	if idle != 1 {
		t.Error("idle connections are not closed")
	}
}

type idler struct {
	http.RoundTripper
	n *int
}

func (i idler) CloseIdleConnections() { *i.n++ }

// From Do in one process to a guarded handler in another: the newer holder's request shuts out the older's.
func TestFenceTravels(t *testing.T) {
	ms := newMembers(t, 1)
	ctx := testContext(t, 30*time.Second)
	warehouse := httptest.NewServer(RequireFence(NewGuard(), nil, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })))
	defer warehouse.Close()
	client := &http.Client{Transport: FenceTransport{}}
	defer client.CloseIdleConnections()
	post := func(ctx context.Context) int {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, warehouse.URL+"/stock/sku-42", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	var old context.Context
	for range 2 {
		if err := ms.all[0].Do(ctx, "sku-42", func(held context.Context, _ Fence) error {
			if code := post(held); code != 204 {
				t.Errorf("the holder is answered %d", code)
			}
			if old == nil {
				old = context.WithoutCancel(held) // as a process that has slept through its end
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if code := post(old); code != http.StatusPreconditionFailed {
		t.Errorf("the earlier holder is answered %d", code)
	}
	if code := post(ctx); code != http.StatusPreconditionRequired {
		t.Errorf("without a lock the answer is %d", code)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
