//go:build linux

package proctest

import (
	"testing"
	"time"
)

// byAnother cuts a client, then a follower, from the leader alone: by way of the others they are served, and no session is lost.
func byAnother(t *testing.T) {
	p := startCast(t, 1, podTTL)
	for _, far := range []func(cast) *member{
		func(c cast) *member { return c.clients[0] },
		func(c cast) *member { return c.follower },
	} {
		c := p.cast()
		far := far(c)
		began := now()
		p.net.cut(apart([]*member{c.leader}, []*member{far})...)
		p.served(serveTime, p.members...)
		t.Logf("%s, cut from the leader, was served after %v", far.id, time.Duration(now()-began).Round(time.Millisecond))
		p.rideOut(far.name+" is cut from the leader", began)
		p.served(serveTime, p.members...)
		p.net.heal(p.members...)
	}
	p.rest()
	p.verdict()
}
