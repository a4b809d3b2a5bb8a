package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/godistlock/distlock/internal/wire"
)

// The file's buckets and their keys.
var (
	bucketAbout  = []byte("distlock") // what the file is
	bucketLogs   = []byte("logs")     // big-endian index -> sealed entry
	bucketStable = []byte("stable")   // key -> sealed value

	keyVersion = []byte("version")
	keyServer  = []byte("server")

	keyCurrentTerm = []byte("CurrentTerm") // raft.go's name of it
)

const (
	logVersion  = 1
	fillPercent = 0.95 // entries are appended in order: pages may be full
)

// bolt is a Store in one bbolt file, which is synced before a writing method returns.
//
// bbolt panics when a page is not what it expects, and faults when the system can't read one that is mapped. Every method turns both into
// an error. After the first failure of a write or a sync the file is not touched any more: the kernel may have dropped the pages that it
// could not write, and a second sync would report success. Reading goes on until Guard stops it.
type bolt struct {
	path string
	log  *commitLogger

	mu     sync.Mutex   // one writer at a time; guards what follows
	db     *bbolt.DB    // the pointer never changes
	file   *os.File     // the file below db
	broken error        // the first failed write; no write comes after it
	closed bool         //
	enc    *wire.Writer // scratch of StoreLogs
	buf    []byte       // scratch of StoreLogs

	stuck atomic.Bool          // a panic left bbolt's own locks in an unknown state
	span  atomic.Pointer[span] // written by the writer, once the transaction is durable
}

var _ Store = (*bolt)(nil)

// shielded runs f and turns a panic, or a fault of mapped memory, into an error.
func shielded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch p := recover().(type) {
		case nil:
		case commitFailure:
			err = p.error
		default:
			err = &panicError{p}
		}
	}()
	return f()
}

// panicError is a panic that was caught.
type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

func (e *panicError) Unwrap() error {
	err, _ := e.value.(error)
	return err
}

func (b *bolt) IsMonotonic() bool { return true }

func (b *bolt) FirstIndex() (uint64, error) { return b.span.Load().first, nil }
func (b *bolt) LastIndex() (uint64, error)  { return b.span.Load().last, nil }

func (b *bolt) GetLog(index uint64, l *raft.Log) error {
	key := logKey(index)
	return b.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketLogs).Get(key)
		if v == nil {
			return raft.ErrLogNotFound
		}
		payload, err := unsealed(key, v)
		if err != nil {
			return b.corrupt("entry %d: %w", index, err)
		}
		got, err := decodeLog(wire.NewReader(payload))
		if err != nil || got.Index != index {
			return b.corrupt("entry %d (found %d): %w", index, got.Index, err)
		}
		*l = got
		return nil
	})
}

func (b *bolt) Get(key []byte) (val []byte, err error) {
	err = b.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketStable).Get(key)
		if v == nil {
			return errNotFound
		}
		payload, err := unsealed(key, v)
		if err != nil {
			return b.corrupt("value %q: %w", key, err)
		}
		val = append([]byte{}, payload...)
		return nil
	})
	return val, err
}

func (b *bolt) GetUint64(key []byte) (uint64, error) { return getUint64(b, key) }

func (b *bolt) StoreLog(l *raft.Log) error { return b.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores all of logs in one transaction.
func (b *bolt) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	after, reset, err := b.span.Load().appended(logs)
	if err != nil {
		return err
	}
	ends, err := b.encode(logs)
	if err != nil {
		return err
	}
	return b.update("append", after, func(tx *bbolt.Tx) error {
		if reset {
			if err := recreate(tx, bucketLogs); err != nil {
				return err
			}
		}
		bucket := tx.Bucket(bucketLogs)
		bucket.FillPercent = fillPercent
		keys, from := make([]byte, 0, 8*len(logs)), 0
		for i, l := range logs {
			keys = binary.BigEndian.AppendUint64(keys, l.Index)
			if err := bucket.Put(keys[len(keys)-8:], b.buf[from:ends[i]]); err != nil {
				return err
			}
			from = ends[i]
		}
		return nil
	})
}

// encode writes the sealed entries to b.buf, one after the other, and says where each ends. bbolt keeps the slices until the commit.
func (b *bolt) encode(logs []*raft.Log) ([]int, error) {
	const keptScratch = 4 << 20
	if cap(b.buf) > keptScratch {
		b.buf, b.enc = nil, wire.NewWriter()
	}
	b.buf = b.buf[:0]
	ends := make([]int, len(logs))
	var key [8]byte
	for i, l := range logs {
		if len(l.Data) > maxEntryData || len(l.Extensions) > maxEntryExtensions {
			return nil, refuse("entry %d has %d bytes of data and %d of extensions", l.Index, len(l.Data), len(l.Extensions))
		}
		b.enc.Reset()
		encodeLog(b.enc, l)
		binary.BigEndian.PutUint64(key[:], l.Index)
		b.buf = sealed(b.buf, key[:], b.enc.Bytes())
		ends[i] = len(b.buf)
	}
	return ends, nil
}

// DeleteRange deletes lo to hi in one transaction. Guard cuts a long range into short ones.
func (b *bolt) DeleteRange(lo, hi uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	after, gone, err := b.span.Load().deleted(lo, hi)
	if err != nil || gone.empty() {
		return err
	}
	return b.update("delete", after, func(tx *bbolt.Tx) error {
		if after.empty() {
			return recreate(tx, bucketLogs)
		}
		bucket := tx.Bucket(bucketLogs)
		for i := gone.first; i <= gone.last; i++ {
			if err := bucket.Delete(logKey(i)); err != nil {
				return err
			}
		}
		return nil
	})
}

func recreate(tx *bbolt.Tx, name []byte) error {
	if err := tx.DeleteBucket(name); err != nil {
		return err
	}
	_, err := tx.CreateBucket(name)
	return err
}

func (b *bolt) Set(key, val []byte) error { return b.put(bucketStable, key, val) }

func (b *bolt) SetUint64(key []byte, val uint64) error {
	return b.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// bind notes whose log this is.
func (b *bolt) bind(server wire.UUID) error { return b.put(bucketAbout, keyServer, server[:]) }

func (b *bolt) put(bucket, key, val []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.update("set", *b.span.Load(), func(tx *bbolt.Tx) error {
		return tx.Bucket(bucket).Put(key, sealed(nil, key, val))
	})
}

// view runs f in a read transaction.
func (b *bolt) view(f func(*bbolt.Tx) error) error {
	tx, err := b.begin(false)
	if err != nil {
		return err
	}
	err = shielded(func() error { return f(tx) })
	if rerr := shielded(tx.Rollback); err == nil { // Raft compares errors of f, so they stay as they are
		err = rerr
	}
	return err
}

// begin begins a transaction. bbolt reads its meta pages while it holds locks: when that faults they are never given back, so nothing may ask
// for them again.
func (b *bolt) begin(writable bool) (tx *bbolt.Tx, err error) {
	if b.stuck.Load() {
		return nil, fmt.Errorf("log %s: not read after an earlier fault", b.path)
	}
	err = shielded(func() (err error) {
		tx, err = b.db.Begin(writable)
		return err
	})
	var p *panicError
	switch {
	case errors.As(err, &p):
		b.stuck.Store(true)
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		err = os.ErrClosed
	}
	if err != nil {
		return nil, fmt.Errorf("log %s: %w", b.path, err)
	}
	return tx, nil
}

// update runs f in a transaction, makes it durable, and lets after be the log's span. The caller holds b.mu.
//
// bbolt's own Update, and its Commit when it fails, roll back by reading the whole file through the mapping, on a goroutine of their own
// where a page that the disk can't give is fatal to the process (tx.rollback, db.freepages). So the transaction is begun here, a failing
// Commit is left by the panic of commitLogger before it gets there, and what is left is released by Rollback, which reads nothing.
func (b *bolt) update(op string, after span, f func(*bbolt.Tx) error) error {
	if b.broken != nil {
		return fmt.Errorf("log %s: not written after an earlier failure: %w", b.path, b.broken)
	}
	if b.closed {
		return fmt.Errorf("log %s: %w", b.path, os.ErrClosed)
	}
	tx, err := b.begin(true)
	if err != nil {
		b.broken = err
		return err
	}
	err = shielded(func() error {
		if err := f(tx); err != nil {
			return err
		}
		b.log.armed = true
		defer func() { b.log.armed = false }()
		return tx.Commit()
	})
	if err == nil {
		b.span.Store(&after)
		return nil
	}
	b.broken = err
	if rerr := shielded(tx.Rollback); rerr != nil && !errors.Is(rerr, bolterrors.ErrTxClosed) {
		b.stuck.Store(true)
	}
	return fmt.Errorf("log %s: %s: %w", b.path, op, err)
}

func (b *bolt) corrupt(format string, args ...any) error {
	return fmt.Errorf("log %s: %w", b.path, corrupt(format, args...))
}

// Close closes the file. A method that is running ends first.
func (b *bolt) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	if b.stuck.Load() { // bbolt would wait for a lock that nobody gives back; its mapping stays until the process ends
		return b.file.Close()
	}
	return shielded(b.db.Close)
}
