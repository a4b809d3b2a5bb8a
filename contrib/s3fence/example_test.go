package s3fence_test

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/godistlock/distlock"
	"github.com/godistlock/distlock/contrib/s3fence"
)

// A bucket is a few lines over the client that you have; the package documentation has them for aws-sdk-go-v2.
var bucket s3fence.Bucket

func ExampleUpdate() {
	type state struct{ Runs int }
	var cluster distlock.Locker
	err := cluster.Do(context.Background(), "tenant-7", func(ctx context.Context, fence distlock.Fence) error {
		return s3fence.Update(ctx, bucket, "tenant-7.json", fence, func(old []byte) ([]byte, error) {
			var s state
			if old != nil {
				if err := json.Unmarshal(old, &s); err != nil {
					return nil, err
				}
			}
			s.Runs++
			return json.Marshal(s)
		})
	})
	fmt.Println(err) // matches distlock.ErrStaleFence when a newer holder has written
}

func ExampleVerify() {
	if err := s3fence.Verify(context.Background(), bucket, "distlock-check"); err != nil {
		panic(err) // the store writes without looking at conditions: nothing is safe there
	}
}
