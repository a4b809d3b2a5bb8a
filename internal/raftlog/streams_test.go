package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/godistlock/distlock/internal/alloctest"
)

// tape is a stream of which one side is written already.
type tape struct {
	net.Conn
	in     io.Reader
	out    bytes.Buffer
	closed chan struct{} // by Close, nil if nobody waits for it
}

func (c *tape) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *tape) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *tape) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *tape) SetDeadline(time.Time) error      { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }

func (c *tape) Close() error {
	if c.closed != nil {
		close(c.closed)
	}
	return nil
}

// tapes is a stream layer of them.
type tapes struct {
	accept chan net.Conn
	dial   net.Conn
}

func (l *tapes) Accept() (net.Conn, error) {
	if c, ok := <-l.accept; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l *tapes) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) { return l.dial, nil }
func (l *tapes) Close() error                                             { close(l.accept); return nil }
func (l *tapes) Addr() net.Addr                                           { return &net.TCPAddr{} }

func transport(t testing.TB, layer *tapes, newTime bool) *raft.NetworkTransport {
	layer.accept = make(chan net.Conn)
	trans := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: layer, Logger: hclog.NewNullLogger(), MaxRPCsInFlight: 1, MsgpackUseNewTimeFormat: newTime,
	})
	t.Cleanup(func() { trans.Close() })
	return trans
}

// sent is the bytes that Raft sends for a request; a snapshot's body follows its request.
func sent(t testing.TB, request any, body string, newTime bool) []byte {
	t.Helper()
	c := &tape{in: strings.NewReader("\xa0\x80")} // no error, and an empty answer
	trans := transport(t, &tapes{dial: c}, newTime)
	var err error
	switch r := request.(type) {
	case *raft.AppendEntriesRequest:
		err = trans.AppendEntries("", "", r, &raft.AppendEntriesResponse{})
	case *raft.RequestVoteRequest:
		err = trans.RequestVote("", "", r, &raft.RequestVoteResponse{})
	case *raft.RequestPreVoteRequest:
		err = trans.RequestPreVote("", "", r, &raft.RequestPreVoteResponse{})
	case *raft.TimeoutNowRequest:
		err = trans.TimeoutNow("", "", r, &raft.TimeoutNowResponse{})
	case *raft.InstallSnapshotRequest:
		err = trans.InstallSnapshot("", "", r, &raft.InstallSnapshotResponse{}, strings.NewReader(body))
	}
	if err != nil {
		t.Fatal(err)
	}
	return c.out.Bytes()
}

// receiver is Raft's side that accepts streams.
type receiver struct {
	layer tapes
	trans *raft.NetworkTransport
}

func newReceiver(t testing.TB) *receiver {
	r := &receiver{}
	r.trans = transport(t, &r.layer, false)
	return r
}

// receive gives Raft a stream with the bytes of in, and answer what it makes of them; out is what it writes.
func (r *receiver) receive(wrap func(net.Conn) net.Conn, in io.Reader, answer func(raft.RPC)) (out []byte) {
	c := &tape{in: in, closed: make(chan struct{})}
	r.layer.accept <- wrap(c)
	for {
		select {
		case rpc := <-r.trans.Consumer():
			answer(rpc)
		case <-c.closed:
			return c.out.Bytes()
		}
	}
}

// hostile is what a decoder that believes it makes room for.
const hostile = "\x00\x81\xa1x\xc9\xff\xff\xff\xff\xff"

func header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: 3, ID: []byte("0e2b0b5c-2d9f-4f5e-9e43-2f7f4d6a1c00"), Addr: []byte("0e2b0b5c-2d9f-4f5e-9e43-2f7f4d6a1c00")}
}

func logsOf(n, size int) []*raft.Log {
	logs := make([]*raft.Log, n)
	for i := range logs {
		logs[i] = &raft.Log{
			Index: uint64(1000*i) + 1, Term: 1 << 40, Type: raft.LogType(i % 6), Data: bytes.Repeat([]byte{0xc9}, size), AppendedAt: time.Unix(1<<31, int64(i)).UTC(),
		}
	}
	return logs
}

var requests = []any{
	&raft.AppendEntriesRequest{RPCHeader: header(), Term: 7}, // a heartbeat
	&raft.AppendEntriesRequest{RPCHeader: header(), Term: 7, PrevLogEntry: 1 << 20, PrevLogTerm: 6, LeaderCommitIndex: 1<<63 + 1, Entries: logsOf(1, 5)},
	&raft.AppendEntriesRequest{RPCHeader: header(), Term: 7, PrevLogEntry: 1, PrevLogTerm: 6, Entries: logsOf(20, 300)},
	&raft.RequestVoteRequest{RPCHeader: header(), Term: 8, LastLogIndex: 9, LastLogTerm: 7, LeadershipTransfer: true},
	&raft.RequestPreVoteRequest{RPCHeader: header(), Term: 8, LastLogIndex: 9, LastLogTerm: 7},
	&raft.InstallSnapshotRequest{
		RPCHeader: header(), SnapshotVersion: 1, Term: 8, LastLogIndex: 99, LastLogTerm: 7, ConfigurationIndex: 3, Size: int64(len(hostile)),
		Configuration: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "b"}, {ID: "c", Address: "d"}}}),
	},
	&raft.InstallSnapshotRequest{RPCHeader: header(), SnapshotVersion: 1},
	&raft.TimeoutNowRequest{RPCHeader: header()},
}

// conversation is all requests, one after the other.
func conversation(t testing.TB, newTime bool) (all []byte) {
	for _, r := range requests {
		body := ""
		if s, ok := r.(*raft.InstallSnapshotRequest); ok {
			body = hostile[:s.Size]
		}
		all = append(all, sent(t, r, body, newTime)...)
	}
	return all
}

// Raft receives what Raft sends, however it is cut.
func TestRequestsPass(t *testing.T) {
	for _, newTime := range []bool{false, true} {
		all := conversation(t, newTime)
		var got []any
		newReceiver(t).receive(Requests, iotest.HalfReader(bytes.NewReader(all)), func(rpc raft.RPC) {
			got = append(got, rpc.Command)
			if rpc.Reader != nil {
				body, err := io.ReadAll(rpc.Reader)
				if want := hostile[:rpc.Command.(*raft.InstallSnapshotRequest).Size]; err != nil || string(body) != want {
					t.Errorf("the body is %q, %v", body, err)
				}
			}
			rpc.Respond(nil, nil)
		})
		if len(got) != len(requests) {
			t.Fatalf("%d requests came, of %d", len(got), len(requests))
		}
		for i, r := range requests {
			if want, had := fmt.Sprintf("%+v", deref(r)), fmt.Sprintf("%+v", deref(got[i])); want != had {
				t.Errorf("sent %s\ncame %s", want, had)
			}
		}
		pass(t, Requests, all)
	}
	pass(t, Requests, sent(t, &raft.AppendEntriesRequest{RPCHeader: header(), Term: 7, Entries: logsOf(MaxEntries, 10)}, "", false)[:20_000])
	big := sent(t, &raft.AppendEntriesRequest{RPCHeader: header(), Term: 7, Entries: logsOf(3, MaxData)}, "", false)
	if got, err := io.ReadAll(Requests(&tape{in: bytes.NewReader(big)})); err != nil || !bytes.Equal(got, big) {
		t.Errorf("the longest entries: %d of %d bytes, %v", len(got), len(big), err)
	}
}

// deref is v with its entries, and no pointers, for comparison.
func deref(v any) any {
	if a, ok := v.(*raft.AppendEntriesRequest); ok {
		var logs []raft.Log
		for _, l := range a.Entries {
			e := *l
			e.Data, e.Extensions = append([]byte{}, e.Data...), append([]byte{}, e.Extensions...)
			logs = append(logs, e)
		}
		b := *a
		b.Entries = nil
		return []any{b, logs}
	}
	return reflect.ValueOf(v).Elem().Interface()
}

// pass sees to it that p comes through unchanged, whole, cut anywhere, and in pieces of any length.
func pass(t *testing.T, wrap func(net.Conn) net.Conn, p []byte) {
	t.Helper()
	through := func(how string, in io.Reader) {
		t.Helper()
		if got, err := io.ReadAll(wrap(&tape{in: in})); err != nil || !bytes.Equal(got, p) {
			t.Fatalf("%s: %d of %d bytes, %v", how, len(got), len(p), err)
		}
	}
	through("whole", bytes.NewReader(p))
	through("byte by byte", iotest.OneByteReader(bytes.NewReader(p)))
	through("with its end", iotest.DataErrReader(bytes.NewReader(p)))
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	step := 1 + len(p)/2000 // other cuts in each run
	for i := rnd.IntN(step); i < len(p); i += step {
		through(fmt.Sprint("cut at ", i), io.MultiReader(bytes.NewReader(p[:i]), bytes.NewReader(p[i:])))
	}
	var pieces []io.Reader
	for rest := p; len(rest) > 0; {
		n := 1 + rnd.IntN(min(len(rest), 64))
		pieces, rest = append(pieces, bytes.NewReader(rest[:n])), rest[n:]
	}
	through(fmt.Sprint("in pieces, seed ", seed), io.MultiReader(pieces...))
}

var claims = map[string]string{
	"a time in an unknown field":         hostile,
	"an extension":                       "\x00\x81\xa1x\xc9\xff\xff\xff\xff\x01",
	"a short time too long":              "\x00\x81\xa1x\xc7\x11\xff",
	"a time as str32":                    "\x00\x81\xa7Entries\x91\x81\xaaAppendedAt\xdb\xff\xff\xff\xff",
	"a time as bin16":                    "\x00\x81\xa7Entries\x91\x81\xaaAppendedAt\xc5\xff\xff",
	"a time behind a name that spells":   "\x00\x81\xa7Entries\x91\x81\xafType\xff\x00\x05\xbdAppendedAt\xdb\xff\xff\xff\xff",
	"data":                               "\x00\x81\xa7Entries\x91\x81\xa4Data\xc6\x00\x80\x00\x01",
	"entries":                            "\x00\x81\xa7Entries\xdd\xff\xff\xff\xff",
	"more entries than any leader sends": "\x00\x81\xa7Entries\xdc\x04\x01",
	"fields":                             "\x00\xdf\xff\xff\xff\xff",
	"fields of an entry":                 "\x00\x81\xa7Entries\x91\xde\x00\x41",
	"a request that is no map":           "\x00\x9f",
	"an entry that is a list":            "\x00\x81\xa7Entries\x91\x96",
	"a field whose name is no string":    "\x00\x81\x91",
	"a field without a name":             "\x00\x81\xa0",
	"a field with a long name":           "\x00\x81\xd9\x20",
	"depth":                              "\x00" + strings.Repeat("\x81\xa1x\x91", 100),
	"nothing":                            "\x00\x81\xa1x\xc1",
	"an unknown request":                 "\x05",
	"a snapshot of less than nothing":    "\x02\x81\xa4Size\xff",
	"a snapshot of -1, as 64 bits":       "\x02\x81\xa4Size\xd3\xff\xff\xff\xff\xff\xff\xff\xff",
	"a snapshot beyond all":              "\x02\x81\xa4Size\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
	"a snapshot of two sizes":            "\x02\x82\xa4Size\x01\xa4Size",
	"a snapshot whose size is no number": "\x02\x81\xa4Size\xc0",
}

// What a head claims beyond what Raft sends ends the stream before Raft makes room for it.
func TestClaimsOfRequestsAreRefused(t *testing.T) {
	r := newReceiver(t)
	for name, p := range claims {
		t.Run(name, func(t *testing.T) {
			head := sent(t, requests[0], "", false)
			got, err := io.ReadAll(Requests(&tape{in: strings.NewReader(string(head) + p + "more")}))
			if e := (*RefusedError)(nil); !errors.As(err, &e) || len(got) < len(head) || len(got) >= len(head)+len(p) {
				t.Errorf("%d of %d bytes handed on, %v", len(got), len(head)+len(p), err)
			}
			for i := range p {
				cut := io.MultiReader(strings.NewReader(p[:i]), strings.NewReader(p[i:]))
				if got, err := io.ReadAll(Requests(&tape{in: cut})); err == nil || len(got) >= len(p) {
					t.Errorf("cut at %d: %d of %d bytes handed on, %v", i, len(got), len(p), err)
				}
			}
			alloctest.PaidWith(t, len(p), 1<<20, func() {
				r.receive(Requests, strings.NewReader(p), func(rpc raft.RPC) { t.Errorf("Raft got %+v", rpc.Command); rpc.Respond(nil, nil) })
			})
		})
	}
}

// The heads of one request may be right, each alone, and claim too much together.
func TestTotalOfARequestIsBounded(t *testing.T) {
	w := walker{}
	if _, err := w.take([]byte("\x00\x81\xa7Entries\xdc\x04\x00")); err != nil {
		t.Fatal(err)
	}
	for i := range MaxEntries {
		if _, err := w.take([]byte("\x81\xa4Data\xc6\x00\x80\x00\x00")); err != nil {
			if i != maxRequest/MaxData-1 {
				t.Errorf("entry %d: %v", i, err)
			}
			return
		}
		w.skip = 0 // as if they had come
	}
	t.Error("everything was taken")
}

// After a snapshot's body requests are looked at as before.
func TestRequestAfterASnapshot(t *testing.T) {
	p := sent(t, requests[5], hostile, false)
	taken := 0
	newReceiver(t).receive(Requests, strings.NewReader(string(p)+hostile), func(rpc raft.RPC) {
		taken++
		if body, err := io.ReadAll(rpc.Reader); err != nil || string(body) != hostile {
			t.Errorf("the body is %q, %v", body, err)
		}
		rpc.Respond(nil, nil)
	})
	if got, err := io.ReadAll(Requests(&tape{in: strings.NewReader(string(p) + hostile)})); err == nil || taken != 1 || len(got) >= len(p)+len(hostile) {
		t.Errorf("%d taken; %d bytes handed on, %v", taken, len(got), err)
	}
}

// A snapshot that is refused before its body is read ends the stream: Raft would take the body for requests.
func TestRefusedSnapshotEndsTheStream(t *testing.T) {
	p := sent(t, requests[5], hostile, false)
	r, taken := newReceiver(t), 0
	alloctest.PaidWith(t, len(p), 1<<20, func() {
		out := r.receive(Requests, bytes.NewReader(p), func(rpc raft.RPC) {
			taken++
			rpc.Respond(nil, errors.New("not this one"))
		})
		if !strings.Contains(string(out), "not this one") {
			t.Errorf("answered %q", out)
		}
	})
	if taken != 1 {
		t.Errorf("%d requests taken", taken)
	}
}

var answers = []any{
	&raft.AppendEntriesResponse{RPCHeader: header(), Term: 7, LastLog: 1 << 40, Success: true},
	&raft.RequestVoteResponse{RPCHeader: header(), Term: 7, Peers: []byte("p"), Granted: true},
	&raft.RequestPreVoteResponse{RPCHeader: header(), Term: 7},
	&raft.InstallSnapshotResponse{RPCHeader: header(), Term: 7, Success: true},
	&raft.TimeoutNowResponse{RPCHeader: header()},
}

// Raft receives Raft's answers, also those that are an error and nothing else.
func TestAnswersPass(t *testing.T) {
	var p []byte
	for i := 0; i < 2*len(answers); i++ {
		p = append(p, newReceiver(t).receive(Requests, bytes.NewReader(sent(t, requests[0], "", false)), func(rpc raft.RPC) {
			if i%2 == 0 {
				rpc.Respond(answers[i/2], nil)
			} else {
				rpc.Respond(nil, errors.New(strings.Repeat("so ", 200)))
			}
		})...)
	}
	pass(t, Answers, p)
}

func TestClaimsOfAnswersAreRefused(t *testing.T) {
	for _, p := range []string{
		"\xdb\xff\xff\xff\xff", "\xc9\xff\xff\xff\xff\xff", "\x80", "\xa0\x81\xa1x\xc9\xff\xff\xff\xff\xff", "\xa0\x9f", "\xa0\x81\xa5Peers\xc6\x00\x02\x00\x00",
		"\xa0\x80\xdb\xff\xff\xff\xff",
	} {
		if got, err := io.ReadAll(Answers(&tape{in: strings.NewReader(p)})); err == nil || len(got) >= len(p) {
			t.Errorf("%q: %d bytes handed on, %v", p, len(got), err)
		}
		trans := transport(t, &tapes{dial: Answers(&tape{in: strings.NewReader(strings.TrimPrefix(p, "\xa0\x80"))})}, false)
		alloctest.PaidWith(t, len(p), 1<<20, func() {
			if err := trans.AppendEntries("", "", &raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{}); err == nil {
				t.Errorf("%q is an answer", p)
			}
		})
	}
}

// FuzzRaftStream gives Raft any bytes as a stream, of which it reads a snapshot's body or not.
func FuzzRaftStream(f *testing.F) {
	for _, r := range requests {
		body := ""
		if s, ok := r.(*raft.InstallSnapshotRequest); ok {
			body = hostile[:s.Size]
		}
		p := sent(f, r, body, false)
		f.Add(p, uint(len(p)/2), true)
		f.Add(p, uint(3), false)
	}
	for _, p := range claims {
		f.Add([]byte(p), uint(1), true)
	}
	r := newReceiver(f)
	f.Fuzz(func(t *testing.T, p []byte, cut uint, read bool) {
		cut %= uint(len(p) + 1)
		// A request of two bytes costs Raft a kilobyte, an entry of one byte 150.
		alloctest.PaidWith(t, len(p), 1<<20+4096*len(p), func() {
			r.receive(Requests, io.MultiReader(bytes.NewReader(p[:cut]), bytes.NewReader(p[cut:])), func(rpc raft.RPC) {
				if rpc.Reader != nil && read {
					_, _ = io.Copy(io.Discard, rpc.Reader)
				}
				rpc.Respond(nil, nil)
			})
		})
		whole, err := io.ReadAll(Requests(&tape{in: bytes.NewReader(p)}))
		pieces, err2 := io.ReadAll(Requests(&tape{in: io.MultiReader(bytes.NewReader(p[:cut]), bytes.NewReader(p[cut:]))}))
		if fmt.Sprint(err) != fmt.Sprint(err2) || !bytes.Equal(whole, pieces) || !bytes.HasPrefix(p, whole) || err == nil && len(whole) < len(p) {
			t.Errorf("%x: %x, %v; cut at %d %x, %v", p, whole, err, cut, pieces, err2)
		}
	})
}

// BenchmarkRequests is how long Raft takes to read requests of 512 entries with a hundred bytes each, with and without a look at them.
func BenchmarkRequests(b *testing.B) {
	p := sent(b, &raft.AppendEntriesRequest{RPCHeader: header(), Term: 7, Entries: logsOf(512, 100)}, "", false)
	for name, wrap := range map[string]func(net.Conn) net.Conn{"checked": Requests, "bare": func(c net.Conn) net.Conn { return c }} {
		b.Run(name, func(b *testing.B) {
			r := newReceiver(b)
			b.SetBytes(int64(len(p)))
			in := slices.Repeat([]io.Reader{nil}, b.N)
			for i := range in {
				in[i] = bytes.NewReader(p)
			}
			b.ResetTimer()
			r.receive(wrap, io.MultiReader(in...), func(rpc raft.RPC) { rpc.Respond(nil, nil) })
		})
	}
	b.Run("alone", func(b *testing.B) {
		var w walker
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			if n, err := w.take(p); n != len(p) || err != nil {
				b.Fatal(n, err)
			}
		}
	})
}
