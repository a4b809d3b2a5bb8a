package grpcfence

import (
	"context"
	"testing"

	"github.com/godistlock/distlock"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type silent struct {
	grpc.ServerStream
	ctx context.Context
}

func (s silent) Context() context.Context { return s.ctx }
func (s silent) RecvMsg(any) error        { return nil }

// What is let through costs a copy of its fence's text, which metadata makes (16 bytes), a stream one object beside, and its messages
// nothing.
func TestAllocations(t *testing.T) {
	unary, stream := RequireFence(distlock.NewGuard(), keyOf)
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(FenceKey, "7"))
	var req any = wrapperspb.String("sku-42")
	info := &grpc.UnaryServerInfo{FullMethod: "/shop.Stock/Deduct"}
	handle := func(context.Context, any) (any, error) { return nil, nil }
	if n := testing.AllocsPerRun(100, func() { _, _ = unary(ctx, req, info, handle) }); n > 1 {
		t.Errorf("a call: %.0f allocations", n)
	}
	var ss grpc.ServerStream = silent{ctx: ctx}
	for name, about := range map[string]*grpc.StreamServerInfo{
		"one request": {FullMethod: "/shop.Stock/Watch", IsServerStream: true}, "many": {FullMethod: "/shop.Stock/Both", IsServerStream: true, IsClientStream: true},
	} {
		messages := func(n int) float64 {
			return testing.AllocsPerRun(100, func() {
				_ = stream(nil, ss, about, func(_ any, ss grpc.ServerStream) error {
					for range n {
						if err := ss.RecvMsg(req); err != nil {
							t.Error(err)
						}
					}
					return nil
				})
			})
		}
		if few, many := messages(1), messages(100); few > 3 || many > few { // the handler here is one of them
			t.Errorf("a stream of %s: %.0f allocations with a message, %.0f with 100", name, few, many)
		}
	}
}

// The same call through an interceptor that only passes on, and through RequireFence.
func BenchmarkCall(b *testing.B) {
	ctx := metadata.AppendToOutgoingContext(b.Context(), FenceKey, "1795400835142333")
	pass := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		return handle(ctx, req)
	}
	fenced, stream := RequireFence(distlock.NewGuard(), keyOf)
	for name, unary := range map[string]grpc.UnaryServerInterceptor{"passed on": pass, "fenced": fenced} {
		b.Run(name, func(b *testing.B) {
			service := &stock{done: make(chan string, b.N+1)}
			conn := serve(b, service, unary, stream)
			if err := call(ctx, conn, "Deduct", "sku-42"); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if err := call(ctx, conn, "Deduct", "sku-42"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
