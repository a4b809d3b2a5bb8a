package roster

import "github.com/godistlock/distlock/internal/wire"

// maxSettle bounds how many changes Settle looks ahead; from any view few are due.
const maxSettle = 64

// Settle is the configuration to which the changes that are due lead, if everybody who is being prepared catches up and nothing else
// happens. Who has another place in it than now is about to change its role.
func Settle(v View) []Server {
	config := append([]Server(nil), v.Config...)
	members := append([]Candidate(nil), v.Members...)
	for i := range members {
		members[i].CaughtUp = members[i].CaughtUp || members[i].Alive
	}
	v.Members = members
	for range maxSettle {
		v.Config = config
		c, ok := Next(v)
		if !ok {
			break
		}
		config = applied(config, c)
	}
	return config
}

// applied is config after c.
func applied(config []Server, c Change) []Server {
	var out []Server
	for _, s := range config {
		if s.ID != c.Server {
			out = append(out, s)
		}
	}
	switch c.Kind {
	case AddNonvoter:
		out = append(out, Server{ID: c.Server, Suffrage: Nonvoter})
	case Promote:
		out = append(out, Server{ID: c.Server, Suffrage: Voter})
	}
	return out
}

// SuffrageOf is what server is in config; 0 where it has no place.
func SuffrageOf(config []Server, server wire.UUID) Suffrage {
	for _, s := range config {
		if s.ID == server {
			return s.Suffrage
		}
	}
	return 0
}
