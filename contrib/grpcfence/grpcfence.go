// Package grpcfence takes the fences of distlock through gRPC: interceptors for clients add the fence of the lock that a call is made
// under, and interceptors for servers let through only what a distlock.Guard admits.
//
//	conn, err := grpc.NewClient(target, …, grpc.WithUnaryInterceptor(grpcfence.UnaryClient), grpc.WithStreamInterceptor(grpcfence.StreamClient))
//
//	unary, stream := grpcfence.RequireFence(distlock.NewGuard(), key)
//	server := grpc.NewServer(grpc.ChainUnaryInterceptor(authenticate, unary), grpc.ChainStreamInterceptor(authenticateStream, stream))
//
// What a guard can and can't do is said at distlock.Guard. Above all: a call that reads in order to write is made under the lock and with
// the fence too, and the servers stand behind what says who the client is, since whoever may name a fence may shut out others.
package grpcfence

import (
	"context"
	"strconv"

	"github.com/godistlock/distlock"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// FenceKey is the metadata key of a call's fence, a bare decimal number as in distlock.FenceHeader.
const FenceKey = "distlock-fence"

var (
	_ grpc.UnaryClientInterceptor  = UnaryClient
	_ grpc.StreamClientInterceptor = StreamClient
)

// UnaryClient adds the fence of the call's context (see distlock.FenceFrom) to its metadata. A call that has one already keeps it, and one
// whose context has none goes as it is. A call that gRPC sends again has the same fence, and is admitted again.
func UnaryClient(
	ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	return invoke(withFence(ctx), method, req, reply, conn, opts...)
}

// StreamClient is UnaryClient for streams: the fence is sent once, as the stream begins. A stream ends with its context, so one of a lock's
// context ends with the lock.
func StreamClient(
	ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return open(withFence(ctx), desc, conn, method, opts...)
}

func withFence(ctx context.Context) context.Context {
	fence, ok := distlock.FenceFrom(ctx)
	if !ok {
		return ctx
	}
	if sent, _ := metadata.FromOutgoingContext(ctx); len(sent.Get(FenceKey)) > 0 {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, FenceKey, strconv.FormatUint(uint64(fence), 10))
}
