// Package s3fence has an object store check the fences of distlock's grants, by conditional writes (If-Match and If-None-Match of S3, and what is like
// them elsewhere). It is for small objects that are changed in place: states, manifests, pointers.
//
//	err = cluster.Do(ctx, "tenant-7", func(ctx context.Context, fence distlock.Fence) error {
//		return s3fence.Update(ctx, bucket, "tenant-7.json", fence, func(old []byte) ([]byte, error) {
//			return changed(old) // nil when there is no object yet
//		})
//	})
//
// # How it is safe
//
// An object begins with a line that has the fence of its writer and a random text of that write:
//
//	distlock-fence 1795400835142333 KT5PMYVBEDFCJD7JPEJPWG5W2Q
//
// A write reads this line first, gives up with distlock.ErrStaleFence if the fence there is greater, and is sent on the condition that the object still has
// the ETag that was read. A holder that slept in between is refused, since every write of a newer one has changed the ETag. When the condition is not
// met all of it is done again, until ctx ends.
//
// The fence is not in the object's metadata, where it would look better: the ETag of S3 is of the contents only. A newer holder that writes what was
// there before (or writes something and takes it back) leaves the ETag as it was, and a sleeper's write would be taken, and with it the fence would
// fall. With the random text no two writes have the same ETag. It also tells a write's own copy from others': a client that sends again
// what had no answer is refused by its own first copy, and that is no failure.
//
// Whoever writes the objects otherwise, deletes them or lets a lifecycle rule do it takes the fences away with them. To delete, write nothing:
// Put with no content. Readers use Get, or cut the first line off.
//
// What is large, or must be served as it is, goes under a name that was never used before, without any condition, and then a small object that names it is
// switched by Update.
//
// # A Bucket of aws-sdk-go-v2
//
//	type bucket struct {
//		client *s3.Client
//		name   string
//	}
//
//	func (b bucket) Get(ctx context.Context, key string) ([]byte, string, error) {
//		out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: &key})
//		var none *types.NoSuchKey
//		switch {
//		case errors.As(err, &none):
//			return nil, "", nil
//		case err != nil:
//			return nil, "", err
//		}
//		defer out.Body.Close()
//		body, err := io.ReadAll(out.Body)
//		return body, aws.ToString(out.ETag), err
//	}
//
//	func (b bucket) Put(ctx context.Context, key string, body []byte, etag string) error {
//		in := &s3.PutObjectInput{Bucket: &b.name, Key: &key, Body: bytes.NewReader(body)}
//		if etag == "" {
//			in.IfNoneMatch = aws.String("*")
//		} else {
//			in.IfMatch = &etag
//		}
//		_, err := b.client.PutObject(ctx, in)
//		var refused *awshttp.ResponseError // of github.com/aws/aws-sdk-go-v2/aws/transport/http
//		if errors.As(err, &refused) && (refused.HTTPStatusCode() == 412 || refused.HTTPStatusCode() == 409) {
//			return s3fence.ErrChanged
//		}
//		return err
//	}
//
// Other stores that take the headers of S3 are not all of one mind about conditions, and one that doesn't know them writes without: call
// Verify once, when the program starts. In Google Cloud Storage let the object's generation be what Get and Put call its ETag, with the condition
// x-goog-if-generation-match (0: there must be none); in Azure Blob Storage its ETag with If-Match and If-None-Match: *. Both change with every write, so
// there a fence in the metadata would be as good.
package s3fence
