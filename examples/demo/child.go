package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godistlock/distlock"
)

const (
	product      = "sku-42"
	workers      = 4   // orders that one shop serves at a time
	delivery     = 100 // units that come in when the shelf is empty
	unlockTime   = 15 * time.Second
	statusPeriod = 100 * time.Millisecond
)

// A shop thinks this long between its check of the stock and its deduction. Without locks the time is longer, as in a shop that asks
// a payment service in between: many orders then see the same stock.
const (
	thinkLocked   = 2 * time.Millisecond
	thinkUnlocked = 20 * time.Millisecond
)

// shop is the child's side: it takes orders and asks the parent for the stock.
type shop struct {
	line *line
	join func(context.Context, start) (locks, error)

	me    start // set by verbStart, before any goroutine that reads it
	locks locks // set by enter; selling with locks begins after verbJoined

	mu      sync.Mutex // guards calls and answers
	calls   uint64
	answers map[uint64]chan message

	orders   atomic.Uint64
	hesitate atomic.Bool   // the next order stops between check and write
	goOn     chan struct{} // ends that stop

	life  context.Context // ends when the parent is gone or says quit
	end   context.CancelFunc
	tasks sync.WaitGroup     // every goroutine of this shop; ended by life
	stop  context.CancelFunc // ends the selling under way. Receiving goroutine only
}

func newShop(in io.Reader, out io.Writer, join func(context.Context, start) (locks, error)) *shop {
	life, end := context.WithCancel(context.Background())
	return &shop{
		line: newLine(in, out), join: join, answers: make(map[uint64]chan message),
		goOn: make(chan struct{}, 1), life: life, end: end, stop: func() {},
	}
}

// serve obeys the parent until it says quit (true) or is gone (false).
func (s *shop) serve() (quit bool) {
	for {
		m, err := s.line.receive()
		if err != nil {
			return false
		}
		if m.Verb == verbQuit {
			return true
		}
		s.obey(m)
	}
}

// leave ends all that serve began.
func (s *shop) leave() {
	s.end()
	s.tasks.Wait()
	if s.locks != nil {
		_ = s.locks.close() // nobody is left to be told
	}
}

func (s *shop) obey(m message) {
	switch m.Verb {
	case verbStart:
		s.me = *m.Start
		s.tasks.Go(s.enter)
	case verbSell:
		s.sell(m.Locked)
	case verbStop:
		s.stop()
	case verbStock, verbWritten:
		s.mu.Lock()
		answer := s.answers[m.Call]
		delete(s.answers, m.Call)
		s.mu.Unlock()
		if answer != nil {
			answer <- m
		}
	case verbProbe:
		s.tasks.Go(s.probe)
	case verbHesitate:
		s.hesitate.Store(true)
	case verbGoOn:
		s.goOn <- struct{}{}
	}
}

// enter joins the cluster and then reports who leads it.
func (s *shop) enter() {
	l, err := s.join(s.life, s.me)
	if err != nil {
		s.fail("join", err)
		return
	}
	s.locks = l
	s.say(message{Verb: verbJoined, Leader: l.leader()})
	tick := time.NewTicker(statusPeriod)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.say(message{Verb: verbStatus, Leader: l.leader()})
		case <-s.life.Done():
			return
		}
	}
}

// sell lets the workers take orders until verbStop or until sold out, and says when all of them are home.
func (s *shop) sell(locked bool) {
	ctx, stop := context.WithCancel(s.life)
	s.stop = stop
	s.tasks.Go(func() {
		defer stop()
		var home sync.WaitGroup
		for i := range workers {
			rnd := rand.New(rand.NewPCG(s.me.Seed, uint64(i)))
			home.Go(func() { s.work(ctx, locked, rnd) })
		}
		home.Wait()
		s.say(message{Verb: verbStopped})
	})
}

// work serves one customer after the other.
func (s *shop) work(ctx context.Context, locked bool, rnd *rand.Rand) {
	for ctx.Err() == nil {
		more, err := s.order(ctx, locked, rnd)
		if err != nil && ctx.Err() == nil {
			s.fail("order", err)
		}
		if err != nil || !more {
			return
		}
	}
}

// order serves one customer: check the stock, think, deduct. It answers false when there is nothing left to sell.
func (s *shop) order(ctx context.Context, locked bool, rnd *rand.Rand) (more bool, err error) {
	id := s.orders.Add(1)
	if !locked {
		units, err := s.check()
		if err != nil || units <= 0 {
			return false, err
		}
		think(ctx, thinkUnlocked, rnd)
		return true, s.write(id, units-1, -1, 0)
	}

	lock, err := s.locks.lock(ctx, product)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, s.unlock(lock)) }()
	fence := uint64(lock.Fence())
	units, err := s.check()
	if err != nil {
		return false, err
	}
	if units <= 0 {
		units = delivery
		if err := s.write(id, units, delivery, fence); err != nil {
			return false, err
		}
	}
	think(ctx, thinkLocked, rnd)
	if lock.Err() != nil { // lost while thinking: the customer tries again
		return true, nil
	}
	if s.hesitate.CompareAndSwap(true, false) { // here the parent pauses this process: it can't notice that its lock is lost
		s.say(message{Verb: verbHesitating, Order: id, Units: units, Fence: fence})
		select {
		case <-s.goOn:
		case <-s.life.Done():
			return false, s.life.Err()
		}
	}
	return true, s.write(id, units-1, -1, fence)
}

// unlock gives the lock back. That it was lost before is no fault: the fence keeps a late write out.
func (s *shop) unlock(lock grant) error {
	ctx, cancel := context.WithTimeout(s.life, unlockTime)
	defer cancel()
	if err := lock.Unlock(ctx); err != nil && !errors.Is(err, distlock.ErrNotHeld) {
		return fmt.Errorf("unlock %s: %w", product, err)
	}
	return nil
}

// check asks the parent for the stock.
func (s *shop) check() (units int, err error) {
	m, err := s.ask(message{Verb: verbRead, Key: product})
	return m.Units, err
}

// write sets the stock. A write that came too late is dropped by the parent; the customer goes away with nothing.
func (s *shop) write(order uint64, units, change int, fence uint64) error {
	_, err := s.ask(message{Verb: verbWrite, Key: product, Order: order, Units: units, Change: change, Fence: fence})
	return err
}

// probe measures when the cluster grants again: its key is free, so nothing but the cluster is waited for.
func (s *shop) probe() {
	lock, err := s.locks.lock(s.life, "probe-"+s.me.Name)
	if err != nil {
		if s.life.Err() == nil {
			s.fail("probe", err)
		}
		return
	}
	s.say(message{Verb: verbProbed, Fence: uint64(lock.Fence())})
	if err := s.unlock(lock); err != nil && s.life.Err() == nil {
		s.fail("probe", err)
	}
}

// ask sends a question and waits for its answer.
func (s *shop) ask(m message) (message, error) {
	answer := make(chan message, 1)
	s.mu.Lock()
	s.calls++
	m.Call = s.calls
	s.answers[m.Call] = answer
	s.mu.Unlock()
	if err := s.line.send(m); err != nil {
		return message{}, err
	}
	select {
	case m := <-answer:
		return m, nil
	case <-s.life.Done():
		return message{}, s.life.Err()
	}
}

// say drops its error: a parent that is gone is noticed by receive.
func (s *shop) say(m message) { _ = s.line.send(m) }

func (s *shop) fail(what string, err error) {
	s.say(message{Verb: verbFailed, Error: fmt.Sprintf("%s: %v", what, err)})
}

// think takes about d.
func think(ctx context.Context, d time.Duration, rnd *rand.Rand) {
	t := time.NewTimer(d/2 + time.Duration(rnd.Int64N(int64(d))))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// lastBreath is how long a shop may take to close its cluster.
const lastBreath = 2 * time.Second

// runShop is the main function of a child process. Should the parent be gone without a word, then nobody else is left to remove the
// demo's folder: every shop does, and the last one leaves nothing.
func runShop(in io.Reader, out io.Writer) int {
	ignoreSignals()
	s := newShop(in, out, join)
	quit := s.serve()
	finish := func() {
		if !quit && s.me.Folder != "" {
			_ = os.RemoveAll(s.me.Folder) // nobody is left to be told
		}
	}
	defer time.AfterFunc(lastBreath, func() { finish(); os.Exit(1) }).Stop()
	s.leave()
	finish()
	return 0
}
