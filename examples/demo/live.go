package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

const (
	framePeriod = 200 * time.Millisecond // the panel of a terminal
	rowPeriod   = time.Second            // one line, where there is no terminal
)

// tick shows how the selling goes until the returned function is called, which waits for the last frame.
func (s *show) tick(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	period := rowPeriod
	if s.screen.live {
		period = framePeriod
	} else {
		s.screen.say("   time  leader    orders     /s  handoffs  stock  newest fence")
	}
	go func() { // ended by stop
		defer close(ended)
		ticker := time.NewTicker(period)
		defer ticker.Stop()
		began := time.Now()
		rate := meter{at: []time.Time{began}, count: []int{0}}
		for {
			select {
			case now := <-ticker.C:
				s.frame(now, began, &rate)
			case <-ctx.Done():
				s.screen.show()
				return
			}
		}
	}()
	return func() { cancel(); <-ended }
}

func (s *show) frame(now, began time.Time, rate *meter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	leader := "-"
	if m := s.leader(); m != nil {
		leader = m.name
	}
	b := &s.stock
	perSecond := rate.per(now, b.sold)
	if !s.screen.live {
		s.screen.say("%5d s  %-8s  %6s  %5d  %8s  %5d  %d", int(now.Sub(began).Seconds()+0.5), leader, commas(b.sold), perSecond,
			commas(b.handoffs), b.units, b.greatest)
		return
	}
	most := 1
	for _, m := range s.members {
		most = max(most, m.orders)
	}
	lines := []string{""}
	for _, m := range s.members {
		lines = append(lines, s.memberLine(m, m.name == leader, most))
	}
	s.screen.show(append(lines,
		s.screen.faint(fmt.Sprintf("   %s served, %d/s, %s between shops; %d on the shelf",
			plural(b.sold, "order"), perSecond, plural(b.handoffs, "handoff"), b.units)),
		s.screen.faint(fmt.Sprintf("   newest fence %d, %s refused", b.greatest, plural(b.rejected, "stale write"))))...)
}

// memberLine needs mu.
func (s *show) memberLine(m *member, leads bool, most int) string {
	const bar = 40
	state := fmt.Sprintf("%-8s", "")
	switch {
	case !m.alive:
		state = s.screen.bad("killed  ")
	case m.paused:
		state = s.screen.bad("paused  ")
	case !m.joined:
		state = s.screen.faint("joining ")
	case leads:
		state = s.screen.good("leads   ")
	}
	return fmt.Sprintf("   %-7s %s %8s  %s", m.name, state, commas(m.orders), strings.Repeat("#", m.orders*bar/most))
}

// meter makes a rate of a count that grows, over about the last second.
type meter struct {
	at    []time.Time
	count []int
}

func (m *meter) per(now time.Time, count int) int {
	m.at, m.count = append(m.at, now), append(m.count, count)
	for len(m.at) > 2 && now.Sub(m.at[1]) >= time.Second {
		m.at, m.count = m.at[1:], m.count[1:]
	}
	span := now.Sub(m.at[0]).Seconds()
	if span <= 0 {
		return 0
	}
	return int(float64(count-m.count[0])/span + 0.5)
}
