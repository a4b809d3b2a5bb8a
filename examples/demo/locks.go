package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/godistlock/distlock"
)

// sessionTTL is the least the library allows: a shop that dies or sleeps keeps its locks no longer than this.
const sessionTTL = 2 * time.Second

// locks is what a shop needs of the library. It is an interface so that the demo's own tests can do without a cluster.
type locks interface {
	lock(ctx context.Context, key string) (grant, error)
	leader() string // "" while there is none, or while this process can take no locks
	close() error
}

// grant is what a shop needs of a *distlock.Lock.
type grant interface {
	Fence() distlock.Fence
	Err() error
	Unlock(ctx context.Context) error
}

type cluster struct{ *distlock.Cluster }

// join makes this process a member of the shops' cluster.
func join(ctx context.Context, s start) (locks, error) {
	c, err := distlock.JoinContext(ctx, distlock.Config{
		Name:       s.Name,
		Bind:       s.Bind,
		Peers:      s.Peers,
		Expect:     s.Expect,
		DataDir:    s.Dir,
		SessionTTL: sessionTTL,
		Logger:     slog.New(slog.NewTextHandler(os.Stderr, nil)), // a file in the demo's folder
	})
	if err != nil {
		return nil, err
	}
	return cluster{c}, nil
}

func (c cluster) lock(ctx context.Context, key string) (grant, error) {
	l, err := c.Lock(ctx, key)
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (c cluster) leader() string {
	if st := c.Status(); st.Ready {
		return st.Leader
	}
	return ""
}

func (c cluster) close() error { return c.Close() }
