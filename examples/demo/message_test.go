package main

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

func TestLineRoundTrip(t *testing.T) {
	var pipe bytes.Buffer
	l := newLine(&pipe, &pipe)
	sent := []message{
		{Verb: verbStart, Start: &start{Name: "shop-1", Bind: "127.0.0.1:1", Peers: []string{"127.0.0.1:2"}, Expect: 3, Dir: "d", Folder: "f", Seed: 1 << 60}},
		{Verb: verbWrite, Call: 7, Order: 8, Key: product, Units: -3, Change: -1, Fence: 1<<53 - 1},
		{Verb: verbFailed, Error: "two\nlines"},
	}
	for _, m := range sent {
		if err := l.send(m); err != nil {
			t.Fatal(err)
		}
	}
	if lines := strings.Count(pipe.String(), "\n"); lines != len(sent) {
		t.Errorf("%d lines for %d messages", lines, len(sent))
	}
	for _, want := range sent {
		got, err := l.receive()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("received %+v, %v; want %+v", got, err, want)
		}
	}
	if _, err := l.receive(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestLineRefusesNonsense(t *testing.T) {
	for _, in := range []string{"panic: oh\n", "{}{}\n", strings.Repeat("x", maxLine+1)} {
		if m, err := newLine(strings.NewReader(in), io.Discard).receive(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%.20q: %+v, %v", in, m, err)
		}
	}
}
