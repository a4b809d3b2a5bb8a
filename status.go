package distlock

import "github.com/godistlock/distlock/internal/node"

// Status is what this process knows, and never blocks.
func (c *Cluster) Status() Status {
	s := Status{Name: c.settings.Name, Addr: c.settings.Advertise}
	for _, m := range c.node.Members() {
		member := Member{Name: m.Name, Addr: m.Addr, Role: roleOf(m), Leader: m.Leader, State: State(m.State)}
		if m.Self {
			s.Role = member.Role
		}
		if m.Leader {
			s.Leader = m.Name
		}
		s.Members = append(s.Members, member)
	}
	for _, m := range c.node.Conflicts() {
		s.Conflicts = append(s.Conflicts, Member{Name: m.Name, Addr: m.Addr, Role: roleOf(m), Leader: m.Leader, State: State(m.State)})
	}
	for _, x := range c.node.Strangers() {
		s.Strangers = append(s.Strangers, Stranger(x))
	}
	s.Ready = c.Err() == nil && c.sessions.Ready() && !c.isLeaving()
	return s
}

func roleOf(m node.Member) Role {
	switch {
	case m.Voter:
		return Voter
	case m.Standby:
		return Standby
	default:
		return Client
	}
}
