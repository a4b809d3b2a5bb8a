//go:build linux

package proctest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// netnsEnv asks for the tests in network namespaces.
const netnsEnv = "DISTLOCK_NETNS"

// outsideEnv names the network namespace that the tests must not be in: the one that they were started in.
const outsideEnv = "DISTLOCK_TEST_OUTSIDE"

func init() { run = runApart }

// runApart runs the tests in a network namespace of their own, where root is nobody but in there if it isn't already: so that nothing of the
// machine's network is touched, and nothing is left of all that was made, however the tests end. A namespace goes with its last process.
func runApart(m *testing.M) int {
	if os.Getenv(netnsEnv) == "" {
		return m.Run()
	}
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return refuse(err)
	}
	if outside := os.Getenv(outsideEnv); outside != "" && outside != ours {
		if err := program("ip", "link", "set", "lo", "up"); err != nil {
			return refuse(err)
		}
		return m.Run()
	}
	exe, err := os.Executable()
	if err != nil {
		return refuse(err)
	}
	runtime.LockOSThread() // Pdeathsig is about the thread
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Env = append(os.Environ(), outsideEnv+"="+ours)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	err = cmd.Run()
	if cmd.ProcessState == nil {
		return refuse(err)
	}
	return cmd.ProcessState.ExitCode()
}

func refuse(err error) int {
	fmt.Fprintf(os.Stderr, "%s is set, and there are no network namespaces for the tests: %v; try it as root\n", netnsEnv, err)
	return 1
}

// program runs a program to its end.
func program(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

const (
	serviceName = "locks.distlock.test"
	lockPort    = 7950
	webPort     = 8080
	dnsPort     = 53

	// staleName is for how long names still mean pods that are gone.
	staleName = time.Second
)

// network is a bridge with a name server in the tests' namespace. Every process on it is a pod: it has a network namespace and an address of
// its own, which are new in each of its lives.
type network struct {
	t       *testing.T
	number  uint32
	bridge  string
	onlyTCP bool // packets of UDP, but for names, come through nowhere

	mu   sync.Mutex // guards pods
	pods []*pod
}

// pod is one life of a member as the network sees it.
type pod struct {
	life *life
	pid  int
	host string // the bridge's end of its cable
	ip   netip.Addr
}

var networks atomic.Uint32

func newNetwork(t *testing.T) *network {
	t.Helper()
	number := networks.Add(1)
	n := &network{t: t, number: number, bridge: fmt.Sprintf("distlock%d", number)}
	for _, args := range []string{
		"link add name %s type bridge", "addr add " + n.gateway() + "/16 dev %s", "link set dev %s up",
	} {
		if err := program("ip", strings.Fields(fmt.Sprintf(args, n.bridge))...); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := program("ip", "link", "del", n.bridge); err != nil {
			t.Error(err)
		}
	})
	serveNames(t, n.nameServer(), serviceName, n.published)
	return n
}

func (n *network) gateway() string    { return fmt.Sprintf("10.%d.0.1", n.number) }
func (n *network) nameServer() string { return fmt.Sprintf("%s:%d", n.gateway(), dnsPort) }

// published are the addresses that the service's name means: those of all pods, ready or not.
func (n *network) published() (addrs []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pods {
		if p.life.aliveWithin(staleName) {
			addrs = append(addrs, p.ip)
		}
	}
	return addrs
}

// start gives m's next process a pod.
func (n *network) start(m *member, cmd *exec.Cmd) error {
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	if err := cmd.Start(); err != nil {
		return err
	}
	n.mu.Lock()
	number := len(n.pods) + 1
	p := &pod{
		life: m.life, pid: cmd.Process.Pid, host: fmt.Sprintf("pod%d.%d", n.number, number),
		ip: netip.AddrFrom4([4]byte{10, byte(n.number), byte(1 + number/200), byte(1 + number%200)}),
	}
	n.pods = append(n.pods, p)
	n.mu.Unlock()
	m.addr, m.web = fmt.Sprintf("%s:%d", p.ip, lockPort), fmt.Sprintf("%s:%d", p.ip, webPort)
	for _, args := range []string{
		fmt.Sprintf("link add name %s type veth peer name eth0 netns %d", p.host, p.pid), fmt.Sprintf("link set dev %s master %s up", p.host, n.bridge),
	} {
		if err := program("ip", strings.Fields(args)...); err != nil {
			return err
		}
	}
	script := fmt.Sprintf("ip link set lo up && ip addr add %s/16 dev eth0 && ip link set eth0 up && ip route add default via %s\n%s\n",
		p.ip, n.gateway(), filter.begin)
	if n.onlyTCP {
		script += filter.drop(p, netip.Addr{}, true)
	}
	return p.inside(script)
}

// inside runs a script in the pod's network namespace.
func (p *pod) inside(script string) error {
	cmd := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", p.pid), "sh", "-e")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("in the pod of %s: %w\n%s\n%s", p.life.id, err, script, out)
	}
	return nil
}

func (n *network) config(_ *member, cfg *config) {
	cfg.Bind, cfg.Web = fmt.Sprintf("0.0.0.0:%d", lockPort), fmt.Sprintf("0.0.0.0:%d", webPort)
	cfg.Peers, cfg.Names = []string{fmt.Sprintf("%s:%d", serviceName, lockPort)}, n.nameServer()
	cfg.Secret = "network namespaces and 32 characters" // as the manifests say: with TLS
}

// pod is m's present one.
func (n *network) pod(m *member) *pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pods[slices.IndexFunc(n.pods, func(p *pod) bool { return p.life == m.life })]
}

// packetFilter is the program that drops packets, in a few scripts. Packets are dropped where they arrive: who sends is not told.
type packetFilter struct {
	begin string
	drop  func(p *pod, from netip.Addr, udp bool) string // from no address: from anywhere but the name server
	end   string
}

var nftFilter = packetFilter{
	begin: "nft 'add table inet cuts; add chain inet cuts in { type filter hook input priority 0; }'",
	drop: func(p *pod, from netip.Addr, udp bool) string {
		return "nft add rule inet cuts in ip saddr " + rule(from, udp, "!= "+gatewayOf(p), "meta l4proto udp") + " drop"
	},
	end: "nft flush chain inet cuts in",
}

var iptablesFilter = packetFilter{
	drop: func(p *pod, from netip.Addr, udp bool) string {
		where := "-s " + rule(from, udp, gatewayOf(p), "-p udp")
		if !from.IsValid() {
			where = "! " + where
		}
		return "iptables -w -A INPUT " + where + " -j DROP"
	},
	end: "iptables -w -F INPUT",
}

func rule(from netip.Addr, udp bool, anybody, onlyUDP string) string {
	who := anybody
	if from.IsValid() {
		who = from.String()
	}
	if udp {
		who += " " + onlyUDP
	}
	return who
}

func gatewayOf(p *pod) string { return fmt.Sprintf("10.%d.0.1", p.ip.As4()[1]) }

// filter is that of this machine.
var filter = func() packetFilter {
	if _, err := exec.LookPath("nft"); err == nil {
		return nftFilter
	}
	return iptablesFilter
}()

// cut is a direction in which nothing comes through any more.
type cut struct {
	from, to *member // nil: from all others
	udp      bool    // only packets of UDP are lost
}

// cut drops packets from now on.
func (n *network) cut(cuts ...cut) {
	n.t.Helper()
	scripts := make(map[*member]*bytes.Buffer)
	for _, c := range cuts {
		var from netip.Addr
		if c.from != nil {
			from = n.pod(c.from).ip
		}
		if scripts[c.to] == nil {
			scripts[c.to] = new(bytes.Buffer)
		}
		fmt.Fprintln(scripts[c.to], filter.drop(n.pod(c.to), from, c.udp))
	}
	n.each(slices.Collect(maps.Keys(scripts)), func(m *member) string { return scripts[m].String() })
}

// each runs a script in each member's pod, side by side.
func (n *network) each(members []*member, script func(*member) string) {
	n.t.Helper()
	errs := make([]error, len(members))
	var runs sync.WaitGroup
	for i, m := range members {
		runs.Go(func() { errs[i] = n.pod(m).inside(script(m)) })
	}
	runs.Wait()
	if err := errors.Join(errs...); err != nil {
		n.t.Fatal(err)
	}
}

// heal ends all cuts at members.
func (n *network) heal(members ...*member) {
	n.t.Helper()
	n.each(members, func(*member) string { return filter.end })
}

// unplug takes m's machine off the network, for good: nothing that it sends, not even the end of its connections, comes through.
func (n *network) unplug(m *member) {
	n.t.Helper()
	if err := program("ip", "link", "set", "dev", n.pod(m).host, "down"); err != nil {
		n.t.Fatal(err)
	}
}

// apart are the cuts in both directions between each of some and each of others.
func apart(some, others []*member) (cuts []cut) {
	for _, a := range some {
		for _, b := range others {
			cuts = append(cuts, cut{from: a, to: b}, cut{from: b, to: a})
		}
	}
	return cuts
}
