package distlock

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// ownFiles is what this process has open, by descriptor.
func ownFiles(t testing.TB) map[string]string {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	open := make(map[string]string)
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name())); err == nil { // else it was closed meanwhile
			open[fd.Name()] = target
		}
	}
	return open
}

func openFiles(t testing.TB, dir string) []string {
	var found []string
	for fd, target := range ownFiles(t) {
		if strings.HasPrefix(target, dir) {
			found = append(found, fmt.Sprintf("file %s is open as %s", target, fd))
		}
	}
	return found
}

func ownSockets(t testing.TB) []ownSocket {
	inodes := make(map[string]bool)
	for _, target := range ownFiles(t) {
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	var found []ownSocket
	for _, name := range []string{"tcp", "tcp6", "udp", "udp6"} {
		table, err := os.ReadFile("/proc/self/net/" + name)
		if os.IsNotExist(err) { // no IPv6 here
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(table), "\n")[1:] {
			f := strings.Fields(line)
			if len(f) < 10 || !inodes[f[9]] {
				continue
			}
			found = append(found, ownSocket{
				Net: strings.TrimSuffix(name, "6"), Local: hexPort(t, f[1]), Remote: hexPort(t, f[2]), Listens: f[3] == "0A",
			})
		}
	}
	return found
}

func hexPort(t testing.TB, addr string) int {
	_, port, _ := strings.Cut(addr, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

func openSockets(t testing.TB, addrs []string) []string {
	var ports []int
	for _, a := range addrs {
		ports = append(ports, portOf(t, a))
	}
	var found []string
	for _, s := range ownSockets(t) {
		if slices.Contains(ports, s.Local) || slices.Contains(ports, s.Remote) {
			found = append(found, fmt.Sprintf("socket %+v", s))
		}
	}
	return found
}
