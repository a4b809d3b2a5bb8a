package raftfsm

// Which sequence numbers of a session have been seen: all below its next but those in its gaps. A number that was seen and has no
// live request is finished for good, so nothing needs to be kept of the requests that are over.

// see marks seq as seen if it was not. It answers false, and marks nothing, when that would take one gap too many.
func (m *machine) see(ses *session, seq uint64) bool {
	if seq >= ses.next {
		if seq > ses.next && !m.addGap(ses, gap{ses.id, ses.next, seq - 1}) {
			return false
		}
		ses.next = seq + 1
		return true
	}
	g, ok := m.gapOf(ses, seq)
	if !ok {
		return true
	}
	left, right := gap{ses.id, g.from, seq - 1}, gap{ses.id, seq + 1, g.to}
	if left.from <= left.to && right.from <= right.to {
		if !m.addGap(ses, right) {
			return false
		}
		m.gaps.ReplaceOrInsert(left) // in place of g
		return true
	}
	m.gaps.Delete(g)
	ses.gaps--
	if left.from <= left.to {
		m.addGap(ses, left)
	}
	if right.from <= right.to {
		m.addGap(ses, right)
	}
	return true
}

// inGap says whether seq, below the session's next, has never been seen.
func (m *machine) inGap(ses *session, seq uint64) bool {
	_, ok := m.gapOf(ses, seq)
	return ok
}

func (s *state) gapOf(ses *session, seq uint64) (found gap, ok bool) {
	if ses.gaps == 0 {
		return gap{}, false
	}
	s.gaps.DescendLessOrEqual(gap{session: ses.id, from: seq}, func(g gap) bool {
		found, ok = g, g.session == ses.id && seq <= g.to
		return false
	})
	return found, ok
}

func (m *machine) addGap(ses *session, g gap) bool {
	if ses.gaps >= MaxGaps {
		return false
	}
	m.gaps.ReplaceOrInsert(g)
	ses.gaps++
	return true
}

func (m *machine) dropGaps(ses *session) {
	for ; ses.gaps > 0; ses.gaps-- {
		var g gap
		m.gaps.AscendGreaterOrEqual(gap{session: ses.id}, func(found gap) bool {
			g = found
			return false
		})
		m.gaps.Delete(g)
	}
}
