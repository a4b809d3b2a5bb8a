package grpcfence

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type text = wrapperspb.StringValue

// stock is the service of these tests, as protoc would write it: a unary method, and one of each kind of stream. All append what they are
// asked for to done, once they act.
type stock struct {
	done chan string
	open chan struct{} // gets one when a handler of Load begins
}

func newStock() *stock { return &stock{make(chan string, 100), make(chan struct{}, 100)} }

// acted is what the handlers have done since it was asked last.
func (s *stock) acted() []string {
	var all []string
	for len(s.done) > 0 {
		all = append(all, <-s.done)
	}
	return all
}

var desc = grpc.ServiceDesc{
	ServiceName: "shop.Stock",
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Deduct", Handler: deduct}, {MethodName: "Read", Handler: deduct}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Watch", Handler: watch, ServerStreams: true}, {StreamName: "Load", Handler: load, ClientStreams: true},
		{StreamName: "Both", Handler: both, ClientStreams: true, ServerStreams: true},
	},
}

func deduct(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
	in := new(text)
	if err := decode(in); err != nil {
		return nil, err
	}
	act := func(_ context.Context, req any) (any, error) {
		srv.(*stock).done <- req.(*text).Value
		return req, nil
	}
	if interceptor == nil {
		return act(ctx, in)
	}
	return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/shop.Stock/Deduct"}, act)
}

func watch(srv any, s grpc.ServerStream) error {
	in := new(text)
	if err := s.RecvMsg(in); err != nil {
		return err
	}
	srv.(*stock).done <- in.Value
	return s.SendMsg(in)
}

func load(srv any, s grpc.ServerStream) error {
	srv.(*stock).open <- struct{}{}
	for {
		in := new(text)
		switch err := s.RecvMsg(in); {
		case errors.Is(err, io.EOF):
			srv.(*stock).done <- "end"
			return s.SendMsg(in)
		case err != nil:
			return errors.New("a handler that says nothing of why")
		}
		srv.(*stock).done <- in.Value
	}
}

func both(srv any, s grpc.ServerStream) error {
	for {
		in := new(text)
		if err := s.RecvMsg(in); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		srv.(*stock).done <- in.Value
		if err := s.SendMsg(in); err != nil {
			return err
		}
	}
}

// serve runs a server with service, and answers a connection to it, for as long as the test runs.
func serve(t testing.TB, service any, unary grpc.UnaryServerInterceptor, stream grpc.StreamServerInterceptor) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer(grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream))
	s.RegisterService(&desc, service)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }() // until the Stop below
	conn, err := grpc.NewClient("passthrough:///stock", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithUnaryInterceptor(UnaryClient), grpc.WithStreamInterceptor(StreamClient))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return conn
}

func call(ctx context.Context, conn *grpc.ClientConn, method, key string) error {
	return conn.Invoke(ctx, "/shop.Stock/"+method, wrapperspb.String(key), new(text))
}

// ask opens the stream Watch, which is read to its end.
func ask(ctx context.Context, conn *grpc.ClientConn, key string) error {
	s, err := conn.NewStream(ctx, &desc.Streams[0], "/shop.Stock/Watch")
	if err != nil {
		return err
	}
	if err := errors.Join(s.SendMsg(wrapperspb.String(key)), s.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for {
		if err := s.RecvMsg(new(text)); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
