//go:build unix

package proctest

import (
	"fmt"
	"net/http"
	"syscall"
	"time"
)

// What an orchestrator does to processes that are applications: those with an address for the web.

// endTime is how long a process that was sent SIGTERM may take to end: what it gives itself, what Leave keeps for the time after the locks,
// and a little for a busy machine.
const endTime = leaveTime + 10*time.Second + 5*time.Second

// terminate sends SIGTERM and waits for the end of the process, which must be a good one. It says how long that took.
func (m *member) terminate() time.Duration {
	m.fleet.t.Helper()
	m.mourn()
	began := now()
	m.signal(syscall.SIGTERM)
	took, err := m.ended(began)
	if err != nil {
		m.fleet.t.Fatal(err)
	}
	if m.left.Error != "" {
		m.fleet.t.Errorf("%s left with: %s", m.id, m.left.Error)
	}
	return took
}

// ended waits for the end of a process that was told to go, and says what is wrong with it. It may be called on any goroutine.
func (m *member) ended(told instant) (time.Duration, error) {
	select {
	case <-m.dead:
	case <-time.After(endTime):
		return 0, fmt.Errorf("%s got SIGTERM and lives after %v", m.id, endTime)
	}
	took := time.Duration(now() - told)
	m.life.mu.Lock()
	defer m.life.mu.Unlock()
	if m.exit != nil || m.left == nil {
		return took, fmt.Errorf("%s got SIGTERM and ended after %v with %v, having left: %v", m.id, took, m.exit, m.left != nil)
	}
	return took, nil
}

// readyz asks one process whether it is ready.
func (m *member) readyz() error {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + m.web + "/readyz")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", m.id, resp.Status)
	}
	return nil
}

// startReady starts a process and waits until it is ready. It says how long that took.
func (f *fleet) startReady(m *member) time.Duration {
	f.t.Helper()
	began := now()
	joined := f.spawn(m)
	failed := make(chan error, 1)
	go func() { failed <- joined() }() // ends when it has joined, or with the process
	var seen []string
	f.until(m.name+" is ready", func() bool {
		select {
		case err := <-failed:
			if err != nil {
				f.t.Fatal(err)
			}
		default:
		}
		err := m.readyz()
		seen = []string{fmt.Sprint(err)}
		return err == nil
	}, &seen)
	return time.Duration(now() - began)
}

// aliveWithin says that the process lives, or did until so long ago.
func (l *life) aliveWithin(d time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.died == 0 || time.Duration(now()-l.died) <= d
}
