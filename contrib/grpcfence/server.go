package grpcfence

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"

	"github.com/godistlock/distlock"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Key names what a call touches, by what the server itself knows, never by what the client says beside it. method is the full one, as
// "/shop.Stock/Deduct". req is the request's message, which must not be changed; it is nil for streams of which the client sends more than
// one. A key is as distlock.Locker has them; an empty one is refused.
type Key func(ctx context.Context, method string, req any) string

// RequireFence makes the interceptors of a server that let a call through when g admits its fence for the key that it touches:
//
//   - Calls of one request and one answer are admitted before their handler begins.
//   - So are streams of one request and many answers: generated code receives the request before it calls the handler. (Of a
//     grpc.ServiceDesc written by hand the handler must do nothing before it has called RecvMsg.)
//   - Streams of many requests are admitted before their handler begins, by a key that the context and the method tell, and anew with
//     every message, and with the end of all, before the handler has it: a stream that was opened in time may outlive its lock. Where the
//     key stands in the messages, use Except for the method, and Admit in the handler for each of them.
//
// What is refused has one of these codes, and a google.rpc.ErrorInfo with the Domain and one of the Reasons below; see Error for clients:
//
//   - FailedPrecondition without a fence. As gRPC has it: the client should not call again until the state has been fixed, so until it
//     holds a lock.
//   - InvalidArgument when it is malformed, or there are several, or the key is none: that is wrong whatever the state is.
//   - Aborted when it is stale. gRPC names just this, "sequencer check failures", and says what helps: to begin again at a higher level,
//     with a lock taken anew. Unlike FailedPrecondition no fixing of the server's state comes first.
//   - Unavailable when g can't tell: this very call may be made again.
//
// As with distlock.RequireFence a handler that was admitted may still run when a newer one is. It panics without g or key.
func RequireFence(g distlock.Guard, key Key, opts ...Option) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	if g == nil || key == nil {
		panic("grpcfence: RequireFence needs a guard and a key") // else the first call would end the process
	}
	s := &server{guard: g, key: key, free: make(map[string]bool)}
	for _, o := range opts {
		o(s)
	}
	return s.unary, s.stream
}

// Option is one of RequireFence.
type Option func(*server)

// Except names methods that need no fence and are not looked at: "/shop.Stock/Watch", or all of a service, "/grpc.health.v1.Health/". All
// others need one, also those that the server does not know.
func Except(methods ...string) Option {
	return func(s *server) {
		for _, m := range methods {
			s.free[m] = true
		}
	}
}

// server is what both interceptors have in common. Nothing in it changes.
type server struct {
	guard distlock.Guard
	key   Key
	free  map[string]bool // methods and services that need no fence
}

func (s *server) isFree(method string) bool {
	return s.free[method] || s.free[method[:strings.LastIndexByte(method, '/')+1]]
}

func (s *server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if s.isFree(info.FullMethod) {
		return handle(ctx, req)
	}
	fence, err := require(ctx)
	if err != nil {
		return nil, err
	}
	if err := admit(ctx, s.guard, s.key(ctx, info.FullMethod, req), fence); err != nil {
		return nil, err
	}
	return handle(ctx, req)
}

func (s *server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if s.isFree(info.FullMethod) {
		return handle(srv, ss)
	}
	ctx := ss.Context()
	fence, err := require(ctx)
	if err != nil {
		return err
	}
	guarded := &guardedStream{ServerStream: ss, server: s, method: info.FullMethod, fence: fence}
	if info.IsClientStream {
		guarded.key, guarded.keyKnown = s.key(ctx, info.FullMethod, nil), true
		if err := admit(ctx, s.guard, guarded.key, fence); err != nil {
			return err
		}
	}
	err = handle(srv, guarded)
	if refused := guarded.refused.Load(); refused != nil { // whatever the handler made of it
		return *refused
	}
	return err
}

// guardedStream hands a message to the handler when its fence is still admitted.
type guardedStream struct {
	grpc.ServerStream
	server   *server
	method   string
	fence    distlock.Fence
	key      string // RecvMsg's, of which there is one at a time
	keyKnown bool   // likewise
	refused  atomic.Pointer[error]
}

// RecvMsg implements grpc.ServerStream.
func (s *guardedStream) RecvMsg(m any) error {
	if refused := s.refused.Load(); refused != nil {
		return *refused
	}
	end := s.ServerStream.RecvMsg(m)
	if end != nil && (!errors.Is(end, io.EOF) || !s.keyKnown) {
		return end
	}
	if !s.keyKnown {
		s.key, s.keyKnown = s.server.key(s.Context(), s.method, m), true
	}
	if err := admit(s.Context(), s.server.guard, s.key, s.fence); err != nil {
		refused := err // err itself would be allocated for each message, also for those that are let through
		s.refused.Store(&refused)
		return err
	}
	return end
}

// FenceOf is the fence of a call that a server has received. ok is false when there is none; an error, which matches distlock.ErrInvalid,
// says that what is there is no fence.
func FenceOf(ctx context.Context) (fence distlock.Fence, ok bool, err error) {
	switch values := metadata.ValueFromIncomingContext(ctx, FenceKey); len(values) {
	case 0:
		return 0, false, nil
	case 1:
		fence, err = distlock.ParseFence(values[0])
		return fence, true, err
	default:
		return 0, true, errSeveral
	}
}

// Admit is what RequireFence does, for handlers that touch several keys, or whose key is known late: nil when g admits the call's fence for
// key, else an error to answer.
func Admit(ctx context.Context, g distlock.Guard, key string) error {
	fence, err := require(ctx)
	if err != nil {
		return err
	}
	return admit(ctx, g, key, fence)
}

func require(ctx context.Context) (distlock.Fence, error) {
	fence, ok, err := FenceOf(ctx)
	switch {
	case !ok:
		return 0, errMissing
	case err != nil:
		return 0, refusal(malformed, err.Error())
	}
	return fence, nil
}

func admit(ctx context.Context, g distlock.Guard, key string, fence distlock.Fence) error {
	switch err := g.Admit(ctx, key, fence); {
	case err == nil:
		return nil
	case errors.Is(err, distlock.ErrStaleFence):
		return refusal(stale, err.Error())
	case errors.Is(err, distlock.ErrInvalid), errors.Is(err, distlock.ErrLimit):
		return refusal(malformed, err.Error())
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	default:
		return errUnchecked // why is none of the client's business
	}
}
