package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func thisMachine(folder string) machine {
	m := machine{cpu: "a processor of unknown model", system: "Linux", files: "a file system of unknown type"}
	if cpu := lineOf("/proc/cpuinfo", "model name"); cpu != "" {
		m.cpu = cpu
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.system = "Linux " + strings.TrimSpace(string(release))
	}
	if files := fileSystem(folder); files != "" {
		m.files = files
	}
	return m
}

// lineOf is what follows the colon in the first line of a file that begins with name.
func lineOf(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if before, after, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(before) == name {
			return strings.TrimSpace(after)
		}
	}
	return ""
}

// fileSystem is the type of the mount nearest above folder.
func fileSystem(folder string) (kind string) {
	path, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return ""
	}
	if path, err = filepath.Abs(path); err != nil {
		return ""
	}
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return ""
	}
	best := -1
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 3 {
			continue
		}
		if at := strings.TrimSuffix(fields[1], "/") + "/"; strings.HasPrefix(path+"/", at) && len(at) >= best { // later ones cover earlier ones
			best, kind = len(at), fields[2]
		}
	}
	return kind
}

// ask fills in what the system knows of this process.
func (u *usage) ask() error {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return err
	}
	u.CPU = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return fmt.Errorf("/proc/self/statm: %w", err)
	}
	u.Resident = resident * int64(os.Getpagesize())
	for _, name := range []string{"rchar", "wchar"} { // what read and write moved; packets go by other calls
		n, err := strconv.ParseInt(lineOf("/proc/self/io", name), 10, 64)
		if err != nil {
			return fmt.Errorf("/proc/self/io: %w", err)
		}
		u.Streamed += n
	}
	return nil
}

// ask fills in what has gone over this machine's loopback.
func (t *traffic) ask() error {
	fields := strings.Fields(lineOf("/proc/net/dev", "lo")) // received: bytes, packets, …; all that is sent is received
	if len(fields) < 2 {
		return errors.New("/proc/net/dev: no lo")
	}
	_, err := fmt.Sscan(fields[0]+" "+fields[1], &t.bytes, &t.packets)
	return err
}

// ignoreInterrupt leaves the end of a member to its parent.
func ignoreInterrupt() { signal.Ignore(syscall.SIGINT, syscall.SIGPIPE) }
