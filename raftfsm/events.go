package raftfsm

// EventType says what happened to a key.
type EventType string

const (
	evQueued    EventType = "queued"
	evGranted   EventType = "granted"
	evReleased  EventType = "released"
	evExpired   EventType = "expired"
	evForced    EventType = "forced"
	evMoved     EventType = "moved"
	evCancelled EventType = "cancelled"
)

// Event is one thing that happened to a key.
type Event struct {
	Type   EventType
	Key    string
	Member string // the process whose request it is; "" of a detached grant
	Fence  uint64 // of a grant; 0 of a waiter
}

func endedBy(why cause) EventType {
	switch why {
	case byExpiry:
		return evExpired
	case byForce:
		return evForced
	}
	return evReleased
}

// event tells of r, at each of its keys.
func (m *machine) event(t EventType, r *request) {
	if m.watched {
		for _, key := range r.keys() {
			m.eventAt(t, key, r)
		}
	}
}

func (m *machine) eventAt(t EventType, key string, r *request) {
	member := m.member(r.session)
	if r.more != nil && r.more.detached > 0 {
		member = ""
	}
	m.res.Events = append(m.res.Events, Event{Type: t, Key: key, Member: member, Fence: r.fence})
}
