package distlock

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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

func TestGuardNotBuiltYet(t *testing.T) {
	wantFaults(t, "NewGuard", NewGuard().Admit(t.Context(), "sku-42", 7), errors.ErrUnsupported, "NewGuard")
	g := SQLGuard{Dialect: SQLite}
	wantFaults(t, "CreateTable", g.CreateTable(t.Context(), nil), errors.ErrUnsupported, "SQLGuard.CreateTable")
	wantFaults(t, "Admit", g.Admit(t.Context(), nil, "sku-42", 7), errors.ErrUnsupported, "SQLGuard.Admit")
	wantFaults(t, "AdmitAll", g.AdmitAll(t.Context(), nil, []string{"sku-42"}, 7), errors.ErrUnsupported, "SQLGuard.AdmitAll")
}

// A handler behind a guard that is not there yet is never reached: to let requests through would be to ignore it silently.
func TestRequireFenceNotBuiltYet(t *testing.T) {
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the request got through") })
	h := RequireFence(NewGuard(), nil, next)
	r := httptest.NewRequest(http.MethodPost, "/stock/sku-42", nil)
	r.Header.Set(FenceHeader, "7")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusNotImplemented || !strings.Contains(w.Body.String(), "RequireFence") {
		t.Errorf("answer %d %q; want 501 that names RequireFence", w.Code, w.Body)
	}
}

func TestFenceTransportNotBuiltYet(t *testing.T) {
	base := roundTripper(func(*http.Request) (*http.Response, error) {
		t.Error("a request without its fence was sent")
		return nil, io.ErrUnexpectedEOF
	})
	body := &closer{Reader: strings.NewReader("one less")}
	r := httptest.NewRequest(http.MethodPost, "http://warehouse/stock/sku-42", body)
	resp, err := FenceTransport{Base: base}.RoundTrip(r)
	if resp != nil {
		_ = resp.Body.Close()
	}
	wantFaults(t, "FenceTransport", err, errors.ErrUnsupported, "FenceTransport")
	if !body.closed {
		t.Error("the request's body was left open")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type closer struct {
	io.Reader
	closed bool
}

func (c *closer) Close() error {
	c.closed = true
	return nil
}
