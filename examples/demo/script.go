package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// What each step may take. They are limits, not waits.
const (
	unlockedTime = 5 * time.Second // selling without locks
	joinTime     = 20 * time.Second
	grantTime    = 15 * time.Second // until something is granted, whatever was killed or paused
	overtime     = 25 * time.Second // beyond -duration, in all
)

// run plays the whole script and measures the failover. Whatever is not as it should be is an error.
func (s *show) run(ctx context.Context) (failover time.Duration, err error) {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, s.opts.duration+overtime,
		fmt.Errorf("the demo took longer than %v", s.opts.duration+overtime))
	defer cancel()
	at := func(share float64) time.Time { return began.Add(time.Duration(share * float64(s.opts.duration))) }

	s.screen.say("GoDistLock demo: %d processes of an online shop sell one product, %s.", s.opts.n, product)
	s.screen.say("Its lock lives inside the shops: no lock server runs. Seed %d.", s.opts.seed)
	if s.opts.keep {
		s.screen.say("Logs and data stay in %s", s.folder)
	}
	if err := s.open(); err != nil {
		return 0, err
	}
	if err := s.withoutLocks(ctx); err != nil {
		return 0, err
	}
	if err := s.form(ctx, began); err != nil {
		return 0, err
	}
	ticking := s.tick(ctx)
	defer ticking()
	if err := s.withLocks(ctx, at(0.3)); err != nil {
		return 0, err
	}
	if failover, err = s.killLeader(ctx); err != nil {
		return failover, err
	}
	if err := s.pass(ctx, at(0.6)); err != nil {
		return failover, err
	}
	if err := s.pauseHolder(ctx); err != nil {
		return failover, err
	}
	if err := s.pass(ctx, at(1)); err != nil {
		return failover, err
	}
	return failover, s.closeShops(ctx, ticking)
}

func (s *show) heading(text string) {
	s.screen.say("")
	s.screen.say("%s", s.screen.bold(text))
}

// withoutLocks lets all shops sell with nothing between them, and wants to see it go wrong.
func (s *show) withoutLocks(ctx context.Context) error {
	s.heading("1. Without locks: check the stock, think, deduct")
	s.mu.Lock()
	s.stock.restart(delivery)
	s.mu.Unlock()
	s.sellAll(false)
	if err := s.until(ctx, unlockedTime, "", s.idle); err != nil && !errors.Is(err, errLimit) {
		return err
	}
	if err := s.stopAll(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	sold, left, oversold := s.stock.sold, s.stock.units, s.stock.oversold()
	s.mu.Unlock()
	if oversold <= 0 {
		return fmt.Errorf("%s sold of %d without locks, %d left: it should have oversold", plural(sold, "unit"), delivery, left)
	}
	s.screen.say("   %d in stock, %s sold: %s, as it must be.", delivery, commas(sold),
		s.screen.bad("OVERSOLD by "+commas(oversold)))
	return nil
}

// form waits until all shops have joined.
func (s *show) form(ctx context.Context, began time.Time) error {
	s.heading("2. With locks: Lock, check, think, deduct with the lock's fence, Unlock")
	if err := s.until(ctx, joinTime, "all shops join", func() bool {
		return s.leader() != nil && s.all(func(m *member) bool { return m.joined })
	}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	where := "logs on disk"
	if s.opts.memory {
		where = "logs in memory"
	}
	s.screen.say("   One cluster since %.1f s after the start, %s, %s leads.", time.Since(began).Seconds(), where, s.leader().name)
	for _, m := range s.members {
		s.screen.say("   %s is process %d on %s", m.name, m.proc.pid(), m.addr)
	}
	return nil
}

// withLocks sells until end, and at least until every shop has sold something.
func (s *show) withLocks(ctx context.Context, end time.Time) error {
	s.mu.Lock()
	s.stock.restart(delivery)
	for _, m := range s.members {
		m.orders = 0
	}
	s.mu.Unlock()
	s.sellAll(true)
	if err := s.until(ctx, grantTime, "every shop sells", func() bool {
		return s.all(func(m *member) bool { return m.orders > 0 })
	}); err != nil {
		return err
	}
	return s.pass(ctx, latest(end, time.Now().Add(time.Second)))
}

// killLeader kills the leading process, measures the time until the cluster grants again, and brings the process back.
func (s *show) killLeader(ctx context.Context) (failover time.Duration, err error) {
	if err := s.until(ctx, grantTime, "a leader is known", func() bool { return s.leader() != nil }); err != nil {
		return 0, err
	}
	s.mu.Lock()
	victim := s.leader()
	victim.doomed = true
	l := victim.life
	s.longest = 0
	s.mu.Unlock()
	s.heading(fmt.Sprintf("3. SIGKILL to the leader, %s (pid %d), in the middle of its orders", victim.name, l.proc.pid()))

	killed := time.Now()
	if err := l.proc.kill(); err != nil {
		return 0, fmt.Errorf("kill %s: %w", victim.name, err)
	}
	<-l.dead // its locks can't come from it any more: what is asked for now, a new leader grants
	for _, m := range s.members {
		if m != victim {
			s.tell(m, message{Verb: verbProbe})
		}
	}
	var first *member
	if err := s.until(ctx, grantTime, "a lock is granted after the leader's death", func() bool {
		for _, m := range s.members {
			if m.probed > 0 {
				first = m
			}
		}
		return first != nil
	}); err != nil {
		return 0, err
	}
	failover = time.Since(killed)
	s.screen.say("   Next grant after %s, to %s.", s.screen.good(fmt.Sprintf("%d ms", failover.Milliseconds())), first.name)

	var leads string
	if err := s.until(ctx, grantTime, "a new leader is known", func() bool {
		m := s.leader()
		if m != nil {
			leads = m.name
		}
		return m != nil
	}); err != nil {
		return 0, err
	}
	back := time.Now()
	if err := s.start(victim); err != nil {
		return 0, err
	}
	if err := s.until(ctx, joinTime, victim.name+" comes back", func() bool { return victim.joined }); err != nil {
		return 0, err
	}
	s.screen.say("   %s leads now. %s was started again (pid %d) and back in %d ms.", leads, victim.name, victim.proc.pid(),
		time.Since(back).Milliseconds())
	s.sell(victim, true)
	served := s.served(victim)
	if err := s.until(ctx, grantTime, victim.name+" sells again", func() bool { return victim.orders > served }); err != nil {
		return 0, err
	}
	s.mu.Lock()
	longest := s.longest
	s.mu.Unlock()
	s.screen.say("   %s itself waited %.1f s: for a new leader, then for the dead shop's place", product, longest.Seconds())
	s.screen.say("   in the queue, which went with its session (after %v, or by its return).", sessionTTL)
	return failover, nil
}

// pauseHolder stops a process that holds the lock between its check and its write, until another one has the lock and has written,
// and wants to see the late write turned away.
func (s *show) pauseHolder(ctx context.Context) error {
	if !canPause {
		s.heading("4. Pause a holder past its time: left out, this system can't pause a process")
		return nil
	}
	s.mu.Lock()
	victim := s.follower()
	s.mu.Unlock()
	s.heading(fmt.Sprintf("4. SIGSTOP to a holder, %s, between its check and its write", victim.name))
	s.tell(victim, message{Verb: verbHesitate})
	if err := s.until(ctx, grantTime, victim.name+" gets the lock", func() bool { return victim.hesitating != nil }); err != nil {
		return err
	}
	s.mu.Lock()
	held := *victim.hesitating
	proc := victim.proc
	victim.paused = true
	s.mu.Unlock()
	paused := time.Now()
	if err := proc.pause(); err != nil {
		return fmt.Errorf("pause %s: %w", victim.name, err)
	}
	s.screen.say("   It holds fence %d and is about to write a stock of %d.", held.Fence, held.Units-1)

	var next writer
	var fence uint64
	if err := s.until(ctx, grantTime, "another shop gets the paused one's lock", func() bool {
		next, fence = s.stock.writer, s.stock.greatest
		return fence > held.Fence && next.shop != victim.name
	}); err != nil {
		return err
	}
	s.screen.say("   %.1f s later %s got the lock, and wrote with fence %d.", time.Since(paused).Seconds(), next.shop, fence)

	// The word to go on is sent only now, so that the late write is certain to be late.
	s.tell(victim, message{Verb: verbGoOn})
	if err := proc.resume(); err != nil {
		return fmt.Errorf("wake %s: %w", victim.name, err)
	}
	s.mu.Lock()
	victim.paused = false
	s.mu.Unlock()
	var late staleWrite
	if err := s.until(ctx, grantTime, "the late write comes and is rejected", func() bool {
		for _, late = range s.stale {
			if late.fence == held.Fence {
				return true
			}
		}
		return false
	}); err != nil {
		return err
	}
	s.screen.say("   SIGCONT: %s wakes and writes with its old fence %d.", victim.name, late.fence)
	s.screen.say("   %s: the stock has seen fence %d.", s.screen.good("Rejected"), late.greatest)
	served := s.served(victim)
	return s.until(ctx, grantTime, victim.name+" sells again", func() bool { return victim.orders > served })
}

// closeShops ends the selling and the shops, and checks the books.
func (s *show) closeShops(ctx context.Context, ticking func()) error {
	if err := s.stopAll(ctx); err != nil {
		return err
	}
	ticking()
	if err := s.quit(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.stock
	s.heading("The books")
	s.screen.say("   %s delivered, %s sold, %s left: %d too many.", commas(b.delivered), commas(b.sold), commas(b.units), b.oversold())
	if b.oversold() != 0 {
		return fmt.Errorf("the books don't balance: %d delivered, %d sold, %d left", b.delivered, b.sold, b.units)
	}
	if b.handoffs == 0 {
		return fmt.Errorf("the lock never went from one process to another in %s", plural(b.sold, "order"))
	}
	return nil
}

// sellAll lets all shops sell.
func (s *show) sellAll(locked bool) {
	for _, m := range s.members {
		s.sell(m, locked)
	}
}

func (s *show) sell(m *member, locked bool) {
	s.mu.Lock()
	m.selling = true
	s.mu.Unlock()
	s.tell(m, message{Verb: verbSell, Locked: locked})
}

// stopAll ends the selling and waits until the orders under way are done.
func (s *show) stopAll(ctx context.Context) error {
	for _, m := range s.members {
		s.tell(m, message{Verb: verbStop})
	}
	return s.until(ctx, grantTime, "all shops finish their orders", s.idle)
}

// idle needs mu.
func (s *show) idle() bool { return s.all(func(m *member) bool { return !m.selling }) }

// pass lets time go by until end; a failure ends it too.
func (s *show) pass(ctx context.Context, end time.Time) error {
	err := s.until(ctx, time.Until(end), "", func() bool { return false })
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// served is how many orders m has served.
func (s *show) served(m *member) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return m.orders
}

// follower needs mu: a living member that does not lead.
func (s *show) follower() (m *member) {
	leader := s.leader()
	for _, m = range s.members {
		if m != leader {
			break
		}
	}
	return m
}
