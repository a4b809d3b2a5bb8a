//go:build unix

package proctest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/godistlock/distlock"
)

// wish is what a worker is about to do.
type wish struct {
	ask
	key   string
	hold  time.Duration // for so long it relies on the grant
	lower bool          // downgrade it in the middle
	hand  bool          // give its handle to the test in the middle
	lapse bool          // wait until its time is up
}

const (
	shortTime    = 60 * time.Millisecond // of a grant that is to lapse
	shortCool    = 30 * time.Millisecond // after it
	longTime     = 2 * time.Second       // of a detached grant that is not
	longCooldown = 2 * time.Second       // of what is lost with its process only: longer than a successor takes to end its session
	unitsOf      = 3
)

// pick chooses what to do next.
func (l load) pick(rnd *rand.Rand) wish {
	n := rnd.IntN(l.Keys)
	w := wish{key: fmt.Sprintf("key-%d", n), hold: l.Hold}
	if !l.Kinds {
		return w
	}
	switch rnd.IntN(12) {
	case 0:
	case 1:
		w.Cooldown = longCooldown
	case 2, 3, 4:
		w.Shared = true
	case 5, 6:
		w.Also, w.Shared = fmt.Sprintf("key-%d", (n+1)%l.Keys), rnd.IntN(3) == 0
	case 7:
		w.TTL, w.Cooldown = time.Minute, longCooldown
	case 8:
		w.Detached = longTime
	case 9, 10:
		w.key = fmt.Sprintf("units-%d", n)
		w.Limit, w.Weight = unitsOf, 1+rnd.IntN(unitsOf)
	case 11: // rarely: nobody has the key meanwhile
		switch w.lapse = true; rnd.IntN(6) {
		case 0:
			w.TTL, w.Cooldown = shortTime, shortCool
		case 1:
			w.Detached, w.Cooldown = shortTime, shortCool
		default:
			w.lapse = false
		}
	}
	w.lower = w.mode() == exclusive && rnd.IntN(4) == 0
	w.hand = !w.lapse && rnd.IntN(8) == 0
	return w
}

// taking is a grant and what is recorded of it.
type taking struct {
	p     *process
	lock  *distlock.Lock
	holds []hold // one for each key; alike but for it
}

// each changes the record, and tell reports it: once when it is granted, should this process be killed, before all that may end it, and
// once when it is over.
func (g *taking) each(change func(*hold)) {
	for i := range g.holds {
		change(&g.holds[i])
	}
}

func (g *taking) tell() {
	if len(g.holds) > 0 {
		g.p.say(answer{Holds: g.holds})
	}
}

// take locks what is wished for, relies on it for a while, unlocks it, and reports.
func (p *process) take(ctx context.Context, w wish) {
	g, err := p.lockAs(ctx, w)
	if err != nil {
		if ctx.Err() == nil {
			p.fault("Lock(%s, %+v): %v", w.key, w.ask, err)
		}
		return
	}
	middle := now() + instant(w.hold/2)
	until := now() + instant(w.hold)
	if w.lower || w.hand {
		g.rely(middle)
	}
	if w.lower {
		g.lower()
	}
	if w.hand {
		g.hand()
	}
	if w.lapse {
		until = never
	}
	g.rely(until)
	if w.lapse {
		g.tell()
		return
	}
	g.unlock()
}

// lockAs locks what is wished for and reports the grant.
func (p *process) lockAs(ctx context.Context, w wish) (*taking, error) {
	h := hold{
		Process: p.config.Process, Key: w.key, Asked: now(), Ended: never, Mode: w.mode(), Limit: w.Limit, Weight: w.Weight,
		Detached: w.Detached, Cooldown: w.Cooldown,
	}
	g := &taking{p: p, holds: []hold{h}}
	var err error
	if w.Also != "" {
		h.Key = w.Also
		g.holds = append(g.holds, h)
		g.lock, err = p.cluster.LockAll(ctx, []string{w.key, w.Also}, w.options()...)
	} else {
		g.lock, err = p.cluster.Lock(ctx, w.key, w.options()...)
	}
	if err != nil {
		return nil, err
	}
	g.granted()
	return g, nil
}

// granted reports that the grant is here; one whose time was up before it could be looked at is in no history.
func (g *taking) granted() {
	at := now()
	if g.lock.Err() != nil {
		g.holds = nil
		return
	}
	g.each(func(h *hold) { h.Fence, h.Granted, h.Kept = uint64(g.lock.Fence()), at, at })
	g.tell()
}

// tellEvery is how often a long hold is reported.
const tellEvery = instant(20 * time.Millisecond)

// rely holds on to the grant until then, or until it is lost.
func (g *taking) rely(until instant) {
	for told := now(); ; {
		at := now() // before the look: what is open now was held then
		if err := g.lock.Err(); err != nil {
			if errors.Is(err, distlock.ErrClosed) {
				g.each(func(h *hold) { h.LetGo = true }) // by Leave
			}
			return
		}
		g.each(func(h *hold) { h.Kept = at })
		if at >= until {
			return
		}
		if at-told > tellEvery {
			told = at
			g.tell()
		}
		nap(g.lock.Done(), min(time.Duration(until-at), time.Millisecond))
	}
}

// outcomeTime is how long the outcome of what is done with a grant is waited for.
const outcomeTime = 20 * time.Second

func (g *taking) lower() {
	bounded, cancel := context.WithTimeout(g.p.life, outcomeTime)
	defer cancel()
	at := now()
	g.each(func(h *hold) { h.Lowering = at })
	g.tell()
	if err := g.lock.Downgrade(bounded); err == nil {
		at := now()
		g.each(func(h *hold) { h.Lowered = at })
	} else if !errors.Is(err, distlock.ErrNotHeld) && g.p.life.Err() == nil {
		g.p.fault("Downgrade(%s): %v", g.lock.Key(), err)
	}
}

// handTime is how long somebody is waited for who does something with a handle.
const handTime = time.Second

// hand gives the handle away and relies on the grant until somebody has used it.
func (g *taking) hand() {
	g.each(func(h *hold) { h.Hand = true })
	if len(g.holds) == 0 {
		return
	}
	g.p.say(answer{Holds: g.holds, Handle: string(g.lock.Handle())})
	g.rely(now() + instant(handTime))
}

func (g *taking) unlock() {
	bounded, cancel := context.WithTimeout(g.p.life, outcomeTime)
	defer cancel()
	lost := g.lock.Err() != nil
	if !lost {
		g.each(func(h *hold) { h.LetGo = true })
		g.tell()
	}
	err := g.lock.Unlock(bounded)
	switch {
	case err == nil && lost:
		g.p.fault("Unlock(%s) of what was lost: no error", g.lock.Key())
	case err == nil:
		at := now()
		g.each(func(h *hold) { h.Ended = at })
	case !errors.Is(err, distlock.ErrNotHeld) && g.p.life.Err() == nil:
		g.p.fault("Unlock(%s): %v", g.lock.Key(), err)
	}
	g.tell()
}

// takeFor is take by command. It answers once the lock is granted, and, if it isn't to be kept, unlocked.
func (p *process) takeFor(ctx context.Context, c command) error {
	w := wish{key: c.Key}
	if c.Ask != nil {
		w.ask = *c.Ask
	}
	g, err := p.lockAs(ctx, w)
	switch {
	case err != nil:
		return err
	case c.Do == "take":
		g.unlock()
	default:
		p.tasks.Go(func() { // ends with the lock, at the latest with the Cluster or the process
			g.rely(never)
			g.tell()
		})
	}
	return nil
}

// adopt takes a grant over by its handle, relies on it for a moment and unlocks it.
func (p *process) adopt(ctx context.Context, c command) (fence uint64, err error) {
	g := p.part(c)
	if g.lock, err = p.cluster.Adopt(ctx, distlock.Handle(c.Handle)); err != nil {
		return 0, err
	}
	g.granted()
	g.rely(now() + instant(2*time.Millisecond))
	g.unlock()
	return uint64(g.lock.Fence()), nil
}

// release ends a grant by its handle.
func (p *process) release(ctx context.Context, c command) error {
	g := p.part(c)
	if err := p.cluster.Release(ctx, distlock.Handle(c.Handle)); err != nil {
		return err
	}
	at := now()
	g.each(func(h *hold) { h.Granted, h.Over = at, true })
	g.tell()
	return nil
}

// part is what this process does with the grant that c names, after the part that came with it.
func (p *process) part(c command) *taking {
	g := &taking{p: p}
	asked := now()
	for _, b := range c.Holds {
		g.holds = append(g.holds, hold{
			Process: p.config.Process, Key: b.Key, Fence: b.Fence, Asked: asked, Ended: never, Part: b.Part + 1,
			Mode: b.finalMode(), Limit: b.Limit, Weight: b.Weight, Cooldown: b.Cooldown,
		})
	}
	return g
}
