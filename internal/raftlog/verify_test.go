package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/godistlock/distlock/internal/alloctest"
	"github.com/godistlock/distlock/internal/wire"
)

// sample writes a log of some hundred entries, with freed pages in the file, and returns its bytes.
func sample(t testing.TB) (dir string, file []byte) {
	t.Helper()
	dir = t.TempDir()
	b, err := openBolt(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		b.SetUint64(keyCurrentTerm, 3), b.Set([]byte("LastVoteCand"), []byte("somebody")), b.SetUint64([]byte("LastVoteTerm"), 3),
		b.StoreLogs(entries(1, 400, 3)), b.StoreLogs(entries(401, 700, 3)), b.DeleteRange(1, 250), b.Close())
	if err != nil {
		t.Fatal(err)
	}
	file, err = os.ReadFile(filepath.Join(dir, logFile))
	if err != nil {
		t.Fatal(err)
	}
	return dir, file
}

// sound checks that what opens is complete: all entries, the term and the vote.
func sound(b *bolt) error {
	if s := *b.span.Load(); s != (span{251, 700}) {
		return fmt.Errorf("log %v", s)
	}
	for i := uint64(251); i <= 700; i++ {
		var l raft.Log
		if err := b.GetLog(i, &l); err != nil || !bytes.Equal(l.Data, entry(i, 3).Data) {
			return fmt.Errorf("entry %d: %v", i, err)
		}
	}
	term, err1 := b.GetUint64(keyCurrentTerm)
	vote, err2 := b.Get([]byte("LastVoteCand"))
	if err := errors.Join(err1, err2); err != nil || term != 3 || string(vote) != "somebody" {
		return fmt.Errorf("term %d, vote %q, %w", term, vote, err)
	}
	return nil
}

func TestSampleIsSound(t *testing.T) {
	dir, _ := sample(t)
	b := openTest(t, dir)
	mustDo(t, sound(b))
}

// lastByte is where the last byte lies that is not zero; bbolt makes the file larger than it needs.
func lastByte(file []byte) int { return len(bytes.TrimRight(file, "\x00")) - 1 }

// A damaged file is either refused, with an error that says what to do, or its damage is where nothing lies, and all is there.
func TestFlippedBytes(t *testing.T) {
	dir, file := sample(t)
	path := filepath.Join(dir, logFile)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	used := lastByte(file)
	refused := 0
	const rounds = 400
	for i := range rounds {
		damaged := bytes.Clone(file)
		at := rnd.IntN(used + 1)
		if i%4 == 0 {
			at = rnd.IntN(used/4096+1)*4096 + rnd.IntN(128) // page headers and first elements
		}
		damaged[at] ^= byte(1 + rnd.IntN(255))
		mustDo(t, os.WriteFile(path, damaged, 0o600))
		b, err := openBolt(dir)
		if err != nil {
			refused++
			if !strings.Contains(err.Error(), moveAway) && !strings.Contains(err.Error(), "upgrade") {
				t.Fatalf("byte %d: %v", at, err)
			}
			continue
		}
		err = sound(b)
		b.Close()
		if err != nil {
			t.Fatalf("byte %d from %d to %d: opened, but: %v", at, file[at], damaged[at], err)
		}
	}
	if refused < rounds/4 {
		t.Fatalf("only %d of %d damaged files were refused", refused, rounds)
	}
}

func TestDamagedFiles(t *testing.T) {
	dir, file := sample(t)
	path := filepath.Join(dir, logFile)
	garbage := make([]byte, len(file))
	rand.NewChaCha8([32]byte{1}).Read(garbage)
	half := bytes.Clone(file)
	copy(half[len(half)/2:], garbage)
	for name, content := range map[string][]byte{
		"empty":          {},
		"one byte":       file[:1],
		"half a page":    file[:2048],
		"one page":       file[:4096],
		"two pages":      file[:8192],
		"cut in the end": file[:lastByte(file)-4096],
		"garbage":        garbage,
		"zeros":          make([]byte, len(file)),
		"half garbage":   half,
		"text":           []byte(strings.Repeat("a file of somebody else\n", 1000)),
	} {
		t.Run(name, func(t *testing.T) {
			mustDo(t, os.WriteFile(path, content, 0o600))
			_, err := OpenBolt(dir)
			if err == nil || !strings.Contains(err.Error(), "corrupt") || !strings.Contains(err.Error(), moveAway) || !strings.Contains(err.Error(), dir) {
				t.Fatal(err)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, content) {
				t.Fatal("the damaged file was changed")
			}
		})
	}
	t.Run("a directory", func(t *testing.T) {
		mustDo(t, os.Remove(path))
		mustDo(t, os.Mkdir(path, 0o700))
		if _, err := OpenBolt(dir); err == nil {
			t.Fatal("opened a directory")
		}
	})
}

// rewrite changes the file by bbolt itself, as another program would.
func rewrite(t *testing.T, dir string, noFreelistSync bool, f func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, logFile), 0o600, &bbolt.Options{NoFreelistSync: noFreelistSync})
	mustDo(t, err)
	mustDo(t, db.Update(f))
	mustDo(t, db.Close())
}

func TestSoundPagesWithWrongContents(t *testing.T) {
	put := func(bucket, key, val []byte) func(*bbolt.Tx) error {
		return func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put(key, sealed(nil, key, val)) }
	}
	for name, c := range map[string]struct {
		change func(*bbolt.Tx) error
		want   string
	}{
		"nothing":          {func(*bbolt.Tx) error { return nil }, ""},
		"a hole":           {func(tx *bbolt.Tx) error { return tx.Bucket(bucketLogs).Delete(logKey(300)) }, "follows"},
		"an odd key":       {put(bucketLogs, []byte("odd"), []byte("x")), "entry"},
		"an unsealed one":  {func(tx *bbolt.Tx) error { return tx.Bucket(bucketLogs).Put(logKey(701), []byte("x")) }, "checksum"},
		"no bucket":        {func(tx *bbolt.Tx) error { return tx.DeleteBucket(bucketStable) }, "bucket"},
		"not ours":         {func(tx *bbolt.Tx) error { return tx.DeleteBucket(bucketAbout) }, "not written by this library"},
		"the term is lost": {func(tx *bbolt.Tx) error { return tx.Bucket(bucketStable).Delete(keyCurrentTerm) }, "term"},
		"a vote is lost": {func(tx *bbolt.Tx) error {
			k := []byte("LastVoteCand")
			return tx.Bucket(bucketStable).Put(k, tx.Bucket(bucketStable).Get([]byte("LastVoteTerm")))
		}, "checksum"},
		"the future": {put(bucketAbout, keyVersion, binary.BigEndian.AppendUint64(nil, logVersion+1)), "upgrade this process"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := sample(t)
			rewrite(t, dir, true, c.change)
			b, err := OpenBolt(dir)
			if c.want == "" {
				mustDo(t, err)
				b.Close()
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
				t.Fatal(err)
			}
		})
	}
	t.Run("another program's file", func(t *testing.T) {
		dir := t.TempDir()
		rewrite(t, dir, false, func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("conf")); return err })
		if _, err := OpenBolt(dir); err == nil || !strings.Contains(err.Error(), "not written by this library") {
			t.Fatal(err)
		}
	})
}

// A crash while the file is being made leaves nothing that would be taken for a log.
func TestHalfMadeFileIsMadeAnew(t *testing.T) {
	dir := t.TempDir()
	mustDo(t, os.WriteFile(filepath.Join(dir, logFile+newSuffix), []byte("half"), 0o600))
	openTest(t, dir)
	if _, err := os.Stat(filepath.Join(dir, logFile+newSuffix)); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

// FuzzVerify mends the checksums of the meta pages first, or no damage would come behind them.
func FuzzVerify(f *testing.F) {
	path := filepath.Join(f.TempDir(), "small")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, PageSize: minPageSize})
	if err != nil {
		f.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		about, err1 := tx.CreateBucket(bucketAbout)
		logs, err2 := tx.CreateBucket(bucketLogs)
		stable, err3 := tx.CreateBucket(bucketStable)
		err := errors.Join(err1, err2, err3,
			about.Put(keyVersion, sealed(nil, keyVersion, binary.BigEndian.AppendUint64(nil, logVersion))),
			stable.Put(keyCurrentTerm, sealed(nil, keyCurrentTerm, binary.BigEndian.AppendUint64(nil, 1))))
		for _, l := range entries(1, 40, 1) {
			w := wire.NewWriter()
			encodeLog(w, l)
			err = errors.Join(err, logs.Put(logKey(l.Index), sealed(nil, logKey(l.Index), w.Bytes())))
		}
		return err
	})
	if err = errors.Join(err, db.Close()); err != nil {
		f.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	if c, err := verify(bytes.NewReader(file), int64(len(file))); err != nil || c.span != (span{1, 40}) {
		f.Fatal(c, err)
	}
	// The input is a list of changes (two bytes of place, one of value): short inputs are what the fuzzer is good at.
	f.Add([]byte{0, pageHeader + 40, 255})
	f.Add([]byte{8, 10, 200, 12, 12, 7, 12, 32, 1})
	f.Fuzz(func(t *testing.T, changes []byte) {
		p := bytes.Clone(file)
		for ; len(changes) >= 3; changes = changes[3:] {
			p[(int(changes[0])<<8|int(changes[1]))%len(p)] = changes[2]
		}
		for _, at := range []int{pageHeader, minPageSize + pageHeader} {
			h := fnv.New64a()
			h.Write(p[at : at+metaSize-8])
			native.PutUint64(p[at+metaSize-8:], h.Sum64())
		}
		alloctest.PaidWith(t, len(p), 1<<20, func() { _, _ = verify(bytes.NewReader(p), int64(len(p))) }) // no panic, no endless walk
	})
}

// What a small file claims must not cost more memory than the file's size.
func TestVerifyAllocatesNoMoreThanTheFile(t *testing.T) {
	_, file := sample(t)
	for at := range 64 {
		damaged := bytes.Clone(file)
		page := 4096 * (2 + at%16)
		binary.NativeEndian.PutUint32(damaged[page+12:], 0xffffff00>>(at/16*4)) // overflow
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		verify(bytes.NewReader(damaged), int64(len(damaged)))
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 8*uint64(len(damaged))+1<<20 {
			t.Fatalf("page %d: %d bytes allocated for a file of %d", page/4096, used, len(damaged))
		}
	}
}
