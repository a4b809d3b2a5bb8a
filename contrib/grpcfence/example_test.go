package grpcfence_test

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/godistlock/distlock"
	"github.com/godistlock/distlock/contrib/grpcfence"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// A server whose calls need a fence, and a client that calls it under a lock. The service is gRPC's own for health, to have one; in truth
// it is the one that would be excepted: Except("/grpc.health.v1.Health/").
func Example() {
	ctx := context.Background()
	unary, stream := grpcfence.RequireFence(distlock.NewGuard(), func(_ context.Context, _ string, req any) string {
		if r, ok := req.(*healthpb.HealthCheckRequest); ok {
			return r.GetService() // what this call touches
		}
		return ""
	})
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream))
	service := health.NewServer()
	service.SetServingStatus("sku-42", healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(server, service)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() { _ = server.Serve(listener) }() // until Stop
	defer server.Stop()

	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(grpcfence.UnaryClient), grpc.WithStreamInterceptor(grpcfence.StreamClient))
	if err != nil {
		panic(err)
	}
	defer func() { _ = conn.Close() }()
	call := func(ctx context.Context) error {
		_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: "sku-42"})
		return grpcfence.Error(err)
	}

	cluster, err := distlock.Join(distlock.Config{Bind: "127.0.0.1:0"}) // a real one names its Peers
	if err != nil {
		panic(err)
	}
	defer func() { _ = cluster.Close() }()
	var late context.Context
	for range 2 {
		if err := cluster.Do(ctx, "sku-42", func(held context.Context, _ distlock.Fence) error {
			if late == nil {
				late = context.WithoutCancel(held) // as a process that sleeps through the end of its lock
			}
			return call(held)
		}); err != nil {
			panic(err)
		}
	}
	fmt.Println("late:", errors.Is(call(late), distlock.ErrStaleFence))
	fmt.Println("without a lock:", errors.Is(call(ctx), grpcfence.ErrMissing))
	// Output:
	// late: true
	// without a lock: true
}
