//go:build unix

package main

import "golang.org/x/sys/unix"

// raiseNoFile raises the soft limit of open files to the hard one and returns
// what holds then; 0 when it cannot be known.
func raiseNoFile() uint64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	if limit.Cur < limit.Max {
		raised := limit
		raised.Cur = raised.Max
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			limit = raised
		}
	}
	return uint64(limit.Cur)
}
