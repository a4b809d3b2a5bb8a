package node

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godistlock/distlock/internal/bubble"
	"github.com/godistlock/distlock/internal/rpc"
	"github.com/godistlock/distlock/internal/wire"
)

// pacedBy is a pacer whose questions the test answers: with a window, 0 for an error.
func pacedBy(t *testing.T) (p *pacer, asked chan uint64, answer chan int) {
	asked, answer = make(chan uint64, 1), make(chan int)
	p = newPacer(func(ctx context.Context, ops uint64) (int, error) {
		asked <- ops
		select {
		case w := <-answer:
			if w == 0 {
				return 0, errors.New("no")
			}
			return w, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	})
	t.Cleanup(p.stop)
	return p, asked, answer
}

// sends has p admit message after message of so many operations, until it waits, and answers how many operations it let through.
func sends(p *pacer, each int) (sent func() uint64, end func()) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				p.admit(partOf(1, 1, each).ops)
			}
		}
	}()
	sent = func() uint64 {
		synctest.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.sent.ops
	}
	return sent, func() {
		close(stop)
		p.stop()
		<-ended
	}
}

// A process has no more on its way than the leader allows, and goes on as that is taken.
func TestAProcessKeepsWhatIsTooMuch(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p, asked, answer := pacedBy(t)
		sent, end := sends(p, 100)
		first := sent()
		if first > firstWindow || first <= firstWindow-100 {
			t.Errorf("%d operations are on their way before the leader has said anything, %d may be", first, firstWindow)
		}
		total := <-asked
		for _, window := range []int{maxLane, maxLane, leastLane, 1, 1 << 40} {
			before := sent()
			answer <- window
			may := total + uint64(min(max(window, leastLane), maxLane))
			if now := sent(); now > max(may, before, total+100) || now+100 <= may { // what was sent under a wider window is not taken back
				t.Errorf("%d operations were taken and %d may have been sent: before it were %d, now %d are", total, may, before, now)
			}
			total = <-asked
		}
		end()
	})
}

// A message that is larger than the window goes alone.
func TestAMessageBeyondTheWindow(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p, asked, answer := pacedBy(t)
		sent, end := sends(p, wire.MaxOps)
		if n := sent(); n != wire.MaxOps {
			t.Errorf("%d operations are on their way", n)
		}
		<-asked
		answer <- leastLane
		if n := sent(); n != 2*wire.MaxOps {
			t.Errorf("%d operations after the first were taken", n)
		}
		end()
	})
}

// Nothing was asked about yet, as it was little, when a message comes that doesn't fit beside it.
func TestALargeMessageBehindSmallOnes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p, asked, answer := pacedBy(t)
		p.admit(partOf(1, 1, 100).ops)
		go func() {
			if n := <-asked; n != 100 {
				t.Errorf("asked about %d operations", n)
			}
			answer <- maxLane
			<-asked
		}()
		p.admit(partOf(1, 1, firstWindow).ops) // or the bubble is stuck
	})
}

// A leader that doesn't know the question is sent all, as before there was one.
func TestAnOldLeaderDoesNotPace(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p, asked, answer := pacedBy(t)
		go func() { <-asked; answer <- 0 }()
		for range 10 * maxLane / 100 {
			p.admit(partOf(1, 1, 100).ops)
		}
	})
}

// Over a connection: the leader's answer comes when the operations have gone into entries, and not before.
func TestTheLeaderPaces(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, l := newFakeCluster(t)
		var sink fakeSink
		id := newSession(t, l, "m", time.Hour, &sink)
		f.commitAll(false)
		here, there := net.Pipe()
		served := &peerConn{node: &Node{}, lead: l}
		serving := rpc.New(there, served, rpc.Options{})
		defer serving.Close()
		served.mu.Lock()
		served.conn, served.lane = serving, l.batch.newLane(serving.Done())
		served.mu.Unlock()
		k := &remoteLink{sink: &sink, done: make(chan struct{}), format: wire.Format}
		k.conn = rpc.New(here, k, rpc.Options{})
		k.pacer = newPacer(askToPace(k.conn))
		defer k.Close()
		const total = 20 * maxLane
		go func() {
			for from := uint64(1); from < total; from += 128 {
				if k.Submit(id, partOf(id, from, 128).ops) != nil {
					return
				}
			}
		}()
		queued := func() int { // on its way, also where the leader has stopped reading
			synctest.Wait()
			k.pacer.mu.Lock()
			defer k.pacer.mu.Unlock()
			l.batch.mu.Lock()
			defer l.batch.mu.Unlock()
			return int(k.pacer.sent.ops - served.lane.taken)
		}
		most := queued()
		for f.index < total/maxBatchOps { // entries that carry maxBatchOps each, but for the first
			f.commitAll(false)
			most = max(most, queued())
		}
		if most > maxLane || most < maxLane/2 {
			t.Errorf("up to %d operations were on their way", most)
		}
		k.pacer.mu.Lock()
		defer k.pacer.mu.Unlock()
		if k.pacer.off || k.pacer.window != maxLane {
			t.Errorf("off: %v; a window of %d for who is alone", k.pacer.off, k.pacer.window)
		}
	})
}

// Who ignores what the leader says is read no further, and the others hardly notice: each of their operations is in the next entry but one.
func TestAHostileFloodIsReadNoFurther(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, l := newFakeCluster(t)
		var sink, other fakeSink
		id, calm := newSession(t, l, "hostile", time.Hour, &sink), newSession(t, l, "calm", time.Hour, &other)
		f.commitAll(false)
		here, there := net.Pipe()
		served := &peerConn{node: &Node{}, lead: l}
		serving := rpc.New(there, served, rpc.Options{})
		defer serving.Close()
		served.mu.Lock()
		served.conn, served.lane = serving, l.batch.newLane(serving.Done())
		served.mu.Unlock()
		hostile := rpc.New(here, noHandler{}, rpc.Options{})
		defer hostile.Close()
		for from := uint64(1); from < 20*maxLane; from += wire.MaxOps {
			w := wire.NewWriter()
			w.Uint(id)
			wire.EncodeOps(w, partOf(id, from, wire.MaxOps).ops)
			if err := hostile.Send(msgOps, w.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
		ln := l.batch.newLane(nil)
		for i := range 20 {
			synctest.Wait()
			l.batch.mu.Lock()
			n := l.batch.queued.total()
			l.batch.mu.Unlock()
			if n > maxLane || n < maxLane/2 {
				t.Fatalf("%d operations wait at the leader", n)
			}
			asked := f.inFlight()
			l.submit(calm, []wire.Op{{Kind: wire.OpAcquire, Seq: uint64(i + 1), Key: "k"}}, &other, ln)
			for range asked + 1 { // what was in flight, and one more
				f.commitOne()
				synctest.Wait()
			}
			if _, outs := other.got(); len(outs) != i+1 {
				t.Fatalf("after %d entries %d of %d operations are answered", asked+1, len(outs), i+1)
			}
		}
	})
}
