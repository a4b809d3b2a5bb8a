package distlock

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

func TestParseFence(t *testing.T) {
	for text, want := range map[string]Fence{
		"1": 1, "10": 10, "1795400835142333": 1795400835142333, "9007199254740991": maxFence,
		"": 0, "0": 0, "00": 0, "01": 0, "-1": 0, "+1": 0, " 1": 0, "1 ": 0, "1\n": 0, "1,2": 0, "1_0": 0, "1e3": 0, "0x1": 0, "1.0": 0, "١": 0, "1\x00": 0, "/": 0, ":": 0,
		"9007199254740992": 0, "9999999999999999": 0, "18446744073709551617": 0, "99999999999999999999999999": 0,
	} {
		got, err := ParseFence(text)
		if got != want || (err == nil) != (want != 0) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%q is read as %d, %v; want %d", text, got, err, want)
		}
	}
}

// What is read is what strconv would write, and nothing else is.
func FuzzParseFence(f *testing.F) {
	for _, text := range []string{"1", "0", "9007199254740991", "9007199254740992", "18446744073709551617", "+1", "01", "1 ", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := strconv.ParseUint(text, 10, 64)
		good := err == nil && n >= 1 && n <= maxFence && strconv.FormatUint(n, 10) == text
		if got, err := ParseFence(text); (err == nil) != good || good && got != Fence(n) || !good && got != 0 {
			t.Errorf("%q is read as %d, %v", text, got, err)
		}
	})
}

// What a request touches is told by its decoded path: what is one path to a handler is one key.
func TestRequireFencePaths(t *testing.T) {
	h := RequireFence(NewGuard(), nil, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
	for i, c := range []struct {
		target, fence string
		code          int
	}{
		{"/a/b?x=1", "10", 204}, {"/a/b?x=2", "9", 412}, {"/a%2Fb", "9", 412}, {"/%61/b", "9", 412}, {"/a%2fb", "11", 204}, {"/a/b", "10", 412},
		{"/a/c", "5", 204}, {"/a%20b", "4", 204}, {"/a%20b", "3", 412}, {"/A/b", "2", 204},
		{"/" + strings.Repeat("k", 1024), "1", 400}, // no key
	} {
		r := httptest.NewRequest(http.MethodPut, c.target, nil)
		r.Header.Set(FenceHeader, c.fence)
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != c.code {
			t.Errorf("%d: %s with %s: %d %s; want %d", i, c.target, c.fence, w.Code, w.Body, c.code)
		}
	}
}

// As bytes on the wire: a header's name has no case, there may be spaces around its value, and two lines of it are not one.
func TestRequireFenceOnTheWire(t *testing.T) {
	s := httptest.NewServer(RequireFence(NewGuard(), nil, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })))
	defer s.Close()
	for lines, code := range map[string]int{
		"distlock-fence: 7\r\n": 204, "DISTLOCK-FENCE:  7 \r\n": 204, "Distlock-Fence: 7\r\ndistlock-fence: 7\r\n": 400, "Distlock-Fence: 7, 7\r\n": 400,
		"Distlock-Fence: 7\r\n 8\r\n": 400, "Distlock_Fence: 7\r\n": 428, "Distlock-Fence:\r\n": 400, "": 428,
	} {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.WriteString(conn, "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"+lines+"Content-Length: 0\r\n\r\n")
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%q: %v", lines, err)
		}
		_ = resp.Body.Close()
		_ = conn.Close()
		if resp.StatusCode != code {
			t.Errorf("%q is answered %d; want %d", lines, resp.StatusCode, code)
		}
	}
}

func TestFenceTravelsByHTTP2(t *testing.T) {
	s := httptest.NewUnstartedServer(RequireFence(NewGuard(), nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("the request came by %s", r.Proto)
		}
		w.WriteHeader(204)
	})))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	client := s.Client()
	client.Transport = FenceTransport{Base: client.Transport}
	for i, c := range []struct {
		fence Fence    // of the context
		given []string // in the header
		code  int
	}{{8, nil, 204}, {7, nil, 412}, {0, nil, 428}, {9, []string{"8"}, 204}, {9, []string{"8", "9"}, 400}, {9, []string{}, 428}} {
		r, err := http.NewRequestWithContext(withGrant(t.Context(), c.fence, nil), http.MethodPost, s.URL+"/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.given != nil {
			r.Header["distlock-fence"] = c.given // as somebody may write it
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.code {
			t.Errorf("%d: answered %d; want %d", i, resp.StatusCode, c.code)
		}
	}
}

// A redirect takes the fence along, to another host too, with the request's body and once: where the resource is now it is checked.
func TestFenceFollowsARedirect(t *testing.T) {
	var got []string
	there := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header[FenceHeader]...)
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != "one" {
			t.Errorf("the body is %q, %v", body, err)
		}
	}))
	defer there.Close()
	u, err := url.Parse(there.URL)
	if err != nil {
		t.Fatal(err)
	}
	here := httptest.NewServer(http.RedirectHandler("http://localhost:"+u.Port()+"/a", http.StatusTemporaryRedirect))
	defer here.Close()
	client := &http.Client{Transport: FenceTransport{Base: &http.Transport{}}}
	defer client.CloseIdleConnections()
	r, err := http.NewRequestWithContext(withGrant(t.Context(), 33, nil), http.MethodPost, here.URL, strings.NewReader("one"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if len(got) != 1 || got[0] != "33" {
		t.Errorf("the fence arrives as %q", got)
	}
}

// A store that is broken is none of the client's faults.
func TestRequireFenceOverABrokenStore(t *testing.T) {
	h := RequireFence(StoredGuard(mapStore{lies: true}), nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it is let through") }))
	r := httptest.NewRequest(http.MethodPost, "/a", nil)
	r.Header.Set(FenceHeader, "7")
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
}
