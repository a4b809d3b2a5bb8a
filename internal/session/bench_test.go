package session

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/godistlock/distlock/internal/clock"
	"github.com/godistlock/distlock/internal/wire"
)

// instant is a leader in memory that grants and ends everything at once, on the caller's goroutine.
type instant struct {
	sink  Sink
	done  chan struct{}
	once  sync.Once
	fence uint64
	outs  []wire.Outcome
	calls int
	ops   int
}

func (l *instant) Create(context.Context, wire.CreateSession) (wire.SessionReply, error) {
	return wire.SessionReply{Session: 1}, nil
}
func (l *instant) Attach(uint64) error { return nil }

func (l *instant) Submit(session uint64, ops []wire.Op) error {
	l.outs = l.outs[:0]
	for _, o := range ops {
		switch o.Kind {
		case wire.OpAcquire:
			l.fence++
			l.outs = append(l.outs, wire.Outcome{Kind: wire.OutGranted, Seq: o.Seq, Fence: l.fence})
		case wire.OpFinish:
			l.outs = append(l.outs, wire.Outcome{Kind: wire.OutEnded, Seq: o.Seq})
		}
	}
	l.calls++
	l.ops += len(ops)
	l.sink.Outcomes(session, l.outs)
	return nil
}

func (l *instant) Renew(session, attempt uint64) error {
	l.sink.Renewed(session, attempt, true)
	return nil
}
func (l *instant) CloseSession(context.Context, uint64) error { return nil }
func (l *instant) Done() <-chan struct{}                      { return l.done }
func (l *instant) Close()                                     { l.once.Do(func() { close(l.done) }) }

// instantConfig has link for its leader; sink gets what it reports to.
func instantConfig(link Link, l *instant, ttl time.Duration) Config {
	return Config{
		Connect: func(_ context.Context, s Sink) (Link, error) { l.sink = s; return link, nil },
		Clock:   clock.Boot(),
		TTL:     ttl,
		Name:    "bench",
		Create: func(nonce wire.UUID, previous uint64) wire.CreateSession {
			return wire.CreateSession{Nonce: nonce, Previous: previous}
		},
	}
}

func openInstant(tb testing.TB, ttl time.Duration) (*Manager, *instant) {
	tb.Helper()
	link := &instant{done: make(chan struct{})}
	m, err := Open(context.Background(), instantConfig(link, link, ttl))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(m.Close)
	return m, link
}

// BenchmarkPairs is what this room itself can do: acquire and release of keys that are free.
func BenchmarkPairs(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			m, link := openInstant(b, 10*time.Second)
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for c := range callers {
				wg.Go(func() {
					ctx := context.Background()
					key := fmt.Sprint("key-", c)
					for range b.N / callers {
						g, err := m.Acquire(ctx, key, false)
						if err == nil {
							err = g.Release(ctx)
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pairs/s")
			b.ReportMetric(float64(link.ops)/float64(max(link.calls, 1)), "ops/batch")
		})
	}
}
