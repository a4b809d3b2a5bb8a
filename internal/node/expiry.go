package node

import (
	"time"

	"github.com/godistlock/distlock/raftfsm"
)

const (
	// expiryTick bounds how long the expiry loop sleeps while there are sessions, so that it notices a pause of its own process, and how long
	// an expiry may come late.
	expiryTick = 100 * time.Millisecond
	// timeTick is the least time between two looks at the times that run: what is due within it goes out together.
	timeTick = 25 * time.Millisecond
)

// expireLoop proposes the end of each session that was not renewed for its TTL, and what is left of times that run. One timer stands for all of
// them.
func (l *lead) expireLoop() {
	select {
	case <-l.ready:
	case <-l.done:
		return
	}
	t := time.NewTimer(0)
	defer t.Stop()
	due := time.Now()
	sessions := due // when they are looked at next
	for {
		fired := false
		select {
		case <-l.done:
			return
		case <-l.wake:
		case <-t.C:
			fired = true
			now := time.Now()
			// A loop that wakes late was itself paused or starved, and renewals may lie unread in the sockets: all get that time on top.
			if late := now.Sub(due); late > expiryTick {
				l.prolong(late)
			}
			if !now.Before(sessions) {
				l.expire()
				sessions = now.Add(expiryTick)
			}
			l.reportTimes()
		}
		// A wake only brings the next look forward: however often it comes, none is put off.
		if next := l.nextLook(sessions); fired || next.Before(due) {
			due = next
			t.Reset(time.Until(due))
		}
	}
}

func (l *lead) prolong(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.leases {
		s.last = s.last.Add(d)
	}
}

// nextLook is when the loop has something to do again; sessions is when it is to look at those, if there are any.
func (l *lead) nextLook(sessions time.Time) time.Time {
	now := time.Now()
	next := now.Add(time.Hour)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.leases) > 0 {
		if sessions.Before(now) { // there were none
			sessions = now.Add(expiryTick)
		}
		next = sessions
	}
	if at, ok := l.times.next(); ok {
		if soonest := now.Add(timeTick); at.Before(soonest) {
			at = soonest
		}
		if at.Before(next) {
			next = at
		}
	}
	return next
}

// expire proposes an Expire for each lease that ran out, carrying the term and what the state said of the session.
func (l *lead) expire() {
	now := time.Now()
	var due []uint64
	l.mu.Lock()
	for id, s := range l.leases {
		if now.Sub(s.last) >= s.ttl {
			due = append(due, id)
			s.last = now // asked once; asked again only if it still stands a TTL from now
		}
	}
	l.mu.Unlock()
	if len(due) == 0 {
		return
	}
	for _, id := range due {
		s, ok := l.group.fsm.Session(id)
		if !ok {
			continue
		}
		l.logger.Warn("session expired: its process renewed it no more", "member", s.Name, "session", id, "ttl", s.TTL)
		l.batch.add(item{cmd: raftfsm.Expire{Session: id, Term: l.term, Seen: s.Renewed}, done: func(raftfsm.Reply, error) {}})
	}
}
