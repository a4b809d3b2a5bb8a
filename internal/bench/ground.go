package main

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

// ground is what the machine itself does: the floor of every other figure of the run.
type ground struct {
	fsync []time.Duration // of 4 KiB written in place
	trip  []time.Duration // there and back over loopback TCP
}

// groundTime is how long each of the two is measured at a time.
const groundTime = 150 * time.Millisecond

// sample measures once more.
func (g *ground) sample(folder string) error {
	return errors.Join(g.sampleFsync(filepath.Join(folder, "ground")), g.sampleTrip())
}

func (g *ground) medians() (fsync, trip time.Duration) { return median(g.fsync), median(g.trip) }

const (
	page  = 4 << 10
	pages = 256
)

// sampleFsync writes pages of a file whose blocks are there already, as the log's mostly are, and syncs after each.
func (g *ground) sampleFsync(path string) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := make([]byte, page)
	if info, err := f.Stat(); err != nil || info.Size() < page*pages {
		if _, err := f.WriteAt(make([]byte, page*pages), 0); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	for i, end := 0, time.Now().Add(groundTime); time.Now().Before(end); i++ {
		buf[0]++
		began := time.Now()
		if _, err := f.WriteAt(buf, int64(i%pages)*page); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		g.fsync = append(g.fsync, time.Since(began))
	}
	return nil
}

// sampleTrip sends 64 bytes to and fro.
func (g *ground) sampleTrip() (err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	echoed := make(chan error, 1)
	go func() { // ends with the connection that is dialled below, or with l
		defer l.Close()
		c, err := l.Accept()
		if err == nil {
			_, err = io.Copy(c, struct{ io.Reader }{c}) // not by splice: the members don't either
			err = errors.Join(err, c.Close())
		}
		echoed <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return errors.Join(err, l.Close(), <-echoed)
	}
	defer func() { err = errors.Join(err, c.Close(), <-echoed) }()
	buf := make([]byte, 64)
	for end := time.Now().Add(groundTime); time.Now().Before(end); {
		began := time.Now()
		if _, err := c.Write(buf); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		g.trip = append(g.trip, time.Since(began))
	}
	return nil
}
