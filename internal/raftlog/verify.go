package raftlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"math/bits"
	"os"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/wire"
)

// corruptError says that a file is not what was written.
type corruptError struct{ err error }

func (e *corruptError) Error() string { return e.err.Error() }
func (e *corruptError) Unwrap() error { return e.err }

func corrupt(format string, args ...any) error {
	return &corruptError{fmt.Errorf(format, args...)}
}

// contents is what verify learnt of a log file.
type contents struct {
	server wire.UUID
	span   span
}

// verify reads a bbolt file from its meta pages to its last entry, with plain reads, and says whether it is sound. bbolt can't be asked: it
// panics on a damaged page, partly on goroutines of its own where nobody can recover. The layout is that of bbolt's internal/common.
//
// Both meta pages must be valid and follow each other. A crash leaves them so: a meta page is within one sector, and is written when all
// else is durable. bbolt itself would go back to the older one, and so forget a vote.
func verify(f io.ReaderAt, size int64) (contents, error) {
	v := &verifier{f: f, size: size}
	if err := v.metas(); err != nil {
		return contents{}, err
	}
	v.seen = make([]uint64, v.pages/64+1)
	buckets := map[string][]byte{}
	err := v.tree(v.root, func(key, val []byte, isBucket bool) error {
		if !isBucket {
			return corrupt("a value %q where only buckets belong", key)
		}
		buckets[string(key)] = bytes.Clone(val)
		return nil
	})
	if err != nil {
		return contents{}, err
	}
	if err := v.about(buckets); err != nil {
		return contents{}, err
	}
	if err := v.logs(buckets[string(bucketLogs)]); err != nil {
		return contents{}, err
	}
	if err := v.stable(buckets[string(bucketStable)]); err != nil {
		return contents{}, err
	}
	return v.found, nil
}

const (
	pageHeader  = 16
	elementSize = 16
	metaSize    = 64
	bucketSize  = 16
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	noFreelist  = ^uint64(0)
	flagBranch  = 1
	flagLeaf    = 2
	flagMeta    = 4
	flagBucket  = 1
	maxDepth    = 64
	minPageSize = 1 << 10
	maxPageSize = 1 << 16
)

var native = binary.NativeEndian // bbolt writes its structs as they lie in memory

type verifier struct {
	f     io.ReaderAt
	size  int64
	page  uint64 // bytes in a page
	pages uint64 // the file's pages in use
	root  uint64
	seen  []uint64 // one bit a page
	found contents
	term  uint64 // of the last entry
}

// metas reads the two meta pages.
func (v *verifier) metas() error {
	var head [pageHeader + metaSize]byte
	if _, err := v.f.ReadAt(head[:], 0); err == io.EOF {
		return corrupt("its %d bytes are too few", v.size)
	} else if err != nil {
		return err
	}
	m := head[pageHeader:]
	if native.Uint32(m) != metaMagic {
		return corrupt("it does not begin as a log does")
	}
	if got := native.Uint32(m[4:]); got != metaVersion {
		return corrupt("file format %d, known is %d", got, metaVersion)
	}
	v.page = uint64(native.Uint32(m[8:]))
	if v.page < minPageSize || v.page > maxPageSize || bits.OnesCount64(v.page) != 1 {
		return corrupt("pages of %d bytes", v.page)
	}
	var txids [2]uint64
	var freelist uint64
	newest := -1
	for i := range txids {
		if _, err := v.f.ReadAt(head[:], int64(i)*int64(v.page)); err == io.EOF {
			return corrupt("its %d bytes are too few", v.size)
		} else if err != nil {
			return err
		}
		h := fnv.New64a()
		h.Write(m[:metaSize-8])
		if native.Uint64(head[:]) != uint64(i) || native.Uint16(head[8:]) != flagMeta || native.Uint32(m) != metaMagic ||
			native.Uint32(m[4:]) != metaVersion || uint64(native.Uint32(m[8:])) != v.page || native.Uint64(m[56:]) != h.Sum64() {
			return corrupt("meta page %d is damaged", i)
		}
		txids[i] = native.Uint64(m[48:])
		if txids[i]%2 != uint64(i) {
			return corrupt("meta page %d has transaction %d", i, txids[i])
		}
		if newest < 0 || txids[i] > txids[newest] {
			newest = i
			v.root, freelist, v.pages = native.Uint64(m[16:]), native.Uint64(m[32:]), native.Uint64(m[40:])
		}
	}
	if d := txids[newest] - txids[1-newest]; d != 1 {
		return corrupt("the meta pages are of transactions %d and %d", txids[0], txids[1])
	}
	if freelist != noFreelist {
		return corrupt("it was not written by this library")
	}
	if v.pages > uint64(v.size)/v.page {
		return corrupt("%d bytes where %d pages of %d belong", v.size, v.pages, v.page)
	}
	return nil
}

// tree walks the pages below id in order and hands each leaf's key and value to visit; they are valid during the call.
func (v *verifier) tree(id uint64, visit func(key, val []byte, isBucket bool) error) error {
	w := &walk{v: v, visit: visit}
	return w.node(id, nil, 0)
}

type walk struct {
	v     *verifier
	visit func(key, val []byte, isBucket bool) error
	last  []byte // the greatest key so far
	begun bool
}

// node checks page id, whose keys all are at least low, and what is below it.
func (w *walk) node(id uint64, low []byte, depth int) error {
	if depth > maxDepth {
		return corrupt("page %d is %d levels deep", id, depth)
	}
	p, err := w.v.read(id)
	if err != nil {
		return err
	}
	if native.Uint64(p) != id {
		return corrupt("page %d says that it is %d", id, native.Uint64(p))
	}
	return w.elements(p, id, low, depth)
}

// elements checks the elements of page p (also of a page inside a bucket's value).
func (w *walk) elements(p []byte, id uint64, low []byte, depth int) error {
	flags, count := native.Uint16(p[8:]), int(native.Uint16(p[10:]))
	if flags != flagBranch && flags != flagLeaf {
		return corrupt("page %d is of kind %d", id, flags)
	}
	if flags == flagBranch && count == 0 {
		return corrupt("page %d is an empty branch", id)
	}
	if pageHeader+count*elementSize > len(p) {
		return corrupt("page %d claims %d elements", id, count)
	}
	for i := range count {
		at := pageHeader + i*elementSize
		e := p[at : at+elementSize]
		var pos, ksize, vsize uint64
		if flags == flagBranch {
			pos, ksize = uint64(native.Uint32(e)), uint64(native.Uint32(e[4:]))
		} else {
			pos, ksize, vsize = uint64(native.Uint32(e[4:])), uint64(native.Uint32(e[8:])), uint64(native.Uint32(e[12:]))
		}
		from := uint64(at) + pos
		if from < uint64(pageHeader+count*elementSize) || from+ksize+vsize > uint64(len(p)) || ksize == 0 {
			return corrupt("element %d of page %d points outside", i, id)
		}
		key := p[from : from+ksize]
		if i == 0 && bytes.Compare(key, low) < 0 {
			return corrupt("page %d begins before its place", id)
		}
		if flags == flagBranch {
			// The walk reuses the buffer, so what is needed after it is read again. A branch's keys may lag behind its children's.
			if err := w.branch(id, i, key, native.Uint64(e[8:]), depth); err != nil {
				return err
			}
			continue
		}
		if w.begun && bytes.Compare(key, w.last) <= 0 {
			return corrupt("element %d of page %d is out of order", i, id)
		}
		w.last, w.begun = append(w.last[:0], key...), true
		if err := w.visit(key, p[from+ksize:from+ksize+vsize], native.Uint32(e)&flagBucket != 0); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) branch(id uint64, i int, key []byte, child uint64, depth int) error {
	if w.begun && bytes.Compare(key, w.last) <= 0 {
		return corrupt("element %d of branch %d is out of order", i, id)
	}
	return w.node(child, bytes.Clone(key), depth+1)
}

// read returns page id with its overflow, in memory of its own, and marks it as seen: no page belongs to two.
func (v *verifier) read(id uint64) ([]byte, error) {
	if id < 2 || id >= v.pages {
		return nil, corrupt("page %d of %d", id, v.pages)
	}
	var head [pageHeader]byte
	if err := v.readAt(head[:], id); err != nil {
		return nil, err
	}
	over := uint64(native.Uint32(head[12:]))
	if over >= v.pages-id || over*v.page > maxEntryData+maxEntryExtensions+maxPageSize*2 {
		return nil, corrupt("page %d claims %d more", id, over)
	}
	for i := id; i <= id+over; i++ {
		if v.seen[i/64]&(1<<(i%64)) != 0 {
			return nil, corrupt("page %d is used twice", i)
		}
		v.seen[i/64] |= 1 << (i % 64)
	}
	p := make([]byte, (over+1)*v.page)
	return p, v.readAt(p, id)
}

func (v *verifier) readAt(p []byte, id uint64) error {
	_, err := v.f.ReadAt(p, int64(id*v.page))
	if err == io.EOF {
		return corrupt("it ends within page %d", id)
	}
	return err
}

// bucket walks the values of a bucket, whose header (and page, when it is small) is val. It has no buckets in it.
func (v *verifier) bucket(name, val []byte, visit func(key, payload []byte) error) error {
	if len(val) < bucketSize {
		return corrupt("bucket %q has a header of %d bytes", name, len(val))
	}
	leaf := func(key, sealedVal []byte, isBucket bool) error {
		if isBucket {
			return corrupt("bucket %q has another one in it", name)
		}
		payload, err := unsealed(key, sealedVal)
		if err != nil {
			return corrupt("bucket %q, key %x: %w", name, key, err)
		}
		return visit(key, payload)
	}
	if root := native.Uint64(val); root != 0 {
		return v.tree(root, leaf)
	}
	page := val[bucketSize:]
	if len(page) < pageHeader || native.Uint16(page[8:]) != flagLeaf {
		return corrupt("bucket %q has no page", name)
	}
	w := &walk{v: v, visit: leaf}
	return w.elements(page, 0, nil, 0)
}

// about reads what the file says of itself.
func (v *verifier) about(buckets map[string][]byte) error {
	about, ok := buckets[string(bucketAbout)]
	if !ok {
		return corrupt("it was not written by this library")
	}
	var version uint64
	err := v.bucket(bucketAbout, about, func(key, val []byte) error {
		switch {
		case bytes.Equal(key, keyVersion) && len(val) == 8:
			version = binary.BigEndian.Uint64(val)
		case bytes.Equal(key, keyServer) && len(val) == len(wire.UUID{}):
			v.found.server = wire.UUID(val)
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case version > logVersion:
		return &newerError{what: logFile, version: version, known: logVersion}
	case version == 0:
		return corrupt("it has no version")
	case len(buckets) != 3 || buckets[string(bucketLogs)] == nil || buckets[string(bucketStable)] == nil:
		return corrupt("a bucket is missing, or one too many is there")
	}
	return nil
}

// logs checks that the entries are whole and contiguous, and that terms never fall.
func (v *verifier) logs(val []byte) error {
	r := wire.NewReader(nil)
	return v.bucket(bucketLogs, val, func(key, payload []byte) error {
		r.Reset(payload)
		l, err := decodeLog(r)
		if err != nil {
			return corrupt("entry %x: %w", key, err)
		}
		s := &v.found.span
		switch {
		case !bytes.Equal(key, logKey(l.Index)) || l.Index == 0:
			return corrupt("entry %d is stored as %x", l.Index, key)
		case !s.empty() && l.Index != s.last+1:
			return corrupt("entry %d follows entry %d", l.Index, s.last)
		case l.Term < v.term:
			return corrupt("entry %d of term %d follows one of term %d", l.Index, l.Term, v.term)
		case decodable(&l) != nil:
			return corrupt("entry %d: %w", l.Index, decodable(&l))
		}
		if s.empty() {
			s.first = l.Index
		}
		s.last, v.term = l.Index, l.Term
		return nil
	})
}

// stable checks the values, and that the current term is not behind the log: Raft saves it first.
func (v *verifier) stable(val []byte) error {
	var current uint64
	err := v.bucket(bucketStable, val, func(key, payload []byte) error {
		if bytes.Equal(key, keyCurrentTerm) && len(payload) == 8 {
			current = binary.BigEndian.Uint64(payload)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if current < v.term {
		return corrupt("the term is %d, but the log reaches term %d", current, v.term)
	}
	return nil
}

// decodable says whether Raft can take in l: it panics on a configuration that it can't decode, and on entries of a type it doesn't know.
func decodable(l *raft.Log) error {
	switch l.Type {
	case raft.LogCommand, raft.LogNoop, raft.LogBarrier:
		return nil
	case raft.LogConfiguration:
		return configuration(l.Data)
	}
	return refuse("an entry of type %d", l.Type)
}

// configuration says whether p is one that Raft can decode, and in no more memory than its bytes pay for.
func configuration(p []byte) (err error) {
	if !whole(p) {
		return refuse("a configuration of which a part is missing")
	}
	defer func() {
		if r := recover(); r != nil {
			err = refuse("a configuration that can't be decoded: %v", r)
		}
	}()
	raft.DecodeConfiguration(p)
	return nil
}

// verifyLocked verifies f while no other process writes to it.
func verifyLocked(f *os.File) (contents, error) {
	if err := lockFile(f, lockTimeout); err != nil {
		return contents{}, err
	}
	defer unlockFile(f) // bbolt takes its own; the DataDir's lock keeps others out in between
	info, err := f.Stat()
	if err != nil {
		return contents{}, err
	}
	return verify(f, info.Size())
}
