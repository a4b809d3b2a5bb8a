package proctest

import (
	"errors"

	"golang.org/x/sys/unix"
)

// awaitStopped waits until all threads of a child have stopped. SIGSTOP is taken by one of them, and the others run on until the kernel has let
// that one run: on a busy machine for hundreds of milliseconds. The child's end stays to be waited for.
func awaitStopped(pid int) error {
	for {
		if err := unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
