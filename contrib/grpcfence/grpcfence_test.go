package grpcfence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godistlock/distlock"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// keyOf is what a server of these tests takes for a call's key: what the request names, and "all" for streams that begin without one.
func keyOf(_ context.Context, method string, req any) string {
	if req == nil {
		return "all"
	}
	if !strings.HasPrefix(method, "/shop.Stock/") {
		return ""
	}
	return req.(*text).Value
}

// fences is a context whose calls go with these.
func fences(t *testing.T, values ...string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	for _, v := range values {
		ctx = metadata.AppendToOutgoingContext(ctx, FenceKey, v)
	}
	return ctx
}

// judge compares err with what a call should have ended with, both as a status and for errors.Is.
func judge(t *testing.T, what string, err error, code codes.Code, is error) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("%s: %v; want %v", what, err, code)
	}
	told := Error(err)
	if is != nil && !errors.Is(told, is) {
		t.Errorf("%s: %v does not match %v", what, told, is)
	}
	for _, other := range []error{distlock.ErrStaleFence, ErrMissing, distlock.ErrInvalid} {
		if !errors.Is(other, is) && errors.Is(told, other) {
			t.Errorf("%s: %v matches %v as well", what, told, other)
		}
	}
	if status.Code(told) != code || (err == nil) != (told == nil) || err != nil && told.Error() != err.Error() {
		t.Errorf("%s: made of %v: %v", what, err, told)
	}
}

type brokenGuard struct{}

func (brokenGuard) Admit(context.Context, string, distlock.Fence) error {
	return errors.New("no answer from 10.1.2.3")
}

// Unary calls, and streams of one request, are judged alike, and what is refused never reaches the handler.
func TestCodes(t *testing.T) {
	overtaken, wrong := distlock.ErrStaleFence, distlock.ErrInvalid
	service := newStock()
	kinds := map[string]func(context.Context, *grpc.ClientConn, string) error{
		"unary": func(ctx context.Context, conn *grpc.ClientConn, key string) error {
			return call(ctx, conn, "Deduct", key)
		},
		"stream": ask,
	}
	for name, send := range kinds {
		unary, stream := RequireFence(distlock.NewGuard(), keyOf)
		good := serve(t, service, unary, stream)
		unary, stream = RequireFence(brokenGuard{}, keyOf)
		broken := serve(t, service, unary, stream)
		for i, c := range []struct {
			conn   *grpc.ClientConn
			key    string
			fences []string
			code   codes.Code
			is     error
		}{
			{good, "a", []string{"7"}, codes.OK, nil}, {good, "a", []string{"7"}, codes.OK, nil}, {good, "a", []string{"6"}, codes.Aborted, overtaken},
			{good, "b", []string{"6"}, codes.OK, nil}, {good, "a", []string{"10"}, codes.OK, nil}, {good, "a", []string{"9"}, codes.Aborted, overtaken},
			{good, "a", nil, codes.FailedPrecondition, ErrMissing},
			{good, "a", []string{"x"}, codes.InvalidArgument, wrong}, {good, "a", []string{""}, codes.InvalidArgument, wrong},
			{good, "a", []string{"0"}, codes.InvalidArgument, wrong}, {good, "a", []string{"011"}, codes.InvalidArgument, wrong},
			{good, "a", []string{"+11"}, codes.InvalidArgument, wrong}, {good, "a", []string{"11,12"}, codes.InvalidArgument, wrong},
			{good, "a", []string{"11", "11"}, codes.InvalidArgument, wrong}, {good, "a", []string{"9007199254740992"}, codes.InvalidArgument, wrong},
			{good, "a", []string{strings.Repeat("9", 4000)}, codes.InvalidArgument, wrong},
			{good, "", []string{"11"}, codes.InvalidArgument, wrong}, {good, strings.Repeat("k", 1025), []string{"11"}, codes.InvalidArgument, wrong},
			{good, "a", []string{"9007199254740991"}, codes.OK, nil},
			{broken, "a", []string{"7"}, codes.Unavailable, nil}, {broken, "a", nil, codes.FailedPrecondition, ErrMissing},
		} {
			what := fmt.Sprintf("%s, %d: %.10q with %.30q", name, i, c.key, c.fences)
			err := send(fences(t, c.fences...), c.conn, c.key)
			judge(t, what, err, c.code, c.is)
			if acted := service.acted(); (len(acted) > 0) != (c.code == codes.OK) {
				t.Errorf("%s: the handler has done %q", what, acted)
			}
			if err != nil && strings.Contains(err.Error(), "10.1.2.3") {
				t.Error("it tells the client where the guard is")
			}
		}
	}
}

// A stream of many requests is judged before its handler begins, and with each message: who was overtaken writes no more by a stream opened
// before.
func TestStreamIsOvertaken(t *testing.T) {
	service := newStock()
	unary, stream := RequireFence(distlock.NewGuard(), keyOf)
	conn := serve(t, service, unary, stream)
	open := func(fence string, at int, method string) grpc.ClientStream {
		s, err := conn.NewStream(fences(t, fence), &desc.Streams[at], "/shop.Stock/"+method)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	end := func(s grpc.ClientStream) error {
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		return s.RecvMsg(new(text))
	}

	old, older := open("33", 2, "Both"), open("33", 1, "Load")
	if err := errors.Join(old.SendMsg(wrapperspb.String("one")), old.RecvMsg(new(text))); err != nil {
		t.Fatal(err)
	}
	<-service.open // of older, which has sent nothing
	newer := open("34", 1, "Load")
	<-service.open
	if err := old.SendMsg(wrapperspb.String("two")); err != nil {
		t.Fatal(err)
	}
	judge(t, "a message of who was overtaken", old.RecvMsg(new(text)), codes.Aborted, distlock.ErrStaleFence)
	judge(t, "the end of who was overtaken, from a handler that says nothing of why", end(older), codes.Aborted, distlock.ErrStaleFence)
	if acted := service.acted(); !slices.Equal(acted, []string{"one"}) {
		t.Errorf("the handlers have done %q", acted)
	}
	if err := newer.SendMsg(wrapperspb.String("three")); err != nil {
		t.Fatal(err)
	}
	judge(t, "the newer", end(newer), codes.OK, nil)
	if acted := service.acted(); !slices.Equal(acted, []string{"three", "end"}) {
		t.Errorf("the handlers have done %q", acted)
	}

	judge(t, "a stream too late", end(open("33", 1, "Load")), codes.Aborted, distlock.ErrStaleFence)
	judge(t, "a stream with no fence", func() error {
		s, err := conn.NewStream(fences(t), &desc.Streams[1], "/shop.Stock/Load")
		if err != nil {
			t.Fatal(err)
		}
		return end(s)
	}(), codes.FailedPrecondition, ErrMissing)
	if len(service.open) != 0 || len(service.done) != 0 {
		t.Error("the handler has begun before the fence was looked at")
	}
}

// What a handler itself answers with the same codes is not taken for a refusal.
func TestErrorOfOthers(t *testing.T) {
	for _, err := range []error{nil, io.EOF, status.Error(codes.Aborted, "a transaction"), status.Error(codes.FailedPrecondition, "not empty"), errUnchecked} {
		if told := Error(err); told != err { // it must be the very same
			t.Errorf("of %v it makes %v", err, told)
		}
	}
	foreign, err := status.New(codes.Aborted, "").WithDetails(&errdetails.ErrorInfo{Reason: ReasonStale, Domain: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if told := Error(foreign.Err()); errors.Is(told, distlock.ErrStaleFence) {
		t.Errorf("another's reason is taken for ours: %v", told)
	}
	wrapped := fmt.Errorf("deduct: %w", refusal(stale, "fence 6"))
	if told := Error(wrapped); !errors.Is(told, distlock.ErrStaleFence) || !errors.Is(told, wrapped) || status.Code(told) != codes.Aborted {
		t.Errorf("of %v it makes %v", wrapped, told)
	}
}

func TestExcept(t *testing.T) {
	service := newStock()
	unary, stream := RequireFence(brokenGuard{}, keyOf, Except("/shop.Stock/Deduct", "/shop.Stock/Watch"),
		Except("/grpc.health.v1.Health/"))
	conn := serve(t, service, unary, stream)
	judge(t, "an excepted call", call(fences(t), conn, "Deduct", "a"), codes.OK, nil)
	judge(t, "an excepted stream", ask(fences(t, "x"), conn, "a"), codes.OK, nil)
	s, err := conn.NewStream(fences(t), &desc.Streams[1], "/shop.Stock/Load")
	if err != nil {
		t.Fatal(err)
	}
	judge(t, "another", s.RecvMsg(new(text)), codes.FailedPrecondition, ErrMissing)
	of := &server{free: map[string]bool{"/shop.Stock/Read": true, "/grpc.health.v1.Health/": true}}
	for method, free := range map[string]bool{
		"/shop.Stock/Read": true, "/grpc.health.v1.Health/Check": true, "/shop.Stock/ReadAll": false, "/shop.Stock/": false,
		"/grpc.health.v1.Healthy/Check": false, "x": false, "": false,
	} {
		if of.isFree(method) != free {
			t.Errorf("%q needs no fence: %v", method, !free)
		}
	}
}

func TestRequireFenceNeedsItsArguments(t *testing.T) {
	for i, make := range []func(){func() { RequireFence(nil, keyOf) }, func() { RequireFence(distlock.NewGuard(), nil) }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d: a server that would end the process with its first call", i)
				}
			}()
			make()
		}()
	}
}

// A handler that asks for itself: several keys, by one fence.
func TestAdmit(t *testing.T) {
	g := distlock.NewGuard()
	with := func(values ...string) context.Context {
		return metadata.NewIncomingContext(t.Context(), metadata.MD{FenceKey: values})
	}
	judge(t, "a", Admit(with("7"), g, "a"), codes.OK, nil)
	judge(t, "b", Admit(with("6"), g, "b"), codes.OK, nil)
	judge(t, "a again", Admit(with("6"), g, "a"), codes.Aborted, distlock.ErrStaleFence)
	judge(t, "without", Admit(t.Context(), g, "a"), codes.FailedPrecondition, ErrMissing)
	judge(t, "twice", Admit(with("8", "8"), g, "a"), codes.InvalidArgument, distlock.ErrInvalid)
	ended, cancel := context.WithCancel(with("8"))
	cancel()
	judge(t, "too late", Admit(ended, g, "a"), codes.Canceled, nil)
	if fence, ok, err := FenceOf(with("8")); fence != 8 || !ok || err != nil {
		t.Errorf("fence %d, %v, %v", fence, ok, err)
	}
}
