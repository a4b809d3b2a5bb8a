package simnet

import (
	"maps"
	"slices"
	"time"

	"github.com/godistlock/distlock/internal/wire"
)

// SetDelay makes everything from one host to another take base and up to jitter more, one way. Streams stay in order; packets don't.
func (n *Net) SetDelay(from, to string, base, jitter time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.link(from, to)
	l.delay, l.jitter = base, jitter
}

// SetDelays is SetDelay for all pairs of different hosts, present and future.
func (n *Net) SetDelays(base, jitter time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay, n.jitter = base, jitter
	for p, l := range n.links {
		if p[0] != p[1] {
			l.delay, l.jitter = base, jitter
		}
	}
}

// SetLoss loses packets from one host to another with probability p. Streams lose nothing.
func (n *Net) SetLoss(from, to string, p float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link(from, to).loss = p
}

// SetLosses is SetLoss for all pairs of different hosts, present and future.
func (n *Net) SetLosses(p float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss = p
	for pair, l := range n.links {
		if pair[0] != pair[1] {
			l.loss = p
		}
	}
}

// Cut lets nothing pass between a and b, in either direction. Streams stall as those of TCP do: what was written is held, and goes on after
// Heal if nobody has given up; dials wait; packets are lost.
func (n *Net) Cut(a, b string) { n.setCut(true, [2]string{a, b}, [2]string{b, a}) }

// CutOneWay is Cut in one direction.
func (n *Net) CutOneWay(from, to string) { n.setCut(true, [2]string{from, to}) }

// Heal ends what Cut and CutOneWay did between a and b.
func (n *Net) Heal(a, b string) { n.setCut(false, [2]string{a, b}, [2]string{b, a}) }

// HealAll ends all cuts.
func (n *Net) HealAll() {
	n.mu.Lock()
	pairs := slices.Collect(maps.Keys(n.links))
	n.mu.Unlock()
	n.setCut(false, pairs...)
}

// Isolate cuts ip off from all hosts that are known now.
func (n *Net) Isolate(ip string) { n.Partition([]string{ip}) }

// Partition cuts every host of group off from every known host that is not in it.
func (n *Net) Partition(group []string) {
	n.mu.Lock()
	var pairs [][2]string
	for _, a := range group {
		for b := range n.hosts {
			if !slices.Contains(group, b) {
				pairs = append(pairs, [2]string{a, b}, [2]string{b, a})
			}
		}
	}
	n.mu.Unlock()
	n.setCut(true, pairs...)
}

func (n *Net) setCut(cut bool, pairs ...[2]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range pairs {
		n.link(p[0], p[1]).cut = cut
	}
	n.resume()
}

// Freeze stops a host's sockets, as if its process were paused: nothing comes in or goes out, and nothing that came can be read or accepted,
// until Thaw. Deadlines of its sockets run on, since its goroutines do; packets that it sends are lost, those sent to it wait.
func (n *Net) Freeze(ip string) { n.setFrozen(ip, true) }

// Thaw lets a frozen host go on.
func (n *Net) Thaw(ip string) { n.setFrozen(ip, false) }

func (n *Net) setFrozen(ip string, frozen bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.host(ip).frozen = frozen
	n.resume()
}

// CloseHost is the crash of the host's process: its sockets are gone, what it had written still arrives, then its peers see a reset. Its
// dials fail. It may listen again, as the process that is started next.
func (n *Net) CloseHost(ip string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.host(ip)
	h.life++
	h.frozen = false // the kernel outlives a paused process, and says so
	for _, l := range h.listeners {
		l.shut()
	}
	for _, p := range h.packets {
		p.shut()
	}
	for _, id := range slices.Sorted(maps.Keys(n.streams)) {
		for _, c := range n.streams[id].ends {
			if c.host == h {
				c.shut(markReset)
			}
		}
	}
	n.resume()
}

// Open is how many sockets of a host are open: listeners, packet sockets and ends of streams.
func (n *Net) Open(ip string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.host(ip)
	count := len(h.listeners) + len(h.packets)
	for _, s := range n.streams {
		for _, c := range s.ends {
			if c.host == h && !c.closed {
				count++
			}
		}
	}
	return count
}

// Fate is what becomes of bytes that are written to a stream.
type Fate int

const (
	Deliver Fate = iota
	Lose         // they vanish, and so does everything that is written later in this direction
	Reset        // they vanish, and the stream is reset at both ends when what was written before has arrived
)

// Write is one call of a stream's Write.
type Write struct {
	Stream   uint64 // counts the streams of the network
	From, To string // hosts
	Dialer   bool   // the writing end has dialed
	Kind     wire.Kind
	Offset   int // bytes written before in this direction
	Data     []byte
}

// Tap sees every Write of every stream, on the writer's goroutine, and decides on it: how many of its first bytes are delivered, and what
// becomes of the others (with Deliver the number does not matter). It may call the Net's methods, and must not keep Data. Nil ends it.
func (n *Net) Tap(f func(Write) (deliver int, fate Fate)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tap = f
}

// Loss is an order to lose bytes once.
type Loss struct {
	from, to string
	dialer   bool // the direction away from the dialing end
	kind     wire.Kind
	left     int
	done     chan struct{}
}

// Done is closed when the bytes have been lost.
func (l *Loss) Done() <-chan struct{} { return l.done }

// LoseReplies lets the next after bytes of replies pass, which from writes on the streams of kind (0 for any) that to has dialed, then loses the next
// one with all that follow on its stream, and resets that stream. It happens once. The opening of a stream (mux's Welcome) counts too.
func (n *Net) LoseReplies(from, to string, kind wire.Kind, after int) *Loss {
	return n.lose(&Loss{from: from, to: to, kind: kind, left: after})
}

// LoseRequests is LoseReplies for what from writes on the streams that it has dialed itself.
func (n *Net) LoseRequests(from, to string, kind wire.Kind, after int) *Loss {
	return n.lose(&Loss{from: from, to: to, kind: kind, left: after, dialer: true})
}

func (n *Net) lose(l *Loss) *Loss {
	l.done = make(chan struct{})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.losses = append(n.losses, l)
	return l
}

// judge decides on a write: first the losses in the order in which they were asked for, then the tap, which is called without n.mu.
func (n *Net) judge(w Write) (int, Fate) {
	n.mu.Lock()
	tap := n.tap
	for i, l := range n.losses {
		if l.from != w.From || l.to != w.To || l.dialer != w.Dialer || l.kind != 0 && l.kind != w.Kind {
			continue
		}
		if len(w.Data) <= l.left {
			l.left -= len(w.Data)
			continue
		}
		n.losses = slices.Delete(n.losses, i, i+1)
		close(l.done)
		n.mu.Unlock()
		return l.left, Reset
	}
	n.mu.Unlock()
	if tap == nil {
		return len(w.Data), Deliver
	}
	return tap(w)
}
