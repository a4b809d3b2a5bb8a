package raftlog

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/wire"
)

// A value in the file is its bytes and a checksum of them, since bbolt's pages have none: a flipped bit must never become a vote or an
// entry. CRC-32C is what processors compute themselves.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sumSize = 4

var errChecksum = errors.New("its checksum does not match")

// sealed appends payload and its checksum to dst. key is summed too, so that a value under another key is no valid one.
func sealed(dst, key, payload []byte) []byte {
	dst = append(dst, payload...)
	return binary.BigEndian.AppendUint32(dst, sum(key, payload))
}

// unsealed is the payload of what sealed wrote; it shares v's memory.
func unsealed(key, v []byte) ([]byte, error) {
	if len(v) < sumSize {
		return nil, errChecksum
	}
	payload := v[:len(v)-sumSize]
	if binary.BigEndian.Uint32(v[len(payload):]) != sum(key, payload) {
		return nil, errChecksum
	}
	return payload, nil
}

func sum(key, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, payload)
}

func logKey(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

// encodeLog appends l to w.
func encodeLog(w *wire.Writer, l *raft.Log) {
	w.Array(6)
	w.Uint(l.Index)
	w.Uint(l.Term)
	w.Uint(uint64(l.Type))
	w.Blob(l.Data)
	w.Blob(l.Extensions)
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	w.Int(at)
}

// decodeLog reads what encodeLog wrote; the Log has memory of its own.
func decodeLog(r *wire.Reader) (raft.Log, error) {
	if n := r.Array(6); n != 6 {
		r.Fail("log entry with %d fields", n)
	}
	l := raft.Log{Index: r.Uint(), Term: r.Uint()}
	kind := r.Uint()
	if kind > uint64(raft.LogConfiguration) {
		r.Fail("log entry of type %d", kind)
	}
	l.Type = raft.LogType(kind)
	l.Data = r.Blob(maxEntryData)
	l.Extensions = r.Blob(maxEntryExtensions)
	if at := r.Int(); at != 0 {
		l.AppendedAt = time.Unix(0, at)
	}
	return l, r.End()
}
