package discover

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// Bounds of a file of peers, beside MaxPeers.
const (
	MaxFile  = 1 << 20 // bytes
	maxShown = 64      // of a line in an error
)

// ReadFile answers the peers in the file at path, one a line. What follows a # is a comment; blank lines and spaces around a peer don't count,
// and lines may end as Windows ends them. The file is opened once and read as a whole, so that one that is replaced by another of its name is
// read as it was or as it is. A line that is no peer, and what is beyond the bounds, is in the error, beside the others.
func ReadFile(path string) ([]string, error) {
	text, err := readBounded(path)
	if text == nil && err != nil {
		return nil, fmt.Errorf("peers file %q: %w", path, err)
	}
	peers, fault := parse(text)
	if err = errors.Join(err, fault); err != nil {
		return peers, fmt.Errorf("peers file %q: %w", path, err)
	}
	return peers, nil
}

// readBounded reads what is in the file, and of one that is too long the lines that are whole within the bound, beside an error.
func readBounded(path string) ([]byte, error) {
	// What is no file, as a pipe, might hold up the opening for ever.
	if i, err := os.Stat(path); err != nil {
		return nil, reason(err)
	} else if !i.Mode().IsRegular() {
		return nil, errors.New("it is not a file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, reason(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, reason(err)
	}
	if len(text) > MaxFile {
		whole := bytes.LastIndexByte(text[:MaxFile], '\n') + 1
		return text[:whole:whole], fmt.Errorf("it has more than %d bytes, and what follows is not read", MaxFile)
	}
	return text, nil
}

// reason is err without the path, which is named anyway.
func reason(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// parse takes the text of a file apart.
func parse(text []byte) (peers []string, fault error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // some editors begin a file with it
	var f faults
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line, _, _ = bytes.Cut(line, []byte("#"))
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if len(peers) == MaxPeers {
			return peers, errors.Join(f.err("such lines"), fmt.Errorf("line %d: more than %d peers, and the rest is not read", n, MaxPeers))
		}
		peer := string(line)
		if err := Check(peer); err != nil {
			f.add(fmt.Errorf("line %d, %q: %w", n, line[:min(len(line), maxShown)], err))
			continue
		}
		peers = append(peers, peer)
	}
	return peers, f.err("such lines")
}
