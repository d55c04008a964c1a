//go:build unix

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// takesIPv4 reports whether an IPv6 socket is one of both families (ipv6(7)).
func takesIPv4(f *os.File) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	only := 1
	if conn.Control(func(fd uintptr) { only, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY) }) != nil {
		return false
	}
	return err == nil && only == 0
}
