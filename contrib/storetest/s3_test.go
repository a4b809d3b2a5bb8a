package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/godistlock/distlock"
	"github.com/godistlock/distlock/contrib/s3fence"
)

// bucket speaks to a server by what S3 documents, without a signature.
type bucket struct {
	url    string
	client *http.Client
	before func() // of the next Put, once
}

func (b *bucket) do(ctx context.Context, method, key string, body []byte, header ...string) (*http.Response, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, b.url+"/"+key, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := b.client.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp, answer, err
}

func (b *bucket) Get(ctx context.Context, key string) ([]byte, string, error) {
	resp, body, err := b.do(ctx, http.MethodGet, key, nil)
	switch {
	case err != nil:
		return nil, "", err
	case resp.StatusCode == http.StatusNotFound && bytes.Contains(body, []byte("NoSuchKey")):
		return nil, "", nil
	case resp.StatusCode != http.StatusOK:
		return nil, "", fmt.Errorf("%s: %s", resp.Status, body)
	}
	return body, resp.Header.Get("ETag"), nil
}

func (b *bucket) Put(ctx context.Context, key string, body []byte, etag string) error {
	if f := b.before; f != nil {
		b.before = nil
		f()
	}
	condition := []string{"If-Match", etag}
	if etag == "" {
		condition = []string{"If-None-Match", "*"}
	}
	resp, answer, err := b.do(ctx, http.MethodPut, key, body, condition...)
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusPreconditionFailed, resp.StatusCode == http.StatusConflict:
		return s3fence.ErrChanged
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return nil
}

// serve is a bucket of gofakes3 behind HTTP, whose requests go through around.
func serve(t *testing.T, around func(http.Handler) http.Handler) *bucket {
	t.Helper()
	store := s3mem.New()
	if err := store.CreateBucket("shop"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(around(gofakes3.New(store).Server()))
	t.Cleanup(server.Close)
	transport := &http.Transport{MaxIdleConnsPerHost: 8}
	t.Cleanup(transport.CloseIdleConnections)
	return &bucket{url: server.URL + "/shop", client: &http.Client{Transport: transport}}
}

func asItIs(h http.Handler) http.Handler { return h }

// An old holder has read, and sleeps. A newer one writes, and leaves the very content that the old one has read.
func TestS3SleeperMeetsTheSameContent(t *testing.T) {
	b := serve(t, asItIs)
	put := func(fence distlock.Fence, content string) error {
		return s3fence.Put(t.Context(), b, "state", fence, []byte(content))
	}
	if err := put(4, "x"); err != nil {
		t.Fatal(err)
	}
	b.before = func() {
		if err := put(7, "x"); err != nil {
			t.Error(err)
		}
	}
	if err := put(5, "late"); !errors.Is(err, distlock.ErrStaleFence) {
		t.Errorf("the older write: %v", err)
	}
	if content, fence, err := s3fence.Get(t.Context(), b, "state"); string(content) != "x" || fence != 7 || err != nil {
		t.Errorf("%q with fence %d, %v", content, fence, err)
	}
}

// Why the fence is in the contents: in the metadata it would fall in the same case.
func TestS3MetadataIsNotEnough(t *testing.T) {
	b := serve(t, asItIs)
	const name = "X-Amz-Meta-Distlock-Fence"
	put := func(fence, content string, condition ...string) int {
		resp, _, err := b.do(t.Context(), http.MethodPut, "state", []byte(content), append(condition, name, fence)...)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	read := func() (fence, etag string) {
		resp, _, err := b.do(t.Context(), http.MethodHead, "state", nil)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Get(name), resp.Header.Get("ETag")
	}
	put("4", "x", "If-None-Match", "*")
	_, sleepers := read() // 5 may follow 4, and sleeps
	_, etag := read()
	if code := put("7", "x", "If-Match", etag); code != http.StatusOK {
		t.Fatalf("the newer write is answered %d", code)
	}
	if fence, _ := read(); fence != "7" {
		t.Fatalf("the fence is %q", fence)
	}
	if code := put("5", "late", "If-Match", sleepers); code != http.StatusOK {
		t.Errorf("the older write is answered %d", code)
	}
	if fence, _ := read(); fence != "5" {
		t.Errorf("the fence is %q", fence)
	}
}

// Eight writers over HTTP, each of whose updates counts up.
func TestS3Writers(t *testing.T) {
	var mu sync.Mutex
	var audit []string // of the writes that were stored, in their order
	b := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPut {
				h.ServeHTTP(w, r)
				return
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			answer := httptest.NewRecorder()
			mu.Lock() // so that the audit has the server's order
			defer mu.Unlock()
			h.ServeHTTP(answer, r)
			if answer.Code == http.StatusOK {
				audit = append(audit, strings.Fields(string(body))[1])
			}
			w.WriteHeader(answer.Code)
			_, _ = w.Write(answer.Body.Bytes())
		})
	})
	count := writers(t, 2_000, func(ctx context.Context, fence distlock.Fence) error {
		return s3fence.Update(ctx, b, "n", fence, func(old []byte) ([]byte, error) {
			n, err := strconv.Atoi("0" + string(old))
			return strconv.AppendInt(nil, int64(n+1), 10), err
		})
	})
	if n, _, err := s3fence.Get(t.Context(), b, "n"); string(n) != strconv.Itoa(count) || err != nil {
		t.Errorf("the counter is %s, %v, and %d writes were admitted", n, err, count)
	}
	if len(audit) != count {
		t.Errorf("%d writes were stored, and %d admitted", len(audit), count)
	}
	rises(t, audit)
}

func TestS3Verify(t *testing.T) {
	if err := s3fence.Verify(t.Context(), serve(t, asItIs), "check"); err != nil {
		t.Error(err)
	}
	for _, deaf := range []string{"If-Match", "If-None-Match"} {
		b := serve(t, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Header.Del(deaf)
				h.ServeHTTP(w, r)
			})
		})
		if err := s3fence.Verify(t.Context(), b, "check"); !errors.Is(err, distlock.ErrInvalid) {
			t.Errorf("of a server without %s: %v", deaf, err)
		}
	}
}
