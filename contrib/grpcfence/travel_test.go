package grpcfence

import (
	"context"
	"errors"
	"testing"

	"github.com/godistlock/distlock"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// From Do in one process to a guarded handler in another: the newer holder's call shuts out the older's.
func TestFenceTravels(t *testing.T) {
	cluster, err := distlock.Join(distlock.Config{Bind: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	}()
	unary, stream := RequireFence(distlock.NewGuard(), keyOf)
	conn := serve(t, newStock(), unary, stream)
	ctx := fences(t)
	var old context.Context
	for range 2 {
		if err := cluster.Do(ctx, "sku-42", func(held context.Context, fence distlock.Fence) error {
			judge(t, "the holder's call", call(held, conn, "Deduct", "sku-42"), codes.OK, nil)
			judge(t, "the holder's stream", ask(held, conn, "sku-42"), codes.OK, nil)
			if old == nil {
				old = context.WithoutCancel(held) // as a process that has slept through its end
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	judge(t, "the earlier holder's call", call(old, conn, "Deduct", "sku-42"), codes.Aborted, distlock.ErrStaleFence)
	judge(t, "the earlier holder's stream", ask(old, conn, "sku-42"), codes.Aborted, distlock.ErrStaleFence)
	judge(t, "without a lock", call(ctx, conn, "Deduct", "sku-42"), codes.FailedPrecondition, ErrMissing)

	// A fence that is there already stays, and other metadata too.
	given := metadata.AppendToOutgoingContext(old, FenceKey, "5", "trace", "x")
	err = UnaryClient(given, "", nil, nil, nil, func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
		if md, _ := metadata.FromOutgoingContext(ctx); len(md.Get(FenceKey)) != 1 || md.Get(FenceKey)[0] != "5" || len(md.Get("trace")) != 1 {
			t.Errorf("it goes with %v", md)
		}
		return errors.ErrUnsupported
	})
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("what the call answered came back as %v", err)
	}
}
