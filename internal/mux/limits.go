package mux

import (
	"sync"
	"time"
)

// What strangers can make this process hold. A fleet of a thousand processes may sit behind one address, so the bounds per host are wide.
const (
	HandshakeTimeout  = 5 * time.Second // from the first byte to the hand-over, on both sides
	MaxHello          = 1024            // bytes
	MaxWelcome        = 2048            // bytes
	MaxPending        = 1024            // handshakes of incoming streams at a time
	MaxPendingPerHost = 512
	MaxStreams        = 16384 // incoming streams through their handshake
	MaxStreamsPerHost = 8192
	MaxRaftStreams    = 256 // of them: each costs Raft 256 KiB, and seven voters and two standbys need few
)

// count is streams in their handshake and through it.
type count struct{ pending, open int }

// load counts incoming streams. Guarded by Mux.mu.
type load struct {
	total count
	hosts map[string]count // only those that are not zero
}

// begin takes a place for a handshake.
func (l *load) begin(host string) bool {
	h := l.hosts[host]
	if l.total.pending >= MaxPending || h.pending >= MaxPendingPerHost {
		return false
	}
	l.add(host, count{pending: 1})
	return true
}

// greediest is the host with the most handshakes under way, where all places are taken and it has clearly more of them than host: so many
// addresses can take all places, but none of them keeps another from its first.
func (l *load) greediest(host string) (string, bool) {
	if l.total.pending < MaxPending || l.hosts[host].pending >= MaxPendingPerHost {
		return "", false
	}
	greedy, most := "", l.hosts[host].pending+1
	for h, n := range l.hosts {
		if n.pending > most {
			greedy, most = h, n.pending
		}
	}
	return greedy, greedy != ""
}

// open turns the place of a handshake into that of an open stream.
func (l *load) open(host string) bool {
	h := l.hosts[host]
	if l.total.open >= MaxStreams || h.open >= MaxStreamsPerHost {
		return false
	}
	l.add(host, count{pending: -1, open: 1})
	return true
}

// end gives a place back.
func (l *load) end(host string, pending bool) {
	if pending {
		l.add(host, count{pending: -1})
		return
	}
	l.add(host, count{open: -1})
}

func (l *load) add(host string, d count) {
	l.total.pending += d.pending
	l.total.open += d.open
	h := l.hosts[host]
	h.pending += d.pending
	h.open += d.open
	if h == (count{}) {
		delete(l.hosts, host)
		return
	}
	if l.hosts == nil {
		l.hosts = map[string]count{}
	}
	l.hosts[host] = h
}

const (
	quietFor = time.Minute
	quietMax = 1024 // remembered pairs of host and reason; strangers can make up neither faster than they are forgotten
)

// quiet lets one log line a minute through for each pair of host and reason.
type quiet struct {
	mu   sync.Mutex // guards last
	last map[[2]string]time.Time
}

func (q *quiet) may(host, reason string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	key := [2]string{host, reason}
	if at, ok := q.last[key]; ok && now.Sub(at) < quietFor {
		return false
	}
	if len(q.last) >= quietMax {
		for k, at := range q.last {
			if now.Sub(at) >= quietFor {
				delete(q.last, k)
			}
		}
		if len(q.last) >= quietMax {
			return false
		}
	}
	if q.last == nil {
		q.last = map[[2]string]time.Time{}
	}
	q.last[key] = now
	return true
}
