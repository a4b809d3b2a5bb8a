package grpcfence

import (
	"errors"
	"fmt"

	"github.com/godistlock/distlock"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Domain is the one of the google.rpc.ErrorInfo that refusals carry, by which they differ from what a handler answers with the same code.
const Domain = "github.com/godistlock/distlock"

// Reasons of that ErrorInfo.
const (
	ReasonMissing   = "FENCE_MISSING"
	ReasonMalformed = "FENCE_MALFORMED"
	ReasonStale     = "FENCE_STALE"
	ReasonUnchecked = "FENCE_UNCHECKED"
)

// ErrMissing says that a call went without a fence where one is required: no lock's context was handed to it, or no interceptor added the
// fence.
var ErrMissing = errors.New("a fence is required")

// kind is one way to be refused.
type kind struct {
	code   codes.Code
	reason string
	is     error // what Error's error matches
}

var (
	missing   = kind{codes.FailedPrecondition, ReasonMissing, ErrMissing}
	malformed = kind{codes.InvalidArgument, ReasonMalformed, distlock.ErrInvalid}
	stale     = kind{codes.Aborted, ReasonStale, distlock.ErrStaleFence}
	unchecked = kind{codes.Unavailable, ReasonUnchecked, nil}
)

var (
	errSeveral   = fmt.Errorf("%w %s: it is there more than once", distlock.ErrInvalid, FenceKey)
	errMissing   = refusal(missing, "a fence is required in "+FenceKey)
	errUnchecked = refusal(unchecked, "the fence could not be checked")
)

func refusal(k kind, message string) error {
	s := status.New(k.code, message)
	if with, err := s.WithDetails(&errdetails.ErrorInfo{Reason: k.reason, Domain: Domain}); err == nil {
		s = with
	}
	return s.Err()
}

// Error makes of a call's error, or a stream's, one that matches distlock.ErrStaleFence, ErrMissing or distlock.ErrInvalid where that is
// why RequireFence refused it, and that is still err to everybody else, its status included. Other errors, and nil, it returns as they are.
func Error(err error) error {
	if err == nil {
		return nil
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			for _, k := range []kind{missing, malformed, stale} {
				if info.GetReason() == k.reason {
					return refused{err, k.is}
				}
			}
		}
	}
	return err
}

// refused is err, which matches is as well.
type refused struct{ err, is error }

func (r refused) Error() string              { return r.err.Error() }
func (r refused) Unwrap() []error            { return []error{r.is, r.err} }
func (r refused) GRPCStatus() *status.Status { return status.Convert(r.err) }
