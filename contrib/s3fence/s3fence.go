package s3fence

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/godistlock/distlock"
)

// Bucket is what is needed of an object store; the package documentation has one of aws-sdk-go-v2.
type Bucket interface {
	// Get answers all of an object, and its ETag, which is "" when there is no object. It must not be behind a cache.
	Get(ctx context.Context, key string) (body []byte, etag string, err error)
	// Put stores an object if its ETag is still etag or, where etag is "", if there is none. It answers ErrChanged when the condition is not met
	// (412), or may not be met because of another write under way (409). Any other error leaves open whether it was stored.
	Put(ctx context.Context, key string, body []byte, etag string) error
}

// ErrChanged is what a Bucket's Put answers when the object has changed.
var ErrChanged = errors.New("the object has changed meanwhile")

// Update stores under key what change makes of the content that is there, nil if there is no object. If the object was written with a greater fence
// it answers distlock.ErrStaleFence and writes nothing. change may be called several times, each time with what was written meanwhile; its error is
// answered as it is, and nothing is written. Update blocks until the object is stored, refused, or ctx ends. Other errors are the bucket's: of a Put they leave
// open whether the object was stored. Two updates under one fence are both done, one after the other. Where the client sends again by itself, a first copy
// may have been stored, and overwritten by a newer holder, before the second meets ErrStaleFence.
func Update(ctx context.Context, b Bucket, key string, fence distlock.Fence, change func(old []byte) ([]byte, error)) error {
	const most = 1<<53 - 1
	if fence == 0 || fence > most {
		return fmt.Errorf("%w fence %d: a grant's is from 1 to %d", distlock.ErrInvalid, fence, uint64(most))
	}
	var sent string // the random text of the last write that was sent
	for try := 0; ; try++ {
		body, etag, err := b.Get(ctx, key)
		if err != nil {
			return fmt.Errorf("object %q: %w", key, err)
		}
		var old object
		if etag != "" {
			if old, err = decode(body); err != nil {
				return fmt.Errorf("object %q: %w", key, err)
			}
		}
		switch {
		case sent != "" && old.nonce == sent:
			return nil // a copy of ours was there before the one that was refused
		case old.fence > fence:
			return fmt.Errorf("object %q: %w: fence %d, and it was written with %d", key, distlock.ErrStaleFence, fence, old.fence)
		}
		content, err := change(old.content)
		if err != nil {
			return err
		}
		sent = rand.Text()
		err = b.Put(ctx, key, object{fence, sent, content}.encode(), etag)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrChanged) {
			return fmt.Errorf("object %q: %w", key, err)
		}
		if err := pause(ctx, try); err != nil {
			return fmt.Errorf("object %q: %w", key, err)
		}
	}
}

// Put is an Update to content, whatever was there.
func Put(ctx context.Context, b Bucket, key string, fence distlock.Fence, content []byte) error {
	return Update(ctx, b, key, fence, func([]byte) ([]byte, error) { return content, nil })
}

// Get answers the content of an object and the fence that it was written with; nil and 0 when there is no object.
func Get(ctx context.Context, b Bucket, key string) ([]byte, distlock.Fence, error) {
	body, etag, err := b.Get(ctx, key)
	if err != nil || etag == "" {
		return nil, 0, err
	}
	o, err := decode(body)
	if err != nil {
		return nil, 0, fmt.Errorf("object %q: %w", key, err)
	}
	return o.content, o.fence, nil
}

// Verify answers an error unless the store behind b refuses a write whose condition is not met. It writes to key, which must be used for nothing else;
// many processes may do so at once. Where it answers distlock.ErrInvalid the store knows no conditions, or Put sends none: nothing is safe there.
func Verify(ctx context.Context, b Bucket, key string) error {
	write := func(etag string) error { return b.Put(ctx, key, object{1, rand.Text(), nil}.encode(), etag) }
	for try := 0; ; try++ {
		_, etag, err := b.Get(ctx, key)
		if err != nil {
			return err
		}
		if err := write(etag); errors.Is(err, ErrChanged) { // another process does the same
			if err := pause(ctx, try); err != nil {
				return err
			}
			continue
		} else if err != nil {
			return err
		}
		if err := write(etag); err == nil { // it was that of an earlier write
			return fmt.Errorf("%w bucket: it has stored an object on the condition of ETag %q, which it had no more", distlock.ErrInvalid, etag)
		} else if !errors.Is(err, ErrChanged) {
			return err
		}
		if etag != "" { // else only "if there is none" was tried
			return nil
		}
	}
}

// object is what is stored: a line and the content.
type object struct {
	fence   distlock.Fence
	nonce   string // of this very write
	content []byte
}

const mark = "distlock-fence"

func (o object) encode() []byte {
	return append(fmt.Appendf(nil, "%s %d %s\n", mark, o.fence, o.nonce), o.content...)
}

func decode(body []byte) (object, error) {
	line, content, _ := bytes.Cut(body, []byte("\n"))
	if words := strings.Split(string(line), " "); len(words) == 3 && words[0] == mark && words[2] != "" {
		if fence, err := strconv.ParseUint(words[1], 10, 64); err == nil && fence > 0 {
			return object{distlock.Fence(fence), words[2], content}, nil
		}
	}
	return object{}, fmt.Errorf("%w object: its first line has no fence, so it was written by something else", distlock.ErrInvalid)
}

// pause waits before the next try: a random time, of up to a second when many have failed.
func pause(ctx context.Context, try int) error {
	wait := time.NewTimer(mathrand.N(min(time.Second, 5*time.Millisecond<<min(try, 8))))
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
