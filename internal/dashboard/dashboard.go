// Package dashboard serves what a process knows of its cluster over HTTP.
package dashboard

import (
	"context"
	"encoding/json"
	"net/http"
)

// Source is where the answers come from.
type Source struct {
	Status func() any                  // must not block
	Live   func(context.Context) error // nil while the member runs
	Ready  func(context.Context) error // nil while it can take locks; may ask the leader, within the request's context and a limit of its own
}

// New serves /status as JSON, /livez and /readyz as 200 or 503 with the reason as text. / is not built yet and answers 501.
func New(s Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(s.Status()) // fails only with the client's connection
	})
	mux.HandleFunc("GET /livez", health(s.Live))
	mux.HandleFunc("GET /readyz", health(s.Ready))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "distlock: the dashboard is not built yet; /status has the same as JSON", http.StatusNotImplemented)
	})
	return mux
}

func health(check func(context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if err := check(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n")) // fails only with the client's connection
	}
}
