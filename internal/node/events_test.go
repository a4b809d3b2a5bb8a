package node

import (
	"fmt"
	"testing"
)

func numbered(from, to int) []Event {
	var all []Event
	for i := from; i <= to; i++ {
		all = append(all, Event{Type: "granted", Index: uint64(i), Key: fmt.Sprint("k", i)})
	}
	return all
}

// What a full queue loses is stood for by one event in its place, however much it is, and as often as it happens.
func TestASlowReaderMissesEventsAndIsTold(t *testing.T) {
	q := newEventQueue()
	q.events(numbered(1, maxEvents+1000))
	q.events(numbered(maxEvents+1001, maxEvents+2000))
	if n := len(q.buf); n != maxEvents+1 {
		t.Fatalf("%d events are kept, limit %d", n, maxEvents+1)
	}
	taken := q.take(10)
	q.events(numbered(maxEvents+2001, 2*maxEvents+2001)) // nine of them find a place
	var got []Event
	for batch := taken; batch != nil; batch = q.take(maxEventBatch) {
		got = append(got, batch...)
	}
	last := uint64(0)
	var lost []uint64
	for i, e := range got {
		if e.Type == EventMissed {
			lost = append(lost, e.Index)
			if e.Key != "" || i == 0 || got[i-1].Type == EventMissed {
				t.Errorf("event %d: %+v", i, e)
			}
		} else if e.Index != last+1 && got[max(i-1, 0)].Type != EventMissed {
			t.Errorf("%d follows %d, and nothing tells of what is between them", e.Index, last)
		}
		if e.Index < last {
			t.Errorf("%d comes after %d", e.Index, last)
		}
		last = e.Index
	}
	if len(lost) != 2 || lost[0] != maxEvents+1 {
		t.Errorf("missed from %v on", lost)
	}
	if q.buf != nil {
		t.Error("an empty queue keeps its memory")
	}
}

func TestMessagesOfEventsAreBounded(t *testing.T) {
	if _, err := decodeEvents(encodeEvents(numbered(1, maxEventBatch+1))); err == nil {
		t.Error("a message of too many events is read")
	}
	if got, err := decodeEvents(encodeEvents(numbered(1, maxEventBatch))); err != nil || len(got) != maxEventBatch {
		t.Errorf("%d events, %v", len(got), err)
	}
}
