package node

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/wire"
)

// TestDialLatest: who is dialed where nobody answers, and turns out to be elsewhere, is dialed there at once.
func TestDialLatest(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards addr and news
		addr, news := "old", make(chan struct{})
		s := &streamLayer{
			resolve: func(wire.UUID) (string, bool) { mu.Lock(); defer mu.Unlock(); return addr, addr != "" },
			changed: func() <-chan struct{} { mu.Lock(); defer mu.Unlock(); return news },
		}
		tell := func(now string) {
			mu.Lock()
			defer mu.Unlock()
			close(news)
			addr, news = now, make(chan struct{})
		}
		var dialed []string
		refused := errors.New("refused")
		dial := func(ctx context.Context, addr string) (net.Conn, error) {
			dialed = append(dialed, addr)
			switch addr {
			case "new":
				conn, _ := net.Pipe()
				return conn, nil
			case "refuses":
				return nil, refused
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		began := time.Now()
		time.AfterFunc(100*time.Millisecond, func() { tell("old") }) // other news
		time.AfterFunc(300*time.Millisecond, func() { tell("new") })
		conn, err := s.dialLatest(ctx, wire.UUID{1}, dial)
		if err != nil || conn == nil || time.Since(began) != 300*time.Millisecond || !slices.Equal(dialed, []string{"old", "new"}) {
			t.Errorf("dialed %q in %v: %v", dialed, time.Since(began), err)
		}

		tell("old")
		if _, err := s.dialLatest(ctx, wire.UUID{1}, dial); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("nobody answers: %v", err)
		}
		tell("refuses")
		if _, err := s.dialLatest(t.Context(), wire.UUID{1}, dial); !errors.Is(err, refused) {
			t.Errorf("refused: %v", err)
		}
		tell("")
		if _, err := s.dialLatest(t.Context(), wire.UUID{1}, dial); err == nil {
			t.Error("no address is no error")
		}
	})
}
