package rpc

import "net"

// MaxPassing is how many bytes that are passed on wait to be written, in each direction, but for one frame. What comes while so many wait is
// not read: its sender's queue grows, as it would if the two were joined directly.
const MaxPassing = 1 << 20

// Splice takes nc over and joins it to c: from now on every frame of either goes on to the other as it is and in order, calls with their
// numbers, answers with their codes, cancels and messages. Only pings are answered by each for itself, so either finds out that its peer is gone. A handler's
// call that is under way on c is still answered by it, and that answer comes before anything that nc's peer says later.
//
// The end of either ends the other, with what had come and was not written yet; whoever splices still closes both. Neither may be spliced
// again, nor make calls of its own: the numbers would meet.
func (c *Conn) Splice(nc net.Conn, opts Options) *Conn {
	far := newConn(nc, nil, opts)
	far.onward.Store(c)
	c.onward.Store(far)
	far.start()
	return far
}

// pass hands a frame that came in on c to the other side of a splice. It waits for room there, or for the end of either: what can't
// be passed on within BrokenAfter ends as a peer that is silent does, since c's pings are not answered meanwhile.
func (c *Conn) pass(f frame, to *Conn) error {
	for {
		to.mu.Lock()
		if to.err != nil || to.writing+len(to.queue) < MaxPassing {
			return to.enqueue(f)
		}
		if to.room == nil {
			to.room = make(chan struct{})
		}
		room := to.room
		to.mu.Unlock()
		select {
		case <-room:
		case <-to.done:
		case <-c.done:
			return c.Err()
		}
	}
}

// passes says whether frames of that type go on to the other side of a splice.
func passes(f frame) bool { return f.typ != framePing && f.typ != framePong }
