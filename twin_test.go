package distlock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A DataDir that was copied holds a server's identity twice. The second process with it is refused, whatever it is called and wherever it is, and
// the first one goes on as if nothing had been.
func TestACopiedDataDirIsRefused(t *testing.T) {
	ms := newMembers(t, 3, durable(t))
	ctx := testContext(t, 60*time.Second)
	lead := ms.leader(ctx)
	original := (lead + 1) % 3
	ms.crash(original) // a directory in use can't be copied as it was at one moment
	twinDir := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(twinDir, os.DirFS(ms.configs[original].DataDir)); err != nil {
		t.Fatal(err)
	}
	ms.join(original)
	held := mustLock(t, ctx, ms.all[original], "held")
	for i, c := range ms.all {
		eventually(t, ctx, "all see whose identity is whose", func() bool {
			for _, m := range c.node.Members() {
				if m.Name == ms.configs[original].Name && m.Server == ms.all[original].node.Server() {
					return true
				}
			}
			return i == original
		})
	}
	lead = ms.leader(ctx)
	term := ms.all[lead].node.Term()

	cfg := ms.configs[original]
	cfg.Name, cfg.Bind, cfg.DataDir = "twin", freePorts(t, 1)[0], twinDir
	began := time.Now()
	_, err := Join(cfg)
	if !errors.Is(err, ErrNameTaken) || !strings.Contains(err.Error(), twinDir) || !strings.Contains(err.Error(), ms.configs[original].Name) {
		t.Errorf("join with a copy: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("refused after %s", took)
	}

	// One that did not see the first one in time finds out later, and stops.
	blind := machine()
	blind.hooks.Blind = true
	cfg.Name, cfg.Bind = "blind twin", freePorts(t, 1)[0]
	twin, err := join(context.Background(), cfg, blind)
	if err == nil {
		defer twin.Close()
		select {
		case <-twin.Done():
		case <-ctx.Done():
			t.Fatal("the second process with the identity goes on")
		}
		err = twin.Err()
	}
	if !errors.Is(err, ErrNameTaken) {
		t.Errorf("a blind twin ends with %v", err)
	}
	if err := held.Err(); err != nil {
		t.Errorf("the first process lost a lock: %v", err)
	}
	mustUnlock(t, ctx, held)
	for _, c := range ms.all {
		mustUnlock(t, ctx, mustLock(t, ctx, c, "k"))
		if c.Err() != nil {
			t.Errorf("%s stopped: %v", c.Status().Name, c.Err())
		}
	}
	if now := ms.all[ms.leader(ctx)].node.Term(); now != term {
		t.Errorf("term %d, %d before the copies came: they made an election", now, term)
	}
}

// A process whose directory was lost comes back under its name as a newcomer: its former seat goes, since its machine proves that the server of
// before is dead, and it gets one of its own. Nobody else notices.
func TestALostDataDirMakesANewcomer(t *testing.T) {
	ms := newMembers(t, 3, durable(t))
	ctx := testContext(t, 60*time.Second)
	lead := ms.leader(ctx)
	i := (lead + 1) % 3
	stays := ms.all[lead]
	held := mustLock(t, ctx, stays, "held")
	before := ms.all[i].node.Server()
	mustLock(t, ctx, ms.all[i], "its own")
	ms.crash(i)
	if err := os.RemoveAll(ms.configs[i].DataDir); err != nil {
		t.Fatal(err)
	}
	back := ms.join(i)
	if now := back.node.Server(); now == before {
		t.Errorf("it came back as server %s without that server's log", now)
	}
	mustUnlock(t, ctx, mustLock(t, ctx, stays, "its own")) // its session of before is proven dead too
	eventually(t, ctx, "three vote, the newcomer among them", func() bool {
		votes := 0
		for _, m := range stays.Status().Members {
			if m.Role == Voter && m.State == Alive {
				votes++
			}
		}
		return votes == 3 && back.Status().Role == Voter
	})
	ms.crash((lead + 2) % 3) // the majority is the leader and the newcomer now
	mustUnlock(t, ctx, mustLock(t, ctx, back, "k"))
	if err := held.Err(); err != nil {
		t.Errorf("another's lock was lost: %v", err)
	}
}
