package distlock

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"
)

// What a process prints is its own business: with no Logger a Cluster prints nothing whatever happens, and neither do its dependencies. And
// it has one port: one TCP listener and one UDP socket.

// quietReport is what quietChild has seen.
type quietReport struct {
	Ports   []int       // of its clusters
	Sockets []ownSocket // of its process while three of them ran
	Left    []ownSocket // after all were closed
	Files   []string    // that were open then
}

const quietFile = "DISTLOCK_TEST_REPORT"

// quietChild has three clusters in one process: a failover, a lost lock, a store that fails, joins that fail, an end.
func quietChild() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "distlock-quiet-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var t quietTB
	disks := make([]*disk, 3)
	ms := newMembersIn(&t, 3, func(i int) surroundings {
		disks[i] = &disk{}
		return disks[i].under(machine())
	}, func(i int, c *Config) {
		c.Logger, c.SessionTTL, c.DataDir = nil, minSessionTTL, filepath.Join(dir, fmt.Sprint(i))
	})
	var report quietReport
	for _, c := range ms.configs {
		report.Ports = append(report.Ports, portOf(&t, c.Bind))
	}
	lead := ms.leader(ctx)
	held := mustLock(&t, ctx, ms.all[lead], "k")
	if err := ms.all[(lead+1)%3].ForceUnlock(ctx, "k"); err != nil || held.Err() == nil {
		return fmt.Errorf("force: %w, the lock says %w", err, held.Err())
	}
	mustLock(&t, ctx, ms.all[lead], "k")
	report.Sockets = ownSockets(&t)
	disks[lead].failFrom(1)
	mustLock(&t, ctx, ms.all[(lead+1)%3], "k") // by another leader, once the session of the first has run out
	<-ms.all[lead].Done()
	if _, err := Join(Config{Bind: ms.configs[(lead+1)%3].Bind}); err == nil {
		return errors.New("joined on a port in use")
	}
	short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	defer stop()
	if _, err := JoinContext(short, Config{Bind: "127.0.0.1:0", Expect: 2, Peers: []string{"127.0.0.1:9"}}); !errors.Is(err, ErrNoQuorum) {
		return err
	}
	if err := garbage(ctx, ms.configs[(lead+1)%3].Bind); err != nil {
		return err
	}
	left, stop2 := context.WithTimeout(ctx, time.Second)
	defer stop2()
	_ = ms.all[(lead+1)%3].Leave(left) // it holds a lock, and the other can't follow: this is an end with errors
	ms.closeAll()
	for len(ownSockets(&t)) > 0 && ctx.Err() == nil {
		waitABit(ctx)
	}
	report.Left, report.Files = ownSockets(&t), openFiles(&t, dir)
	if n := pprof.Lookup("goroutine").Count(); n > 3 { // this one, and the runtime's
		var b bytes.Buffer
		_ = pprof.Lookup("goroutine").WriteTo(&b, 1)
		return fmt.Errorf("%d goroutines are left:\n%s", n, b.Bytes())
	}
	out, err := json.Marshal(report)
	if err != nil {
		return err
	}
	return os.WriteFile(os.Getenv(quietFile), out, 0o600)
}

// garbage sends nonsense to both sockets of a member.
func garbage(ctx context.Context, addr string) error {
	for _, network := range []string{"tcp", "udp"} {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return err
		}
		for range 3 {
			_, _ = conn.Write(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 20))
		}
		conn.Close()
	}
	return nil
}

// quietTB is a testing.TB outside tests: what fails ends the process.
type quietTB struct{ testing.TB }

func (*quietTB) Helper()                   {}
func (*quietTB) Failed() bool              { return false }
func (*quietTB) Cleanup(func())            {}
func (*quietTB) Log(...any)                {}
func (*quietTB) Fatal(args ...any)         { panic(fmt.Sprint(args...)) }
func (*quietTB) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func (*quietTB) Errorf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

func TestNothingIsPrintedAndOnePort(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "report")
	cmd := child(t, "quiet", quietFile+"="+file)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, &out, &errs)
	}
	if out.Len() > 0 || errs.Len() > 0 {
		t.Errorf("printed:\n%s%s", &out, &errs)
	}
	var r quietReport
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Left) > 0 || len(r.Files) > 0 {
		t.Errorf("left open: %+v, %q", r.Left, r.Files)
	}
	if runtime.GOOS != "linux" {
		return // TestCloseLeavesNothing counts what was asked of the network
	}
	listens, packets, ours := map[int]int{}, map[int]int{}, map[int]bool{}
	for _, p := range r.Ports {
		ours[p] = true
	}
	for _, s := range r.Sockets {
		switch {
		case s.Net == "udp":
			packets[s.Local]++
		case s.Listens:
			listens[s.Local]++
		}
		if !ours[s.Local] && !ours[s.Remote] {
			t.Errorf("a socket of somebody else: %+v", s)
		}
	}
	if len(listens) != 3 || len(packets) != 3 {
		t.Errorf("three clusters have TCP listeners %v and UDP sockets %v", listens, packets)
	}
	for _, p := range r.Ports {
		if listens[p] != 1 || packets[p] != 1 {
			t.Errorf("port %d: %d TCP listeners, %d UDP sockets", p, listens[p], packets[p])
		}
	}
}
